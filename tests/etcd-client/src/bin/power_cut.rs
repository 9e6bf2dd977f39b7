//! Cuts the power of one node's disk, or of all, under load, over and over, and checks that nothing
//! acknowledged is lost or applied twice (ST-3). `kill -9` keeps the page cache; this does not.
//!
//! ```text
//! power_cut --binary PATH/polyraft --cycles N --seed S [--whole true] [--clients K]
//!           [--verify-every M] [--control COMMAND] [--dir DIR]
//! load → cut the disks → kill → remount → start → serve, progress → … → verify
//! ```
//!
//! `--control eatmydata` is the negative control: nodes start once as they are, so that their data
//! directories are durable, then run under a command that makes their syncs do nothing, and the run
//! succeeds only if acknowledged writes are lost, or out of reach because a node serves no more. Needs root, loop devices and `mkfs.ext4`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use polyraft_etcd_client_tests::arguments::{ArgumentError, Arguments};
use polyraft_etcd_client_tests::dice::Dice;
use polyraft_etcd_client_tests::disk::{DISK_BYTES, Disk};
use polyraft_etcd_client_tests::ledger;
use polyraft_etcd_client_tests::load::{self, Load, start};
use polyraft_etcd_client_tests::node_process::{Cluster, ProcessError};
use polyraft_etcd_client_tests::outcome;
use polyraft_etcd_client_tests::verify::{Verdict, Violation, verify_alone};

#[tokio::main]
async fn main() -> ExitCode {
    outcome::exit_code("power_cut", run().await)
}

/// The command line.
struct Options {
    binary: PathBuf,
    cycles: u64,
    seed: u64,
    whole: bool,
    clients: usize,
    verify_every: u64,
    control: Option<String>,
}

impl Options {
    fn parse(arguments: &Arguments) -> Result<Self, ArgumentError> {
        let control: String = arguments.get_or("control", String::new())?;
        Ok(Self {
            binary: arguments.require("binary")?,
            cycles: arguments.require("cycles")?,
            seed: arguments.get_or("seed", 1)?,
            whole: arguments.get_or("whole", false)?,
            clients: arguments.get_or("clients", 16)?,
            verify_every: arguments.get_or("verify-every", 5_u64)?.max(1),
            control: Some(control).filter(|control| !control.is_empty()),
        })
    }
}

/// What the summary counts.
#[derive(Default)]
struct Counts {
    cycles: u64,
    acknowledged: u64,
    unknown: u64,
    verifications: u64,
}

/// Whether the promise held; of a control, whether it did not.
async fn run() -> Result<bool, Box<dyn Error>> {
    let known = ["binary", "cycles", "seed", "whole", "clients", "verify-every", "control", "dir"];
    let arguments = Arguments::parse(std::env::args().skip(1), &known)?;
    let options = Options::parse(&arguments)?;
    if !rustix::process::geteuid().is_root() {
        return Err("needs root: it mounts file systems of its own".into());
    }
    let scratch = tempfile::tempdir()?;
    let dir = std::path::absolute(arguments.get_or("dir", scratch.path().to_path_buf())?)?;
    std::fs::create_dir_all(&dir)?;
    let mut rig = Rig::prepare(&options, &dir)?;
    rig.cluster.start_all().await?;
    if let Some(control) = &options.control {
        rig.run_under(control).await?;
    }
    let (mut counts, began) = (Counts::default(), Instant::now());
    let mut verdict = Verdict::default();
    while counts.cycles < options.cycles && verdict.violations.is_empty() {
        verdict = match rig.cut_and_verify(&options, &mut counts).await {
            Err(error) if options.control.is_some() && serves_no_more(&*error) => {
                println!("power_cut: all that was acknowledged is out of reach: {error}");
                return Ok(true);
            }
            verdict => verdict?,
        };
        println!("cycle {}: {verdict}", counts.cycles);
    }
    let lost = |violation: &&Violation| matches!(violation, Violation::Lost(_));
    let lost = verdict.violations.iter().filter(lost).count();
    println!(
        "power_cut: seed {}, {} cuts of {}{}, {} acknowledged, {} unknown, {} verifications, \
         {lost} lost, {} violations, {:.0} s",
        options.seed,
        counts.cycles,
        if options.whole { "all disks" } else { "one disk" },
        options.control.as_ref().map_or(String::new(), |control| format!(" under {control}")),
        counts.acknowledged,
        counts.unknown,
        counts.verifications,
        verdict.violations.len(),
        began.elapsed().as_secs_f64()
    );
    Ok(match options.control {
        Some(_) => lost > 0,
        None => verdict.violations.is_empty(),
    })
}

/// Whether a node that had served, and acknowledged, does not serve after its disk was cut.
fn serves_no_more(error: &(dyn Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(ProcessError::NotServing { .. }))
}

/// Three nodes, each with a disk of its own.
struct Rig {
    // Processes end before their disks are unmounted.
    cluster: Cluster,
    disks: Vec<Disk>,
    ledger: PathBuf,
    dice: Dice,
}

impl Rig {
    fn prepare(options: &Options, dir: &Path) -> Result<Self, Box<dyn Error>> {
        let cluster = Cluster::prepare(&std::path::absolute(&options.binary)?, dir, &[1])?;
        let disks = Disk::create_three(dir, |at| cluster.data_dir(at), DISK_BYTES)?;
        let (ledger, dice) = (dir.join("ledger"), Dice::new(options.seed));
        Ok(Self { cluster, disks, ledger, dice })
    }

    /// Starts every node again, from now on under a command.
    async fn run_under(&mut self, control: &str) -> Result<(), Box<dyn Error>> {
        (0..3).try_for_each(|at| self.cluster.kill(at))?;
        self.cluster.run_under(control.to_owned());
        Ok(self.cluster.start_all().await?)
    }

    /// Runs a load over some cuts, then compares the cluster with everything acknowledged so far.
    async fn cut_and_verify(
        &mut self,
        options: &Options,
        counts: &mut Counts,
    ) -> Result<Verdict, Box<dyn Error>> {
        let load = Load::open(&self.ledger)?;
        let running = start(&load, options.clients, self.cluster.endpoints());
        for _ in 0..options.verify_every.min(options.cycles - counts.cycles) {
            load.wait_for_progress().await?;
            self.cut(options.whole).await?;
            load.wait_for_progress().await?;
            counts.cycles += 1;
        }
        load::finish(&load, running).await?;
        counts.acknowledged += load.acknowledged();
        counts.unknown += load.unknown();
        counts.verifications += 1;
        Ok(verify_alone(&ledger::read(&self.ledger)?, self.cluster.endpoints()).await?)
    }

    /// Cuts under the running processes: whatever they still acknowledge, they must hold.
    async fn cut(&mut self, whole: bool) -> Result<(), Box<dyn Error>> {
        let one = self.dice.roll(3) as usize;
        let victims: Vec<_> = (0..3).filter(|at| whole || *at == one).collect();
        for at in &victims {
            self.disks[*at].cut()?;
        }
        for at in &victims {
            self.cluster.end(*at)?;
        }
        for at in &victims {
            self.disks[*at].restore()?;
            self.cluster.start(*at)?;
        }
        for at in &victims {
            self.cluster.wait_until_serving(*at).await?;
        }
        Ok(())
    }
}
