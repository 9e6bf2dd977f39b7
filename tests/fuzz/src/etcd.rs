//! etcd requests: bytes of a client, through validation, the log's encoding and the state machine.
//!
//! ```text
//! request bytes ─prost→ validate → command → ApplyBench over a state in memory, on two replicas
//! ```
//!
//! Properties: no request that passes validation fails or panics; two replicas answer alike, whatever
//! restarts lie between, and end equal; commands that no validation has seen do not panic either.

use bytes::Bytes;
use polyraft_actors::apply_bench::ApplyBench;
use polyraft_core::batch::{self, Unit};
use polyraft_core::entry::{EntryKind, LogEntry};
use polyraft_core::ids::{GroupId, Term};
use polyraft_core::ports::StateStore;
use polyraft_core::state_machine::Response;
use polyraft_server::etcd::{check_delete_range, check_put, check_range, check_txn, is_read_only};
use polyraft_server::mvcc::Keyspace;
use polyraft_server::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use polyraft_server::proto::etcdserverpb::request_op::Request;
use polyraft_server::proto::etcdserverpb::*;
use polyraft_server::proto::keyspace::command::Kind as CommandKind;
use polyraft_server::proto::keyspace::query::Kind as QueryKind;
use polyraft_server::proto::keyspace::{Command, Position, Query, Sweep};
use polyraft_storage::memory::MemoryTable;
use polyraft_storage::state_store::{STATE_TABLES, TableStateStore};
use prost::Message;

use crate::script::{Script, chunk};

const GROUP: GroupId = GroupId::new(1);

pub fn run(data: &[u8]) {
    let mut steady = Replica::new();
    let mut restarting = Replica::new();
    let mut script = Script(data);
    while let Some(step) = script.byte() {
        let Some(bytes) = script.chunk() else { break };
        let action = match step % 12 {
            10 => {
                restarting.restart();
                continue;
            }
            11 => Some(Action::Command(bytes.to_vec())),
            kind => request(kind, bytes),
        };
        match action {
            Some(Action::Query(query)) => {
                let answers =
                    [&steady, &restarting].map(|replica| replica.bench.query(&query).ok());
                assert!(answers[0].is_some(), "a valid query failed");
                assert_eq!(answers[0], answers[1]);
            }
            Some(Action::Command(command)) => {
                let answers = [&mut steady, &mut restarting].map(|replica| replica.apply(&command));
                assert_eq!(answers[0], answers[1]);
                let is_checked = step % 12 != 11;
                assert!(answers[0].is_some() || !is_checked, "a valid command failed");
                if answers[0].is_none() {
                    return; // The group would be faulted.
                }
            }
            None => {}
        }
    }
    restarting.restart();
    assert_eq!(steady.contents(), restarting.contents());
}

enum Action {
    Query(Vec<u8>),
    Command(Vec<u8>),
}

/// What a request of these bytes has the group do, if it is one and passes validation.
fn request(kind: u8, bytes: &[u8]) -> Option<Action> {
    let checked = match kind {
        0 => decoded::<PutRequest>(bytes, check_put).map(CommandKind::Put),
        1 => decoded(bytes, check_delete_range).map(CommandKind::DeleteRange),
        2 => decoded(bytes, check_txn).map(CommandKind::Txn),
        3 => decoded(bytes, |_: &CompactionRequest| Ok(())).map(CommandKind::Compact),
        4 => Some(CommandKind::Sweep(Sweep {})),
        _ => None,
    };
    if let Some(kind) = checked {
        return Some(Action::Command(Command { kind: Some(kind) }.encode_to_vec()));
    }
    let query = match kind {
        5 => QueryKind::Range(decoded(bytes, check_range)?),
        6 => QueryKind::Txn(decoded(bytes, check_txn).filter(is_read_only)?),
        7 => QueryKind::Hash(decoded(bytes, |_: &HashKvRequest| Ok(()))?),
        8 => QueryKind::Position(Position::default()),
        _ => return None,
    };
    Some(Action::Query(Query { kind: Some(query) }.encode_to_vec()))
}

fn decoded<M: Message + Default>(
    bytes: &[u8],
    check: impl Fn(&M) -> Result<(), tonic::Status>,
) -> Option<M> {
    M::decode(bytes).ok().filter(|request| check(request).is_ok())
}

/// One keyspace on its state.
struct Replica {
    store: TableStateStore<MemoryTable>,
    bench: ApplyBench,
}

impl Replica {
    fn new() -> Self {
        let store = TableStateStore::new(MemoryTable::new(STATE_TABLES.len()));
        let bench = open(&store);
        Self { store, bench }
    }

    /// Applies a command in an entry of its own. Nothing: the machine failed.
    fn apply(&mut self, command: &[u8]) -> Option<Vec<Response>> {
        let unit = Unit::single(Bytes::copy_from_slice(command));
        let (kind, data) = (EntryKind::Normal, batch::encode(0, [&unit].into_iter()));
        let index = self.bench.applied().next();
        let entry = LogEntry { index, term: Term::new(1), kind, data };
        self.bench.apply(&entry).ok()
    }

    fn restart(&mut self) {
        if let Some(flush) = self.bench.state().freeze() {
            self.store.flush(&[flush]).expect("a healthy disk");
        }
        self.bench = open(&self.store);
    }

    /// Everything that a client can see now, the hash of all rows, and the revisions.
    fn contents(&self) -> [Option<Bytes>; 3] {
        let everything =
            RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
        [
            QueryKind::Range(everything),
            QueryKind::Hash(HashKvRequest::default()),
            QueryKind::Position(Position::default()),
        ]
        .map(|kind| self.bench.query(&Query { kind: Some(kind) }.encode_to_vec()).ok())
    }
}

fn open(store: &TableStateStore<MemoryTable>) -> ApplyBench {
    let state = store.open(GROUP).expect("a healthy disk");
    let mut bench = ApplyBench::new(GROUP, Box::new(Keyspace::default()), state);
    bench.open().expect("a state that the machine wrote");
    bench
}

fn put(key: &str, value: &str) -> PutRequest {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    PutRequest { key, value, prev_kv: true, ..Default::default() }
}

fn range(key: &str, end: &str) -> RangeRequest {
    let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
    RangeRequest { key, range_end, ..Default::default() }
}

fn delete(key: &str, end: &str) -> DeleteRangeRequest {
    let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
    DeleteRangeRequest { key, range_end, prev_kv: true }
}

fn txn() -> TxnRequest {
    let op = |request| RequestOp { request: Some(request) };
    let compare = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Value.into(),
        key: "a".into(),
        target_union: Some(TargetUnion::Value("1".into())),
        ..Default::default()
    };
    let nested =
        TxnRequest { success: vec![op(Request::RequestPut(put("c", "3")))], ..Default::default() };
    TxnRequest {
        compare: vec![compare],
        success: vec![
            op(Request::RequestDeleteRange(delete("a", "b"))),
            op(Request::RequestTxn(nested)),
        ],
        failure: vec![op(Request::RequestRange(range("a", "\0")))],
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let step = |kind: u8, request: &dyn Fn() -> Vec<u8>| [&[kind][..], &chunk(&request())].concat();
    let put = |key: &'static str, value| step(0, &|| put(key, value).encode_to_vec());
    let restart = step(10, &Vec::new);
    let all = step(5, &|| range("\0", "\0").encode_to_vec());
    let sorted = RangeRequest {
        limit: 1,
        revision: 2,
        sort_order: 2,
        sort_target: 4,
        min_mod_revision: 1,
        ..range("a", "z")
    };
    let compact = |revision, physical| CompactionRequest { revision, physical }.encode_to_vec();
    let reads = TxnRequest { success: txn().failure, ..Default::default() };
    let story: Vec<Vec<u8>> = vec![
        put("a", "1"),
        put("a", "2"),
        put("b", "1"),
        all.clone(),
        step(5, &|| sorted.encode_to_vec()),
        step(1, &|| delete("a", "").encode_to_vec()),
        restart.clone(),
        step(3, &|| compact(3, true)),
        step(4, &Vec::new),
        step(7, &|| HashKvRequest { revision: 0 }.encode_to_vec()),
        step(8, &Vec::new),
    ];
    vec![
        story.concat(),
        [put("a", "1"), step(2, &|| txn().encode_to_vec()), restart.clone(), all].concat(),
        [put("a", "2"), step(2, &|| txn().encode_to_vec()), restart].concat(),
        [put("a", "2"), step(6, &|| reads.encode_to_vec())].concat(),
        step(11, &|| Command { kind: Some(CommandKind::Sweep(Sweep {})) }.encode_to_vec()),
    ]
}
