//! Carries out a scenario's faults at their times, and proves each.
//!
//! ```text
//! [begin at] → pick victims → do it → prove → … → [end at] → prove → undo        heal: undo all
//! ```
//!
//! Promise: a record per fault, also of those that failed; after `heal` every process runs and no node
//! injects anything. Proof is what an outsider sees (a process's end, its state) or what the node that
//! injects it counts. Not here: what the faults did to the load ([`super::impact`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;
use tokio::time::Instant;

use super::fault_record::FaultRecord;
use super::injection::{Injection, InjectionError};
use super::nodes::{NodeAddresses, View, report};
use super::processes::{ProcessError, Processes, process_state};
use super::scenario::{Occurrence, Scenario};
use super::timed_fault::{FaultKind, GROUP_ACTORS, NodePick, ProcessAction, Shape, TimedFault};
use super::victims::Scene;

/// How long a leader may be unknown when a fault asks for one.
const LEADER_PATIENCE: Duration = Duration::from_secs(10);
/// How long an effect may take to show.
const EFFECT_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);
const STOPPED: char = 'T';

/// Why a fault could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaultError {
    /// A process could not be had.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A node did not take it.
    #[error(transparent)]
    Injection(#[from] InjectionError),
    /// Nobody led.
    #[error("no leader was known within {LEADER_PATIENCE:?}")]
    NoLeader,
    /// The cluster is somebody else's.
    #[error("processes of a cluster that was not started here are left alone")]
    NotOurs,
}

/// Who does it.
#[derive(Debug)]
pub struct Injector {
    nodes: Vec<NodeAddresses>,
    groups: Vec<u64>,
    processes: Option<Processes>,
    token: String,
    view: View,
    rng: StdRng,
    began: Instant,
    running: Vec<Running>,
    records: Vec<FaultRecord>,
    /// Nodes that their peers must not take back.
    wiped: Vec<u64>,
}

/// What an injector works on.
#[derive(Debug)]
pub struct Ground {
    /// The nodes.
    pub nodes: Vec<NodeAddresses>,
    /// The groups' ids, in the order of the keyspaces.
    pub groups: Vec<u64>,
    /// The processes, if they are ours.
    pub processes: Option<Processes>,
    /// What nodes want to see before they inject anything.
    pub token: String,
    /// What is known of the nodes.
    pub view: View,
}

#[derive(Debug)]
struct Running {
    occurrence: Occurrence,
    record: usize,
    undo: Undo,
}

#[derive(Debug)]
enum Undo {
    Restart(Vec<u64>),
    Resume(Vec<u64>),
    End(Vec<Injection>),
    /// Cuts, which belong together.
    Join(Vec<Injection>),
}

/// What came of the faults.
#[derive(Debug)]
pub struct Injected {
    /// A record for each, in the order of time.
    pub records: Vec<FaultRecord>,
    /// The processes: they end when this is dropped.
    pub processes: Option<Processes>,
    /// Nodes that are not to come back.
    pub wiped: Vec<u64>,
}

impl Injector {
    /// Prepares; the load began at `began`.
    pub fn new(ground: Ground, seed: u64, began: Instant) -> Self {
        let Ground { nodes, groups, processes, token, view } = ground;
        Self {
            nodes,
            groups,
            processes,
            token,
            view,
            rng: StdRng::seed_from_u64(seed),
            began,
            running: Vec::new(),
            records: Vec::new(),
            wiped: Vec::new(),
        }
    }

    /// Does every fault of the scenario, waits for its end, and heals.
    pub async fn run(mut self, scenario: &Scenario) -> Injected {
        for occurrence in scenario.occurrences() {
            self.end_until(occurrence.at).await;
            tokio::time::sleep_until(self.began + occurrence.at).await;
            self.begin(occurrence, &scenario.faults[occurrence.fault]).await;
        }
        self.end_until(scenario.duration).await;
        tokio::time::sleep_until(self.began + scenario.duration).await;
        self.heal().await
    }

    /// Ends, in time, what ends up to `at`.
    async fn end_until(&mut self, at: Duration) {
        let next = |running: &[Running]| {
            let ends =
                running.iter().enumerate().filter_map(|(i, r)| Some((r.occurrence.until?, i)));
            ends.filter(|(until, _)| *until <= at).min()
        };
        while let Some((until, index)) = next(&self.running) {
            tokio::time::sleep_until(self.began + until).await;
            let running = self.running.remove(index);
            self.end(running).await;
        }
    }

    async fn begin(&mut self, occurrence: Occurrence, timed: &TimedFault) {
        let record = self.records.len();
        self.records.push(FaultRecord::planned(timed.kind.to_string(), occurrence.at));
        let begun = match &timed.kind {
            FaultKind::Process(action) => {
                self.begin_process(*action, occurrence, timed, record).await
            }
            FaultKind::Partition(shape) => self.begin_partition(*shape, record).await,
            FaultKind::Injected(fault) => {
                self.begin_injected(fault.clone(), occurrence, timed, record).await
            }
        };
        let now = self.began.elapsed();
        match begun {
            Ok(Some(undo)) => self.running.push(Running { occurrence, record, undo }),
            Ok(None) => self.records[record].ended = Some(now),
            Err(error) => self.records[record].problem = Some(error.to_string()),
        }
    }

    async fn begin_process(
        &mut self,
        action: ProcessAction,
        occurrence: Occurrence,
        timed: &TimedFault,
        record: usize,
    ) -> Result<Option<Undo>, FaultError> {
        let scene = self.scene().await?;
        let usual = match action {
            ProcessAction::RestartAll => NodePick::All,
            _ => NodePick::Leader,
        };
        let nodes = self.pick(&scene, timed, usual)?;
        self.note(record, &scene, &nodes, true);
        if action == ProcessAction::Pause {
            for node in &nodes {
                self.pause(*node, record).await?;
            }
            self.records[record].began = Some(self.began.elapsed());
            return Ok(Some(Undo::Resume(nodes)));
        }
        for node in &nodes {
            let id = self.processes()?.kill(*node)?;
            self.records[record].prove(true, format!("node {node}: process {id} died of SIGKILL"));
        }
        self.records[record].began = Some(self.began.elapsed());
        if action == ProcessAction::Wipe {
            return self.restart_wiped(nodes[0], record).await;
        }
        if occurrence.until.is_some() {
            return Ok(Some(Undo::Restart(nodes)));
        }
        self.restart(&nodes, record)?;
        Ok(None)
    }

    async fn pause(&mut self, node: u64, record: usize) -> Result<(), FaultError> {
        let id = self.processes()?.pause(node)?;
        let deadline = Instant::now() + EFFECT_PATIENCE;
        let mut state = process_state(id);
        while state != Some(STOPPED) && Instant::now() < deadline {
            tokio::time::sleep(PAUSE).await;
            state = process_state(id);
        }
        let seen = format!("node {node}: process {id} is in state {}", state.unwrap_or('?'));
        self.records[record].prove(state == Some(STOPPED), seen);
        Ok(())
    }

    fn restart(&mut self, nodes: &[u64], record: usize) -> Result<(), FaultError> {
        for node in nodes {
            self.view.reborn(*node);
            let id = self.processes()?.start(*node)?;
            self.records[record].prove(true, format!("node {node}: process {id} started"));
        }
        Ok(())
    }

    /// Starts a node without its data, and waits until its peers have refused it.
    async fn restart_wiped(
        &mut self,
        node: u64,
        record: usize,
    ) -> Result<Option<Undo>, FaultError> {
        self.processes()?.wipe(node)?;
        self.wiped.push(node);
        self.restart(&[node], record)?;
        let address = self.address(node);
        let deadline = Instant::now() + EFFECT_PATIENCE;
        let refused = loop {
            let errors: Vec<_> = match report(address, &self.token).await {
                Some(report) => {
                    report.peers.into_iter().filter_map(|peer| peer.last_error).collect()
                }
                None => Vec::new(),
            };
            let refused = errors.iter().find(|error| error.contains("data")).cloned();
            if refused.is_some() || Instant::now() > deadline {
                break refused;
            }
            tokio::time::sleep(PAUSE).await;
        };
        let told = refused.as_deref().unwrap_or("no peer refused it");
        self.records[record].prove(refused.is_some(), format!("node {node} without data: {told}"));
        Ok(None)
    }

    async fn begin_partition(
        &mut self,
        shape: Shape,
        record: usize,
    ) -> Result<Option<Undo>, FaultError> {
        let scene = self.scene().await?;
        let cuts = scene.cuts(shape, &mut self.rng).ok_or(FaultError::NoLeader)?;
        let mut nodes: Vec<_> = cuts.iter().map(|(from, _)| *from).collect();
        nodes.dedup();
        self.note(record, &scene, &nodes, false);
        let hit = scene.cut_off(&cuts);
        self.records[record].hit = self.places(&hit);
        let mut injections = Vec::new();
        for (from, to) in cuts {
            let fault = json!({ "kind": "link", "peer": to, "direction": "out", "cut": true });
            match self.inject(from, &fault).await {
                Ok(injection) => injections.push(injection),
                Err(error) => {
                    end_all(&injections).await;
                    return Err(error);
                }
            }
        }
        self.records[record].began = Some(self.began.elapsed());
        Ok(Some(Undo::Join(injections)))
    }

    async fn begin_injected(
        &mut self,
        mut fault: serde_json::Map<String, serde_json::Value>,
        occurrence: Occurrence,
        timed: &TimedFault,
        record: usize,
    ) -> Result<Option<Undo>, FaultError> {
        let scene = self.scene().await?;
        let group = timed.group().or_else(|| self.group_in_turn(timed, occurrence));
        if let Some(group) = group {
            fault.insert("group".to_owned(), group.into());
        }
        let picked = match &timed.node {
            None => scene.leader(group).map(|leader| vec![leader]),
            Some(pick) => scene.pick(pick, group, &mut self.rng),
        };
        let nodes = picked.ok_or(FaultError::NoLeader)?;
        self.note(record, &scene, &nodes, is_store_wide(timed));
        if let Some(group) = group {
            self.records[record].hit = self.places(&[group]);
        }
        let mut injections = Vec::new();
        for node in &nodes {
            if timed.actor().is_some() {
                self.view.rebuilding(*node);
            }
            for body in self.bodies(*node, &fault) {
                injections.push(self.inject(*node, &body).await?);
            }
        }
        self.records[record].began = Some(self.began.elapsed());
        if occurrence.until.is_some() {
            return Ok(Some(Undo::End(injections)));
        }
        self.prove_effects(&injections, record, EFFECT_PATIENCE).await;
        Ok(None)
    }

    /// A group of its own for each repetition, if it is about a group's actor and names none.
    fn group_in_turn(&self, timed: &TimedFault, occurrence: Occurrence) -> Option<u64> {
        let actor = timed.actor().filter(|actor| GROUP_ACTORS.contains(actor));
        actor.map(|_| self.groups[occurrence.repetition as usize % self.groups.len()])
    }

    /// The fault for `node`: to each of its peers, if it is about a link and names none.
    fn bodies(
        &self,
        node: u64,
        fault: &serde_json::Map<String, serde_json::Value>,
    ) -> Vec<serde_json::Value> {
        let is_link =
            fault["kind"] == "link" || fault.get("actor").is_some_and(|a| a == "peer_link");
        if !is_link || fault.contains_key("peer") {
            return vec![fault.clone().into()];
        }
        let peers = self.nodes.iter().map(|n| n.node).filter(|peer| *peer != node);
        let to = |peer: u64| {
            let mut fault = fault.clone();
            fault.insert("peer".to_owned(), peer.into());
            fault.into()
        };
        peers.map(to).collect()
    }

    async fn inject(&self, node: u64, fault: &serde_json::Value) -> Result<Injection, FaultError> {
        Ok(Injection::begin((node, self.address(node)), &self.token, fault).await?)
    }

    /// Records, for each node, whether what it injected had every effect that it should have. What
    /// shows on one of a node's links is enough: followers have little to say to one another.
    async fn prove_effects(&mut self, injections: &[Injection], record: usize, patience: Duration) {
        let deadline = Instant::now() + patience;
        for injections in injections.chunk_by(|a, b| a.node == b.node) {
            let (holds, seen) = loop {
                let (holds, seen) = tell(injections).await;
                if holds || Instant::now() >= deadline {
                    break (holds, seen);
                }
                tokio::time::sleep(PAUSE).await;
            };
            self.records[record].prove(holds, format!("node {}: {seen}", injections[0].node));
        }
    }

    /// Records whether every link is still cut, and whether frames were lost of it.
    async fn prove_cuts(&mut self, injections: &[Injection], record: usize) {
        let (mut in_force, mut dropping, mut frames) = (0, 0, 0);
        for injection in injections {
            if let Ok(effects) = injection.effects().await {
                let dropped = effects.count(&["frames_dropped", "disconnects"]);
                in_force += usize::from(effects.is_in_force());
                dropping += usize::from(dropped > 0);
                frames += dropped;
            }
        }
        let links = injections.len();
        self.records[record].prove(in_force == links, format!("{in_force} of {links} links cut"));
        let seen = format!("{frames} frames dropped, on {dropping} of {links} links");
        self.records[record].prove(dropping > 0, seen);
    }

    async fn end(&mut self, running: Running) {
        let Running { record, undo, .. } = running;
        let result = match undo {
            Undo::Restart(nodes) => self.restart(&nodes, record),
            Undo::Resume(nodes) => self.resume(&nodes),
            Undo::End(injections) => {
                self.prove_effects(&injections, record, Duration::ZERO).await;
                self.end_injections(&injections, record).await
            }
            Undo::Join(injections) => {
                self.prove_cuts(&injections, record).await;
                self.end_injections(&injections, record).await
            }
        };
        if let Err(error) = result {
            self.records[record].problem = Some(error.to_string());
        }
        self.records[record].ended = Some(self.began.elapsed());
    }

    fn resume(&mut self, nodes: &[u64]) -> Result<(), FaultError> {
        for node in nodes {
            self.processes()?.resume(*node)?;
        }
        Ok(())
    }

    /// Ends the faults. A node whose disk failed must have given up, and is started again; one that gave
    /// up for anything else is left as it is, and shows that it cannot.
    async fn end_injections(
        &mut self,
        injections: &[Injection],
        record: usize,
    ) -> Result<(), FaultError> {
        for injection in injections {
            injection.end().await?;
        }
        let failing = injections.iter().filter(|injection| injection.fails_the_disk());
        let mut nodes: Vec<_> = failing.map(|injection| injection.node).collect();
        nodes.dedup();
        for node in nodes {
            let failure =
                report(self.address(node), &self.token).await.and_then(|r| r.storage_failure);
            let told = failure.as_deref().unwrap_or("it says of no failure");
            self.records[record].prove(failure.is_some(), format!("node {node} gave up: {told}"));
            if failure.is_some()
                && let Some(processes) = &mut self.processes
            {
                processes.kill(node)?;
                self.restart(&[node], record)?;
            }
        }
        Ok(())
    }

    /// Ends everything that is left.
    async fn heal(mut self) -> Injected {
        for running in std::mem::take(&mut self.running) {
            self.end(running).await;
        }
        Injected { records: self.records, processes: self.processes, wiped: self.wiped }
    }

    /// Who leads what, once that is known of every group.
    async fn scene(&self) -> Result<Scene, FaultError> {
        let deadline = Instant::now() + LEADER_PATIENCE;
        let nodes: Vec<_> = self.nodes.iter().map(|node| node.node).collect();
        loop {
            let scene = Scene::new(nodes.clone(), &self.groups, &self.view.reports());
            if scene.leaders.len() == self.groups.len() {
                return Ok(scene);
            }
            if Instant::now() > deadline {
                return Err(FaultError::NoLeader);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn pick(
        &mut self,
        scene: &Scene,
        timed: &TimedFault,
        usual: NodePick,
    ) -> Result<Vec<u64>, FaultError> {
        let pick = timed.node.clone().unwrap_or(usual);
        scene.pick(&pick, None, &mut self.rng).ok_or(FaultError::NoLeader)
    }

    /// Where the fault is, and whom it hits. `is_outage`: the nodes can do nothing while it lasts.
    fn note(&mut self, record: usize, scene: &Scene, nodes: &[u64], is_outage: bool) {
        let takes_majority = is_outage && nodes.len() > (scene.nodes.len() - 1) / 2;
        let led = if takes_majority { self.groups.clone() } else { scene.led_by(nodes) };
        let hit = self.places(&led);
        let record = &mut self.records[record];
        record.nodes = nodes.to_vec();
        record.hit = hit;
        record.takes_majority = takes_majority;
    }

    /// Groups as places in the scenario's list of keyspaces.
    fn places(&self, groups: &[u64]) -> Vec<usize> {
        let places = self.groups.iter().enumerate();
        places.filter(|(_, group)| groups.contains(group)).map(|(place, _)| place).collect()
    }

    fn processes(&mut self) -> Result<&mut Processes, FaultError> {
        self.processes.as_mut().ok_or(FaultError::NotOurs)
    }

    fn address(&self, node: u64) -> SocketAddr {
        let found = self.nodes.iter().find(|address| address.node == node);
        found.expect("scenarios name nodes of the cluster only").admin
    }
}

async fn end_all(injections: &[Injection]) {
    for injection in injections {
        // The fault has failed already; what is left of it is told by the next that fails.
        let _ = injection.end().await;
    }
}

/// Whether a store cannot be written while it lasts.
fn is_store_wide(timed: &TimedFault) -> bool {
    let has = |field: &str| timed.injected_field(field).is_some();
    timed.kind.name() == "disk" && (has("stall") || has("error") || has("full"))
}

/// Whether one node's injections had every effect that they should have, and what was counted.
async fn tell(injections: &[Injection]) -> (bool, String) {
    let mut counted = BTreeMap::<String, i64>::new();
    for injection in injections {
        let effects = match injection.effects().await {
            Ok(effects) => effects,
            Err(error) => return (false, error.to_string()),
        };
        for counters in injection.expected() {
            *counted.entry(effects.names(counters)).or_default() += effects.count(counters);
        }
    }
    shown(&counted)
}

/// Whether every counter shows an effect, and what they say.
fn shown(counted: &BTreeMap<String, i64>) -> (bool, String) {
    let seen: Vec<_> = counted.iter().map(|(what, count)| format!("{count} {what}")).collect();
    (!counted.is_empty() && counted.values().all(|count| *count > 0), seen.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a fault that no counter tells of is not proven.
    #[test]
    fn counters_at_zero_show_nothing() {
        let counted = |delayed| {
            [("frames_delayed".to_owned(), delayed), ("frames_dropped".to_owned(), 4)].into()
        };
        assert_eq!(shown(&counted(3)), (true, "3 frames_delayed, 4 frames_dropped".to_owned()));
        assert_eq!(shown(&counted(0)), (false, "0 frames_delayed, 4 frames_dropped".to_owned()));
        assert!(!shown(&BTreeMap::new()).0);
    }
}
