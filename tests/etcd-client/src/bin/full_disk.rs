//! Fills every disk of a cluster under load and makes room again (ST-5), and judges what was acknowledged.
//!
//! ```text
//! full_disk --binary FILE [--cycles N] [--clients K] [--dir DIR]
//! load → disks full → no put for a while, reads → kill -9 of one → room → puts again → verify
//! ```
//!
//! The disks are small ext4 file systems on loop devices. What must be seen: while they are full nothing is
//! acknowledged, no node ends by itself or fails for good, and every node answers stale reads; the leader
//! linearizable ones too, if it was elected before and has applied what the others still had room for (RD-3).
//! Afterwards puts are acknowledged within a minute, also through a node that was killed while its disk was
//! full, and nothing is lost. Needs root and `mkfs.ext4`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::GetOptions;
use polyraft_etcd_client_tests::admin;
use polyraft_etcd_client_tests::arguments::Arguments;
use polyraft_etcd_client_tests::disk::Disk;
use polyraft_etcd_client_tests::endpoints::connect;
use polyraft_etcd_client_tests::ledger::{self, LedgerError};
use polyraft_etcd_client_tests::load::{self, Load};
use polyraft_etcd_client_tests::node_process::Cluster;
use polyraft_etcd_client_tests::outcome;
use polyraft_etcd_client_tests::verify::verify_alone;
use tokio::task::JoinHandle;

/// Small enough to be filled in seconds, with room for every file that a node makes at its start.
const DISK_BYTES: u64 = 768 << 20;
/// Long values fill what files have left; a page of them fits a message.
const VALUE_BYTES: usize = 3_000;
/// Without an acknowledged put for so long the disks count as full.
const QUIET: Duration = Duration::from_secs(3);
/// How long it may take until then.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_PAUSE: Duration = Duration::from_millis(50);

#[tokio::main]
async fn main() -> ExitCode {
    outcome::exit_code("full_disk", run().await)
}

/// Whether the promise held.
async fn run() -> Result<bool, Box<dyn Error>> {
    let arguments =
        Arguments::parse(std::env::args().skip(1), &["binary", "cycles", "clients", "dir"])?;
    let binary: PathBuf = arguments.require("binary")?;
    let (cycles, clients) =
        (arguments.get_or("cycles", 3_usize)?, arguments.get_or("clients", 16)?);
    if !rustix::process::geteuid().is_root() {
        return Err("needs root: it mounts file systems of its own".into());
    }
    let scratch = tempfile::tempdir()?;
    let dir = std::path::absolute(arguments.get_or("dir", scratch.path().to_path_buf())?)?;
    std::fs::create_dir_all(&dir)?;
    let mut rig = Rig::prepare(&std::path::absolute(binary)?, &dir, clients)?;
    rig.cluster.start_all().await?;
    let (began, mut is_kept) = (Instant::now(), true);
    for cycle in 1..=cycles {
        is_kept &= rig.cycle(cycle).await?;
    }
    println!(
        "full_disk: {cycles} cycles, {}, {:.0} s",
        if is_kept { "nothing lost" } else { "BROKEN" },
        began.elapsed().as_secs_f64()
    );
    Ok(is_kept)
}

type Running = Vec<JoinHandle<Result<(), LedgerError>>>;

/// Three nodes, each with a small disk of its own.
struct Rig {
    // Processes end before their disks are unmounted.
    cluster: Cluster,
    disks: Vec<Disk>,
    ledger: PathBuf,
    clients: usize,
}

impl Rig {
    fn prepare(binary: &Path, dir: &Path, clients: usize) -> Result<Self, Box<dyn Error>> {
        let cluster = Cluster::prepare(binary, dir, &[1])?;
        let disks = Disk::create_three(dir, |at| cluster.data_dir(at), DISK_BYTES)?;
        Ok(Self { cluster, disks, ledger: dir.join("ledger"), clients })
    }

    fn start_load(&self) -> Result<(Arc<Load>, Running), LedgerError> {
        let load = Load::of_values(&self.ledger, VALUE_BYTES)?;
        let running = load::start(&load, self.clients, self.cluster.endpoints());
        Ok((load, running))
    }

    async fn cycle(&mut self, cycle: usize) -> Result<bool, Box<dyn Error>> {
        let (load, running) = self.start_load()?;
        load.wait_for_progress().await?;
        let term = admin::replica(self.cluster.admin(0)).await?.term;
        let ballast = self.disks.iter().map(Disk::fill).collect::<Result<Vec<_>, _>>()?;
        let filled = Instant::now();
        wait_until_quiet(&load).await?;
        let quiet_after = filled.elapsed().saturating_sub(QUIET);
        let has_confirmed = self.check_reads(term).await?;
        // It comes back once there is room: no node needs the others' disks for that.
        let victim = cycle % 3;
        self.cluster.kill(victim)?;
        let acknowledged = load.acknowledged();
        for path in ballast {
            std::fs::remove_file(path)?;
        }
        let room = Instant::now();
        self.cluster.start(victim)?;
        load.wait_for_progress().await?;
        let progress_after = room.elapsed();
        self.cluster.wait_until_serving(victim).await?;
        load::finish(&load, running).await?;
        let (again, running) = self.start_load()?;
        again.wait_for_progress().await?;
        load::finish(&again, running).await?;
        let verdict = verify_alone(&ledger::read(&self.ledger)?, self.cluster.endpoints()).await?;
        println!(
            "cycle {cycle}: {acknowledged} acknowledged until the disks were full, {:.1} s after \
             they were filled; the leader {}; puts again {:.1} s after there was room; {verdict}",
            quiet_after.as_secs_f64(),
            if has_confirmed { "confirmed a read" } else { "could confirm none" },
            progress_after.as_secs_f64()
        );
        Ok(verdict.violations.is_empty())
    }

    /// Checks what must be answered; says whether that is a linearizable read by the leader of `term`.
    async fn check_reads(&self, term: u64) -> Result<bool, Box<dyn Error>> {
        let mut can_confirm = None;
        for (at, endpoint) in self.cluster.endpoints().iter().enumerate() {
            let node = at as u64 + 1;
            let stale = GetOptions::new().with_serializable();
            let read = connect(endpoint).await?.get("probe", Some(stale)).await;
            read.map_err(|error| format!("a stale read through node {node}: {error}"))?;
            let replica = admin::replica(self.cluster.admin(at)).await?;
            if replica.storage_failure.is_some() || replica.health != "healthy" {
                return Err(format!("node {node} is not well: {replica:?}").into());
            }
            let leads = replica.leader == Some(node) && replica.term == term;
            can_confirm = can_confirm.or((leads && replica.is_current).then_some(endpoint));
        }
        if let Some(endpoint) = can_confirm {
            let read = connect(endpoint).await?.get("probe", None).await;
            read.map_err(|error| format!("a read through the leader, {endpoint}: {error}"))?;
        }
        Ok(can_confirm.is_some())
    }
}

/// Waits until nothing was acknowledged for a while.
async fn wait_until_quiet(load: &Load) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + PATIENCE;
    let (mut acknowledged, mut since) = (load.acknowledged(), Instant::now());
    while since.elapsed() < QUIET {
        if Instant::now() > deadline {
            return Err(format!("puts are acknowledged on full disks for {PATIENCE:?}").into());
        }
        tokio::time::sleep(LOOK_PAUSE).await;
        if load.acknowledged() > acknowledged {
            (acknowledged, since) = (load.acknowledged(), Instant::now());
        }
    }
    Ok(())
}
