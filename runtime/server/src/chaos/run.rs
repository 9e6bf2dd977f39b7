//! One run, from the start of the cluster to the report.
//!
//! ```text
//! start → ready → [load ∥ faults ∥ polls] → heal → ready → audit → judge → report
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::audit::Audit;
use super::chaos_report::{ChaosReport, Environment, Findings, Totals};
use super::history::Operation;
use super::impact::Writes;
use super::injector::{Ground, Injected, Injector};
use super::judge::judge;
use super::nodes::{NodeAddresses, Poller, View, report};
use super::processes::{ProcessError, Processes};
use super::scenario::Scenario;
use super::sightings::Sightings;
use super::violation::Violation;
use super::workload::{Counts, KeyNames, Load, LoadPlan};

/// What to run, and on what.
#[derive(Debug)]
pub struct ChaosPlan {
    /// The scenario.
    pub scenario: Scenario,
    /// Repeats the choice of victims, keys and calls.
    pub seed: u64,
    /// Where nodes that are started write their output; none: where it is removed with them.
    pub logs: Option<PathBuf>,
    /// A running cluster, if it is not to be started.
    pub attached: Option<Attachment>,
}

/// A running cluster.
#[derive(Debug)]
pub struct Attachment {
    /// The admin interface and the etcd API of each node.
    pub addresses: Vec<(SocketAddr, SocketAddr)>,
    /// What its nodes want to see before they inject a fault, or, if so configured, are looked at.
    pub token: Option<String>,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChaosError {
    /// The processes cannot be had.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Nothing can be killed that was not started here.
    #[error("the scenario kills or pauses processes: it cannot be run on an attached cluster")]
    NotOurs,
    /// Nodes take faults only from whoever has their token.
    #[error("the scenario injects faults into nodes: give the file with their token")]
    NoToken,
    /// A node of the attached cluster does not answer.
    #[error("the admin interface at {0} does not answer")]
    Unreachable(SocketAddr),
    /// The attached cluster is smaller than the scenario.
    #[error("the scenario needs {asked} {what}, the cluster has {found}")]
    TooFew {
        /// Of what.
        what: &'static str,
        /// How many are needed.
        asked: usize,
        /// How many there are.
        found: usize,
    },
    /// The cluster does not serve, before anything was done to it.
    #[error("the cluster does not serve: {0}")]
    NotServing(Violation),
}

/// A cluster that serves.
struct Stage {
    nodes: Vec<NodeAddresses>,
    /// Ids and names, in the order of the scenario.
    keyspaces: Vec<(u64, String)>,
    processes: Option<Processes>,
    token: String,
}

/// What was seen of a run.
struct Seen {
    history: Vec<Operation>,
    injected: Injected,
    sightings: Sightings,
}

/// Runs the scenario to its end. `watch` is given the counts as soon as there are any.
///
/// # Errors
/// The cluster cannot be had, or does not serve before the first fault.
pub async fn run(
    plan: ChaosPlan,
    watch: impl FnOnce(Arc<Counts>),
) -> Result<ChaosReport, ChaosError> {
    let environment = environment(&plan);
    let stage = Stage::set(&plan).await?;
    let ChaosPlan { scenario, seed, .. } = plan;
    let (nodes, names) = (stage.nodes.clone(), stage.names());
    let keys = KeyNames::new(rand::random());
    let audit = Audit { nodes, keyspaces: names.clone(), keys: keys.clone() };
    if let Some(late) = audit.wait_until_ready().await.into_iter().next() {
        return Err(ChaosError::NotServing(late));
    }
    let before = audit.revisions().await.map_err(ChaosError::NotServing)?;
    let seen = perform(&scenario, seed, stage, keys, watch).await;
    let Seen { history, injected, sightings } = seen;
    let (audited, violations) =
        conclude(audit, &before, &history, &injected, !environment.is_attached).await;
    drop(injected.processes);
    let totals = totals(&history, audited, &sightings);
    Ok(ChaosReport::new(Findings {
        writes: Writes::new(&history, names.len()),
        scenario,
        environment,
        keyspaces: names,
        totals,
        violations: violations.into_iter().chain(sightings.violations()).collect(),
        records: injected.records,
    }))
}

/// Load, faults and polls, until the last fault is healed.
async fn perform(
    scenario: &Scenario,
    seed: u64,
    stage: Stage,
    keys: KeyNames,
    watch: impl FnOnce(Arc<Counts>),
) -> Seen {
    let view = View::default();
    let poller = Poller::start(&stage.nodes, &view, &stage.token);
    let load = Load::start(&LoadPlan {
        nodes: stage.nodes.clone(),
        keyspaces: stage.names(),
        shape: scenario.workload.clone(),
        keys,
        seed,
    });
    watch(Arc::clone(&load.counts));
    let ground = Ground {
        nodes: stage.nodes,
        groups: stage.keyspaces.iter().map(|(group, _)| *group).collect(),
        processes: stage.processes,
        token: stage.token,
        view: view.clone(),
    };
    let injected = Injector::new(ground, seed, load.began).run(scenario).await;
    let history = load.finish().await;
    drop(poller);
    Seen { history, injected, sightings: view.sightings() }
}

/// Reads what is left, and judges; returns the number of writes read.
async fn conclude(
    mut audit: Audit,
    before: &[i64],
    history: &[Operation],
    injected: &Injected,
    alone: bool,
) -> (u64, Vec<Violation>) {
    audit.nodes.retain(|node| !injected.wiped.contains(&node.node));
    let mut violations = audit.wait_until_ready().await;
    // One that is not back cannot be asked for its hash, and has been told of.
    let hashed: Vec<_> = match violations.as_slice() {
        [] => audit.nodes.iter().map(|node| node.node).collect(),
        _ => Vec::new(),
    };
    match audit.ledgers(before, &hashed).await {
        Ok(ledgers) => {
            violations.extend(judge(history, &ledgers, alone));
            (ledgers.iter().map(|ledger| ledger.rows.len() as u64).sum(), violations)
        }
        Err(unserved) => {
            violations.push(unserved);
            (0, violations)
        }
    }
}

impl Stage {
    /// Starts the cluster, or looks at the one that runs.
    async fn set(plan: &ChaosPlan) -> Result<Self, ChaosError> {
        let scenario = &plan.scenario;
        let Some(attached) = &plan.attached else { return Self::started(plan).await };
        if scenario.needs_processes() {
            return Err(ChaosError::NotOurs);
        }
        let token = attached.token.clone();
        if scenario.needs_injection() && token.is_none() {
            return Err(ChaosError::NoToken);
        }
        let (mut nodes, token) = (Vec::new(), token.unwrap_or_default());
        for (admin, client) in &attached.addresses {
            let report = report(*admin, &token).await.ok_or(ChaosError::Unreachable(*admin))?;
            nodes.push(NodeAddresses { node: report.node, client: *client, admin: *admin });
        }
        let asked = scenario.cluster.nodes as usize;
        if nodes.len() != asked {
            return Err(ChaosError::TooFew { what: "nodes", asked, found: nodes.len() });
        }
        let stage = Self { nodes, keyspaces: Vec::new(), processes: None, token };
        stage.with_keyspaces(scenario.cluster.keyspaces).await
    }

    async fn started(plan: &ChaosPlan) -> Result<Self, ChaosError> {
        let shape = &plan.scenario.cluster;
        let token = format!("{:032x}", rand::random::<u128>());
        // Nodes that need not be injected into run as they would anywhere.
        let shown = plan.scenario.needs_injection().then_some(token.as_str());
        let mut processes = Processes::prepare(shape, plan.logs.as_deref(), shown)?;
        let nodes = processes.addresses();
        for node in &nodes {
            processes.start(node.node)?;
        }
        let mut stage = Self { nodes, keyspaces: Vec::new(), processes: Some(processes), token };
        stage.wait_for_answers().await?;
        stage.with_keyspaces(shape.keyspaces).await
    }

    /// Waits until every process answers, or has ended.
    async fn wait_for_answers(&mut self) -> Result<(), ChaosError> {
        for node in &self.nodes {
            while report(node.admin, &self.token).await.is_none() {
                if let Some(processes) = &mut self.processes {
                    processes.check_alive(node.node)?;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    async fn with_keyspaces(mut self, asked: usize) -> Result<Self, ChaosError> {
        let admin = self.nodes[0].admin;
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let report = report(admin, &self.token).await.ok_or(ChaosError::Unreachable(admin))?;
            let found = report.groups.len();
            if found >= asked {
                let named = report.groups.into_iter().map(|group| (group.group, group.name));
                self.keyspaces = named.take(asked).collect();
                return Ok(self);
            }
            if self.processes.is_none() || tokio::time::Instant::now() > deadline {
                return Err(ChaosError::TooFew { what: "keyspaces", asked, found });
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    fn names(&self) -> Vec<String> {
        self.keyspaces.iter().map(|(_, name)| name.clone()).collect()
    }
}

fn environment(plan: &ChaosPlan) -> Environment {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Environment {
        version: env!("CARGO_PKG_VERSION"),
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        started_unix_ms: now.as_millis(),
        seed: plan.seed,
        is_attached: plan.attached.is_some(),
    }
}

fn totals(history: &[Operation], audited: u64, sightings: &Sightings) -> Totals {
    use super::history::{Call, PutOutcome};
    let count = |is: fn(&Call) -> bool| history.iter().filter(|op| is(&op.call)).count() as u64;
    Totals {
        acknowledged: count(|c| {
            matches!(c, Call::Put { outcome: PutOutcome::Acknowledged(_), .. })
        }),
        reads: count(|c| matches!(c, Call::Get(Some(_)))),
        failed: count(|c| {
            matches!(c, Call::Get(None) | Call::Put { outcome: PutOutcome::Failed, .. })
        }),
        unknown: count(|c| matches!(c, Call::Put { outcome: PutOutcome::Unknown, .. })),
        audited,
        statuses: sightings.reports,
        terms_led: sightings.terms_led(),
    }
}
