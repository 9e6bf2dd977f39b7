//! Debian's etcd as a cluster of three processes on this machine, to be compared with.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::node_process::ProcessError;

/// Three etcd members; killed when dropped.
pub struct EtcdCluster {
    endpoints: Vec<String>,
    members: Vec<Child>,
}

impl EtcdCluster {
    /// Starts `binary` three times, with its data in `dir`. Does not wait for a leader.
    ///
    /// # Errors
    /// A port, a file or a process cannot be had.
    pub fn start(binary: &Path, dir: &Path) -> Result<Self, ProcessError> {
        let held: Vec<_> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
        let mut urls = Vec::new();
        for listener in &held {
            let listener = listener.as_ref().map_err(copied).map_err(io("finding a TCP port"))?;
            let address = listener.local_addr().map_err(io("finding a TCP port"))?;
            urls.push(format!("http://{address}"));
        }
        drop(held);
        let (clients, peers) = urls.split_at(3);
        let cluster: Vec<_> = (1..).zip(peers).map(|(id, url)| format!("m{id}={url}")).collect();
        let mut started = Self { endpoints: clients.to_vec(), members: Vec::new() };
        for (at, (client, peer)) in clients.iter().zip(peers).enumerate() {
            let member = member(binary, dir, at + 1, (client, peer), &cluster.join(","))?;
            started.members.push(member);
        }
        Ok(started)
    }

    /// Where clients reach the members.
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// The members' process ids.
    pub fn process_ids(&self) -> Vec<u32> {
        self.members.iter().map(Child::id).collect()
    }
}

impl Drop for EtcdCluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            // It may have ended already; there is nobody left to tell.
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

fn member(
    binary: &Path,
    dir: &Path,
    id: usize,
    (client, peer): (&str, &str),
    cluster: &str,
) -> Result<Child, ProcessError> {
    let output = File::create(dir.join(format!("etcd-{id}.log")))
        .map_err(io("opening a member's output"))?;
    let errors = output.try_clone().map_err(io("opening a member's output"))?;
    Command::new(binary)
        .arg("--name")
        .arg(format!("m{id}"))
        .arg("--data-dir")
        .arg(dir.join(format!("etcd-{id}")))
        .args(["--listen-client-urls", client, "--advertise-client-urls", client])
        .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
        .args(["--initial-cluster", cluster, "--initial-cluster-state", "new"])
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(io("starting etcd"))
}

fn copied(error: &std::io::Error) -> std::io::Error {
    error.kind().into()
}

/// Adds what was being done.
fn io(doing: &'static str) -> impl Fn(std::io::Error) -> ProcessError {
    move |source| ProcessError::Io { doing, source }
}
