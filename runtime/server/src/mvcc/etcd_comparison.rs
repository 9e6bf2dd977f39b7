//! Goal: a keyspace answers as etcd does. Method: thousands of random requests, each sent to a real
//! etcd and to a keyspace; responses and refusals must be equal.
//!
//! Opt-in: needs an etcd of its own, fresh, at `ETCD_ENDPOINT` (`http://127.0.0.1:2379`), 3.4 or later:
//!
//! ```text
//! ETCD_ENDPOINT=… cargo test -p polyraft-server --lib etcd_comparison -- --ignored
//! ```

use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tonic::Status;
use tonic::transport::Channel;

use super::testing::*;
use crate::etcd::{check_delete_range, check_put, check_range, check_txn, of_refusal};
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::response_op::Response as OpResponse;
use crate::proto::etcdserverpb::*;
use crate::proto::keyspace::answer::Kind as AnswerKind;
use crate::proto::keyspace::command::Kind as CommandKind;
use crate::proto::keyspace::query::Kind as QueryKind;

const REQUESTS: usize = 5_000;

#[derive(Debug, Clone)]
enum Ask {
    Range(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    /// Compacts this many revisions before the current one.
    Compact(i64),
}

fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        1 => Just(Bytes::new()),
        30 => proptest::collection::vec(
            prop_oneof![Just(0u8), Just(b'a'), Just(b'b'), Just(0xFF)], 1..3
        ).prop_map(Bytes::from),
    ]
}

fn end() -> impl Strategy<Value = Bytes> {
    prop_oneof![2 => Just(Bytes::new()), 1 => Just(Bytes::from_static(&[0])), 2 => key()]
}

/// A revision near the current one: 0, or so many before (negative: after) it.
fn back() -> impl Strategy<Value = i64> {
    prop_oneof![4 => Just(0i64), 3 => -1i64..30]
}

fn range() -> impl Strategy<Value = RangeRequest> {
    let filters = (back(), back(), back(), back());
    (key(), end(), -1i64..5, back(), 0i32..3, 0i32..5, any::<(bool, bool)>(), filters).prop_map(
        |(key, range_end, limit, revision, sort_order, sort_target, flags, filters)| RangeRequest {
            key,
            range_end,
            limit,
            revision,
            sort_order,
            sort_target,
            serializable: false,
            keys_only: flags.0,
            count_only: flags.0 && flags.1,
            min_mod_revision: filters.0,
            max_mod_revision: filters.1,
            min_create_revision: filters.2,
            max_create_revision: filters.3,
        },
    )
}

fn put() -> impl Strategy<Value = PutRequest> {
    let rarely = || prop::bool::weighted(0.05);
    (key(), key(), rarely(), any::<bool>(), rarely(), rarely()).prop_map(
        |(key, value, leased, prev_kv, ignore_value, ignore_lease)| PutRequest {
            key,
            value: if ignore_value && prev_kv { Bytes::new() } else { value },
            lease: i64::from(leased),
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn compare() -> impl Strategy<Value = Compare> {
    use compare::TargetUnion::{CreateRevision, Lease, ModRevision, Value, Version};
    let union = prop_oneof![
        (0i64..4).prop_map(|n| Some(Version(n))),
        back().prop_map(|n| Some(CreateRevision(n))),
        back().prop_map(|n| Some(ModRevision(n))),
        key().prop_map(|value| Some(Value(value))),
        (0i64..2).prop_map(|n| Some(Lease(n))),
        Just(None),
    ];
    (
        0i32..4,
        0i32..5,
        any::<bool>(),
        key(),
        prop_oneof![3 => Just(Bytes::new()), 1 => end()],
        union,
    )
        .prop_map(|(result, target, matching, key, range_end, union)| Compare {
            result,
            target: match &union {
                Some(Version(_)) if matching => 0,
                Some(CreateRevision(_)) if matching => 1,
                Some(ModRevision(_)) if matching => 2,
                Some(Value(_)) if matching => 3,
                Some(Lease(_)) if matching => 4,
                _ => target,
            },
            key,
            range_end,
            target_union: union,
        })
}

fn op() -> impl Strategy<Value = RequestOp> {
    let leaf = prop_oneof![
        3 => range().prop_map(Op::RequestRange),
        4 => put().prop_map(Op::RequestPut),
        2 => delete().prop_map(Op::RequestDeleteRange),
    ]
    .prop_map(|request| RequestOp { request: Some(request) });
    leaf.prop_recursive(2, 8, 3, |inner| {
        txn_of(inner).prop_map(|txn| RequestOp { request: Some(Op::RequestTxn(txn)) })
    })
}

fn txn_of(op: impl Strategy<Value = RequestOp> + Clone) -> impl Strategy<Value = TxnRequest> {
    (
        proptest::collection::vec(compare(), 0..3),
        proptest::collection::vec(op.clone(), 0..4),
        proptest::collection::vec(op, 0..4),
    )
        .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        20 => range().prop_map(Ask::Range),
        25 => put().prop_map(Ask::Put),
        8 => delete().prop_map(Ask::Delete),
        40 => txn_of(op().boxed()).prop_map(Ask::Txn),
        1 => (-1i64..40).prop_map(Ask::Compact),
    ]
}

/// Turns "so many before the current revision" into revisions.
fn settle(ask: &mut Ask, current: i64) {
    match ask {
        Ask::Range(range) => settle_range(range, current),
        Ask::Txn(txn) => settle_txn(txn, current),
        Ask::Put(_) | Ask::Delete(_) | Ask::Compact(_) => {}
    }
}

fn settle_range(range: &mut RangeRequest, current: i64) {
    for revision in [
        &mut range.revision,
        &mut range.min_mod_revision,
        &mut range.max_mod_revision,
        &mut range.min_create_revision,
        &mut range.max_create_revision,
    ] {
        if *revision != 0 {
            *revision = current - *revision;
        }
    }
}

fn settle_txn(txn: &mut TxnRequest, current: i64) {
    use compare::TargetUnion::{CreateRevision, ModRevision};
    for compare in &mut txn.compare {
        if let Some(CreateRevision(n) | ModRevision(n)) = &mut compare.target_union {
            *n = if *n == 0 { 0 } else { current - *n };
        }
    }
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Op::RequestRange(range)) => settle_range(range, current),
            Some(Op::RequestTxn(nested)) => settle_txn(nested, current),
            _ => {}
        }
    }
}

/// What clients of a keyspace get: validation, then the state machine.
fn ask_keyspace(store: &mut Store, ask: Ask, current: i64) -> Result<AnswerKind, Status> {
    let answered = match ask {
        Ask::Range(request) => {
            check_range(&request)?;
            store.query(QueryKind::Range(request))
        }
        Ask::Put(request) => {
            check_put(&request)?;
            store.command(CommandKind::Put(request))
        }
        Ask::Delete(request) => {
            check_delete_range(&request)?;
            store.command(CommandKind::DeleteRange(request))
        }
        Ask::Txn(request) => {
            check_txn(&request)?;
            store.command(CommandKind::Txn(request))
        }
        Ask::Compact(back) => {
            let request = CompactionRequest { revision: current - back, physical: false };
            store.command(CommandKind::Compact(request))
        }
    };
    answered.map_err(of_refusal)
}

async fn ask_etcd(
    etcd: &mut KvClient<Channel>,
    ask: Ask,
    current: i64,
) -> Result<AnswerKind, Status> {
    Ok(match ask {
        Ask::Range(request) => AnswerKind::Range(etcd.range(request).await?.into_inner()),
        Ask::Put(request) => AnswerKind::Put(etcd.put(request).await?.into_inner()),
        Ask::Delete(request) => {
            AnswerKind::DeleteRange(etcd.delete_range(request).await?.into_inner())
        }
        Ask::Txn(request) => AnswerKind::Txn(etcd.txn(request).await?.into_inner()),
        Ask::Compact(back) => {
            let request = CompactionRequest { revision: current - back, physical: false };
            AnswerKind::Compact(etcd.compact(request).await?.into_inner())
        }
    })
}

/// Removes from headers what differs between two clusters; returns the outermost revision.
fn comparable(answer: &mut AnswerKind) -> i64 {
    let header = match answer {
        AnswerKind::Range(response) => &mut response.header,
        AnswerKind::Put(response) => &mut response.header,
        AnswerKind::DeleteRange(response) => &mut response.header,
        AnswerKind::Txn(response) => {
            for op in &mut response.responses {
                strip_op(op);
            }
            &mut response.header
        }
        AnswerKind::Compact(response) => &mut response.header,
        other => panic!("not an etcd response: {other:?}"),
    };
    strip(header);
    header.expect("a response has a header").revision
}

fn strip(header: &mut Option<ResponseHeader>) {
    let revision = header.map_or(0, |header| header.revision);
    *header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
}

fn strip_op(op: &mut ResponseOp) {
    match op.response.as_mut().expect("an answered operation") {
        OpResponse::ResponseRange(response) => strip(&mut response.header),
        OpResponse::ResponsePut(response) => strip(&mut response.header),
        OpResponse::ResponseDeleteRange(response) => strip(&mut response.header),
        OpResponse::ResponseTxn(response) => {
            strip(&mut response.header);
            response.responses.iter_mut().for_each(strip_op);
        }
    }
}

#[tokio::test]
#[ignore = "needs a fresh etcd at ETCD_ENDPOINT"]
async fn a_keyspace_answers_as_etcd_does() {
    let endpoint = std::env::var("ETCD_ENDPOINT").expect("ETCD_ENDPOINT names a fresh etcd");
    let mut etcd = KvClient::connect(endpoint).await.unwrap();
    let mut store = Store::default();
    let mut runner = TestRunner::deterministic();
    let (strategy, mut current) = (ask(), 1);
    let (mut answered, mut refused) = (0, 0);
    for n in 0..REQUESTS {
        let mut ask = strategy.new_tree(&mut runner).unwrap().current();
        settle(&mut ask, current);
        let theirs = ask_etcd(&mut etcd, ask.clone(), current).await;
        let ours = ask_keyspace(&mut store, ask.clone(), current);
        match (theirs, ours) {
            (Ok(mut theirs), Ok(mut ours)) => {
                current = comparable(&mut theirs);
                comparable(&mut ours);
                assert_eq!(ours, theirs, "request {n}: {ask:?}");
                answered += 1;
            }
            (Err(theirs), Err(ours)) => {
                let (theirs, ours) = (
                    (theirs.code(), theirs.message().to_owned()),
                    (ours.code(), ours.message().to_owned()),
                );
                assert_eq!(ours, theirs, "request {n}: {ask:?}");
                refused += 1;
            }
            (theirs, ours) => panic!("request {n}: {ask:?}\netcd: {theirs:?}\nours: {ours:?}"),
        }
    }
    println!("{answered} answered alike, {refused} refused alike, up to revision {current}");
    assert!(answered > REQUESTS / 4 && refused > REQUESTS / 50);
}
