//! An in-memory state and a keyspace driven by plain requests, for the tests of this module.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use polyraft::{ApplyContext, GroupId, LogIndex, State, StateError, StateMachine, Term};
use prost::Message;

use super::Keyspace;
use crate::proto::etcdserverpb::*;
use crate::proto::keyspace::answer::Kind as AnswerKind;
use crate::proto::keyspace::command::Kind as CommandKind;
use crate::proto::keyspace::query::Kind as QueryKind;
use crate::proto::keyspace::{Answer, Command, Query, Refusal};

/// An ordered map that refuses what the runtime's state refuses.
#[derive(Default, Clone)]
pub(crate) struct MemoryState(pub BTreeMap<Vec<u8>, Bytes>);

impl State for MemoryState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        Ok(self.0.get(key).cloned())
    }

    fn put(&mut self, key: &[u8], value: Bytes) -> Result<(), StateError> {
        if key.is_empty() || key.len() > 480 {
            return Err(StateError::KeySize { bytes: key.len() });
        }
        self.0.insert(key.to_vec(), value);
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), StateError> {
        self.0.remove(key);
        Ok(())
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &Bytes) -> bool,
    ) -> Result<(), StateError> {
        let range = self.0.range::<[u8], _>((from, to));
        if reverse {
            let _ = range.rev().all(|(key, value)| visit(key, value));
        } else {
            let _ = range.into_iter().all(|(key, value)| visit(key, value));
        }
        Ok(())
    }
}

/// A keyspace and its state.
#[derive(Default)]
pub(crate) struct Store {
    pub state: MemoryState,
    pub keyspace: Keyspace,
}

impl Store {
    pub fn command(&mut self, kind: CommandKind) -> Result<AnswerKind, Refusal> {
        let context = ApplyContext {
            group: GroupId::new(1),
            index: LogIndex::new(1),
            term: Term::new(1),
            sub_index: 0,
            time_ms: 0,
        };
        let command = Command { kind: Some(kind) }.encode_to_vec();
        let before = self.state.clone();
        let response = self.keyspace.apply(&mut self.state, &context, &command).unwrap();
        if !response.is_accepted() {
            assert_eq!(before.0, self.state.0, "a refused command has written");
        }
        opened(response.body().clone())
    }

    pub fn query(&self, kind: QueryKind) -> Result<AnswerKind, Refusal> {
        let query = Query { kind: Some(kind) }.encode_to_vec();
        opened(self.keyspace.query(&self.state, &query).unwrap())
    }

    /// What a restart does.
    pub fn reopen(&mut self) {
        self.keyspace = Keyspace::default();
        self.keyspace.open(&self.state).unwrap();
    }

    pub fn put(&mut self, key: &[u8], value: &[u8]) -> i64 {
        let request = put_request(key, value);
        let response = self.put_with(request).unwrap();
        response.header.unwrap().revision
    }

    pub fn put_with(&mut self, request: PutRequest) -> Result<PutResponse, Refusal> {
        match self.command(CommandKind::Put(request))? {
            AnswerKind::Put(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    pub fn delete(&mut self, key: &[u8], range_end: &[u8]) -> DeleteRangeResponse {
        let request = delete_request(key, range_end);
        match self.command(CommandKind::DeleteRange(request)).unwrap() {
            AnswerKind::DeleteRange(response) => response,
            other => panic!("{other:?}"),
        }
    }

    pub fn txn(&mut self, request: TxnRequest) -> Result<TxnResponse, Refusal> {
        match self.command(CommandKind::Txn(request))? {
            AnswerKind::Txn(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    pub fn compact(&mut self, revision: i64) -> Result<i64, Refusal> {
        let request = CompactionRequest { revision, physical: false };
        match self.command(CommandKind::Compact(request))? {
            AnswerKind::Compact(response) => Ok(response.header.unwrap().revision),
            other => panic!("{other:?}"),
        }
    }

    pub fn range(&self, request: RangeRequest) -> Result<RangeResponse, Refusal> {
        match self.query(QueryKind::Range(request))? {
            AnswerKind::Range(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    pub fn hash(&self, revision: i64) -> Result<HashKvResponse, Refusal> {
        match self.query(QueryKind::Hash(HashKvRequest { revision }))? {
            AnswerKind::Hash(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    /// `key=value@mod.create.version` of the range's pairs at `revision`, and the count.
    pub fn show(&self, key: &[u8], range_end: &[u8], revision: i64) -> String {
        let request = RangeRequest { revision, ..range_request(key, range_end) };
        match self.range(request) {
            Ok(response) => shown(&response),
            Err(refusal) => format!("{refusal:?}"),
        }
    }
}

/// `key=value@mod.create.version …; count`.
pub(crate) fn shown(response: &RangeResponse) -> String {
    let mut text = String::new();
    for kv in &response.kvs {
        text += &format!(
            "{}={}@{}.{}.{} ",
            kv.key.escape_ascii(),
            kv.value.escape_ascii(),
            kv.mod_revision,
            kv.create_revision,
            kv.version
        );
    }
    text + &format!("n={}{}", response.count, if response.more { "+" } else { "" })
}

pub(crate) fn put_request(key: &[u8], value: &[u8]) -> PutRequest {
    PutRequest {
        key: Bytes::copy_from_slice(key),
        value: Bytes::copy_from_slice(value),
        ..PutRequest::default()
    }
}

pub(crate) fn range_request(key: &[u8], range_end: &[u8]) -> RangeRequest {
    RangeRequest {
        key: Bytes::copy_from_slice(key),
        range_end: Bytes::copy_from_slice(range_end),
        ..RangeRequest::default()
    }
}

pub(crate) fn delete_request(key: &[u8], range_end: &[u8]) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: Bytes::copy_from_slice(key),
        range_end: Bytes::copy_from_slice(range_end),
        prev_kv: true,
    }
}

fn opened(body: Bytes) -> Result<AnswerKind, Refusal> {
    match Answer::decode(body).unwrap().kind.unwrap() {
        AnswerKind::Refusal(refusal) => Err(Refusal::try_from(refusal).unwrap()),
        kind => Ok(kind),
    }
}
