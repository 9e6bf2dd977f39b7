//! Ends a process, or fails it, at every step of persistence and handing over, in each role, under
//! load; then checks that nothing acknowledged is lost or doubled, that no term has two leaders, and
//! that what failed says so and does not hang (RF-1, AP-8, ST-11, RT-12).
//!
//! ```text
//! failpoints --binary PATH/polyraft-failpoints [--only STEP,…] [--count N] [--seed S] [--within-s T]
//!            [--clients K] [--dir DIR]
//! three processes, load → arm one at its n-th hit → it dies there → start again → serve, progress → …
//! ```
//!
//! `--count` tries so many cases, drawn by the seed. A case counts only if the process said that it was
//! at the step, and died of it; a case that fails is followed by a new cluster. The limits are so low that
//! logs are compacted and collected all the time. After each ten cases the ledger is compared with
//! what all three nodes hold.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use etcd_client::Client;
use polyraft_etcd_client_tests::admin;
use polyraft_etcd_client_tests::arguments::Arguments;
use polyraft_etcd_client_tests::dice::Dice;
use polyraft_etcd_client_tests::failpoints::{Action, Case, Remedy, Role, cases, steps};
use polyraft_etcd_client_tests::ledger::{self, LedgerError};
use polyraft_etcd_client_tests::load::{self, Load};
use polyraft_etcd_client_tests::node_process::{Cluster, Settings};
use polyraft_etcd_client_tests::outcome::{self, wait};
use polyraft_etcd_client_tests::verify::verify_alone;
use tokio::task::JoinHandle;

/// Logs are compacted within a second, and the journal is collected as often.
const TABLES: &str = "[limits]\ncatch_up_entries = 100\ncatch_up_bytes = \"32KiB\"\n\
                      [storage]\njournal_bytes_max = \"48KiB\"\n";
/// How long a process may take to come to its step, or to say what became of it.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a client may wait at a node that cannot serve: twice a proposal's deadline.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Cases between two verifications.
const VERIFY_EVERY: usize = 10;
const SIGABRT: i32 = 6;

#[tokio::main]
async fn main() -> ExitCode {
    outcome::exit_code("failpoints", run().await)
}

/// What the summary counts.
#[derive(Default)]
struct Counts {
    cases: usize,
    failed: usize,
    acknowledged: u64,
    unknown: u64,
    verifications: u64,
    violations: usize,
}

/// Whether everything was as it must be.
async fn run() -> Result<bool, Box<dyn Error>> {
    let known = ["binary", "only", "count", "seed", "within-s", "clients", "dir"];
    let arguments = Arguments::parse(std::env::args().skip(1), &known)?;
    let binary = std::path::absolute(arguments.require::<PathBuf>("binary")?)?;
    expect_same_steps(&binary)?;
    let seed = arguments.get_or("seed", 1)?;
    let within = Duration::from_secs(arguments.get_or("within-s", 480)?);
    let clients = arguments.get_or("clients", 8)?;
    let scratch = tempfile::tempdir()?;
    let dir = std::path::absolute(arguments.get_or("dir", scratch.path().to_path_buf())?)?;
    let (mut dice, began) = (Dice::new(seed), Instant::now());
    let chosen = choose(&arguments, &mut dice)?;
    let mut counts = Counts::default();
    let mut rig = Rig::start(&binary, &dir.join("cluster-0"), clients, None).await?;
    for case in chosen.iter().take_while(|_| began.elapsed() < within) {
        let from = Instant::now();
        let outcome = match try_case(&binary, &dir, case, &mut rig, &mut dice).await {
            Ok(outcome) => outcome,
            Err(error) => {
                counts.failed += 1;
                let next = dir.join(format!("cluster-{}", counts.failed));
                rig = Rig::start(&binary, &next, clients, None).await?;
                format!("FAILED: {error}")
            }
        };
        println!("{case} {outcome:32} {:5.1} s", from.elapsed().as_secs_f64());
        counts.cases += 1;
        if counts.cases % VERIFY_EVERY == 0 {
            rig.verify(&mut counts, clients).await?;
        }
    }
    rig.verify(&mut counts, clients).await?;
    println!(
        "failpoints: seed {seed}, {} of {} cases, {} failed; {} acknowledged, {} unknown, {} \
         verifications, {} terms with a leader, {} violations, {:.0} s",
        counts.cases,
        chosen.len(),
        counts.failed,
        counts.acknowledged,
        counts.unknown,
        counts.verifications,
        rig.leaders.terms(),
        counts.violations,
        began.elapsed().as_secs_f64()
    );
    let is_good = (counts.failed, counts.violations) == (0, 0);
    Ok(is_good && counts.acknowledged > 0 && counts.cases == chosen.len())
}

/// The table and the binary must speak of the same steps.
fn expect_same_steps(binary: &Path) -> Result<(), Box<dyn Error>> {
    let listed = Command::new(binary).env("FAILPOINT_LIST", "1").output()?;
    let listed = String::from_utf8(listed.stdout)?;
    let (theirs, ours): (BTreeSet<_>, BTreeSet<_>) = (listed.lines().collect(), steps().collect());
    if theirs == ours {
        return Ok(());
    }
    let differ: Vec<_> = theirs.symmetric_difference(&ours).collect();
    Err(format!("steps in the binary or in the table alone: {differ:?}").into())
}

/// The cases that the command line asks for.
fn choose(arguments: &Arguments, dice: &mut Dice) -> Result<Vec<Case>, Box<dyn Error>> {
    let mut chosen = cases();
    if let Ok(only) = arguments.list("only") {
        chosen.retain(|case| only.iter().any(|step| step == case.step));
    }
    let count = arguments.get_or("count", chosen.len())?;
    while chosen.len() > count {
        chosen.remove(dice.roll(chosen.len() as u64) as usize);
    }
    if chosen.is_empty() { Err("no such step".into()) } else { Ok(chosen) }
}

/// One case, on the cluster that runs or, to see it created, on a new one. What became of it.
async fn try_case(
    binary: &Path,
    dir: &Path,
    case: &Case,
    rig: &mut Rig,
    dice: &mut Dice,
) -> Result<String, Box<dyn Error>> {
    if case.role != Role::Creating {
        return rig.strike(case, dice).await;
    }
    let dir = dir.join(format!("{}-{}", case.step, action_name(case)));
    let at = dice.roll(3) as usize;
    let mut new = Rig::start(binary, &dir, 4, Some((case, at))).await?;
    new.leader().await?;
    let mut counts = Counts::default();
    new.verify(&mut counts, 1).await?;
    match counts.violations {
        0 => Ok(format!("node {} ended, created again", at + 1)),
        violations => Err(format!("{violations} violations in the new cluster").into()),
    }
}

/// A cluster under load.
struct Rig {
    cluster: Cluster,
    points: PathBuf,
    ledger: PathBuf,
    load: Arc<Load>,
    running: Vec<JoinHandle<Result<(), LedgerError>>>,
    leaders: Leaders,
}

impl Rig {
    /// Starts a cluster in `dir`, and a load on it; with a case, one of which a process ends as
    /// it is created.
    async fn start(
        binary: &Path,
        dir: &Path,
        clients: usize,
        creating: Option<(&Case, usize)>,
    ) -> Result<Self, Box<dyn Error>> {
        let points = dir.join("failpoints");
        std::fs::create_dir_all(&points)?;
        let settings = Settings { groups: &[1], profile: "low_latency", tables: TABLES };
        let mut cluster = Cluster::prepare_with(binary, dir, settings)?;
        cluster.give_each_a_path("FAILPOINT_FILE", &points);
        let ledger = dir.join("ledger");
        let leaders = Leaders::watch(&cluster);
        let load = Load::open(&ledger)?;
        if let Some((case, at)) = creating {
            arm(&points, at, case, 1)?;
            (0..3).try_for_each(|at| cluster.start(at))?;
            match case.action {
                Action::Abort => expect_abort(&mut cluster, at, case, 0).await?,
                Action::Fail(_) => expect_end(&mut cluster, at, case).await?,
            }
            disarm(&points, at)?;
            cluster.start(at)?;
            for at in 0..3 {
                cluster.wait_until_serving(at).await?;
            }
        } else {
            cluster.start_all().await?;
        }
        let running = load::start(&load, clients, cluster.endpoints());
        Ok(Self { cluster, points, ledger, load, running, leaders })
    }

    /// Arms a process, waits for what becomes of it, and brings everything back.
    async fn strike(&mut self, case: &Case, dice: &mut Dice) -> Result<String, Box<dyn Error>> {
        let leader = self.leader().await?;
        self.load.wait_for_progress().await?;
        let other = (leader + 1 + dice.roll(2) as usize) % 3;
        let (at, hits) = match case.role {
            Role::Leader => (leader, 1 + dice.roll(3)),
            Role::Follower => (other, 1 + dice.roll(3)),
            Role::Candidate => (leader, 1),
            Role::Peer => (other, 1),
            Role::Starting | Role::Creating => (dice.roll(3) as usize, 1),
        };
        let seen = times_hit(&self.cluster, at, case);
        let again: &[usize] = match case.role {
            Role::Candidate => &[0, 1, 2],
            Role::Starting => &[at],
            Role::Peer => &[leader],
            _ => &[],
        };
        again.iter().try_for_each(|at| self.cluster.kill(*at))?;
        arm(&self.points, at, case, hits)?;
        again.iter().try_for_each(|at| self.cluster.start(*at))?;
        let outcome = match case.action {
            Action::Abort => {
                expect_abort(&mut self.cluster, at, case, seen).await?;
                format!("node {} died at hit {hits}", at + 1)
            }
            Action::Fail(remedy) => {
                self.expect_remedy(at, case, seen, remedy).await?;
                self.cluster.end(at)?;
                format!("node {} failed at hit {hits}", at + 1)
            }
        };
        disarm(&self.points, at)?;
        self.cluster.start(at)?;
        for at in 0..3 {
            self.cluster.wait_until_serving(at).await?;
        }
        self.load.wait_for_progress().await?;
        Ok(outcome)
    }

    /// A failed step: it was passed, what must follow has followed, nobody hangs, the others go on.
    async fn expect_remedy(
        &mut self,
        at: usize,
        case: &Case,
        seen: usize,
        remedy: Remedy,
    ) -> Result<(), Box<dyn Error>> {
        let cluster = &self.cluster;
        wait("the step", PATIENCE, async || times_hit(cluster, at, case) > seen).await?;
        if remedy == Remedy::Ended {
            return expect_end(&mut self.cluster, at, case).await;
        }
        let admin = self.cluster.admin(at).to_owned();
        wait("what must follow", PATIENCE, async || match admin::replica(&admin).await {
            Ok(replica) => follows(&replica, remedy),
            Err(_) => false,
        })
        .await?;
        let endpoint = self.cluster.endpoints()[at].clone();
        let mut client = Client::connect([&endpoint], None).await?;
        let answer = tokio::time::timeout(ANSWER_MAX, client.get("probe", None)).await;
        let is_served = answer.map_err(|_| "a client waits there for ever")?.is_ok();
        if is_served != (remedy == Remedy::Healthy) {
            return Err(format!("{remedy:?}, and a read was served: {is_served}").into());
        }
        Ok(self.load.wait_for_progress().await?)
    }

    /// The node that leads, counted from 0, once all three say the same and are well.
    async fn leader(&self) -> Result<usize, Box<dyn Error>> {
        let mut leader = None;
        wait("all nodes agree on a leader", PATIENCE, async || {
            let mut seen = BTreeSet::new();
            for at in 0..3 {
                let Ok(replica) = admin::replica(self.cluster.admin(at)).await else {
                    return false;
                };
                seen.insert((replica.health, replica.leader, replica.term));
            }
            leader = seen.first().and_then(|(_, leader, _)| *leader);
            seen.len() == 1 && leader.is_some()
        })
        .await?;
        Ok(leader.ok_or("no leader")? as usize - 1)
    }

    /// Ends the load, compares, and starts the next one.
    async fn verify(&mut self, counts: &mut Counts, clients: usize) -> Result<(), Box<dyn Error>> {
        load::finish(&self.load, std::mem::take(&mut self.running)).await?;
        let verdict = verify_alone(&ledger::read(&self.ledger)?, self.cluster.endpoints()).await?;
        let twice = self.leaders.twice();
        twice.iter().for_each(|twice| println!("TWO LEADERS in {twice}"));
        println!("{verdict}");
        counts.acknowledged += self.load.acknowledged();
        counts.unknown += self.load.unknown();
        counts.verifications += 1;
        counts.violations += verdict.violations.len() + twice.len();
        self.load = Load::open(&self.ledger)?;
        self.running = load::start(&self.load, clients, self.cluster.endpoints());
        Ok(())
    }
}

fn follows(replica: &admin::Replica, remedy: Remedy) -> bool {
    match remedy {
        Remedy::StoreFailed => replica.storage_failure.is_some(),
        Remedy::Faulted => {
            replica.storage_failure.is_none() && replica.health.starts_with("faulted: ")
        }
        Remedy::Healthy => replica.storage_failure.is_none() && replica.health == "healthy",
        Remedy::Ended => false,
    }
}

/// It appears whole, as the process reads it once.
fn arm(points: &Path, at: usize, case: &Case, hits: u64) -> std::io::Result<()> {
    let staged = points.join("staged");
    std::fs::write(&staged, format!("{} {hits} {}", case.step, action_name(case)))?;
    std::fs::rename(&staged, points.join((at + 1).to_string()))
}

/// What the process under test calls the case's action.
fn action_name(case: &Case) -> &'static str {
    if case.action == Action::Abort { "abort" } else { "error" }
}

fn disarm(points: &Path, at: usize) -> std::io::Result<()> {
    std::fs::remove_file(points.join((at + 1).to_string()))
}

/// What a process says at the case's step.
fn hit_line(case: &Case) -> String {
    format!("failpoint {} hit", case.step)
}

/// How often a node has said that it was at the case's step.
fn times_hit(cluster: &Cluster, at: usize, case: &Case) -> usize {
    let line = hit_line(case);
    cluster.whole_output(at).lines().filter(|said| *said == line).count()
}

/// Waits until node `at` has died of an abort at the case's step.
async fn expect_abort(
    cluster: &mut Cluster,
    at: usize,
    case: &Case,
    seen: usize,
) -> Result<(), Box<dyn Error>> {
    let status = exit(cluster, at).await?;
    if status.signal() == Some(SIGABRT) && times_hit(cluster, at, case) == seen + 1 {
        return Ok(());
    }
    Err(format!("node {} ended {status}, not at the step:\n{}", at + 1, cluster.output(at)).into())
}

/// Waits until node `at` has ended by itself, and said after the case's step that it was for that.
async fn expect_end(cluster: &mut Cluster, at: usize, case: &Case) -> Result<(), Box<dyn Error>> {
    let status = exit(cluster, at).await?;
    let output = cluster.whole_output(at);
    let after = output.rsplit_once(&hit_line(case)).map_or("", |(_, after)| after);
    let says_so = ["passing a failpoint", "a failpoint was hit"].iter().any(|s| after.contains(s));
    match status.code() {
        Some(1..) if says_so => Ok(()),
        _ => Err(format!("node {} ended {status}, and did not say why:\n{after}", at + 1).into()),
    }
}

async fn exit(cluster: &mut Cluster, at: usize) -> Result<ExitStatus, Box<dyn Error>> {
    let mut status = None;
    wait("the process ends", PATIENCE, async || {
        status = cluster.exited(at).ok().flatten();
        status.is_some()
    })
    .await?;
    Ok(status.ok_or("it runs")?)
}

/// Who was seen to lead in which term, from every node's status.
struct Leaders {
    seen: Arc<Mutex<BTreeMap<u64, BTreeSet<u64>>>>,
    watching: JoinHandle<()>,
}

impl Leaders {
    fn watch(cluster: &Cluster) -> Self {
        let seen: Arc<Mutex<BTreeMap<u64, BTreeSet<u64>>>> = Arc::default();
        let admins: Vec<_> = (0..3).map(|at| cluster.admin(at).to_owned()).collect();
        let for_task = seen.clone();
        let watching = tokio::spawn(async move {
            loop {
                for admin in &admins {
                    let Ok(replica) = admin::replica(admin).await else { continue };
                    let Some(leader) = replica.leader else { continue };
                    let mut seen = for_task.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.entry(replica.term).or_default().insert(leader);
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        });
        Self { seen, watching }
    }

    fn terms(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Terms with more than one leader: somebody voted twice.
    fn twice(&self) -> Vec<String> {
        led_twice(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn led_twice(seen: &BTreeMap<u64, BTreeSet<u64>>) -> Vec<String> {
    let twice = seen.iter().filter(|(_, leaders)| leaders.len() > 1);
    twice.map(|(term, leaders)| format!("term {term}: {leaders:?}")).collect()
}

impl Drop for Leaders {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_with_two_leaders_is_found() {
        let seen = [(3, [1].into()), (4, [1, 2].into())].into();
        assert_eq!(led_twice(&seen), ["term 4: {1, 2}"]);
    }

    /// Negative controls: none of the remedies is taken for another.
    #[test]
    fn what_must_follow_is_told_apart() {
        let replica = |failure: Option<&str>, health: &str| admin::Replica {
            storage_failure: failure.map(str::to_owned),
            health: health.to_owned(),
            term: 1,
            leader: Some(1),
            is_current: true,
        };
        let (failed, faulted) =
            (replica(Some("EIO"), "faulted: EIO"), replica(None, "faulted: entry 3"));
        let (healthy, hung) = (replica(None, "healthy"), replica(None, "restarting"));
        let remedies = [Remedy::StoreFailed, Remedy::Faulted, Remedy::Healthy];
        let which = |replica| remedies.map(|remedy| follows(&replica, remedy));
        assert_eq!(which(failed), [true, false, false]);
        assert_eq!(which(faulted), [false, true, false]);
        assert_eq!(which(healthy), [false, false, true]);
        assert_eq!(which(hung), [false; 3]);
    }
}
