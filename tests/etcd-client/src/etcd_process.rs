//! Debian's etcd as a cluster of three processes on this machine, to be compared with.

use std::path::{Path, PathBuf};

use crate::member::Member;
use crate::node_process::ProcessError;
use crate::ports::free_tcp_port;

/// Three etcd members; killed when dropped.
pub struct EtcdCluster {
    endpoints: Vec<String>,
    data_dirs: Vec<PathBuf>,
    /// In the order of their endpoints.
    pub members: Vec<Member>,
}

impl EtcdCluster {
    /// Three members of `binary`, with their data in `dir`; starts nothing.
    ///
    /// # Errors
    /// A port cannot be had.
    pub fn prepare(binary: &Path, dir: &Path) -> Result<Self, ProcessError> {
        let url = || Ok(format!("http://127.0.0.1:{}", free_tcp_port()?));
        let urls = || (0..3).map(|_| url()).collect::<Result<Vec<_>, _>>();
        let (endpoints, peers) = (urls()?, urls()?);
        let cluster: Vec<_> = (1..).zip(&peers).map(|(id, url)| format!("m{id}={url}")).collect();
        let data_dirs: Vec<_> = (1..=3).map(|id| dir.join(format!("etcd-{id}"))).collect();
        let member = |at: usize| {
            let arguments = arguments(at, &data_dirs[at], (&endpoints[at], &peers[at]), &cluster);
            Member::new(binary.into(), arguments, dir.join(format!("etcd-{}.log", at + 1)))
        };
        let members = (0..3).map(member).collect();
        Ok(Self { endpoints, data_dirs, members })
    }

    /// Starts every member. Does not wait for a leader.
    ///
    /// # Errors
    /// A process cannot be started.
    pub fn start(&mut self) -> Result<(), ProcessError> {
        self.members.iter_mut().try_for_each(Member::start)
    }

    /// Where clients reach the members.
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Where member `at`, counted from 0, keeps its data; may be where a disk is mounted.
    pub fn data_dir(&self, at: usize) -> &Path {
        &self.data_dirs[at]
    }

    /// The members' process ids.
    pub fn process_ids(&self) -> Vec<u32> {
        self.members.iter().filter_map(Member::id).collect()
    }
}

/// The command line of one member. Its data are in a folder of `dir`, whose mode etcd sets itself.
fn arguments(
    at: usize,
    dir: &Path,
    (client, peer): (&str, &str),
    cluster: &[String],
) -> Vec<String> {
    let (name, data, cluster) =
        (format!("m{}", at + 1), dir.join("data").display().to_string(), cluster.join(","));
    let pairs = [
        ("--name", name.as_str()),
        ("--data-dir", &data),
        ("--listen-client-urls", client),
        ("--advertise-client-urls", client),
        ("--listen-peer-urls", peer),
        ("--initial-advertise-peer-urls", peer),
        ("--initial-cluster", &cluster),
        ("--initial-cluster-state", "new"),
    ];
    pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_owned()]).collect()
}
