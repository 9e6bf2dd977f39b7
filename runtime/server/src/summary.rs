//! Summary: what the status page shows of a node, in one answer that does not grow with its groups.
//!
//! ```text
//! NodeStatus ─count→ roles, health, leaders ┐
//! LatencyWindow ─→ pipeline by stage        ├→ Summary (JSON)
//! EventLog ─→ the last rows                 │
//! Chaos ─→ faults in force                  ┘
//! ```
//!
//! Promise: it is made from published copies and never waits for a group, a disk or a peer (RT-7). Lists
//! are cut to a few rows; whoever wants every group asks for `/status`.
//! Not here: how it looks ([`crate::page`]).

use std::collections::BTreeMap;
use std::time::Instant;

use metrics_exporter_prometheus::PrometheusHandle;
use polyraft::chaos::FaultRecord;
use polyraft::{GroupStatus, Health, Node};
use serde::Serialize;

use crate::event_log::{Event, EventLog};
use crate::event_watch::unix_ms;
use crate::latency::{LatencyWindow, PipelineLatency};
use crate::report::{PeerReport, readiness};

/// Groups in a list of those that stand out.
const GROUPS_LISTED_MAX: usize = 5;
/// Reasons not to be ready that are told.
const REASONS_MAX: usize = 5;
/// Events in a summary.
const EVENTS_MAX: usize = 50;
/// Faults in a summary.
const FAULTS_MAX: usize = 50;

/// What summaries are made from. A cheap clone.
#[derive(Clone)]
pub struct SummarySource {
    started: Instant,
    latency: LatencyWindow,
    events: EventLog,
}

impl SummarySource {
    /// The source for a node that starts now, and whose events go to `events`.
    pub fn new(events: EventLog) -> Self {
        Self { started: Instant::now(), latency: LatencyWindow::default(), events }
    }

    /// The node's events.
    pub fn events(&self) -> &EventLog {
        &self.events
    }

    /// The node as of now.
    pub fn look(&self, node: &Node, metrics: &PrometheusHandle, groups_expected: usize) -> Summary {
        let uptime = self.started.elapsed();
        let status = node.status();
        let groups = GroupCounts::of(&status.groups, groups_expected);
        let lagging = lagging(&status.groups);
        Summary {
            node: status.node.get(),
            cluster: status.cluster.clone(),
            version: env!("CARGO_PKG_VERSION"),
            unix_ms: unix_ms(),
            uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
            storage_bytes: status.storage_bytes,
            links: status.peers.iter().map(PeerReport::from).collect(),
            groups,
            lagging,
            latency: self.latency.look(uptime, || metrics.render()),
            events: self.events.after(0, EVENTS_MAX),
            chaos: node.chaos().map(|chaos| faults_in_force(chaos.faults())),
            unready: few_of(readiness(&status.into(), groups_expected)),
        }
    }
}

/// A node on one page.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// The node's id.
    pub node: u64,
    /// The cluster's name.
    pub cluster: String,
    /// The version that runs.
    pub version: &'static str,
    /// Now, by the node's clock: milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// Milliseconds since the node started.
    pub uptime_ms: u64,
    /// Bytes on disk.
    pub storage_bytes: u64,
    /// Why the node is not ready: the first few reasons; empty if it is.
    pub unready: Vec<String>,
    /// Links to the other nodes.
    pub links: Vec<PeerReport>,
    /// The groups with a replica here, counted.
    pub groups: GroupCounts,
    /// The groups that have most to apply, if any has.
    pub lagging: Vec<LaggingGroup>,
    /// The proposal pipeline.
    pub latency: PipelineLatency,
    /// The last events, ascending.
    pub events: Vec<Event>,
    /// Faults in force; absent unless the node was started for chaos.
    pub chaos: Option<Vec<FaultRecord>>,
}

/// Groups, counted.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct GroupCounts {
    /// With a replica here.
    pub total: usize,
    /// That the configuration asks for.
    pub expected: usize,
    /// By the role of the replica here.
    pub by_role: BTreeMap<&'static str, usize>,
    /// By health on this node.
    pub by_health: BTreeMap<&'static str, usize>,
    /// Whose leader is not known here.
    pub without_leader: usize,
    /// By the node that leads them.
    pub leaders: BTreeMap<u64, usize>,
}

/// A group that has something to apply.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct LaggingGroup {
    /// Its id.
    pub group: u64,
    /// Its name.
    pub name: String,
    /// Entries that are committed and not applied here.
    pub entries: u64,
}

impl GroupCounts {
    fn of(groups: &[GroupStatus], expected: usize) -> Self {
        let mut counts = Self { total: groups.len(), expected, ..Self::default() };
        for group in groups {
            *counts.by_role.entry(group.role.as_str()).or_default() += 1;
            *counts.by_health.entry(health(&group.health)).or_default() += 1;
            match group.leader {
                Some(leader) => *counts.leaders.entry(leader.get()).or_default() += 1,
                None => counts.without_leader += 1,
            }
        }
        counts
    }
}

fn health(health: &Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Restarting => "restarting",
        Health::Faulted(_) => "faulted",
        Health::Stopped => "stopped",
    }
}

fn lagging(groups: &[GroupStatus]) -> Vec<LaggingGroup> {
    let behind = |group: &GroupStatus| group.commit.get().saturating_sub(group.applied.get());
    let mut lagging: Vec<_> = groups.iter().filter(|group| behind(group) > 0).collect();
    lagging.sort_by_key(|group| std::cmp::Reverse(behind(group)));
    let report = |group: &&GroupStatus| LaggingGroup {
        group: group.group.get(),
        name: group.name.to_string(),
        entries: behind(group),
    };
    lagging.iter().take(GROUPS_LISTED_MAX).map(report).collect()
}

/// The first of the reasons why a node is not ready, and how many more there are.
fn few_of(readiness: Result<(), Vec<String>>) -> Vec<String> {
    let Err(mut reasons) = readiness else { return Vec::new() };
    let more = reasons.len().saturating_sub(REASONS_MAX);
    reasons.truncate(REASONS_MAX);
    reasons.extend((more > 0).then(|| format!("and {more} more")));
    reasons
}

fn faults_in_force(records: Vec<FaultRecord>) -> Vec<FaultRecord> {
    records.into_iter().filter(|record| record.ended_ms.is_none()).take(FAULTS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use polyraft::{Configuration, GroupId, LogIndex, NodeId, ReplicaId, Role, Term};

    use super::*;

    fn group(id: u64, role: Role, leader: Option<u64>, behind: u64) -> GroupStatus {
        GroupStatus {
            group: GroupId::new(id),
            name: format!("ks-{id}").into(),
            replica: ReplicaId::new(101),
            health: Health::Healthy,
            role,
            term: Term::new(2),
            leader: leader.map(NodeId::new),
            compacted: LogIndex::ZERO,
            last: LogIndex::new(10),
            persisted: LogIndex::new(10),
            commit: LogIndex::new(10),
            applied: LogIndex::new(10 - behind),
            replicated: LogIndex::ZERO,
            configuration: Arc::new(Configuration::default()),
        }
    }

    /// Goal: a summary is as large for many groups as for few. Method: count and list a thousand, of
    /// which some have no leader and all have something to apply.
    #[test]
    fn a_thousand_groups_are_a_few_numbers() {
        let role = |id| if id % 4 == 0 { Role::Leader } else { Role::Follower };
        let leader = |id| (id > 10).then_some(1 + id % 3);
        let mut groups: Vec<_> =
            (1..=1_000).map(|id| group(id, role(id), leader(id), id % 10)).collect();
        groups[0].health = Health::Faulted("a reason".into());
        let counts = GroupCounts::of(&groups, 1_001);
        let expected = GroupCounts {
            total: 1_000,
            expected: 1_001,
            by_role: BTreeMap::from([("follower", 750), ("leader", 250)]),
            by_health: BTreeMap::from([("faulted", 1), ("healthy", 999)]),
            without_leader: 10,
            leaders: BTreeMap::from([(1, 330), (2, 330), (3, 330)]),
        };
        assert_eq!(counts, expected);
        let lagging = lagging(&groups);
        assert_eq!(lagging.len(), GROUPS_LISTED_MAX);
        assert!(lagging.iter().all(|group| group.entries == 9), "{lagging:?}");
        assert_eq!(lagging[0].name, "ks-9");
    }

    #[test]
    fn reasons_not_to_be_ready_are_told_in_part() {
        assert_eq!(few_of(Ok(())), Vec::<String>::new());
        let all: Vec<_> = (1..=7).map(|id| format!("ks-{id}: no leader")).collect();
        let told = few_of(Err(all.clone()));
        assert_eq!(told[..REASONS_MAX], all[..REASONS_MAX]);
        assert_eq!(told[REASONS_MAX..], ["and 2 more"]);
    }
}
