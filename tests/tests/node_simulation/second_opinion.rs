//! A second opinion on histories: a search for an order, key by key, that trusts no log.
//!
//! Each operation is a client of its own, so one that is unknown to have happened holds up nobody. The
//! search is exponential in the operations of a key, which are few by construction, and recursive, which
//! is why it has a thread with a large stack.

use std::collections::BTreeMap;

use polyraft_tests::linearizability::{Heard, Operation};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

/// Stack of the searching thread.
const STACK_BYTES: usize = 256 << 20;

/// One key: the operation that wrote it last, or 0.
#[derive(Debug, Clone, Default)]
struct Register(u64);

/// What is asked of it; the answer is what was there.
#[derive(Debug, Clone, Copy)]
enum Ask {
    Read,
    Write(u64),
}

impl SequentialSpec for Register {
    type Op = Ask;
    type Ret = u64;

    fn invoke(&mut self, ask: &Ask) -> u64 {
        match *ask {
            Ask::Read => self.0,
            Ask::Write(number) => std::mem::replace(&mut self.0, number),
        }
    }
}

/// The keys of these histories for which there is no order, with how many keys there were. Keys are told
/// apart by the position of their history.
pub fn wrong_keys(histories: Vec<Vec<Operation>>) -> (Vec<(usize, u64)>, usize) {
    let search = move || {
        let (mut wrong, mut keys) = (Vec::new(), 0);
        for (at, operations) in histories.iter().enumerate() {
            let mut by_key: BTreeMap<u64, Vec<&Operation>> = BTreeMap::new();
            for operation in operations.iter().filter(|o| o.heard != Heard::Refused) {
                by_key.entry(operation.key).or_default().push(operation);
            }
            keys += by_key.len();
            let out_of_order = by_key.iter().filter(|(_, operations)| !has_order(operations));
            wrong.extend(out_of_order.map(|(key, _)| (at, *key)));
        }
        (wrong, keys)
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(search);
    thread.expect("a thread").join().expect("the search does not panic")
}

fn has_order(operations: &[&Operation]) -> bool {
    let mut tester = LinearizabilityTester::new(Register::default());
    let begins = operations.iter().map(|o| (o.began, None, *o));
    let ends = operations.iter().filter_map(|o| match o.heard {
        Heard::Done { value, .. } => Some((o.ended, Some(value), *o)),
        _ => None,
    });
    let mut moments: Vec<_> = begins.chain(ends).collect();
    moments.sort_by_key(|(at, ..)| *at);
    for (_, value, operation) in moments {
        let ask = if operation.writes { Ask::Write(operation.number) } else { Ask::Read };
        let told = match value {
            None => tester.on_invoke(operation.number, ask).map(drop),
            Some(value) => tester.on_return(operation.number, value).map(drop),
        };
        told.expect("each operation begins once and ends once, in this order");
    }
    tester.is_consistent()
}
