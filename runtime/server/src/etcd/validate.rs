//! What can be refused from the request alone, before anything is proposed.

use std::collections::BTreeSet;

use tonic::Status;

use super::statuses;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

/// Largest request, as in etcd.
pub(super) const REQUEST_BYTES_MAX: usize = 1536 << 10;
/// Most comparisons, and most operations of either branch, as in etcd.
const TXN_OPS_MAX: usize = 128;
/// Deepest nesting of transactions. etcd has no such limit, but decoders do: what passes here must
/// decode on every replica.
const TXN_DEPTH_MAX: usize = 24;

const _: () = assert!(REQUEST_BYTES_MAX < 4 << 20);

/// Refuses a command whose encoding is larger than etcd's limit.
pub(super) fn check_size(bytes: usize) -> Result<(), Status> {
    if bytes > REQUEST_BYTES_MAX { Err(statuses::too_large()) } else { Ok(()) }
}

/// Refuses what no range can mean.
pub fn check_range(request: &RangeRequest) -> Result<(), Status> {
    check_key(&request.key)?;
    let known = SortOrder::try_from(request.sort_order).is_ok()
        && SortTarget::try_from(request.sort_target).is_ok();
    if known { Ok(()) } else { Err(Status::invalid_argument("etcdserver: invalid sort option")) }
}

/// Refuses contradictory puts.
pub fn check_put(request: &PutRequest) -> Result<(), Status> {
    check_key(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(Status::invalid_argument("etcdserver: value is provided"));
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Status::invalid_argument("etcdserver: lease is provided"));
    }
    Ok(())
}

/// Refuses a deletion without a key.
pub fn check_delete_range(request: &DeleteRangeRequest) -> Result<(), Status> {
    check_key(&request.key)
}

/// Refuses transactions that are too large, that hold a bad operation, or that could write a key
/// twice.
pub fn check_txn(request: &TxnRequest) -> Result<(), Status> {
    check_txn_ops(request, TXN_OPS_MAX, TXN_DEPTH_MAX)?;
    Touched::of(&request.success)?;
    Touched::of(&request.failure)?;
    Ok(())
}

/// Whether a transaction, nested ones included, only reads.
pub fn is_read_only(txn: &TxnRequest) -> bool {
    all_ops(txn, &|request| matches!(request, Request::RequestRange(_)))
}

/// Whether each of its reads may be stale.
pub(super) fn is_serializable(txn: &TxnRequest) -> bool {
    all_ops(txn, &|request| matches!(request, Request::RequestRange(range) if range.serializable))
}

fn all_ops(txn: &TxnRequest, holds: &dyn Fn(&Request) -> bool) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| match &op.request {
        Some(Request::RequestTxn(nested)) => all_ops(nested, holds),
        Some(request) => holds(request),
        None => true,
    })
}

fn check_key(key: &[u8]) -> Result<(), Status> {
    if key.is_empty() {
        return Err(Status::invalid_argument("etcdserver: key is not provided"));
    }
    Ok(())
}

fn check_txn_ops(txn: &TxnRequest, ops_max: usize, depth_max: usize) -> Result<(), Status> {
    let ops = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    if ops > ops_max || depth_max == 0 {
        return Err(Status::invalid_argument("etcdserver: too many operations in txn request"));
    }
    txn.compare.iter().try_for_each(|compare| check_key(&compare.key))?;
    txn.success.iter().chain(&txn.failure).try_for_each(|op| match &op.request {
        Some(Request::RequestRange(range)) => check_range(range),
        Some(Request::RequestPut(put)) => check_put(put),
        Some(Request::RequestDeleteRange(delete)) => check_delete_range(delete),
        Some(Request::RequestTxn(nested)) => check_txn_ops(nested, ops_max - ops, depth_max - 1),
        None => Err(Status::invalid_argument("etcdserver: key not found")),
    })
}

/// Keys that a list of operations may put, and ranges that it may delete.
///
/// A key must not be put twice, nor put and deleted, on any path through the nested transactions;
/// the two branches of one transaction exclude each other. As in etcd, a deletion "to the end", with
/// a `range_end` of one zero byte, is taken for a range without keys here.
#[derive(Default)]
struct Touched<'t> {
    puts: BTreeSet<&'t [u8]>,
    deletes: Vec<(&'t [u8], &'t [u8])>,
}

impl<'t> Touched<'t> {
    fn of(ops: &'t [RequestOp]) -> Result<Self, Status> {
        let mut touched = Self::default();
        let requests = || ops.iter().filter_map(|op| op.request.as_ref());
        for request in requests() {
            if let Request::RequestDeleteRange(delete) = request {
                touched.deletes.push((&delete.key, &delete.range_end));
            }
        }
        for request in requests() {
            if let Request::RequestTxn(txn) = request {
                touched.add_branches(Self::of(&txn.success)?, Self::of(&txn.failure)?)?;
            }
        }
        for request in requests() {
            if let Request::RequestPut(put) = request {
                touched.add_put(&put.key)?;
            }
        }
        Ok(touched)
    }

    fn add_branches(&mut self, success: Self, failure: Self) -> Result<(), Status> {
        for key in &success.puts {
            self.add_put(key)?;
        }
        for key in failure.puts {
            if !success.puts.contains(key) {
                self.add_put(key)?;
            }
        }
        self.deletes.extend(success.deletes);
        self.deletes.extend(failure.deletes);
        Ok(())
    }

    fn add_put(&mut self, key: &'t [u8]) -> Result<(), Status> {
        let is_deleted = self.deletes.iter().any(|(first, end)| match *end {
            [] => *first == key,
            end => *first <= key && key < end,
        });
        if is_deleted || !self.puts.insert(key) {
            return Err(Status::invalid_argument("etcdserver: duplicate key given in txn request"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;

    use super::*;
    use crate::proto::etcdserverpb::Compare;
    use crate::proto::keyspace::{Command, command};

    const DUPLICATE: &str = "etcdserver: duplicate key given in txn request";
    const TOO_MANY: &str = "etcdserver: too many operations in txn request";

    fn put(key: &'static str) -> RequestOp {
        let put = PutRequest { key: key.into(), ..PutRequest::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn delete(key: &'static str, range_end: &'static str) -> RequestOp {
        let delete = DeleteRangeRequest {
            key: key.into(),
            range_end: range_end.into(),
            ..DeleteRangeRequest::default()
        };
        RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        RequestOp { request: Some(Request::RequestTxn(txn(success, failure))) }
    }

    fn txn(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
        TxnRequest { compare: vec![], success, failure }
    }

    fn message(result: Result<(), Status>) -> String {
        result.map_or_else(|status| status.message().to_owned(), |()| "ok".to_owned())
    }

    #[test]
    fn keys_and_contradictions_are_checked() {
        let empty = "etcdserver: key is not provided";
        assert_eq!(message(check_range(&RangeRequest::default())), empty);
        assert_eq!(message(check_put(&PutRequest::default())), empty);
        assert_eq!(message(check_delete_range(&DeleteRangeRequest::default())), empty);
        let key = Bytes::from_static(b"k");
        let put = PutRequest { key: key.clone(), ignore_value: true, ..PutRequest::default() };
        assert_eq!(message(check_put(&put)), "ok");
        let valued = PutRequest { value: "v".into(), ..put };
        assert_eq!(message(check_put(&valued)), "etcdserver: value is provided");
        let leased = PutRequest { key, ignore_lease: true, lease: 1, ..PutRequest::default() };
        assert_eq!(message(check_put(&leased)), "etcdserver: lease is provided");
        let unsorted = RangeRequest { key: "k".into(), sort_order: 9, ..RangeRequest::default() };
        assert_eq!(message(check_range(&unsorted)), "etcdserver: invalid sort option");
    }

    #[test]
    fn a_key_is_written_once_on_every_path() {
        for (txn, expected) in [
            (txn(vec![put("a"), put("b")], vec![put("a")]), "ok"),
            (txn(vec![put("a"), put("a")], vec![]), DUPLICATE),
            (txn(vec![], vec![put("a"), delete("a", "")]), DUPLICATE),
            (txn(vec![delete("a", "c"), put("b")], vec![]), DUPLICATE),
            (txn(vec![delete("a", "c"), put("c")], vec![]), "ok"),
            (txn(vec![delete("a", "\0"), put("z")], vec![]), "ok"),
            (txn(vec![delete("a", "c"), delete("b", "")], vec![]), "ok"),
            (txn(vec![put("a"), nested(vec![put("a")], vec![])], vec![]), DUPLICATE),
            (txn(vec![nested(vec![put("a")], vec![put("a")])], vec![]), "ok"),
            (
                txn(vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])], vec![]),
                DUPLICATE,
            ),
            (txn(vec![put("a"), nested(vec![delete("a", "")], vec![])], vec![]), DUPLICATE),
            (txn(vec![delete("a", "b"), nested(vec![put("a")], vec![])], vec![]), DUPLICATE),
        ] {
            assert_eq!(message(check_txn(&txn)), expected, "{txn:?}");
        }
    }

    #[test]
    fn transactions_are_limited_in_width() {
        let many = |n: usize| vec![delete("a", ""); n];
        assert_eq!(message(check_txn(&txn(many(128), many(128)))), "ok");
        assert_eq!(message(check_txn(&txn(many(129), vec![]))), TOO_MANY);
        assert_eq!(message(check_txn(&txn(vec![], many(129)))), TOO_MANY);
        let compare = vec![Compare { key: "a".into(), ..Compare::default() }; 129];
        let wide = TxnRequest { compare, ..TxnRequest::default() };
        assert_eq!(message(check_txn(&wide)), TOO_MANY);
        // What an outer level uses up, an inner one cannot have.
        assert_eq!(message(check_txn(&txn(vec![nested(many(127), vec![])], vec![]))), "ok");
        assert_eq!(message(check_txn(&txn(vec![nested(many(128), vec![])], vec![]))), TOO_MANY);
        let none = TxnRequest { success: vec![RequestOp::default()], ..TxnRequest::default() };
        assert_eq!(message(check_txn(&none)), "etcdserver: key not found");
    }

    /// Goal: whatever is proposed decodes on every replica. Method: the deepest allowed transaction
    /// goes through the log's encoding; one level more is refused.
    #[test]
    fn transactions_are_limited_in_depth() {
        let mut deep = txn(vec![put("a")], vec![]);
        for _ in 1..TXN_DEPTH_MAX {
            deep = txn(vec![RequestOp { request: Some(Request::RequestTxn(deep)) }], vec![]);
        }
        assert_eq!(message(check_txn(&deep)), "ok");
        let command = Command { kind: Some(command::Kind::Txn(deep.clone())) };
        let decoded = Command::decode(&command.encode_to_vec()[..]).unwrap();
        assert_eq!(decoded, command);
        let deeper = txn(vec![RequestOp { request: Some(Request::RequestTxn(deep)) }], vec![]);
        assert_eq!(message(check_txn(&deeper)), TOO_MANY);
    }

    #[test]
    fn reads_are_told_from_writes() {
        let range = |serializable| RequestOp {
            request: Some(Request::RequestRange(RangeRequest {
                serializable,
                ..RangeRequest::default()
            })),
        };
        assert!(is_read_only(&txn(vec![range(false)], vec![nested(vec![range(true)], vec![])])));
        assert!(!is_read_only(&txn(vec![range(false)], vec![nested(vec![put("a")], vec![])])));
        assert!(is_serializable(&txn(vec![range(true)], vec![])));
        assert!(!is_serializable(&txn(vec![range(true)], vec![range(false)])));
    }

    #[test]
    fn requests_are_limited_in_bytes() {
        assert!(check_size(REQUEST_BYTES_MAX).is_ok());
        assert!(check_size(REQUEST_BYTES_MAX + 1).is_err());
    }
}
