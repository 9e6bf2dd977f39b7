//! Replaces every certificate of a cluster of three processes under load: the nodes' own, then the
//! authority, then revokes one; and proves that no request fails for it (TR-6).
//!
//! ```text
//! rotation --binary PATH/polyraft [--clients N] [--rounds R] [--dir DIR]
//! load ─put, get→ 3 nodes      certs rotate, add-authority, retire-authority, revoke ─files→ each node
//! ```
//!
//! Each request is sent once: what does not succeed at its first try is a failure. The nodes are never
//! told: they notice the files. The run fails unless: no request failed, from before the first step until
//! after the last; every link is on the new certificates after each step; a node that was left behind
//! on a certificate of the retired authority, and one whose certificate was revoked, is refused by both
//! others and counted under its reason, and is let in again with a new one.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Output};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use polyraft_etcd_client_tests::admin;
use polyraft_etcd_client_tests::arguments::Arguments;
use polyraft_etcd_client_tests::endpoints::connect;
use polyraft_etcd_client_tests::node_process::{Cluster, Settings};
use polyraft_etcd_client_tests::outcome::{self, wait};
use serde::Deserialize;
use tokio::task::JoinHandle;

/// How long a step may take until it is in force everywhere.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the load runs before the first step, between two, and after the last.
const BETWEEN: Duration = Duration::from_secs(3);
/// How often a node looks at its files here.
const LOOK_INTERVAL: &str = "500ms";
/// Between two requests of one client: the machine is shared, and overload is not the question.
const THINK: Duration = Duration::from_millis(5);
/// Failures that are told; the count says the rest.
const TOLD_MAX: usize = 10;

type Failed = Box<dyn Error>;

#[tokio::main]
async fn main() -> ExitCode {
    outcome::exit_code("rotation", run().await)
}

async fn run() -> Result<bool, Failed> {
    let known = ["binary", "clients", "rounds", "dir"];
    let arguments = Arguments::parse(std::env::args().skip(1), &known)?;
    let binary = std::path::absolute(arguments.require::<PathBuf>("binary")?)?;
    let scratch = tempfile::tempdir()?;
    let dir = std::path::absolute(arguments.get_or("dir", scratch.path().to_path_buf())?)?;
    let mut run = Rotation::prepare(binary, dir)?;
    run.cluster.start_all().await?;
    run.settled("the start").await?;
    let load = Load::start(run.cluster.endpoints(), arguments.get_or("clients", 6)?);
    tokio::time::sleep(BETWEEN).await;

    for round in 1..=arguments.get_or("rounds", 3_u32)? {
        println!("round {round}");
        run.rotate_leaves_in_turn(&load).await?;
        run.rotate_leaves_at_once(&load).await?;
        run.replace_authority(&load).await?;
        run.revoke_a_former_leaf(&load).await?;
    }
    run.half_a_pair(&load).await?;
    let is_good = load.finish().await;
    Ok(is_good & run.left_behind().await? & run.revoked().await?)
}

/// A cluster, its authority, and the nodes' copies of their files.
struct Rotation {
    binary: PathBuf,
    dir: PathBuf,
    cluster: Cluster,
}

/// What a node says of its certificates.
#[derive(Deserialize)]
struct Status {
    certificates: Certificates,
    peers: Vec<Peer>,
    refused: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Certificates {
    leaf: Certificate,
    authorities: Vec<Certificate>,
    reloads: u64,
    reloads_failed: u64,
    last_error: Option<String>,
}

#[derive(Deserialize)]
struct Certificate {
    serial: String,
    subject: String,
    issuer: String,
}

#[derive(Deserialize)]
struct Peer {
    node: u64,
    connected: bool,
    own_certificate_is_current: Option<bool>,
    certificate: Option<Certificate>,
}

impl Rotation {
    /// Nodes whose files are their own copies, which they look at often.
    fn prepare(binary: PathBuf, dir: PathBuf) -> Result<Self, Failed> {
        let settings = Settings { groups: &[1, 2, 3], profile: "lan", tables: "" };
        let cluster = Cluster::prepare_with(&binary, &dir, settings)?;
        let run = Self { binary, dir, cluster };
        for node in 1..=3 {
            let own = run.own_dir(node);
            std::fs::create_dir_all(&own)?;
            let path = run.dir.join(format!("node-{node}.toml"));
            let text = std::fs::read_to_string(&path)?;
            let shared = run.dir.join("certs");
            let text = text.replace(&*shared.to_string_lossy(), &own.to_string_lossy());
            let crl = own.join("crl.pem");
            let more = format!("[tls]\ncrl = {crl:?}\nreload_interval = {LOOK_INTERVAL:?}\n");
            std::fs::write(&path, text.replace("[tls]\n", &more))?;
            run.bring(node, &LEAF)?;
            run.bring(node, &TRUST)?;
        }
        Ok(run)
    }

    fn own_dir(&self, node: u64) -> PathBuf {
        self.dir.join(format!("certs-{node}"))
    }

    /// Copies files of the authority's directory to a node's own, each as a whole.
    fn bring(&self, node: u64, files: &[fn(u64) -> String]) -> Result<(), Failed> {
        for name in files.iter().map(|name| name(node)) {
            let new = self.own_dir(node).join("incoming");
            std::fs::copy(self.dir.join("certs").join(&name), &new)?;
            std::fs::rename(&new, self.own_dir(node).join(name))?;
        }
        Ok(())
    }

    /// `polyraft certs`, as a person would call it.
    fn certs(&self, action: &str, more: &[&str]) -> Result<Output, Failed> {
        let mut command = Command::new(&self.binary);
        let dir = self.dir.join("certs");
        Ok(command.args(["certs", action, "--dir"]).arg(dir).args(more).output()?)
    }

    fn certs_ok(&self, action: &str, more: &[&str]) -> Result<(), Failed> {
        let output = self.certs(action, more)?;
        let error = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(format!("{action}: {error}").into()) }
    }

    async fn status(&self, node: u64) -> Option<Status> {
        admin::status(self.cluster.admin(node as usize - 1)).await.ok()
    }

    /// Waits until every node has its files in force and every link shows both ends' certificates.
    async fn settled(&self, step: &str) -> Result<(), Failed> {
        let began = Instant::now();
        wait(step, PATIENCE, async || self.is_settled(&[1, 2, 3]).await).await?;
        println!("  {step}: in force everywhere after {:.1} s", began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Whether the links among `nodes` are up and on the certificates in the authority's directory.
    async fn is_settled(&self, nodes: &[u64]) -> bool {
        let mut all = BTreeMap::new();
        for node in nodes {
            let Some(status) = self.status(*node).await else { return false };
            all.insert(*node, status);
        }
        all.iter().all(|(node, status)| {
            let own = self.own_dir(*node);
            let file = |name: &str| std::fs::read(own.join(name)).unwrap_or_default();
            let shared =
                |name: &str| std::fs::read(self.dir.join("certs").join(name)).unwrap_or_default();
            let authorities = String::from_utf8_lossy(&file("ca.pem")).matches("BEGIN").count();
            let peers: Vec<_> =
                status.peers.iter().filter(|peer| nodes.contains(&peer.node)).collect();
            file("ca.pem") == shared("ca.pem")
                && status.certificates.last_error.is_none()
                && status.certificates.authorities.len() == authorities
                && peers.len() + 1 == nodes.len()
                && peers.iter().all(|peer| is_current(peer, &all[&peer.node]))
        })
    }

    /// Waits until each of `nodes` has reloaded once more than `before` says.
    async fn reloaded(&self, before: &BTreeMap<u64, u64>) -> Result<(), Failed> {
        wait("the nodes take the files up", PATIENCE, async || {
            for (node, count) in before {
                let now = self.status(*node).await.map_or(0, |status| status.certificates.reloads);
                if now <= *count {
                    return false;
                }
            }
            true
        })
        .await
    }

    async fn reloads(&self, nodes: &[u64]) -> BTreeMap<u64, u64> {
        let mut counts = BTreeMap::new();
        for node in nodes {
            let status = self.status(*node).await;
            counts.insert(*node, status.map_or(0, |status| status.certificates.reloads));
        }
        counts
    }

    /// Brings files to `nodes`, and waits until they are in force there.
    async fn roll_out(&self, nodes: &[u64], files: &[fn(u64) -> String]) -> Result<(), Failed> {
        let before = self.reloads(nodes).await;
        for node in nodes {
            self.bring(*node, files)?;
        }
        self.reloaded(&before).await
    }

    fn rotate(&self, node: u64) -> Result<(), Failed> {
        self.certs_ok("rotate", &["--node", &node.to_string()])
    }

    async fn rotate_leaves_in_turn(&self, load: &Load) -> Result<(), Failed> {
        for node in 1..=3 {
            self.rotate(node)?;
            self.roll_out(&[node], &LEAF).await?;
        }
        self.settled("each leaf in turn").await?;
        load.pause("each leaf in turn").await;
        Ok(())
    }

    async fn rotate_leaves_at_once(&self, load: &Load) -> Result<(), Failed> {
        (1..=3).try_for_each(|node| self.rotate(node))?;
        self.roll_out(&[1, 2, 3], &LEAF).await?;
        self.settled("all leaves at once").await?;
        load.pause("all leaves at once").await;
        Ok(())
    }

    async fn replace_authority(&self, load: &Load) -> Result<(), Failed> {
        self.certs_ok("add-authority", &[])?;
        self.roll_out(&[1, 2, 3], &TRUST).await?;
        self.settled("both authorities trusted").await?;
        self.rotate_leaves_at_once(load).await?;
        self.certs_ok("retire-authority", &[])?;
        self.roll_out(&[1, 2, 3], &TRUST).await?;
        self.settled("the old authority retired").await?;
        load.pause("the authority replaced").await;
        let mut issuers = Vec::new();
        for node in 1..=3 {
            let status = self.status(node).await.ok_or("a node has no status")?;
            let authority = status.certificates.authorities[0].subject.clone();
            issuers.extend(status.peers.into_iter().filter_map(|peer| peer.certificate));
            if issuers.iter().any(|leaf| leaf.issuer != authority) {
                return Err(format!("a link of node {node} is not {authority:?}'s").into());
            }
        }
        println!("  every link's certificates are the new authority's ({} ends)", issuers.len());
        Ok(())
    }

    /// Revokes what nobody shows any more: the lists change under load.
    async fn revoke_a_former_leaf(&self, load: &Load) -> Result<(), Failed> {
        let old = self.dir.join("former.pem");
        std::fs::copy(self.dir.join("certs/node-2.pem"), &old)?;
        self.rotate(2)?;
        self.roll_out(&[2], &LEAF).await?;
        self.settled("node 2 rotated").await?;
        self.certs_ok("revoke", &["--certificate", &old.to_string_lossy()])?;
        self.roll_out(&[1, 2, 3], &TRUST).await?;
        self.settled("the former leaf revoked").await?;
        load.pause("a revocation").await;
        Ok(())
    }

    /// Negative control: a certificate without its key is refused, by the file's name, and what was in
    /// force stays; with the key both come into force.
    async fn half_a_pair(&self, load: &Load) -> Result<(), Failed> {
        let before = self.status(1).await.ok_or("node 1 has no status")?.certificates;
        self.rotate(1)?;
        self.bring(1, &LEAF[1..])?;
        let mut told = None;
        wait("half a pair is refused", PATIENCE, async || {
            let Some(Status { certificates, .. }) = self.status(1).await else { return false };
            let is_refused = certificates.reloads_failed > before.reloads_failed
                && certificates.leaf.serial == before.leaf.serial;
            told = certificates.last_error.filter(|_| is_refused);
            told.is_some()
        })
        .await?;
        let told = told.unwrap_or_default();
        println!("half a pair: {told}");
        if !told.contains("node-1.key") {
            return Err("the refusal does not name the file".into());
        }
        self.roll_out(&[1], &LEAF[..1]).await?;
        self.settled("the pair made whole").await?;
        load.pause("half a pair").await;
        Ok(())
    }

    /// Negative control: node 3 keeps its certificate while the authority that signed it is retired.
    async fn left_behind(&self) -> Result<bool, Failed> {
        self.certs_ok("add-authority", &[])?;
        self.roll_out(&[1, 2, 3], &TRUST).await?;
        (1..=2).try_for_each(|node| self.rotate(node))?;
        self.roll_out(&[1, 2], &LEAF).await?;
        let refused = self.certs("retire-authority", &[])?;
        let says = String::from_utf8_lossy(&refused.stderr).trim().to_owned();
        println!("left behind: retiring is refused: {says}");
        let is_named = !refused.status.success() && says.contains("node-3.pem");
        std::fs::remove_file(self.dir.join("certs/node-3.pem"))?;
        std::fs::remove_file(self.dir.join("certs/node-3.key"))?;
        self.certs_ok("retire-authority", &[])?;
        self.roll_out(&[1, 2], &TRUST).await?;
        self.shut_out("untrusted_issuer").await?;
        self.certs_ok("issue", &["--node", "3"])?;
        let before = self.reloads(&[3]).await;
        self.bring(3, &TRUST)?;
        self.bring(3, &LEAF)?;
        self.reloaded(&before).await?;
        self.settled("node 3 let in again").await?;
        Ok(is_named)
    }

    /// Negative control: the certificate that node 3 shows is revoked.
    async fn revoked(&self) -> Result<bool, Failed> {
        self.certs_ok("revoke", &["--node", "3"])?;
        self.roll_out(&[1, 2], &TRUST).await?;
        self.shut_out("revoked").await?;
        self.rotate(3)?;
        let before = self.reloads(&[3]).await;
        self.bring(3, &LEAF)?;
        self.reloaded(&before).await?;
        self.settled("node 3 let in again").await?;
        Ok(true)
    }

    /// Waits until both others refuse node 3 for `reason`, go on refusing it, and keep their own link.
    async fn shut_out(&self, reason: &str) -> Result<(), Failed> {
        let mut counts = Vec::new();
        for node in [1, 2] {
            let mut last = 0;
            wait("node 3 is refused", PATIENCE, async || {
                let Some(status) = self.status(node).await else { return false };
                last = status.refused.get(reason).copied().unwrap_or(0);
                last > 1 && status.peers.iter().all(|peer| peer.connected == (peer.node != 3))
            })
            .await?;
            counts.push(last);
        }
        println!("node 3 is shut out: {reason} counted {counts:?} times by nodes 1 and 2");
        Ok(())
    }
}

/// A node's own files, and what it trusts.
const LEAF: [fn(u64) -> String; 2] =
    [|node| format!("node-{node}.key"), |node| format!("node-{node}.pem")];
const TRUST: [fn(u64) -> String; 2] = [|_| "ca.pem".to_owned(), |_| "crl.pem".to_owned()];

/// Whether a link shows what both ends have in force.
fn is_current(peer: &Peer, other: &Status) -> bool {
    let shown = peer.certificate.as_ref().map(|certificate| &certificate.serial);
    peer.connected
        && peer.own_certificate_is_current == Some(true)
        && shown == Some(&other.certificates.leaf.serial)
}

/// Clients that send one request after another, each once.
struct Load {
    tally: Arc<Tally>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Tally {
    stopped: AtomicBool,
    succeeded: AtomicU64,
    failed: AtomicU64,
    slowest_us: AtomicU64,
    told: Mutex<Vec<String>>,
}

impl Load {
    fn start(endpoints: &[String], clients: usize) -> Self {
        let tally = Arc::new(Tally::default());
        let client = |number: usize| {
            let endpoint = endpoints[number % endpoints.len()].clone();
            tokio::spawn(tally.clone().client(endpoint, number))
        };
        let clients = (0..clients).map(client).collect();
        Self { tally, clients }
    }

    /// Lets it run for a while, and says how it is doing.
    async fn pause(&self, after: &str) {
        tokio::time::sleep(BETWEEN).await;
        let Tally { succeeded, failed, .. } = &*self.tally;
        let (good, bad) = (succeeded.load(Relaxed), failed.load(Relaxed));
        println!("  after {after}: {good} requests succeeded, {bad} failed");
    }

    /// Ends it; whether no request failed.
    async fn finish(self) -> bool {
        self.tally.stopped.store(true, Relaxed);
        for client in self.clients {
            client.await.expect("a client never panics");
        }
        for told in self.tally.told.lock().expect("nobody panicked").iter() {
            println!("  failed: {told}");
        }
        let (good, bad) = (self.tally.succeeded.load(Relaxed), self.tally.failed.load(Relaxed));
        let slowest = Duration::from_micros(self.tally.slowest_us.load(Relaxed));
        println!("requests: {good} succeeded at the first try, {bad} failed; slowest {slowest:?}");
        good > 0 && bad == 0
    }
}

impl Tally {
    async fn client(self: Arc<Self>, endpoint: String, number: usize) {
        let mut client = match connect(&endpoint).await {
            Ok(client) => client,
            Err(error) => return self.fail(&endpoint, &error.to_string()),
        };
        for sequence in 0_u64.. {
            if self.stopped.load(Relaxed) {
                return;
            }
            let key = format!("rotation/{number}/{}", sequence % 100);
            let began = Instant::now();
            let outcome = if sequence % 4 == 3 {
                client.get(key, None).await.map(drop)
            } else {
                client.put(key, sequence.to_string(), None).await.map(drop)
            };
            match outcome {
                Ok(()) => {
                    let took = began.elapsed().as_micros() as u64;
                    self.slowest_us.fetch_max(took, Relaxed);
                    self.succeeded.fetch_add(1, Relaxed);
                }
                Err(error) => self.fail(&endpoint, &error.to_string()),
            }
            tokio::time::sleep(THINK).await;
        }
    }

    fn fail(&self, endpoint: &str, error: &str) {
        self.failed.fetch_add(1, Relaxed);
        let mut told = self.told.lock().expect("nobody panicked");
        if told.len() < TOLD_MAX {
            told.push(format!("{endpoint}: {error}"));
        }
    }
}
