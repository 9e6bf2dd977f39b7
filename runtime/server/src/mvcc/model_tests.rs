//! Goal: the rows, seeks and sweeps of a keyspace amount to a plain multi-version map. Method: random
//! requests, few keys, against a model that keeps every state of every revision.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::testing::*;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::*;
use crate::proto::keyspace::Refusal;

#[derive(Debug, Clone)]
enum Step {
    Put(Vec<u8>, u8),
    Delete(Vec<u8>, Vec<u8>),
    PutBoth(Vec<u8>, Vec<u8>, u8),
    Compact(u8),
    Reopen,
}

#[derive(Debug, Clone, PartialEq)]
struct Pair {
    value: Vec<u8>,
    created: i64,
    modified: i64,
    version: i64,
}

type Contents = BTreeMap<Vec<u8>, Pair>;

/// Every state since revision 1; index 0 is revision 1.
struct Model {
    states: Vec<Contents>,
    compacted: i64,
}

impl Model {
    fn revision(&self) -> i64 {
        self.states.len() as i64
    }

    fn put(&mut self, keys: &[&[u8]], value: u8) {
        let main = self.revision() + 1;
        let mut next = self.states.last().unwrap().clone();
        for key in keys {
            let previous = next.get(*key);
            let pair = Pair {
                value: vec![value],
                created: previous.map_or(main, |pair| pair.created),
                modified: main,
                version: previous.map_or(1, |pair| pair.version + 1),
            };
            next.insert(key.to_vec(), pair);
        }
        self.states.push(next);
    }

    fn delete(&mut self, key: &[u8], end: &[u8]) -> i64 {
        let mut next = self.states.last().unwrap().clone();
        let before = next.len();
        next.retain(|candidate, _| !within(candidate, key, end));
        let deleted = before - next.len();
        if deleted > 0 {
            self.states.push(next);
        }
        deleted as i64
    }

    fn compact(&mut self, revision: i64) -> Result<i64, Refusal> {
        if revision <= self.compacted {
            return Err(Refusal::Compacted);
        }
        if revision > self.revision() {
            return Err(Refusal::FutureRevision);
        }
        self.compacted = revision;
        Ok(self.revision())
    }

    fn show(&self, key: &[u8], end: &[u8], revision: i64) -> String {
        if revision < self.compacted {
            return "Compacted".into();
        }
        let mut text = String::new();
        let mut count = 0;
        for (found, pair) in &self.states[revision as usize - 1] {
            if within(found, key, end) {
                count += 1;
                text += &format!(
                    "{}={}@{}.{}.{} ",
                    found.escape_ascii(),
                    pair.value.escape_ascii(),
                    pair.modified,
                    pair.created,
                    pair.version
                );
            }
        }
        text + &format!("n={count}")
    }
}

fn within(candidate: &[u8], key: &[u8], end: &[u8]) -> bool {
    match end {
        [] => candidate == key,
        [0] => candidate >= key,
        end => candidate >= key && candidate < end,
    }
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![Just(0u8), Just(b'a'), Just(b'b')], 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (key(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => (key(), prop_oneof![Just(vec![]), key()]).prop_map(|(a, b)| Step::Delete(a, b)),
        2 => (key(), key(), any::<u8>()).prop_map(|(a, b, value)| Step::PutBoth(a, b, value)),
        1 => any::<u8>().prop_map(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

fn run(store: &mut Store, model: &mut Model, step: &Step) {
    match step {
        Step::Put(key, value) => {
            model.put(&[key], *value);
            assert_eq!(store.put(key, &[*value]), model.revision());
        }
        Step::Delete(key, end) => {
            let deleted = model.delete(key, end);
            let response = store.delete(key, end);
            assert_eq!(response.deleted, deleted);
            assert_eq!(response.header.unwrap().revision, model.revision());
        }
        Step::PutBoth(a, b, value) if a != b => {
            model.put(&[a, b], *value);
            let put = |key: &Vec<u8>| RequestOp {
                request: Some(Request::RequestPut(put_request(key, &[*value]))),
            };
            let txn = TxnRequest { success: vec![put(a), put(b)], ..TxnRequest::default() };
            let response = store.txn(txn).unwrap();
            assert_eq!(response.header.unwrap().revision, model.revision());
        }
        Step::PutBoth(..) => {}
        Step::Compact(part) => {
            let revision = model.revision() * i64::from(*part) / 250;
            let expected = model.compact(revision);
            assert_eq!(store.compact(revision), expected);
        }
        Step::Reopen => store.reopen(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_keyspace_is_a_multi_version_map(
        steps in proptest::collection::vec(step(), 1..60),
        from in key(),
        end in key(),
    ) {
        let mut store = Store::default();
        let mut model = Model { states: vec![Contents::new()], compacted: -1 };
        for step in &steps {
            run(&mut store, &mut model, step);
        }
        for revision in 1..=model.revision() {
            for (from, end) in [(&b"\0"[..], &b"\0"[..]), (&from, &end), (&from, b"")] {
                prop_assert_eq!(
                    store.show(from, end, revision),
                    model.show(from, end, revision),
                    "at {} of {}", revision, model.revision()
                );
            }
        }
    }

    /// Goal: replicas agree although each reopens when it likes. Method: the same commands on two,
    /// one of which reopens after each; equal rows and equal hashes.
    #[test]
    fn replicas_agree(steps in proptest::collection::vec(step(), 1..60)) {
        let (mut one, mut other) = (Store::default(), Store::default());
        let model = || Model { states: vec![Contents::new()], compacted: -1 };
        let (mut model_one, mut model_other) = (model(), model());
        for step in &steps {
            run(&mut one, &mut model_one, step);
            run(&mut other, &mut model_other, step);
            other.reopen();
        }
        prop_assert_eq!(&one.state.0, &other.state.0);
        prop_assert_eq!(one.hash(0).unwrap(), other.hash(0).unwrap());
    }
}
