//! A cluster of three `polyraft node` processes on this machine, to be killed.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::endpoints::connect;
use crate::keyspaces;
use crate::ports::{free_tcp_port, free_udp_port};

/// How long a node may take to serve a linearizable read after it was started.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two reads while waiting for one to be answered.
const READ_PAUSE: Duration = Duration::from_millis(50);
/// The name that the cluster goes by.
pub const CLUSTER: &str = "demo";
const SIGKILL: i32 = 9;

/// What went wrong around the processes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// A file, a port or a process could not be had.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// `polyraft certs` failed.
    #[error("{command} failed")]
    Certificates {
        /// The command.
        command: String,
    },
    /// The node ended by itself.
    #[error("node {node} ended by itself, {status}; its output:\n{output}")]
    Ended {
        /// The node.
        node: usize,
        /// How.
        status: ExitStatus,
        /// The end of its output.
        output: String,
    },
    /// The node never served a read.
    #[error(
        "node {node} served no linearizable read within {START_TIMEOUT:?}: {last}; its output:\n{output}"
    )]
    NotServing {
        /// The node.
        node: usize,
        /// The last attempt's error.
        last: String,
        /// The end of its output.
        output: String,
    },
    /// The kill did not happen: the cycle proves nothing.
    #[error("node {node} did not die of SIGKILL: {status}")]
    NotKilled {
        /// The node.
        node: usize,
        /// How it ended instead.
        status: ExitStatus,
    },
}

/// Adds what was being done.
pub(crate) fn io(doing: &'static str) -> impl Fn(std::io::Error) -> ProcessError {
    move |source| ProcessError::Io { doing, source }
}

/// What checks configure differently.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// The ids of the keyspaces, in the order of their names ([`crate::keyspaces::name`]).
    pub groups: &'a [u64],
    /// The profile of timings, by its name.
    pub profile: &'a str,
    /// Further tables of the configuration, as TOML.
    pub tables: &'a str,
}

/// Three nodes, their certificates, configurations and data in one directory.
pub struct Cluster {
    binary: PathBuf,
    wrapper: Option<String>,
    dir: PathBuf,
    endpoints: Vec<String>,
    admins: Vec<String>,
    environment: Vec<(String, PathBuf)>,
    chaos_token: Option<PathBuf>,
    children: Vec<Option<Child>>,
}

impl Cluster {
    /// Makes certificates and configurations for three nodes in `dir`; starts nothing. `groups` are
    /// the ids of the keyspaces, in the order of their names ([`crate::keyspaces::name`]).
    ///
    /// # Errors
    /// A port, a file or `polyraft certs` failed.
    pub fn prepare(binary: &Path, dir: &Path, groups: &[u64]) -> Result<Self, ProcessError> {
        Self::prepare_with(binary, dir, Settings { groups, profile: "lan", tables: "" })
    }

    /// As [`Cluster::prepare`], configured otherwise.
    ///
    /// # Errors
    /// As for [`Cluster::prepare`].
    pub fn prepare_with(
        binary: &Path,
        dir: &Path,
        settings: Settings<'_>,
    ) -> Result<Self, ProcessError> {
        let certs = dir.join("certs");
        run(binary, &["certs", "init", "--cluster", CLUSTER, "--dir"], &certs, &[])?;
        let peers = (0..3).map(|_| free_udp_port()).collect::<Result<Vec<_>, _>>()?;
        let (mut endpoints, mut admins) = (Vec::new(), Vec::new());
        for node in 1..=3 {
            let id = node.to_string();
            run(binary, &["certs", "issue", "--dir"], &certs, &["--node", &id])?;
            let (client, admin) = (free_tcp_port()?, free_tcp_port()?);
            let text = configuration(dir, node, &peers, (client, admin), settings);
            std::fs::write(dir.join(format!("node-{node}.toml")), text)
                .map_err(io("writing a configuration"))?;
            endpoints.push(format!("http://127.0.0.1:{client}"));
            admins.push(format!("127.0.0.1:{admin}"));
        }
        let (binary, dir, children) = (binary.into(), dir.into(), [None, None, None].into());
        let (wrapper, environment, chaos_token) = (None, Vec::new(), None);
        Ok(Self { binary, wrapper, dir, endpoints, admins, environment, chaos_token, children })
    }

    /// From now on nodes are started so that whoever shows `token` can inject faults into them.
    ///
    /// # Errors
    /// The token's file cannot be written.
    pub fn enable_chaos(&mut self, token: &str) -> Result<(), ProcessError> {
        let path = self.dir.join("chaos-token");
        write_secret(&path, token)?;
        self.chaos_token = Some(path);
        Ok(())
    }

    /// From now on nodes are started as arguments of `command`, which must become what it runs.
    pub fn run_under(&mut self, command: String) {
        self.wrapper = Some(command);
    }

    /// From now on each node is started with `name` set to its own path in `dir`: its number.
    pub fn give_each_a_path(&mut self, name: &str, dir: &Path) {
        self.environment.push((name.to_owned(), dir.to_owned()));
    }

    /// Where node `at`, counted from 0, keeps its data.
    pub fn data_dir(&self, at: usize) -> PathBuf {
        data_dir(&self.dir, at + 1)
    }

    /// Where node `at`'s admin interface is: `host:port`.
    pub fn admin(&self, at: usize) -> &str {
        &self.admins[at]
    }

    /// Starts every node and waits until each serves.
    ///
    /// # Errors
    /// One does not start or serve.
    pub async fn start_all(&mut self) -> Result<(), ProcessError> {
        for at in 0..3 {
            self.start(at)?;
        }
        for at in 0..3 {
            self.wait_until_serving(at).await?;
        }
        Ok(())
    }

    /// Where clients reach the nodes.
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// The ids of the processes that run.
    pub fn process_ids(&self) -> Vec<u32> {
        self.children.iter().flatten().map(Child::id).collect()
    }

    /// Starts node `at`, counted from 0.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(&mut self, at: usize) -> Result<(), ProcessError> {
        let config = self.dir.join(format!("node-{}.toml", at + 1));
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.output_path(at))
            .map_err(io("opening a node's output"))?;
        let errors = output.try_clone().map_err(io("opening a node's output"))?;
        let mut command = match &self.wrapper {
            Some(wrapper) => Command::new(wrapper),
            None => Command::new(&self.binary),
        };
        if self.wrapper.is_some() {
            command.arg(&self.binary);
        }
        for (name, path) in &self.environment {
            command.env(name, path.join((at + 1).to_string()));
        }
        command.args(["node", "--config"]).arg(config);
        if let Some(token) = &self.chaos_token {
            command.args(["--chaos", "--chaos-token-file"]).arg(token);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(io("starting a node"))?;
        self.children[at] = Some(child);
        Ok(())
    }

    /// Kills node `at` with SIGKILL, and proves it.
    ///
    /// # Errors
    /// It had ended by itself.
    pub fn kill(&mut self, at: usize) -> Result<(), ProcessError> {
        self.expect_alive(at)?;
        let Some(mut child) = self.children[at].take() else { return Ok(()) };
        child.kill().map_err(io("killing a node"))?;
        let status = child.wait().map_err(io("waiting for a killed node"))?;
        match status.signal() {
            Some(SIGKILL) => Ok(()),
            _ => Err(ProcessError::NotKilled { node: at + 1, status }),
        }
    }

    /// Ends node `at`, which may have died of what was done to its disk.
    ///
    /// # Errors
    /// It cannot be killed or waited for.
    pub fn end(&mut self, at: usize) -> Result<(), ProcessError> {
        let Some(mut child) = self.children[at].take() else { return Ok(()) };
        child.kill().map_err(io("killing a node"))?;
        child.wait().map_err(io("waiting for a killed node")).map(drop)
    }

    /// How node `at` ended, if it did by itself; it may then be started again.
    ///
    /// # Errors
    /// The system does not say.
    pub fn exited(&mut self, at: usize) -> Result<Option<ExitStatus>, ProcessError> {
        let Some(child) = &mut self.children[at] else { return Ok(None) };
        let status = child.try_wait().map_err(io("asking after a node"))?;
        if status.is_some() {
            self.children[at] = None;
        }
        Ok(status)
    }

    /// The process id of node `at`, if it was started.
    pub fn process_id(&self, at: usize) -> Option<u32> {
        self.children[at].as_ref().map(Child::id)
    }

    /// Waits until node `at` serves a linearizable read.
    ///
    /// # Errors
    /// It ended, or served none in time.
    pub async fn wait_until_serving(&mut self, at: usize) -> Result<(), ProcessError> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            self.expect_alive(at)?;
            match read(&self.endpoints[at]).await {
                Ok(()) => return Ok(()),
                Err(_) if Instant::now() < deadline => tokio::time::sleep(READ_PAUSE).await,
                Err(error) => {
                    let (node, output) = (at + 1, self.output(at));
                    return Err(ProcessError::NotServing { node, last: error.to_string(), output });
                }
            }
        }
    }

    fn expect_alive(&mut self, at: usize) -> Result<(), ProcessError> {
        let Some(child) = &mut self.children[at] else { return Ok(()) };
        match child.try_wait().map_err(io("asking after a node"))? {
            None => Ok(()),
            Some(status) => {
                Err(ProcessError::Ended { node: at + 1, status, output: self.output(at) })
            }
        }
    }

    fn output_path(&self, at: usize) -> PathBuf {
        self.dir.join(format!("node-{}.log", at + 1))
    }

    /// What node `at` has printed in all of its lives.
    pub fn whole_output(&self, at: usize) -> String {
        std::fs::read_to_string(self.output_path(at)).unwrap_or_default()
    }

    /// The end of a node's output, for a person.
    pub fn output(&self, at: usize) -> String {
        let text = self.whole_output(at);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            // It may have ended already; there is nobody left to tell.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Writes a file that only its owner may read.
///
/// # Errors
/// It cannot be written.
pub fn write_secret(path: &Path, secret: &str) -> Result<(), ProcessError> {
    let opened = File::options().create(true).truncate(true).write(true).mode(0o600).open(path);
    opened.and_then(|mut file| file.write_all(secret.as_bytes())).map_err(io("writing a secret"))
}

/// A process that stands still until this is dropped.
pub struct Stopped(Pid);

impl Stopped {
    /// Stops the process `id`.
    ///
    /// # Errors
    /// There is no such process.
    pub fn stop(id: u32) -> Result<Self, ProcessError> {
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(Errno::SRCH);
        let stopped = pid.and_then(|pid| kill_process(pid, Signal::STOP).map(|()| Self(pid)));
        stopped.map_err(|errno| io("stopping a process")(errno.into()))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Err(error) = kill_process(self.0, Signal::CONT) {
            eprintln!("SIGCONT: {error}");
        }
    }
}

/// One linearizable read through `endpoint`.
async fn read(endpoint: &str) -> Result<(), etcd_client::Error> {
    connect(endpoint).await?.get("probe", None).await.map(drop)
}

/// Waits until a server of any kind serves a linearizable read at `endpoint`.
///
/// # Errors
/// The last attempt's, when the time is over.
pub async fn wait_until_serving(endpoint: &str) -> Result<(), etcd_client::Error> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match read(endpoint).await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(READ_PAUSE).await,
            outcome => return outcome,
        }
    }
}

/// Runs the binary's `before` + `path` + `after` to its end.
fn run(binary: &Path, before: &[&str], path: &Path, after: &[&str]) -> Result<(), ProcessError> {
    let mut command = Command::new(binary);
    command.args(before).arg(path).args(after).stdin(Stdio::null()).stdout(Stdio::null());
    let status = command.status().map_err(io("running polyraft certs"))?;
    if status.success() {
        Ok(())
    } else {
        Err(ProcessError::Certificates { command: format!("{command:?}") })
    }
}

fn data_dir(dir: &Path, node: usize) -> PathBuf {
    dir.join(format!("data-{node}"))
}

/// One node's configuration file. Ports: of clients and of the admin interface.
fn configuration(
    dir: &Path,
    node: usize,
    peers: &[u16],
    (client, admin): (u16, u16),
    Settings { groups, profile, tables }: Settings<'_>,
) -> String {
    let listed = peers
        .iter()
        .zip(1..)
        .map(|(port, id)| format!("{{ id = {id}, address = \"127.0.0.1:{port}\" }}"));
    let named = groups.iter().zip(0..).map(|(id, at)| {
        format!("[[cluster.groups]]\nid = {id}\nname = {:?}\n", keyspaces::name(at))
    });
    let certs = dir.join("certs");
    let path = |path: PathBuf| format!("{:?}", path.to_string_lossy());
    format!(
        "node_id = {node}\n\
         data_dir = {}\n\
         listen = \"127.0.0.1:{}\"\n\
         [tls]\n\
         ca = {}\n\
         cert = {}\n\
         key = {}\n\
         [cluster]\n\
         name = {CLUSTER:?}\n\
         profile = {profile:?}\n\
         nodes = [{}]\n\
         {}\
         [server]\n\
         client_listen = \"127.0.0.1:{client}\"\n\
         admin_listen = \"127.0.0.1:{admin}\"\n\
         {tables}\n",
        path(data_dir(dir, node)),
        peers[node - 1],
        path(certs.join("ca.pem")),
        path(certs.join(format!("node-{node}.pem"))),
        path(certs.join(format!("node-{node}.key"))),
        listed.collect::<Vec<_>>().join(", "),
        named.collect::<String>(),
    )
}
