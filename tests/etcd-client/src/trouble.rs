//! Troubles: what can befall a cluster, each with its end.
//!
//! ```text
//! begin: processes die or stand still, faults are injected, clients flood, certificates and data change
//! end:   started again, faults ended, the old certificates and data put back
//! ```
//!
//! Promise: after the end every node runs, with what it had before; of a damaged journal only where none of
//! it was collected meanwhile. Not here: which alerts and panels show a trouble; the tables of the binaries
//! say so.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::endpoints::connect;
use crate::node_process::{CLUSTER, Stopped};
use crate::stage::Stage;
use crate::traffic::{Amount, Traffic};

/// How long a certificate that expires soon is valid.
const SHORT_VALIDITY_DAYS: &str = "1";
/// Bytes that are found again in files, to be damaged.
const MARKED: &str = "a value that is damaged on one disk: ";
const MARK_BYTES: usize = 2_048;
/// What fills a map of some MiB within a minute.
const FILLING_CLIENTS: usize = 16;
const FILLING_VALUE_BYTES: usize = 8_000;
/// Between a kill and the start behind it.
const RESTART_PAUSE: Duration = Duration::from_secs(2);

/// What befalls a cluster. Nodes are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    Calm,
    /// Processes are dead.
    Killed(&'static [usize]),
    /// Processes stand still.
    Paused(&'static [usize]),
    /// A process dies so many times, and is started again each time.
    Restarted(usize, u32),
    /// A fault is in force on these nodes.
    Injected(&'static [usize], &'static str),
    /// A fault is injected into these nodes in turn, over and over, with such a pause.
    Again(&'static [usize], &'static str, Duration),
    /// Two processes run in turn, never both: what one sends, the other answers later.
    InTurn(usize, usize),
    /// A fault that only a restart ends is injected into these nodes.
    Broken(&'static [usize], &'static str),
    /// So many clients more, which pause for so long, of values of so many bytes.
    Flooded(usize, Duration, usize),
    /// The state's map is filled, on every node; it is over when the map may grow again.
    Filled,
    /// A node shows a certificate of another authority.
    WrongAuthority(usize),
    /// A node's certificate expires soon.
    ExpiringCertificate(usize),
    /// A running node's certificate file is none any more.
    SpoiledCertificate(usize),
    /// A node has lost its data.
    Wiped(usize),
    /// A byte of a node's journal is not what was written. Its end puts the byte back: on a stage whose
    /// journal is smaller than what is written meanwhile the record may be collected by then, and its
    /// group stays quarantined.
    Damaged(usize),
    /// Several at the same time.
    Together(&'static [Trouble]),
}

impl Trouble {
    /// Sets it off.
    ///
    /// # Errors
    /// It did not happen: what is seen afterwards shows nothing.
    pub async fn begin(self, stage: &mut Stage) -> Result<(), Box<dyn Error>> {
        match self {
            Self::Calm => {}
            Self::Killed(nodes) => {
                for at in nodes {
                    stage.cluster.kill(*at)?;
                }
            }
            Self::Paused(nodes) => {
                for at in nodes {
                    let id = stage.cluster.process_id(*at).ok_or("the node does not run")?;
                    stage.paused.push(Stopped::stop(id)?);
                }
            }
            Self::Restarted(at, times) => restart(stage, at, times).await?,
            Self::Injected(nodes, fault) | Self::Broken(nodes, fault) => {
                for at in nodes {
                    stage.inject(*at, fault).await?;
                }
            }
            Self::Again(nodes, fault, pause) => stage.inject_again(nodes, fault, pause),
            Self::InTurn(one, other) => {
                let id = |at| stage.cluster.process_id(at).ok_or("the node does not run");
                let (one, other) = (id(one)?, id(other)?);
                stage.take_turns(one, other);
            }
            Self::Flooded(clients, pause, value_bytes) => {
                flood(stage, clients, pause, value_bytes)?;
            }
            Self::Filled => flood(stage, FILLING_CLIENTS, Duration::ZERO, FILLING_VALUE_BYTES)?,
            Self::WrongAuthority(at) => stage.restart_with(at, |stage| foreign(stage, at))?,
            Self::ExpiringCertificate(at) => stage.restart_with(at, |stage| expiring(stage, at))?,
            Self::SpoiledCertificate(at) => {
                let [certificate, key] = keep_certificate(stage, at)?;
                fs::copy(beside(&key), key)?;
                fs::write(certificate, "not a certificate\n")?;
            }
            Self::Wiped(at) => {
                let data = stage.cluster.data_dir(at);
                stage.restart_with(at, |_| Ok(fs::rename(&data, beside(&data))?))?;
            }
            Self::Damaged(at) => damage(stage, at).await?,
            Self::Together(troubles) => {
                for trouble in troubles {
                    Box::pin(trouble.begin(stage)).await?;
                }
            }
        }
        Ok(())
    }

    /// Ends it, and waits until every node serves again.
    ///
    /// # Errors
    /// The cluster did not come back.
    pub async fn end(self, stage: &mut Stage) -> Result<(), Box<dyn Error>> {
        self.undo(stage).await?;
        for at in 0..3 {
            stage.cluster.wait_until_serving(at).await?;
        }
        Ok(())
    }

    async fn undo(self, stage: &mut Stage) -> Result<(), Box<dyn Error>> {
        match self {
            Self::Calm | Self::Restarted(..) => {}
            Self::Killed(nodes) => {
                for at in nodes {
                    stage.cluster.start(*at)?;
                }
            }
            Self::Paused(_) => stage.paused.clear(),
            Self::Injected(nodes, _) => {
                for at in nodes {
                    stage.end_faults(*at).await?;
                }
            }
            Self::Again(..) | Self::InTurn(..) => stage.stop_again().await,
            Self::Broken(nodes, _) => {
                for at in nodes {
                    stage.restart_with(*at, |_| Ok(()))?;
                }
            }
            Self::Flooded(..) => stage.flood = None,
            Self::Filled => {
                stage.flood = None;
                for at in 0..3 {
                    stage.restart_with(at, |stage| Ok(make_room(stage, at)?))?;
                }
            }
            Self::WrongAuthority(at) | Self::ExpiringCertificate(at) => {
                stage.restart_with(at, |stage| put_back_certificate(stage, at))?;
            }
            Self::SpoiledCertificate(at) => put_back_certificate(stage, at)?,
            Self::Damaged(at) => {
                stage.restart_with(at, |stage| set_marked(stage, at, b'~').map(drop))?;
            }
            Self::Wiped(at) => {
                let data = stage.cluster.data_dir(at);
                stage.restart_with(at, |_| {
                    fs::remove_dir_all(&data)?;
                    Ok(fs::rename(beside(&data), &data)?)
                })?;
            }
            Self::Together(troubles) => {
                for trouble in troubles.iter().rev() {
                    Box::pin(trouble.undo(stage)).await?;
                }
            }
        }
        Ok(())
    }
}

fn flood(
    stage: &mut Stage,
    clients: usize,
    pause: Duration,
    value_bytes: usize,
) -> Result<(), Box<dyn Error>> {
    let amount = Amount { clients, value_bytes, pause, ..stage.layout.traffic };
    stage.flood = Some(Traffic::start(stage.cluster.endpoints(), amount)?);
    Ok(())
}

/// Lets a node's state map grow further, from its next start on.
fn make_room(stage: &Stage, at: usize) -> std::io::Result<()> {
    let path = stage.dir.join(format!("node-{}.toml", at + 1));
    let text = fs::read_to_string(&path)?;
    let roomy = |line: &str| match line.starts_with("state_map_bytes") {
        true => "state_map_bytes = \"1GiB\"".to_owned(),
        false => line.to_owned(),
    };
    fs::write(path, text.lines().map(roomy).collect::<Vec<_>>().join("\n"))
}

async fn restart(stage: &mut Stage, at: usize, times: u32) -> Result<(), Box<dyn Error>> {
    for _ in 0..times {
        stage.cluster.kill(at)?;
        stage.cluster.start(at)?;
        stage.cluster.wait_until_serving(at).await?;
        tokio::time::sleep(RESTART_PAUSE).await;
    }
    Ok(())
}

/// Where something is kept until it is put back.
fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".kept");
    beside.into()
}

/// A node's certificate and its key.
fn certificate(stage: &Stage, at: usize) -> [PathBuf; 2] {
    ["pem", "key"].map(|end| stage.dir.join("certs").join(format!("node-{}.{end}", at + 1)))
}

fn keep_certificate(stage: &Stage, at: usize) -> Result<[PathBuf; 2], Box<dyn Error>> {
    let files = certificate(stage, at);
    for file in &files {
        fs::rename(file, beside(file))?;
    }
    Ok(files)
}

fn put_back_certificate(stage: &mut Stage, at: usize) -> Result<(), Box<dyn Error>> {
    for file in certificate(stage, at) {
        fs::rename(beside(&file), file)?;
    }
    Ok(())
}

/// Gives a node a certificate of its own name by another authority.
fn foreign(stage: &mut Stage, at: usize) -> Result<(), Box<dyn Error>> {
    let [certificate, key] = keep_certificate(stage, at)?;
    let other = tempfile::tempdir_in(&stage.dir)?;
    let node = (at + 1).to_string();
    let certs = |arguments: &[&str]| {
        run(Command::new(&stage.binary).arg("certs").args(arguments).arg("--dir").arg(other.path()))
    };
    certs(&["init", "--cluster", CLUSTER])?;
    certs(&["issue", "--node", &node])?;
    fs::copy(other.path().join(format!("node-{node}.pem")), certificate)?;
    fs::copy(other.path().join(format!("node-{node}.key")), key)?;
    Ok(())
}

/// Gives a node a certificate by its own authority that expires soon.
fn expiring(stage: &mut Stage, at: usize) -> Result<(), Box<dyn Error>> {
    let [certificate, key] = keep_certificate(stage, at)?;
    fs::copy(beside(&key), &key)?;
    let certs = stage.dir.join("certs");
    let (request, extensions) = (stage.dir.join("request.pem"), stage.dir.join("extensions"));
    let text = format!(
        "subjectAltName=URI:polyraft://{CLUSTER}/node/{}\nextendedKeyUsage=serverAuth,clientAuth\n\
         keyUsage=digitalSignature\nbasicConstraints=CA:FALSE\n",
        at + 1
    );
    fs::write(&extensions, text)?;
    let openssl = |arguments: &[&str], files: &[(&str, &Path)]| {
        let mut command = Command::new("openssl");
        command.args(arguments);
        for (option, file) in files {
            command.arg(option).arg(file);
        }
        run(&mut command)
    };
    openssl(&["req", "-new", "-subj", "/"], &[("-key", &key), ("-out", &request)])?;
    openssl(
        &["x509", "-req", "-days", SHORT_VALIDITY_DAYS],
        &[
            ("-in", &request),
            ("-CA", &certs.join("ca.pem")),
            ("-CAkey", &certs.join("ca.key")),
            ("-extfile", &extensions),
            ("-out", &certificate),
        ],
    )
}

fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{command:?} failed: {said}").into())
}

/// Attempts to have an entry in a node's journal while nobody writes to that.
const MARK_ATTEMPTS: usize = 5;

/// Damages an entry in a node's journal, which the node reads as it starts. On a stage whose journal is
/// small the entry may be collected before the node is down: then it takes another one.
async fn damage(stage: &mut Stage, at: usize) -> Result<(), Box<dyn Error>> {
    for _ in 0..MARK_ATTEMPTS {
        let mut client = connect(&stage.cluster.endpoints()[at]).await?;
        client.put("marked", format!("{MARKED}{}", "~".repeat(MARK_BYTES)), None).await?;
        // A start brings what is in the redo log to the journal.
        stage.restart_with(at, |_| Ok(()))?;
        stage.cluster.wait_until_serving(at).await?;
        let mut marks = 0;
        stage.restart_with(at, |stage| {
            marks = set_marked(stage, at, b'!')?;
            Ok(())
        })?;
        if marks > 0 {
            return Ok(());
        }
        stage.cluster.wait_until_serving(at).await?;
    }
    Err("the value is not in the journal's file".into())
}

/// Sets the byte behind each mark in a node's journal, while it does not run; how many there were.
fn set_marked(stage: &Stage, at: usize, byte: u8) -> Result<usize, Box<dyn Error>> {
    let file = stage.cluster.data_dir(at).join("log/data.mdb");
    let mut bytes = fs::read(&file)?;
    let marks = set_behind_marks(&mut bytes, byte);
    fs::write(&file, bytes)?;
    Ok(marks)
}

/// How many marks there were.
fn set_behind_marks(bytes: &mut [u8], byte: u8) -> usize {
    let (mark, mut found) = (MARKED.as_bytes(), 0);
    for at in 0..bytes.len().saturating_sub(mark.len()) {
        if bytes[at..].starts_with(mark) {
            bytes[at + mark.len()] = byte;
            found += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_copy_of_a_marked_value_is_damaged_and_mended() {
        let text = format!("head {MARKED}~~ between {MARKED}~ end");
        let mut bytes = text.clone().into_bytes();
        assert_eq!(set_behind_marks(&mut bytes, b'!'), 2);
        let differing = text.bytes().zip(&bytes).filter(|(before, after)| before != *after);
        assert_eq!(differing.count(), 2);
        assert_eq!(set_behind_marks(&mut bytes, b'~'), 2);
        assert_eq!(bytes, text.as_bytes());
        assert_eq!(set_behind_marks(&mut b"nothing".to_vec(), b'!'), 0);
    }
}
