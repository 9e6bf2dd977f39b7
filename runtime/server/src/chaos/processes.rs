//! A cluster of `polyraft node` processes on this machine, to be killed, paused and started again.
//!
//! ```text
//! dir/ certs/  node-1.toml data-1/ node-1.log  node-2.toml …  token
//! ```
//!
//! Promise: everything listens on loopback alone; no process outlives this value.
//! Not here: when to do what ([`super::injector`]).

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use polyraft::NodeId;
use polyraft::certificates::{CertificateAuthority, CertificateError, Validity};
use rand::Rng;
use rustix::process::{Pid, Signal, kill_process};

use super::nodes::NodeAddresses;
use super::scenario::ClusterShape;
use crate::etcd::DEFAULT_KEYSPACE;

const CLUSTER: &str = "chaos";
/// Below the range that systems take the near ends of connections from: a port that its node left by
/// dying must still be free when it comes back.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const PORT_ATTEMPTS: u32 = 1_000;
const SIGKILL: i32 = 9;

/// What went wrong around the processes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// A file, a port or a process could not be had.
    #[error("node {node}: {doing}")]
    Io {
        /// The node, or 0 for the cluster.
        node: u64,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Certificates could not be made.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// The process had ended by itself.
    #[error("node {node} had ended by itself, {status}; see {log}")]
    Ended {
        /// The node.
        node: u64,
        /// How.
        status: std::process::ExitStatus,
        /// Its output.
        log: PathBuf,
    },
}

fn failed(node: u64, doing: &'static str) -> impl Fn(io::Error) -> ProcessError {
    move |source| ProcessError::Io { node, doing, source }
}

/// The processes, their configurations and their data.
#[derive(Debug)]
pub struct Processes {
    binary: PathBuf,
    token_file: Option<PathBuf>,
    nodes: Vec<Process>,
    /// Removed when the processes have ended.
    _dir: tempfile::TempDir,
}

#[derive(Debug)]
struct Process {
    addresses: NodeAddresses,
    config: PathBuf,
    data: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Processes {
    /// Makes certificates and configurations; starts nothing. Nodes write their output to `logs`, if
    /// given, and take faults from whoever shows `token`, if given.
    ///
    /// # Errors
    /// A file or a port cannot be had.
    pub fn prepare(
        shape: &ClusterShape,
        logs: Option<&Path>,
        token: Option<&str>,
    ) -> Result<Self, ProcessError> {
        let here = failed(0, "making a directory for the cluster");
        let dir = tempfile::Builder::new().prefix("polyraft-chaos-").tempdir().map_err(&here)?;
        let binary = std::env::current_exe().map_err(failed(0, "finding this program"))?;
        let certs = dir.path().join("certs");
        let authority = CertificateAuthority::create(CLUSTER, Validity::default())?;
        authority.save(&certs)?;
        let token_file = token.map(|_| dir.path().join("token"));
        if let (Some(file), Some(token)) = (&token_file, token) {
            write_secret(file, token).map_err(failed(0, "writing the token"))?;
        }
        let addresses = free_addresses(shape.nodes)?;
        let mut nodes = Vec::new();
        for own in &addresses {
            let node = own.node;
            authority.issue(NodeId::new(node))?.save(&certs)?;
            let (config, data) =
                (dir.path().join(format!("node-{node}.toml")), data_dir(&dir, node));
            let text = configuration(dir.path(), own, &addresses, shape);
            std::fs::write(&config, text).map_err(failed(node, "writing its configuration"))?;
            let log = logs.unwrap_or(dir.path()).join(format!("node-{node}.log"));
            let addresses = own.public;
            nodes.push(Process { addresses, config, data, log, child: None });
        }
        Ok(Self { binary, token_file, nodes, _dir: dir })
    }

    /// Where the nodes serve.
    pub fn addresses(&self) -> Vec<NodeAddresses> {
        self.nodes.iter().map(|process| process.addresses).collect()
    }

    /// Starts `node`, unless it runs; returns its process id.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(&mut self, node: u64) -> Result<u32, ProcessError> {
        let (binary, token_file) = (self.binary.clone(), self.token_file.clone());
        let process = self.process(node);
        if let Some(child) = &process.child {
            return Ok(child.id());
        }
        let output = File::options()
            .create(true)
            .append(true)
            .open(&process.log)
            .map_err(failed(node, "opening its log"))?;
        let errors = output.try_clone().map_err(failed(node, "opening its log"))?;
        let mut command = Command::new(binary);
        command.args(["node", "--config"]).arg(&process.config);
        if let Some(file) = token_file {
            command.args(["--chaos", "--chaos-token-file"]).arg(file);
        }
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().map_err(failed(node, "starting it"))?;
        let id = child.id();
        process.child = Some(child);
        Ok(id)
    }

    /// Kills `node` with SIGKILL; returns the id of the process that died of it.
    ///
    /// # Errors
    /// It did not run, or had ended otherwise: nothing was proven.
    pub fn kill(&mut self, node: u64) -> Result<u32, ProcessError> {
        let process = self.process(node);
        let gone = || failed(node, "killing it")(io::ErrorKind::NotFound.into());
        let mut child = process.child.take().ok_or_else(gone)?;
        child.kill().map_err(failed(node, "killing it"))?;
        let status = child.wait().map_err(failed(node, "waiting for its end"))?;
        if status.signal() == Some(SIGKILL) {
            Ok(child.id())
        } else {
            Err(ProcessError::Ended { node, status, log: process.log.clone() })
        }
    }

    /// Stops the process with SIGSTOP; returns its id.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&mut self, node: u64) -> Result<u32, ProcessError> {
        self.signal(node, Signal::STOP)
    }

    /// Lets a stopped process go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&mut self, node: u64) -> Result<u32, ProcessError> {
        self.signal(node, Signal::CONT)
    }

    fn signal(&mut self, node: u64, signal: Signal) -> Result<u32, ProcessError> {
        let child = self.process(node).child.as_ref();
        let child: io::Result<_> = child.ok_or(io::ErrorKind::NotFound.into());
        let sent = child.and_then(|child| {
            kill_process(Pid::from_child(child), signal)?;
            Ok(child.id())
        });
        sent.map_err(failed(node, "signalling it"))
    }

    /// Removes the data of `node`, which must not run.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn wipe(&mut self, node: u64) -> Result<(), ProcessError> {
        let process = self.process(node);
        assert!(process.child.is_none(), "node {node} runs on the data that is to be removed");
        std::fs::remove_dir_all(&process.data).map_err(failed(node, "removing its data"))
    }

    /// Why `node` is not running, if it should be and has ended by itself.
    ///
    /// # Errors
    /// It has ended, or cannot be asked after.
    pub fn check_alive(&mut self, node: u64) -> Result<(), ProcessError> {
        let process = self.process(node);
        let Some(child) = &mut process.child else { return Ok(()) };
        match child.try_wait().map_err(failed(node, "asking after it"))? {
            None => Ok(()),
            Some(status) => Err(ProcessError::Ended { node, status, log: process.log.clone() }),
        }
    }

    fn process(&mut self, node: u64) -> &mut Process {
        let at = self.nodes.iter().position(|process| process.addresses.node == node);
        &mut self.nodes[at.expect("scenarios name nodes of the cluster only")]
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|process| process.child.as_mut()) {
            // It may have ended already; there is nobody left to tell.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The state letter of a process, as in `/proc`: `T` is stopped.
pub fn process_state(id: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    stat.rsplit_once(") ")?.1.chars().next()
}

fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = File::options().create_new(true).write(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

fn data_dir(dir: &tempfile::TempDir, node: u64) -> PathBuf {
    dir.path().join(format!("data-{node}"))
}

/// What a node listens on.
struct OwnAddresses {
    node: u64,
    public: NodeAddresses,
    quic: SocketAddr,
}

fn free_addresses(nodes: u64) -> Result<Vec<OwnAddresses>, ProcessError> {
    let mut taken = Vec::new();
    let mut free = |node, is_udp| -> Result<SocketAddr, ProcessError> {
        let address = free_port(is_udp, &taken).map_err(failed(node, "finding a free port"))?;
        taken.push(address.port());
        Ok(address)
    };
    (1..=nodes)
        .map(|node| {
            let (client, admin, quic) = (free(node, false)?, free(node, false)?, free(node, true)?);
            Ok(OwnAddresses { node, public: NodeAddresses { node, client, admin }, quic })
        })
        .collect()
}

fn free_port(is_udp: bool, taken: &[u16]) -> io::Result<SocketAddr> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..PORT_ATTEMPTS {
        let port = rand::rng().random_range(PORTS);
        if taken.contains(&port) {
            continue;
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let bound = if is_udp {
            UdpSocket::bind(address).map(drop)
        } else {
            TcpListener::bind(address).map(drop)
        };
        match bound {
            Ok(()) => return Ok(address),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// `default`, `ks-01`, `ks-02`, …
fn keyspace_name(number: usize) -> String {
    if number == 0 { DEFAULT_KEYSPACE.to_owned() } else { format!("ks-{number:02}") }
}

/// One node's configuration file.
fn configuration(
    dir: &Path,
    own: &OwnAddresses,
    all: &[OwnAddresses],
    shape: &ClusterShape,
) -> String {
    let certs = dir.join("certs");
    let quoted = |path: PathBuf| format!("{:?}", path.to_string_lossy());
    let nodes =
        all.iter().map(|one| format!("{{ id = {}, address = \"{}\" }}", one.node, one.quic));
    let groups = (0..shape.keyspaces).map(|number| {
        format!("[[cluster.groups]]\nid = {}\nname = {:?}\n", number + 1, keyspace_name(number))
    });
    format!(
        "node_id = {node}\ndata_dir = {data}\nlisten = \"{quic}\"\n\
         [tls]\nca = {ca}\ncert = {cert}\nkey = {key}\n\
         [cluster]\nname = {CLUSTER:?}\nprofile = \"lan\"\nnodes = [{nodes}]\n\
         [cluster.timing]\nheartbeat_interval = \"{heartbeat}\"\nelection_timeout = \"{election}\"\n\
         {groups}\
         [server]\nclient_listen = \"{client}\"\nadmin_listen = \"{admin}\"\n",
        node = own.node,
        data = quoted(dir.join(format!("data-{}", own.node))),
        quic = own.quic,
        ca = quoted(certs.join("ca.pem")),
        cert = quoted(certs.join(format!("node-{}.pem", own.node))),
        key = quoted(certs.join(format!("node-{}.key", own.node))),
        nodes = nodes.collect::<Vec<_>>().join(", "),
        heartbeat = humantime::format_duration(shape.heartbeat),
        election = humantime::format_duration(shape.election_timeout),
        groups = groups.collect::<String>(),
        client = own.public.client,
        admin = own.public.admin,
    )
}

#[cfg(test)]
mod tests {
    use polyraft::NodeConfig;

    use super::*;

    /// Goal: nodes can read what is written for them. Method: the product's own parser.
    #[test]
    fn configurations_are_the_products() {
        let shape = ClusterShape { nodes: 5, keyspaces: 3, ..ClusterShape::default() };
        let processes = Processes::prepare(&shape, None, Some("secret")).unwrap();
        for process in &processes.nodes {
            let config = NodeConfig::from_toml_file(&process.config).unwrap();
            assert_eq!(config.node_id().get(), process.addresses.node);
            let names: Vec<_> = config.cluster().groups().iter().map(|g| g.name()).collect();
            assert_eq!(names, ["default", "ks-01", "ks-02"]);
        }
        let ports: std::collections::BTreeSet<_> =
            processes.addresses().iter().flat_map(|a| [a.client.port(), a.admin.port()]).collect();
        assert_eq!(ports.len(), 10);
        let token = processes.token_file.as_ref().unwrap();
        assert_eq!(std::fs::read_to_string(token).unwrap(), "secret");
    }

    #[test]
    fn this_process_is_not_stopped() {
        let state = process_state(std::process::id()).unwrap();
        assert!("RSD".contains(state), "{state}");
        assert_eq!(process_state(u32::MAX), None);
    }
}
