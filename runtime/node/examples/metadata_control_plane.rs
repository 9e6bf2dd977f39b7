//! A control plane's catalogue: which node owns which table. Compare-and-set, a watch that misses
//! nothing, and a node that restarts.
//!
//! ```text
//! set TABLE VERSION OWNER ─→ table: "VERSION+1 OWNER", and a numbered change ─→ watchers
//!
//! cargo run -p polyraft --example metadata_control_plane
//! ```

mod three_nodes;

use std::error::Error;
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use polyraft::{
    ApplyContext, ApplyError, GroupHandle, NodeId, Response, State, StateError, StateMachine,
};
use three_nodes::ThreeNodes;

/// Rows: `t/TABLE` → `VERSION OWNER`; `c/NUMBER` → `TABLE VERSION OWNER`, NUMBER in 8 bytes.
///
/// Command: `set TABLE VERSION OWNER`, rejected unless the table is at VERSION (0: not there yet); it
/// answers the change's number. Queries: `get TABLE`; `changes AFTER`, a line per change.
struct Catalogue;

fn number(bytes: &[u8]) -> u64 {
    bytes.last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn change_key(number: u64) -> Vec<u8> {
    [b"c/", &number.to_be_bytes()[..]].concat()
}

fn last_change(state: &dyn State) -> Result<u64, StateError> {
    let (mut last, end) = (0, change_key(u64::MAX));
    state.scan(Bound::Included(b"c/"), Bound::Included(&end), true, &mut |key, _| {
        last = number(key);
        false
    })?;
    Ok(last)
}

fn words(bytes: &[u8]) -> Result<Vec<&str>, ApplyError> {
    let text = std::str::from_utf8(bytes);
    let text = text.map_err(|error| ApplyError::Decode { what: error.to_string() })?;
    Ok(text.split(' ').collect())
}

impl StateMachine for Catalogue {
    fn apply(
        &mut self,
        state: &mut dyn State,
        _: &ApplyContext,
        command: &[u8],
    ) -> Result<Response, ApplyError> {
        let ["set", table, expected, owner] = words(command)?[..] else {
            return Ok(Response::Rejected("set TABLE VERSION OWNER".into()));
        };
        let key = format!("t/{table}").into_bytes();
        let row = state.get(&key)?.unwrap_or_else(|| Bytes::from_static(b"0 nobody"));
        let version = words(&row)?[0].to_owned();
        if version != expected {
            return Ok(Response::Rejected(row));
        }
        let next = version.parse::<u64>().unwrap_or(0) + 1;
        let change = last_change(state)? + 1;
        state.put(&key, format!("{next} {owner}").into())?;
        state.put(&change_key(change), format!("{table} {next} {owner}").into())?;
        Ok(Response::Accepted(change.to_string().into()))
    }

    fn query(&self, state: &dyn State, query: &[u8]) -> Result<Bytes, ApplyError> {
        match words(query)?[..] {
            ["get", table] => Ok(state.get(format!("t/{table}").as_bytes())?.unwrap_or_default()),
            ["changes", after] => {
                let from = change_key(after.parse().unwrap_or(0));
                let (mut lines, end) = (String::new(), change_key(u64::MAX));
                let to = Bound::Included(&end[..]);
                state.scan(Bound::Excluded(&from), to, false, &mut |key, change| {
                    let change = String::from_utf8_lossy(change);
                    lines.push_str(&format!("{} {change}\n", number(&key[2..])));
                    true
                })?;
                Ok(lines.into())
            }
            _ => Err(ApplyError::Decode { what: "get TABLE or changes AFTER".to_owned() }),
        }
    }
}

/// Sees every change in order, on any node: it asks for what is behind the last one that it saw, so
/// nothing is missed, however long it was away. Ends after `count` changes.
async fn watch(catalogue: GroupHandle, count: usize) -> Result<Vec<String>, polyraft::ReadError> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let behind = catalogue.read_stale(format!("changes {}", seen.len())).await?;
        seen.extend(String::from_utf8_lossy(&behind).lines().map(str::to_owned));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(seen)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut cluster = ThreeNodes::start(&["catalogue"], || Box::new(Catalogue)).await?;
    let [one, two, three] = [1, 2, 3].map(NodeId::new);
    let (first, second) = (cluster.group(one, "catalogue"), cluster.group(two, "catalogue"));
    let watcher = tokio::spawn(watch(first.clone(), 4));

    first.propose("set orders 0 a").await?;
    first.propose("set users 0 b").await?;
    // Both have seen version 1; only one of them can be first.
    let (mine, theirs) =
        tokio::try_join!(first.propose("set orders 1 c"), second.propose("set orders 1 d"))?;
    println!("two at once: {:?} and {:?}", mine.response, theirs.response);
    assert_ne!(mine.response.is_accepted(), theirs.response.is_accepted());
    let owner = first.read("get orders").await?;
    assert_eq!(owner, if mine.response.is_accepted() { "2 c" } else { "2 d" });

    cluster.stop_node(three).await;
    first.propose("set users 1 e").await?;
    cluster.start_node(three).await?;
    let third = cluster.group(three, "catalogue");
    let read = third.read("get users").await?;
    println!("node 3 was away and reads: {read:?}");
    assert_eq!(read, "2 e");

    let seen = watcher.await??;
    let later = watch(third, 4).await?;
    println!("the watcher on node 1 saw {seen:?}");
    assert_eq!(seen, later, "a watch that begins later, elsewhere, sees the same");
    assert_eq!(seen[0], "1 orders 1 a");
    assert_eq!(seen[3], "4 users 2 e");
    cluster.stop().await;
    Ok(())
}
