//! Points the ledger, the kills and the power cuts at systems whose answer is known: etcd, which syncs
//! what it acknowledges, and NATS JetStream as it is shipped, which does not. A judge that finds no loss
//! in the second is blind; one that finds some in the first sees ghosts.
//!
//! ```text
//! calibrate --system etcd|nats [--cycles N] [--seed S] [--clients K] [--binary FILE] [--dir DIR]
//! three processes, a disk each → load → fault → serving again, progress → verify → next fault
//! ```
//!
//! Faults in turn: the power of all disks, kill -9 of one process, of all, the power of one disk. The run
//! succeeds if etcd shows no violation at all, or if NATS loses acknowledged messages when all disks lose
//! power. NATS may also not serve again after a fault; that ends its run, and is told.
//! Three replicas and default settings everywhere. Needs root, loop devices and `mkfs.ext4`.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use polyraft_etcd_client_tests::arguments::{ArgumentError, Arguments};
use polyraft_etcd_client_tests::dice::Dice;
use polyraft_etcd_client_tests::disk::{DISK_BYTES, Disk};
use polyraft_etcd_client_tests::etcd_process::EtcdCluster;
use polyraft_etcd_client_tests::ledger;
use polyraft_etcd_client_tests::load::{self, Load};
use polyraft_etcd_client_tests::member::Member;
use polyraft_etcd_client_tests::nats_process::{NatsCluster, Publisher};
use polyraft_etcd_client_tests::node_process::wait_until_serving;
use polyraft_etcd_client_tests::outcome;
use polyraft_etcd_client_tests::verify::{Verdict, Violation, judge, verify};

/// Puts acknowledged before each fault, at least.
const PUTS_BEFORE: u64 = 200;

#[tokio::main]
async fn main() -> ExitCode {
    outcome::exit_code("calibrate", run().await)
}

/// What is done in one cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KillOne,
    KillAll,
    CutOne,
    CutAll,
}

impl Fault {
    const ALL: [Self; 4] = [Self::CutAll, Self::KillOne, Self::KillAll, Self::CutOne];

    fn describe(self) -> &'static str {
        match self {
            Self::KillOne => "kill -9 of one process",
            Self::KillAll => "kill -9 of all processes",
            Self::CutOne => "power cut of one disk",
            Self::CutAll => "power cut of all disks",
        }
    }

    fn is_cut(self) -> bool {
        matches!(self, Self::CutOne | Self::CutAll)
    }

    fn is_whole(self) -> bool {
        matches!(self, Self::KillAll | Self::CutAll)
    }
}

/// What one kind of fault did.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    cycles: u64,
    acknowledged: u64,
    unknown: u64,
    lost: usize,
    others: usize,
}

/// Whether the system did what is known of it.
async fn run() -> Result<bool, Box<dyn Error>> {
    let known = ["system", "binary", "cycles", "seed", "clients", "dir"];
    let arguments = Arguments::parse(std::env::args().skip(1), &known)?;
    if !rustix::process::geteuid().is_root() {
        return Err("needs root: it mounts file systems of its own".into());
    }
    let (cycles, seed) = (arguments.get_or("cycles", 20_u64)?, arguments.get_or("seed", 1)?);
    let clients = arguments.get_or("clients", 16)?;
    let scratch = tempfile::tempdir()?;
    let dir = std::path::absolute(arguments.get_or("dir", scratch.path().to_path_buf())?)?;
    std::fs::create_dir_all(&dir)?;
    let mut rig = Rig::prepare(&arguments, &dir)?;
    rig.start().await?;
    let (mut tallies, mut dice, began) = ([Tally::default(); 4], Dice::new(seed), Instant::now());
    for cycle in 0..cycles {
        let kind = (cycle % 4) as usize;
        let fault = Fault::ALL[kind];
        let struck = rig.cycle(fault, clients, &mut dice, &mut tallies[kind]).await;
        match (struck, &rig.system) {
            (Err(error), System::Nats(_)) if tallies[0].lost > 0 => {
                let error = error.to_string();
                let what = error.lines().next().unwrap_or_default();
                println!("{}: not serving again: {what}", fault.describe());
                break;
            }
            (struck, _) => struck?,
        }
    }
    for (fault, tally) in Fault::ALL.iter().zip(&tallies) {
        println!(
            "{:26} {:4} cycles, {:7} acknowledged, {:5} unknown, {:6} lost, {:4} other violations",
            fault.describe(),
            tally.cycles,
            tally.acknowledged,
            tally.unknown,
            tally.lost,
            tally.others
        );
    }
    let is_clean = tallies.iter().all(|tally| (tally.lost, tally.others) == (0, 0));
    let [cut_all, ..] = tallies;
    let (what, is_as_known) = match rig.system {
        System::Etcd(_) => ("etcd, which must be clean", is_clean && cut_all.cycles > 0),
        System::Nats(_) => ("NATS, which must lose when all disks lose power", cut_all.lost > 0),
    };
    println!(
        "calibrate: {what}: {}; seed {seed}, {cycles} cycles, {:.0} s",
        if is_as_known { "as known" } else { "NOT as known" },
        began.elapsed().as_secs_f64()
    );
    Ok(is_as_known)
}

/// What is judged.
enum System {
    Etcd(EtcdCluster),
    Nats(NatsCluster),
}

impl System {
    fn prepare(arguments: &Arguments, dir: &Path) -> Result<Self, Box<dyn Error>> {
        let name: String = arguments.require("system")?;
        let binary = |name: &str| -> Result<PathBuf, ArgumentError> {
            arguments.get_or("binary", PathBuf::from(name))
        };
        match name.as_str() {
            "etcd" => Ok(Self::Etcd(EtcdCluster::prepare(&binary("etcd")?, dir)?)),
            "nats" => Ok(Self::Nats(NatsCluster::prepare(&binary("nats-server")?, dir)?)),
            _ => Err(ArgumentError::Malformed { name: "system", value: name }.into()),
        }
    }

    fn member(&mut self, at: usize) -> &mut Member {
        match self {
            Self::Etcd(etcd) => &mut etcd.members[at],
            Self::Nats(nats) => &mut nats.members[at],
        }
    }

    fn data_dir(&self, at: usize) -> &Path {
        match self {
            Self::Etcd(etcd) => etcd.data_dir(at),
            Self::Nats(nats) => nats.data_dir(at),
        }
    }

    /// Waits until every process serves, with all that it has to catch up.
    async fn wait_until_serving(&mut self) -> Result<(), Box<dyn Error>> {
        let served: Result<(), Box<dyn Error>> = match self {
            Self::Etcd(etcd) => {
                let mut served = Ok(());
                for endpoint in etcd.endpoints() {
                    served = served.and(wait_until_serving(endpoint).await);
                }
                served.map_err(Into::into)
            }
            Self::Nats(nats) => nats.wait_until_led().await.map_err(Into::into),
        };
        served.map_err(|error| {
            let outputs = (0..3).map(|at| self.member(at).output());
            format!("{error}\n{}", outputs.collect::<Vec<_>>().join("\n---\n")).into()
        })
    }

    fn start_load(&self, load: &Arc<Load>, clients: usize) -> Running {
        match self {
            Self::Etcd(etcd) => load::start(load, clients, etcd.endpoints()),
            Self::Nats(nats) => {
                let target = |number| Publisher::new(nats.addresses(), number);
                load::start_on(load, clients, target)
            }
        }
    }

    async fn verify(&self, ledger: &Path) -> Result<Verdict, Box<dyn Error>> {
        let puts = ledger::read(ledger)?;
        match self {
            Self::Etcd(etcd) => Ok(verify(&puts, etcd.endpoints()).await?),
            Self::Nats(nats) => {
                let (revision, held) = nats.read_all().await?;
                Ok(Verdict { revision, ..judge(&puts, &held) })
            }
        }
    }
}

type Running = Vec<tokio::task::JoinHandle<Result<(), ledger::LedgerError>>>;

/// A system on three disks.
struct Rig {
    // Processes end before their disks are unmounted.
    system: System,
    disks: Vec<Disk>,
    ledger: PathBuf,
    /// Violations that an earlier cycle has been charged with.
    known: BTreeSet<String>,
}

impl Rig {
    fn prepare(arguments: &Arguments, dir: &Path) -> Result<Self, Box<dyn Error>> {
        let system = System::prepare(arguments, dir)?;
        let disks = Disk::create_three(dir, |at| system.data_dir(at).to_owned(), DISK_BYTES)?;
        Ok(Self { system, disks, ledger: dir.join("ledger"), known: BTreeSet::new() })
    }

    /// Starts the system, and makes durable what it was set up with: the judge is after messages.
    async fn start(&mut self) -> Result<(), Box<dyn Error>> {
        (0..3).try_for_each(|at| self.system.member(at).start())?;
        if let System::Nats(nats) = &self.system {
            nats.create_stream().await?;
        }
        self.system.wait_until_serving().await?;
        Ok(self.disks.iter().try_for_each(Disk::sync)?)
    }

    /// A load with one fault in it, and a verification.
    async fn cycle(
        &mut self,
        fault: Fault,
        clients: usize,
        dice: &mut Dice,
        tally: &mut Tally,
    ) -> Result<(), Box<dyn Error>> {
        let load = Load::open(&self.ledger)?;
        let running = self.system.start_load(&load, clients);
        while load.acknowledged() < PUTS_BEFORE {
            load.wait_for_progress().await?;
        }
        self.strike(fault, dice)?;
        self.system.wait_until_serving().await?;
        load.wait_for_progress().await?;
        load::finish(&load, running).await?;
        let verdict = self.system.verify(&self.ledger).await?;
        let new = |violation: &&Violation| self.known.insert(violation.to_string());
        let new: Vec<_> = verdict.violations.iter().filter(new).collect();
        let lost = new.iter().filter(|new| matches!(new, Violation::Lost(_))).count();
        println!(
            "{}: {} acknowledged, {lost} of all so far newly lost, {} other violations",
            fault.describe(),
            load.acknowledged(),
            new.len() - lost
        );
        tally.cycles += 1;
        tally.acknowledged += load.acknowledged();
        tally.unknown += load.unknown();
        tally.lost += lost;
        tally.others += new.len() - lost;
        Ok(())
    }

    fn strike(&mut self, fault: Fault, dice: &mut Dice) -> Result<(), Box<dyn Error>> {
        let one = dice.roll(3) as usize;
        let victims: Vec<_> = (0..3).filter(|at| fault.is_whole() || *at == one).collect();
        for at in victims.iter().filter(|_| fault.is_cut()) {
            self.disks[*at].cut()?;
        }
        for at in &victims {
            self.system.member(*at).end()?;
        }
        for at in &victims {
            if fault.is_cut() {
                self.disks[*at].restore()?;
            }
            self.system.member(*at).start()?;
        }
        Ok(())
    }
}
