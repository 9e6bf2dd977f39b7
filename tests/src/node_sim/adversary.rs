//! Adversary: throws faults at a cluster, and takes each back after a while.
//!
//! ```text
//! dice → fault → now: something breaks;  later: its remedy, or at the latest when all is healed
//! ```
//!
//! A run has about half of the kinds of fault, so that each is seen alone with some others and not
//! always with all. A node whose store failed, or that took a group out of service, is restarted after
//! a while, as an operator would. Disks that lie about syncs cannot be survived and are not among the
//! faults, but for a sabotage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use polyraft_actors::group::TransferLeader;
use polyraft_actors::guard::KillMode;
use polyraft_actors::mailbox::ActorKind;
use polyraft_core::ids::{GroupId, NodeId};
use polyraft_core::ports::Lane;
use polyraft_core::status::Health;
use polyraft_storage::memory::{FailedCommit, MemoryTable};
use polyraft_storage::table::{TableStore, WriteSize};
use tokio::time::Instant;

use super::clients::Running;
use super::judge::SharedJudge;
use super::plan::Plan;
use super::sabotage::Sabotage;
use crate::actor_kill::{KINDS, kill_of};
use crate::memory_node::{MemoryCluster, MemoryNode, NodeRemains};
use crate::sim::Dice;
use crate::store_faults::{Step, StoreFault};

/// An hour, as clocks are wrong by.
const HOUR_MS: u64 = 3_600_000;

macro_rules! faults {
    ($($fault:ident $name:literal $doc:literal,)*) => {
        /// What may happen to a cluster.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $(#[doc = $doc] $fault,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$fault,)*];

            /// Its name in counts and traces.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$fault => $name,)*
                }
            }
        }
    };
}

faults! {
    Loss "loss" "A node's frames are lost, one in five.",
    Repeats "repeats" "A node's frames on Raft's lanes arrive twice, one in five.",
    OneWayCut "one-way cut" "Frames from one node to another are lost, silently.",
    LinkDown "link down" "Two nodes lose their link, and see it.",
    Isolation "isolation" "A node's links are cut both ways, silently.",
    Clog "clog" "One lane from one node to another delivers nothing.",
    SlowLog "slow log" "Each commit of a node's log takes up to 200 ms.",
    SlowState "slow state" "Each flush of a node's state takes up to 500 ms.",
    StalledLog "stalled log" "A node's log commits nothing.",
    FailedLog "failed log" "A commit of a node's log fails, having written everything or nothing.",
    FailedState "failed state" "The same of its state.",
    RefusedGroup "refused group" "A node's log is found corrupt for one group.",
    FullLog "full log" "A node's log has no room.",
    FullState "full state" "A node's state has no room.",
    WallJump "wall jump" "A node's wall clock jumps, by up to an hour.",
    Pause "pause" "A node stands still, timers and all.",
    Crash "crash" "A node ends between two instructions.",
    CrashAll "crash of all" "All nodes do.",
    Restart "restart" "A node is stopped in good order.",
    Wiped "wiped" "A node comes back without its data, for a while.",
    OldCopy "old copy" "A node comes back with a backup of an earlier life, for a while.",
    Panic "actor panic" "An actor panics.",
    Stop "actor stop" "An actor stops.",
    Transfer "transfer" "A leader is asked to hand over.",
}

/// What takes a fault back.
enum Remedy {
    Weather(u64),
    Cut(NodeId, NodeId),
    Link(NodeId, NodeId),
    Clog(u64, NodeId, Lane),
    Kind(u64, ActorKind),
    Full(MemoryTable),
    Pause(u64),
    Start(u64, Box<NodeRemains>),
    Replace(u64, Box<NodeRemains>),
}

/// The adversary, who also owns the cluster.
pub struct Adversary {
    /// The cluster.
    pub cluster: MemoryCluster,
    plan: Plan,
    dice: Dice,
    judge: Arc<SharedJudge>,
    running: Arc<Running>,
    sabotage: Option<Sabotage>,
    remedies: Vec<(Instant, Remedy)>,
    backups: BTreeMap<u64, NodeRemains>,
}

impl Adversary {
    /// The adversary of a cluster that runs.
    pub fn new(
        cluster: MemoryCluster,
        (plan, dice): (Plan, Dice),
        judge: Arc<SharedJudge>,
        running: Arc<Running>,
        sabotage: Option<Sabotage>,
    ) -> Self {
        let (remedies, backups) = (Vec::new(), BTreeMap::new());
        let mut this = Self { cluster, plan, dice, judge, running, sabotage, remedies, backups };
        (1..=this.plan.nodes).for_each(|id| this.started(id));
        this
    }

    /// Throws faults until the plan's time is over, or something is wrong.
    pub async fn rage(&mut self) {
        let end = Instant::now() + self.plan.faulty;
        while Instant::now() < end && self.judge.lock().failure().is_none() {
            let pause = 10 + self.dice.below(self.plan.pause.as_millis() as u64);
            let next = (Instant::now() + Duration::from_millis(pause)).min(end);
            while let Some(at) = self.due_before(next) {
                let (due, remedy) = self.remedies.remove(at);
                tokio::time::sleep_until(due).await;
                self.apply(remedy).await;
            }
            tokio::time::sleep_until(next).await;
            self.operate();
            self.sabotage_more().await;
            if !self.plan.faults.is_empty() {
                let at = self.dice.below(self.plan.faults.len() as u64) as usize;
                self.throw(self.plan.faults[at]).await;
            }
        }
    }

    /// A node without its data that is let in does no harm alone: several must lose theirs.
    async fn sabotage_more(&mut self) {
        if self.sabotage == Some(Sabotage::WipedAdmitted) && self.dice.per_mille(300) {
            self.throw(Fault::Wiped).await;
        }
    }

    /// Takes back everything at once; returns when every node runs on its own data.
    pub async fn heal(&mut self) {
        self.apply_all().await;
        self.cluster.nodes.iter().for_each(disarm);
        self.operate();
        self.apply_all().await;
    }

    async fn apply_all(&mut self) {
        while !self.remedies.is_empty() {
            let (_, remedy) = self.remedies.remove(0);
            self.apply(remedy).await;
        }
    }

    /// The first remedy that is due by then.
    fn due_before(&self, then: Instant) -> Option<usize> {
        let all = self.remedies.iter().enumerate().filter(|(_, (due, _))| *due <= then);
        all.min_by_key(|(_, (due, _))| *due).map(|(at, _)| at)
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.dice.below(to - from))
    }

    fn later(&mut self, from_ms: u64, to_ms: u64, remedy: Remedy) {
        let due = Instant::now() + self.millis(from_ms, to_ms);
        self.remedies.push((due, remedy));
    }

    fn runs(&self, id: u64) -> bool {
        self.cluster.nodes.iter().any(|node| node.id.get() == id)
    }

    /// The running nodes that nobody is about to replace.
    fn victims(&self) -> Vec<u64> {
        let is_replaced = |id: &u64| {
            let mut remedies = self.remedies.iter();
            remedies.any(|(_, remedy)| matches!(remedy, Remedy::Replace(of, _) if of == id))
        };
        let ids = self.cluster.nodes.iter().map(|node| node.id.get());
        ids.filter(|id| !is_replaced(id)).collect()
    }

    /// Another node than `id`, if there is one.
    fn other(&mut self, id: u64) -> Option<NodeId> {
        let nodes = self.plan.nodes;
        (nodes > 1).then(|| NodeId::new((id + self.dice.below(nodes - 1)) % nodes + 1))
    }

    fn note(&self, what: &'static str, about: impl std::fmt::Display) {
        let mut judge = self.judge.lock();
        judge.chronicle.count(what);
        judge.chronicle.note(what, || format!("** {what}: {about}"));
    }

    /// Who restarts nodes that have given up.
    fn operate(&mut self) {
        let has_given_up = |node: &&MemoryNode| {
            let groups = node.parts.directory.groups();
            let faulted = |(_, cell): &(_, Arc<polyraft_actors::directory::GroupCell>)| {
                matches!(cell.status().health, Health::Faulted(_))
            };
            node.parts.storage_failure().is_some() || groups.iter().any(faulted)
        };
        let ids: Vec<_> =
            self.cluster.nodes.iter().filter(has_given_up).map(|node| node.id.get()).collect();
        for id in ids {
            if self.victims().contains(&id) {
                let nothing = Box::new(NodeRemains::default());
                self.later(50, 1_000, Remedy::Replace(id, nothing));
            }
        }
    }

    fn started(&mut self, id: u64) {
        let skew = self.dice.below(2 * HOUR_MS) as i64 - HOUR_MS as i64;
        let node = self.cluster.node(id);
        node.clock.step_wall(skew);
        if self.sabotage == Some(Sabotage::LyingDisks) {
            node.remains.disks.log.hold_syncs(true);
            node.remains.disks.state.hold_syncs(true);
        }
        self.running.set(NodeId::new(id), Some(node.parts.clone()));
    }

    async fn crash(&mut self, id: u64) -> NodeRemains {
        self.running.set(NodeId::new(id), None);
        let remains = self.cluster.crash_node(id).await;
        self.judge.lock().stopped(NodeId::new(id));
        if self.sabotage == Some(Sabotage::LyingDisks) {
            remains.disks.log.lose_unsynced();
            remains.disks.state.lose_unsynced();
        }
        remains
    }

    fn start(&mut self, id: u64, remains: NodeRemains) {
        self.note("start", format_args!("n{id}"));
        self.cluster.restart(id, remains);
        self.started(id);
    }

    async fn apply(&mut self, remedy: Remedy) {
        let network = self.cluster.network.clone();
        match remedy {
            Remedy::Cut(from, to) => network.heal(from, to),
            Remedy::Link(a, b) => self.cluster.reconnect(a, b),
            Remedy::Full(disk) => disk.set_full(false),
            Remedy::Start(id, remains) => self.start(id, *remains),
            Remedy::Replace(id, remains) => self.replace(id, *remains).await,
            Remedy::Weather(id)
            | Remedy::Clog(id, ..)
            | Remedy::Kind(id, _)
            | Remedy::Pause(id)
                if !self.runs(id) => {}
            Remedy::Weather(id) => {
                self.cluster.node(id).transport.set_loss_per_mille(0);
                self.cluster.node(id).transport.set_repeat_per_mille(0);
            }
            Remedy::Clog(id, to, lane) => self.cluster.node(id).transport.clog(to, lane, false),
            Remedy::Kind(id, kind) => {
                self.cluster.node(id).gate.shut(kind, false);
                self.cluster.node(id).gate.set_takes(kind, Duration::ZERO);
            }
            Remedy::Pause(id) => self.cluster.node(id).gate.pause(false),
        }
    }

    /// Restarts a node, on other remains if there are any.
    async fn replace(&mut self, id: u64, remains: NodeRemains) {
        let left = self.crash(id).await;
        self.judge.lock().set_foreign(NodeId::new(id), false);
        self.start(id, if remains.is_used() { remains } else { left });
    }

    async fn throw(&mut self, fault: Fault) {
        let victims = self.victims();
        if victims.is_empty() {
            return;
        }
        let id = self.dice.pick(&victims);
        let thrown = match fault {
            Fault::Loss | Fault::Repeats => self.spoil_weather(id, fault),
            Fault::OneWayCut | Fault::LinkDown | Fault::Isolation | Fault::Clog => {
                self.spoil_links(id, fault)
            }
            Fault::SlowLog | Fault::SlowState | Fault::StalledLog => self.hold_up(id, fault),
            Fault::FailedLog
            | Fault::FailedState
            | Fault::RefusedGroup
            | Fault::FullLog
            | Fault::FullState => self.spoil_disk(id, fault),
            Fault::WallJump => {
                let by = self.dice.below(2 * HOUR_MS) as i64 - HOUR_MS as i64;
                self.cluster.node(id).clock.step_wall(by);
                true
            }
            Fault::Pause => {
                self.cluster.node(id).gate.pause(true);
                let longest = 2 * self.plan.election.as_millis() as u64;
                self.later(50, longest, Remedy::Pause(id));
                true
            }
            Fault::Crash | Fault::CrashAll | Fault::Restart => self.take_down(id, fault).await,
            Fault::Wiped | Fault::OldCopy => self.exchange(id, fault).await,
            Fault::Panic => self.kill(id, KillMode::Panic),
            Fault::Stop => self.kill(id, KillMode::Stop),
            Fault::Transfer => self.transfer(id),
        };
        if thrown {
            self.note(fault.as_str(), format_args!("n{id}"));
        }
    }

    fn spoil_weather(&mut self, id: u64, fault: Fault) -> bool {
        let transport = self.cluster.node(id).transport.clone();
        match fault {
            Fault::Loss => transport.set_loss_per_mille(200),
            _ => transport.set_repeat_per_mille(200),
        }
        self.later(200, 3_000, Remedy::Weather(id));
        true
    }

    fn spoil_links(&mut self, id: u64, fault: Fault) -> bool {
        let Some(other) = self.other(id) else { return false };
        let (node, network) = (NodeId::new(id), self.cluster.network.clone());
        match fault {
            Fault::OneWayCut => {
                network.cut(node, other);
                self.later(200, 3_000, Remedy::Cut(node, other));
            }
            Fault::LinkDown => {
                network.disconnect(node, other);
                self.later(50, 2_000, Remedy::Link(node, other));
            }
            Fault::Clog => {
                let lane = self.dice.pick(&Lane::ALL);
                self.cluster.node(id).transport.clog(other, lane, true);
                self.later(200, 2_000, Remedy::Clog(id, other, lane));
            }
            _ => {
                for peer in (1..=self.plan.nodes).filter(|peer| *peer != id).map(NodeId::new) {
                    for (from, to) in [(node, peer), (peer, node)] {
                        network.cut(from, to);
                        self.later(500, 3_000, Remedy::Cut(from, to));
                    }
                }
            }
        }
        true
    }

    fn hold_up(&mut self, id: u64, fault: Fault) -> bool {
        let gate = self.cluster.node(id).gate.clone();
        let kind = match fault {
            Fault::SlowState => ActorKind::StateFlusher,
            _ => ActorKind::LogWriter,
        };
        match fault {
            Fault::SlowLog => gate.set_takes(kind, self.millis(1, 200)),
            Fault::SlowState => gate.set_takes(kind, self.millis(1, 500)),
            _ => gate.shut(kind, true),
        }
        self.later(200, 2_500, Remedy::Kind(id, kind));
        true
    }

    fn spoil_disk(&mut self, id: u64, fault: Fault) -> bool {
        let outcome = self.dice.pick(&[FailedCommit::Lost, FailedCommit::Written]);
        let commits = self.dice.below(3);
        let remains = &self.cluster.node(id).remains;
        let (log, state) = (remains.disks.log.clone(), remains.disks.state.clone());
        match fault {
            Fault::FailedLog => log.fail_next_commit(outcome),
            Fault::FailedState => state.fail_next_commit(outcome),
            Fault::RefusedGroup => {
                remains.store_faults.arm_after(commits, Step::Commit, StoreFault::Corrupt);
            }
            _ => {
                let disk = if fault == Fault::FullLog { log } else { state };
                disk.set_full(true);
                self.later(100, 1_500, Remedy::Full(disk));
            }
        }
        true
    }

    async fn take_down(&mut self, id: u64, fault: Fault) -> bool {
        if fault == Fault::Restart {
            if !self.stops_in_good_order(id) {
                return false;
            }
            self.running.set(NodeId::new(id), None);
            let remains = self.cluster.stop_node(id).await;
            self.judge.lock().stopped(NodeId::new(id));
            self.later(10, 1_000, Remedy::Start(id, Box::new(remains)));
            return true;
        }
        let victims = if fault == Fault::CrashAll { self.victims() } else { vec![id] };
        for id in victims {
            let remains = self.crash(id).await;
            self.later(10, 1_500, Remedy::Start(id, Box::new(remains)));
        }
        true
    }

    /// A node that stands still cannot be asked to stop.
    fn stops_in_good_order(&self, id: u64) -> bool {
        let holds = |remedy: &Remedy| match remedy {
            Remedy::Pause(of) | Remedy::Kind(of, _) => *of == id,
            _ => false,
        };
        !self.remedies.iter().any(|(_, remedy)| holds(remedy))
    }

    /// A node comes back with other data, and is refused until it has its own again.
    async fn exchange(&mut self, id: u64, fault: Fault) -> bool {
        let is_foreign = |(_, remedy): &(Instant, Remedy)| matches!(remedy, Remedy::Replace(..));
        let is_known = self.cluster.has_met_all(self.cluster.node(id));
        if self.plan.nodes == 1 || !is_known || self.remedies.iter().any(is_foreign) {
            return false;
        }
        let other = match fault {
            Fault::Wiped => NodeRemains::wiped(),
            _ => {
                let now = self.cluster.node(id).remains.copy();
                match self.backups.insert(id, now) {
                    Some(backup) if backup.is_older_than(&self.cluster.node(id).remains) => backup,
                    _ => return false,
                }
            }
        };
        let own = self.crash(id).await;
        let is_admitted = self.sabotage == Some(Sabotage::WipedAdmitted);
        self.judge.lock().set_foreign(NodeId::new(id), !is_admitted);
        self.start(id, other);
        for group in (1..=self.plan.groups).map(GroupId::new) {
            self.cluster.create_missing(id, group).await;
        }
        if !is_admitted {
            self.later(300, 3_000, Remedy::Replace(id, Box::new(own)));
        }
        true
    }

    fn kill(&mut self, id: u64, mode: KillMode) -> bool {
        let group = GroupId::new(1 + self.dice.below(self.plan.groups));
        let kind = self.dice.pick(&KINDS);
        let killed = kill_of(&self.cluster.node(id).parts, group, kind, mode).is_some();
        if killed {
            self.note(kind.as_str(), format_args!("n{id} g{group}, killed by {mode:?}"));
        }
        killed
    }

    fn transfer(&mut self, id: u64) -> bool {
        let group = GroupId::new(1 + self.dice.below(self.plan.groups));
        let leader = self.cluster.agreed_leader(group).unwrap_or(id);
        let Some(to) = self.other(leader).filter(|_| self.runs(leader)) else { return false };
        let addrs = self.cluster.node(leader).cell(group).addrs();
        addrs.is_some_and(|addrs| addrs.group.try_send(TransferLeader { to }).is_ok())
    }
}

/// Uses up the failures that a node's disks have in store.
fn disarm(node: &MemoryNode) {
    node.remains.store_faults.disarm();
    for disk in [&node.remains.disks.log, &node.remains.disks.state] {
        // It changes nothing, and fails if that is what the next commit does.
        let _ = disk.write(WriteSize::default(), &mut |_| Ok(()));
    }
}
