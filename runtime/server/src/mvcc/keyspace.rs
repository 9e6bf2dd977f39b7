//! The state machine: decodes commands and queries, keeps the revisions, encodes answers.

use bytes::Bytes;
use polyraft::{ApplyContext, ApplyError, Response, State, StateMachine};
use prost::Message;

use super::compaction::{self, SWEEP_EVENTS_PER_COMMAND, SWEEP_EVENTS_PER_SWEEP};
use super::reader::Reader;
use super::refused::Refused;
use super::txn::{Decided, with_revision};
use super::writer::{Writer, header};
use super::{hash, range, rows};
use crate::proto::etcdserverpb::{CompactionRequest, CompactionResponse, PutRequest, TxnRequest};
use crate::proto::keyspace::answer::Kind as AnswerKind;
use crate::proto::keyspace::command::Kind as CommandKind;
use crate::proto::keyspace::query::Kind as QueryKind;
use crate::proto::keyspace::{Answer, Command, Position, Query, Swept};

/// The revision of an empty keyspace, as in etcd.
const FIRST_REVISION: i64 = 1;

/// One etcd-compatible store: the state machine of one group.
#[derive(Debug)]
pub struct Keyspace {
    /// The last transaction's revision.
    revision: i64,
    /// Reads below this are refused.
    compacted: i64,
    /// Whether compacted rows may be left to free.
    sweeping: bool,
}

impl Default for Keyspace {
    fn default() -> Self {
        Self { revision: FIRST_REVISION, compacted: compaction::NEVER_COMPACTED, sweeping: false }
    }
}

impl StateMachine for Keyspace {
    fn open(&mut self, state: &dyn State) -> Result<(), ApplyError> {
        self.compacted = compaction::load(state)?;
        let mut last = FIRST_REVISION;
        let (from, to) = rows::event_bounds();
        state.scan(from, to, true, &mut |row, _| {
            last = rows::event_revision(row).main;
            false
        })?;
        // Freed events are at most the compacted revision, which never exceeded the current one.
        self.revision = last.max(self.compacted).max(FIRST_REVISION);
        self.sweeping = true;
        Ok(())
    }

    fn apply(
        &mut self,
        state: &mut dyn State,
        _context: &ApplyContext,
        command: &[u8],
    ) -> Result<Response, ApplyError> {
        let command = Command::decode(command)
            .map_err(|error| ApplyError::Decode { what: format!("a command: {error}") })?;
        let kind = command
            .kind
            .ok_or_else(|| ApplyError::Decode { what: "a command of unknown kind".into() })?;
        match self.carry_out(state, &kind) {
            Ok(answer) => Ok(Response::Accepted(encode(answer))),
            Err(Refused::ByRule(refusal)) => {
                Ok(Response::Rejected(encode(AnswerKind::Refusal(refusal.into()))))
            }
            Err(Refused::Failed(error)) => Err(error),
        }
    }

    fn query(&self, state: &dyn State, query: &[u8]) -> Result<Bytes, ApplyError> {
        let query = Query::decode(query)
            .map_err(|error| ApplyError::Decode { what: format!("a query: {error}") })?;
        let kind = query
            .kind
            .ok_or_else(|| ApplyError::Decode { what: "a query of unknown kind".into() })?;
        match self.answer(&self.reader(state), &kind) {
            Ok(answer) => Ok(encode(answer)),
            Err(Refused::ByRule(refusal)) => Ok(encode(AnswerKind::Refusal(refusal.into()))),
            Err(Refused::Failed(error)) => Err(error),
        }
    }
}

impl Keyspace {
    fn reader<'s>(&self, state: &'s dyn State) -> Reader<'s> {
        Reader { state, revision: self.revision, compacted: self.compacted }
    }

    fn carry_out(
        &mut self,
        state: &mut dyn State,
        command: &CommandKind,
    ) -> Result<AnswerKind, Refused> {
        let mut writer = Writer::new(state, self.revision, self.compacted);
        let answer = match command {
            CommandKind::Put(request) => put(&mut writer, request)?,
            CommandKind::DeleteRange(request) => {
                AnswerKind::DeleteRange(writer.delete_range(request)?)
            }
            CommandKind::Txn(request) => txn(&mut writer, request)?,
            CommandKind::Compact(request) => return self.compact(state, request),
            CommandKind::Sweep(_) => return self.sweep_now(state),
        };
        self.revision = writer.revision();
        if self.sweeping {
            self.sweeping = compaction::sweep(state, self.compacted, SWEEP_EVENTS_PER_COMMAND)?;
        }
        Ok(answer)
    }

    fn compact(
        &mut self,
        state: &mut dyn State,
        request: &CompactionRequest,
    ) -> Result<AnswerKind, Refused> {
        compaction::compact(state, request.revision, self.revision, self.compacted)?;
        self.compacted = request.revision;
        self.sweeping = compaction::sweep(state, self.compacted, SWEEP_EVENTS_PER_SWEEP)?;
        Ok(AnswerKind::Compact(CompactionResponse { header: header(self.revision) }))
    }

    fn sweep_now(&mut self, state: &mut dyn State) -> Result<AnswerKind, Refused> {
        self.sweeping = compaction::sweep(state, self.compacted, SWEEP_EVENTS_PER_SWEEP)?;
        Ok(AnswerKind::Swept(Swept { more: self.sweeping }))
    }

    fn answer(&self, reader: &Reader<'_>, query: &QueryKind) -> Result<AnswerKind, Refused> {
        Ok(match query {
            QueryKind::Range(request) => AnswerKind::Range(range::range(reader, request)?),
            QueryKind::Txn(request) => {
                let decided = Decided::new(reader, request)?;
                decided.check_ranges(reader)?;
                AnswerKind::Txn(with_revision(decided.read(reader)?, self.revision))
            }
            QueryKind::Hash(request) => AnswerKind::Hash(hash::hash(reader, request.revision)?),
            QueryKind::Position(_) => AnswerKind::Position(Position {
                revision: self.revision,
                compacted: self.compacted,
            }),
        })
    }
}

fn put(writer: &mut Writer<'_>, request: &PutRequest) -> Result<AnswerKind, Refused> {
    writer.check_put(request)?;
    Ok(AnswerKind::Put(writer.put(request)?))
}

fn txn(writer: &mut Writer<'_>, request: &TxnRequest) -> Result<AnswerKind, Refused> {
    let decided = Decided::new(&writer.reader(), request)?;
    decided.check(writer)?;
    let response = decided.execute(writer)?;
    Ok(AnswerKind::Txn(with_revision(response, writer.revision())))
}

fn encode(kind: AnswerKind) -> Bytes {
    Answer { kind: Some(kind) }.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::super::rows::KEY_ENCODED_BYTES_MAX;
    use super::super::testing::*;
    use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
    use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
    use crate::proto::etcdserverpb::request_op::Request;
    use crate::proto::etcdserverpb::response_op::Response;
    use crate::proto::etcdserverpb::*;
    use crate::proto::keyspace::Refusal;

    fn op(request: Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    fn put_op(key: &[u8], value: &[u8]) -> RequestOp {
        op(Request::RequestPut(put_request(key, value)))
    }

    fn range_op(key: &[u8], range_end: &[u8]) -> RequestOp {
        op(Request::RequestRange(range_request(key, range_end)))
    }

    fn delete_op(key: &[u8], range_end: &[u8]) -> RequestOp {
        op(Request::RequestDeleteRange(delete_request(key, range_end)))
    }

    fn compare(key: &[u8], result: CompareResult, union: TargetUnion) -> Compare {
        let target = match union {
            TargetUnion::Version(_) => CompareTarget::Version,
            TargetUnion::CreateRevision(_) => CompareTarget::Create,
            TargetUnion::ModRevision(_) => CompareTarget::Mod,
            TargetUnion::Value(_) => CompareTarget::Value,
            TargetUnion::Lease(_) => CompareTarget::Lease,
        };
        Compare {
            result: result.into(),
            target: target.into(),
            key: key.to_vec().into(),
            target_union: Some(union),
            range_end: Default::default(),
        }
    }

    fn holds(store: &mut Store, compare: Compare) -> bool {
        let txn = TxnRequest { compare: vec![compare], ..TxnRequest::default() };
        store.txn(txn).unwrap().succeeded
    }

    #[test]
    fn an_empty_keyspace_is_at_revision_1() {
        let store = Store::default();
        assert_eq!(store.show(b"\0", b"\0", 0), "n=0");
        let response = store.range(range_request(b"a", b"")).unwrap();
        assert_eq!(response.header.unwrap().revision, 1);
    }

    #[test]
    fn puts_count_revisions_and_versions() {
        let mut store = Store::default();
        assert_eq!(store.put(b"a", b"1"), 2);
        assert_eq!(store.put(b"b", b"1"), 3);
        assert_eq!(store.put(b"a", b"2"), 4);
        assert_eq!(store.show(b"\0", b"\0", 0), "a=2@4.2.2 b=1@3.3.1 n=2");
        assert_eq!(store.show(b"\0", b"\0", 3), "a=1@2.2.1 b=1@3.3.1 n=2");
        assert_eq!(store.show(b"\0", b"\0", 2), "a=1@2.2.1 n=1");
        assert_eq!(store.show(b"\0", b"\0", 1), "n=0");
        assert_eq!(store.show(b"\0", b"\0", 5), "FutureRevision");
    }

    #[test]
    fn a_deleted_key_starts_over() {
        let mut store = Store::default();
        store.put(b"a", b"1");
        store.put(b"a", b"2");
        let deleted = store.delete(b"a", b"");
        assert_eq!((deleted.deleted, deleted.header.unwrap().revision), (1, 4));
        assert_eq!(deleted.prev_kvs[0].value, "2");
        assert_eq!(store.show(b"a", b"", 0), "n=0");
        assert_eq!(store.put(b"a", b"3"), 5);
        assert_eq!(store.show(b"a", b"", 0), "a=3@5.5.1 n=1");
        assert_eq!(store.show(b"a", b"", 3), "a=2@3.2.2 n=1");
        assert_eq!(store.show(b"a", b"", 4), "n=0");
    }

    #[test]
    fn deleting_nothing_keeps_the_revision() {
        let mut store = Store::default();
        store.put(b"a", b"1");
        let deleted = store.delete(b"b", b"c");
        assert_eq!((deleted.deleted, deleted.header.unwrap().revision), (0, 2));
        assert_eq!(store.put(b"a", b"2"), 3);
    }

    #[test]
    fn a_deletion_of_many_is_one_revision() {
        let mut store = Store::default();
        for key in [b"a", b"b", b"c"] {
            store.put(key, b"x");
        }
        let deleted = store.delete(b"a", b"c");
        assert_eq!((deleted.deleted, deleted.header.unwrap().revision), (2, 5));
        assert_eq!(store.show(b"\0", b"\0", 0), "c=x@4.4.1 n=1");
        assert_eq!(store.delete(b"b", b"\0").deleted, 1);
        assert_eq!(store.show(b"\0", b"\0", 0), "n=0");
    }

    #[test]
    fn put_answers_and_keeps_what_was_there() {
        let mut store = Store::default();
        let with = |request| PutRequest { prev_kv: true, ..request };
        assert_eq!(store.put_with(with(put_request(b"a", b"1"))).unwrap().prev_kv, None);
        let previous = store.put_with(with(put_request(b"a", b"2"))).unwrap().prev_kv.unwrap();
        assert_eq!((previous.value.as_ref(), previous.mod_revision), (&b"1"[..], 2));
        let kept = PutRequest { ignore_value: true, ..put_request(b"a", b"") };
        store.put_with(kept).unwrap();
        assert_eq!(store.show(b"a", b"", 0), "a=2@4.2.3 n=1");
    }

    #[test]
    fn puts_are_refused_without_a_trace() {
        let mut store = Store::default();
        let missing = PutRequest { ignore_value: true, ..put_request(b"a", b"") };
        assert_eq!(store.put_with(missing), Err(Refusal::KeyNotFound));
        let missing = PutRequest { ignore_lease: true, ..put_request(b"a", b"1") };
        assert_eq!(store.put_with(missing), Err(Refusal::KeyNotFound));
        let leased = PutRequest { lease: 7, ..put_request(b"a", b"1") };
        assert_eq!(store.put_with(leased), Err(Refusal::LeaseNotFound));
        assert_eq!(store.put(b"a", b"1"), 2);
    }

    #[test]
    fn the_longest_key_is_stored_and_the_next_refused() {
        let mut store = Store::default();
        let longest = vec![b'k'; KEY_ENCODED_BYTES_MAX];
        let too_long = vec![b'k'; KEY_ENCODED_BYTES_MAX + 1];
        assert_eq!(store.put(&longest, b"1"), 2);
        let refused = store.put_with(put_request(&too_long, b"1"));
        assert_eq!(refused, Err(Refusal::KeyTooLong));
        assert_eq!(store.range(range_request(&longest, b"")).unwrap().count, 1);
        assert_eq!(store.range(range_request(&too_long, b"")).unwrap().count, 0);
        assert_eq!(store.range(range_request(&too_long, b"\0")).unwrap().count, 0);
        assert_eq!(store.range(range_request(b"a", &too_long)).unwrap().count, 1);
        assert_eq!(store.delete(&too_long, b"").deleted, 0);
    }

    #[test]
    fn keys_with_zero_bytes_stay_apart() {
        let mut store = Store::default();
        for key in [&b"a"[..], b"a\0", b"a\0\0", b"a\0b", b"a\x01", b"\0"] {
            store.put(key, b"");
        }
        assert_eq!(store.range(range_request(b"a", b"")).unwrap().count, 1);
        assert_eq!(store.range(range_request(b"a\0", b"a\x01")).unwrap().count, 3);
        assert_eq!(store.range(range_request(b"\0", b"\0")).unwrap().count, 6);
        assert_eq!(store.range(range_request(b"\0", b"a")).unwrap().count, 1);
    }

    #[test]
    fn limits_sorting_and_filters_combine_as_in_etcd() {
        let mut store = Store::default();
        for (key, value) in [(b"a", b"3"), (b"b", b"1"), (b"c", b"2"), (b"a", b"2")] {
            store.put(key, value);
        }
        let all = range_request(b"a", b"z");
        let ask = |request: RangeRequest| shown(&store.range(request).unwrap());
        assert_eq!(ask(RangeRequest { limit: 2, ..all.clone() }), "a=2@5.2.2 b=1@3.3.1 n=3+");
        assert_eq!(ask(RangeRequest { limit: 3, ..all.clone() }).matches('+').count(), 0);
        assert_eq!(ask(RangeRequest { count_only: true, limit: 1, ..all.clone() }), "n=3");
        assert_eq!(
            ask(RangeRequest { keys_only: true, ..all.clone() }),
            "a=@5.2.2 b=@3.3.1 c=@4.4.1 n=3"
        );
        let sorted = |target: SortTarget, order: SortOrder| RangeRequest {
            sort_target: target.into(),
            sort_order: order.into(),
            ..all.clone()
        };
        assert!(ask(sorted(SortTarget::Mod, SortOrder::Descend)).starts_with("a=2@5"));
        assert!(ask(sorted(SortTarget::Key, SortOrder::Descend)).starts_with("c="));
        // Equal values keep key order in both directions.
        assert_eq!(
            ask(sorted(SortTarget::Value, SortOrder::Descend)),
            "a=2@5.2.2 c=2@4.4.1 b=1@3.3.1 n=3"
        );
        assert!(ask(sorted(SortTarget::Version, SortOrder::None)).starts_with("b="));
        let limited = RangeRequest { limit: 1, ..sorted(SortTarget::Create, SortOrder::Descend) };
        assert_eq!(ask(limited), "c=2@4.4.1 n=3+");
        let filtered = RangeRequest { min_mod_revision: 4, max_mod_revision: 4, ..all.clone() };
        assert_eq!(ask(filtered), "c=2@4.4.1 n=3");
        let filtered = RangeRequest { max_create_revision: 3, limit: 1, ..all.clone() };
        assert_eq!(ask(filtered), "a=2@5.2.2 n=3+");
        let filtered = RangeRequest { min_create_revision: 3, ..all.clone() };
        assert_eq!(ask(filtered), "b=1@3.3.1 c=2@4.4.1 n=3");
        assert_eq!(ask(range_request(b"c", b"a")), "n=0");
    }

    #[test]
    fn long_histories_are_skipped_and_stay_readable() {
        let mut store = Store::default();
        for n in 0..50 {
            store.put(b"a", format!("{n}").as_bytes());
        }
        store.put(b"b", b"x");
        assert_eq!(store.show(b"a", b"z", 0), "a=49@51.2.50 b=x@52.52.1 n=2");
        assert_eq!(store.show(b"a", b"z", 12), "a=10@12.2.11 n=1");
        assert_eq!(store.show(b"a", b"z", 1), "n=0");
    }

    #[test]
    fn a_transaction_is_one_revision_and_sees_its_own_writes() {
        let mut store = Store::default();
        store.put(b"a", b"0");
        let response = store
            .txn(TxnRequest {
                success: vec![
                    range_op(b"a", b""),
                    put_op(b"a", b"1"),
                    range_op(b"a", b"z"),
                    put_op(b"b", b"1"),
                    delete_op(b"c", b"d"),
                ],
                ..TxnRequest::default()
            })
            .unwrap();
        assert_eq!(response.header.unwrap().revision, 3);
        let revisions: Vec<_> = response
            .responses
            .iter()
            .map(|op| match op.response.as_ref().unwrap() {
                Response::ResponseRange(r) => r.header.unwrap().revision,
                Response::ResponsePut(r) => r.header.unwrap().revision,
                Response::ResponseDeleteRange(r) => r.header.unwrap().revision,
                Response::ResponseTxn(r) => r.header.unwrap().revision,
            })
            .collect();
        assert_eq!(revisions, [2, 3, 3, 3, 3]);
        let Some(Response::ResponseRange(within)) = &response.responses[2].response else {
            panic!("not a range")
        };
        assert_eq!(shown(within), "a=1@3.2.2 n=1");
        assert_eq!(store.show(b"a", b"z", 0), "a=1@3.2.2 b=1@3.3.1 n=2");
        assert_eq!(store.show(b"a", b"z", 2), "a=0@2.2.1 n=1");
        assert_eq!(store.put(b"c", b""), 4);
    }

    #[test]
    fn a_transaction_that_writes_nothing_keeps_the_revision() {
        let mut store = Store::default();
        store.put(b"a", b"0");
        let txn = TxnRequest { success: vec![delete_op(b"x", b"")], ..TxnRequest::default() };
        assert_eq!(store.txn(txn).unwrap().header.unwrap().revision, 2);
        assert_eq!(store.txn(TxnRequest::default()).unwrap().header.unwrap().revision, 2);
        assert_eq!(store.put(b"a", b"1"), 3);
    }

    #[test]
    fn comparisons_cover_every_target_and_result() {
        use CompareResult::{Equal, Greater, Less, NotEqual};
        let mut store = Store::default();
        store.put(b"a", b"m");
        store.put(b"a", b"n");
        for (result, union, expected) in [
            (Equal, TargetUnion::Version(2), true),
            (Less, TargetUnion::Version(3), true),
            (Greater, TargetUnion::Version(2), false),
            (Equal, TargetUnion::CreateRevision(2), true),
            (NotEqual, TargetUnion::CreateRevision(2), false),
            (Greater, TargetUnion::ModRevision(2), true),
            (Equal, TargetUnion::Value("n".into()), true),
            (Less, TargetUnion::Value("o".into()), true),
            (Equal, TargetUnion::Lease(0), true),
        ] {
            let compare = compare(b"a", result, union.clone());
            assert_eq!(holds(&mut store, compare), expected, "{result:?} {union:?}");
        }
        assert!(holds(&mut store, compare(b"x", Equal, TargetUnion::Version(0))));
        assert!(holds(&mut store, compare(b"x", Equal, TargetUnion::CreateRevision(0))));
        assert!(!holds(&mut store, compare(b"x", Equal, TargetUnion::Value("".into()))));
        assert!(!holds(&mut store, compare(b"x", NotEqual, TargetUnion::Value("v".into()))));
    }

    #[test]
    fn a_comparison_of_a_range_must_hold_for_all() {
        let mut store = Store::default();
        store.put(b"a", b"x");
        store.put(b"b", b"x");
        let over = |key: &[u8], end: &[u8], n| Compare {
            range_end: end.to_vec().into(),
            ..compare(key, CompareResult::Less, TargetUnion::ModRevision(n))
        };
        assert!(holds(&mut store, over(b"a", b"z", 4)));
        assert!(!holds(&mut store, over(b"a", b"z", 3)));
        assert!(holds(&mut store, over(b"a", b"b", 3)));
        assert!(holds(&mut store, over(b"x", b"\0", 1)));
    }

    #[test]
    fn nested_comparisons_precede_all_writes() {
        let mut store = Store::default();
        let nested = TxnRequest {
            compare: vec![compare(b"a", CompareResult::Equal, TargetUnion::Version(0))],
            success: vec![put_op(b"b", b"fresh")],
            failure: vec![put_op(b"b", b"stale")],
        };
        let txn = TxnRequest {
            success: vec![put_op(b"a", b"1"), op(Request::RequestTxn(nested))],
            ..TxnRequest::default()
        };
        let response = store.txn(txn).unwrap();
        assert_eq!(store.show(b"a", b"z", 0), "a=1@2.2.1 b=fresh@2.2.1 n=2");
        let Some(Response::ResponseTxn(nested)) = &response.responses[1].response else {
            panic!("not a transaction")
        };
        assert!(nested.succeeded);
    }

    #[test]
    fn a_refused_operation_refuses_the_whole_transaction() {
        let mut store = Store::default();
        store.put(b"a", b"1");
        let ignoring = PutRequest { ignore_value: true, ..put_request(b"x", b"") };
        let txn = TxnRequest {
            success: vec![put_op(b"b", b"1"), op(Request::RequestPut(ignoring))],
            ..TxnRequest::default()
        };
        assert_eq!(store.txn(txn), Err(Refusal::KeyNotFound));
        let future = RangeRequest { revision: 3, ..range_request(b"a", b"") };
        let txn = TxnRequest {
            success: vec![put_op(b"b", b"1"), op(Request::RequestRange(future))],
            ..TxnRequest::default()
        };
        assert_eq!(store.txn(txn), Err(Refusal::FutureRevision));
        assert_eq!(store.show(b"\0", b"\0", 0), "a=1@2.2.1 n=1");
    }

    #[test]
    fn compaction_keeps_what_is_readable_from_its_revision_on() {
        let mut store = Store::default();
        store.put(b"a", b"1");
        store.put(b"a", b"2");
        store.put(b"b", b"1");
        store.delete(b"b", b"");
        store.put(b"a", b"3");
        assert_eq!(store.compact(7), Err(Refusal::FutureRevision));
        assert_eq!(store.compact(5), Ok(6));
        assert_eq!(store.compact(5), Err(Refusal::Compacted));
        assert_eq!(store.compact(3), Err(Refusal::Compacted));
        assert_eq!(store.show(b"a", b"z", 4), "Compacted");
        assert_eq!(store.show(b"a", b"z", 5), "a=2@3.2.2 n=1");
        assert_eq!(store.show(b"a", b"z", 0), "a=3@6.2.3 n=1");
        // 'a' at 3 and 6, the event of 6, the metadata.
        assert_eq!(store.state.0.len(), 4);
        assert_eq!(store.compact(6), Ok(6));
        assert_eq!(store.state.0.len(), 2);
        store.reopen();
        assert_eq!(store.put(b"a", b"4"), 7);
        assert_eq!(store.compact(6), Err(Refusal::Compacted));
        assert_eq!(store.compact(7), Ok(7));
        assert_eq!(store.state.0.len(), 2);
    }

    #[test]
    fn a_large_compaction_is_freed_by_later_commands() {
        let mut store = Store::default();
        for n in 0..3000 {
            store.put(format!("k{}", n % 7).as_bytes(), b"v");
        }
        let before = store.show(b"k", b"l", 0);
        let hash = store.hash(0).unwrap().hash;
        store.compact(3001).unwrap();
        let swept_at_once = store.state.0.len();
        assert!(swept_at_once > 1000, "{swept_at_once} rows are left");
        assert_ne!(store.hash(0).unwrap().hash, hash, "the history counts");
        let hash = store.hash(0).unwrap().hash;
        store.reopen();
        while store.state.0.len() > 8 {
            let rows = store.state.0.len();
            store.delete(b"absent", b"");
            assert!(store.state.0.len() < rows, "no progress at {rows} rows");
        }
        assert_eq!(store.show(b"k", b"l", 0), before);
        assert_eq!(store.hash(0).unwrap().hash, hash, "freeing rows is invisible");
    }

    #[test]
    fn hashes_depend_on_the_revision_asked_for() {
        let mut store = Store::default();
        store.put(b"a", b"1");
        let at_2 = store.hash(0).unwrap();
        store.put(b"a", b"2");
        assert_eq!(store.hash(2).unwrap().hash, at_2.hash);
        assert_ne!(store.hash(3).unwrap().hash, at_2.hash);
        assert_eq!(store.hash(4), Err(Refusal::FutureRevision));
        store.compact(3).unwrap();
        assert_eq!(store.hash(2), Err(Refusal::Compacted));
        assert_eq!(store.hash(3).unwrap().compact_revision, 3);
    }

    #[test]
    fn a_reopened_keyspace_goes_on_where_it_was() {
        let mut store = Store::default();
        store.reopen();
        store.put(b"a", b"1");
        store.delete(b"a", b"");
        store.reopen();
        assert_eq!(store.put(b"a", b"2"), 4);
        assert_eq!(store.show(b"a", b"", 0), "a=2@4.4.1 n=1");
    }
}
