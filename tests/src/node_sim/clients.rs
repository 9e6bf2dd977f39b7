//! Clients: writes and reads through the production batchers and groups, from every node.
//!
//! ```text
//! client ─pause→ ask on some node, some group ─→ answer, in its own time → judge
//!           └─ goes on after its deadline, as `GroupHandle` would
//! ```
//!
//! Each answer is waited for to the end, however late, so that it is known of every question whether
//! and how often it was answered. A machine's rejection counts as refused: it leaves no trace.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use polyraft_actors::applier::Query;
use polyraft_actors::batcher::Propose;
use polyraft_actors::directory::GroupAddrs;
use polyraft_actors::group::Read;
use polyraft_actors::node_parts::NodeParts;
use polyraft_actors::proposal::UnitReply;
use polyraft_core::batch::Unit;
use polyraft_core::error::{ProposeError, ReadError};
use polyraft_core::ids::{GroupId, LogIndex, NodeId};
use polyraft_core::message::AppliedUnit;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::judge::SharedJudge;
use super::sabotage::Sabotage;
use super::witness::{History, answer, command, query};
use crate::linearizability::{Heard, Write};
use crate::memory_node::MemoryNode;
use crate::sim::Dice;

/// Time that an answer may take beyond a deadline, as `GroupHandle` has it.
const ANSWER_GRACE: Duration = Duration::from_millis(50);
/// Longest pause between two questions of a client.
const THINKING_US: u64 = 80_000;

/// The nodes that run, for those who ask them.
#[derive(Default)]
pub struct Running(Mutex<BTreeMap<NodeId, Arc<NodeParts>>>);

impl Running {
    /// A node runs now, or does not any more.
    pub fn set(&self, node: NodeId, parts: Option<Arc<NodeParts>>) {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match parts {
            Some(parts) => nodes.insert(node, parts),
            None => nodes.remove(&node),
        };
    }

    /// Every node that runs.
    pub fn all(&self) -> Vec<Arc<NodeParts>> {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.values().cloned().collect()
    }
}

/// What a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// A write.
    Write,
    /// A linearizable read.
    Read,
    /// A read of whatever one replica has.
    StaleRead,
}

/// Asks on behalf of clients.
#[derive(Clone)]
pub struct Asker {
    /// The nodes.
    pub running: Arc<Running>,
    /// Hears everything.
    pub judge: Arc<SharedJudge>,
    /// How long a client waits.
    pub deadline: Duration,
    /// Whether reads skip what makes them linearizable.
    pub sabotage: Option<Sabotage>,
}

impl Asker {
    /// Asks until told to stop.
    pub async fn work(self, groups: u64, mut dice: Dice, stop: tokio::sync::watch::Receiver<bool>) {
        while !*stop.borrow() {
            tokio::time::sleep(Duration::from_micros(dice.below(THINKING_US))).await;
            let group = GroupId::new(1 + dice.below(groups));
            let ask = dice.pick(&[Ask::Write, Ask::Write, Ask::Write, Ask::Read, Ask::Read]);
            let ask = if dice.per_mille(100) { Ask::StaleRead } else { ask };
            let nodes = self.running.all();
            if nodes.is_empty() {
                continue;
            }
            let node = dice.below(nodes.len() as u64) as usize;
            self.ask(&nodes[node], group, ask).await;
        }
    }

    /// Asks one question on one node; returns whether it was done within the deadline.
    pub async fn ask(&self, node: &NodeParts, group: GroupId, ask: Ask) -> bool {
        let Some(addrs) = node.directory.group(group).and_then(|cell| cell.addrs()) else {
            return false;
        };
        let answered = match ask {
            Ask::Write => self.write(node.node, group, &addrs),
            Ask::Read => self.read(node.node, group, &addrs),
            Ask::StaleRead => self.read_stale(node.node, group, &addrs),
        };
        let within = timeout(self.deadline + ANSWER_GRACE, answered).await;
        matches!(within, Ok(Ok(true)))
    }

    fn write(&self, node: NodeId, group: GroupId, addrs: &GroupAddrs) -> oneshot::Receiver<bool> {
        let (number, key) = self.judge.lock().began(group, node, true);
        let unit = Unit { atomic: false, commands: vec![command(Write { number, key })] };
        let (reply, outcome) = oneshot::channel();
        let propose =
            Propose { unit, deadline: self.deadline, trace: None, reply: UnitReply::Local(reply) };
        // A mailbox that is closed or full drops the reply: nothing was proposed.
        let is_sent = addrs.batcher.try_send(propose).is_ok();
        self.wait(group, number, async move {
            match outcome.await {
                Ok(outcome) => heard_of_write(outcome),
                Err(_) if is_sent => Heard::Unknown,
                Err(_) => Heard::Refused,
            }
        })
    }

    fn read(&self, node: NodeId, group: GroupId, addrs: &GroupAddrs) -> oneshot::Receiver<bool> {
        let (number, key) = self.judge.lock().began(group, node, false);
        let (reply, outcome) = oneshot::channel();
        let query = query(key);
        if self.sabotage == Some(Sabotage::UnconfirmedReads) {
            let at_least = LogIndex::ZERO;
            let _ = addrs.applier.try_send(Query { query, at_least, reply });
        } else {
            let _ = addrs.group.try_send(Read { query, reply });
        }
        let judge = self.judge.clone();
        self.wait(group, number, async move { heard_of_read(&judge, node, group, outcome.await) })
    }

    fn read_stale(
        &self,
        node: NodeId,
        group: GroupId,
        addrs: &GroupAddrs,
    ) -> oneshot::Receiver<bool> {
        let (reply, outcome) = oneshot::channel();
        let query = Query { query: query(0), at_least: LogIndex::ZERO, reply };
        let _ = addrs.applier.try_send(query);
        let (told, done) = oneshot::channel();
        let judge = self.judge.clone();
        actix::spawn(async move {
            let heard = heard_of_read(&judge, node, group, outcome.await);
            judge.lock().chronicle.count("stale reads");
            // The client may have stopped waiting.
            let _ = told.send(matches!(heard, Heard::Done { .. }));
        });
        done
    }

    /// Waits for an answer, however long it takes.
    fn wait(
        &self,
        group: GroupId,
        number: u64,
        answer: impl Future<Output = Heard> + 'static,
    ) -> oneshot::Receiver<bool> {
        let (told, done) = oneshot::channel();
        let judge = self.judge.clone();
        actix::spawn(async move {
            let heard = answer.await;
            judge.lock().ended(group, number, heard);
            if told.send(matches!(heard, Heard::Done { .. })).is_err() {
                judge.lock().chronicle.count("answered late");
            }
        });
        done
    }
}

/// What a replica has applied, if it answers.
pub async fn history(node: &MemoryNode, group: GroupId) -> Option<History> {
    let (reply, outcome) = oneshot::channel();
    let query = Query { query: query(0), at_least: LogIndex::ZERO, reply };
    node.cell(group).addrs()?.applier.try_send(query).ok()?;
    answer(&outcome.await.ok()?.ok()?).map(|(_, history)| history)
}

fn heard_of_write(outcome: Result<AppliedUnit, ProposeError>) -> Heard {
    match outcome {
        Ok(AppliedUnit { index, first_sub_index, responses, .. }) => {
            let response = responses.first().expect("one command has one response");
            match <[u8; 8]>::try_from(&response.body()[..]) {
                Ok(value) if response.is_accepted() => Heard::Done {
                    at: (index.get(), first_sub_index),
                    value: u64::from_be_bytes(value),
                },
                _ => Heard::Refused,
            }
        }
        Err(error) if error.may_have_committed() => Heard::Unknown,
        Err(_) => Heard::Refused,
    }
}

/// A read without an answer changed nothing: it counts as refused.
fn heard_of_read(
    judge: &SharedJudge,
    node: NodeId,
    group: GroupId,
    outcome: Result<Result<Bytes, ReadError>, oneshot::error::RecvError>,
) -> Heard {
    let Ok(Ok(bytes)) = outcome else { return Heard::Refused };
    let (value, history) = answer(&bytes).expect("a witness answers so");
    judge.lock().answered_from(node, group, history);
    Heard::Done { at: history.last, value }
}
