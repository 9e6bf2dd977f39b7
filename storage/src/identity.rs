//! Whose data directory this is: one cluster, one node, one process at a time (ST-9).
//!
//! ```text
//! DIR/lock      held exclusively while a process uses the directory
//! DIR/identity  format, cluster, node, incarnation, data, checksum; replaced atomically at every open
//! ```
//!
//! Promise: a directory is never used under another cluster's or node's name, nor by two processes,
//! and its incarnation is greater at every open.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use polyraft_core::failpoint::{self, Step};
use polyraft_core::ids::NodeId;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// The version of everything on disk, raised when a format changes incompatibly.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: &str = "polyraft data directory";
const CLUSTER_BYTES_MAX: usize = 255;

/// Whose data a directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataIdentity {
    /// The cluster's name: 1 to 255 bytes without line breaks.
    pub cluster: String,
    /// The node.
    pub node: NodeId,
    /// How often the directory was opened, from 1.
    pub incarnation: u64,
    /// Drawn at random when the directory was made: tells it from one that took its place.
    pub data: u64,
}

/// Why a data directory is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Another process, or this one, uses the directory.
    #[error("{} is in use by another process", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory belongs to another cluster.
    #[error("the directory belongs to cluster {stored:?}, not {configured:?}")]
    ClusterMismatch {
        /// The cluster on disk.
        stored: String,
        /// The cluster asked for.
        configured: String,
    },
    /// The directory belongs to another node.
    #[error("the directory belongs to node {stored}, not {configured}")]
    NodeMismatch {
        /// The node on disk.
        stored: NodeId,
        /// The node asked for.
        configured: NodeId,
    },
    /// The directory was written by an incompatible version.
    #[error("the directory has format {stored}; this version reads {supported}")]
    FormatMismatch {
        /// The format on disk.
        stored: u32,
        /// The format this version reads.
        supported: u32,
    },
    /// The identity file is damaged.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// There is data but no identity file.
    #[error("{} holds data but no identity", dir.display())]
    Missing {
        /// The directory.
        dir: PathBuf,
    },
    /// The cluster's name or the node's id cannot be stored.
    #[error("cluster {cluster:?} and node {node} are no valid identity")]
    Invalid {
        /// The cluster asked for.
        cluster: String,
        /// The node asked for.
        node: NodeId,
    },
    /// The directory cannot be read or written.
    #[error("{} cannot be used", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Exclusive use of a data directory, until dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

/// Locks `dir`, creating it if it is missing, and checks or creates its identity. The incarnation is
/// durably raised before this returns.
///
/// # Errors
/// See [`IdentityError`]; nothing was changed but the directory's existence.
pub fn claim(
    dir: &Path,
    cluster: &str,
    node: NodeId,
) -> Result<(DirectoryLock, DataIdentity), IdentityError> {
    let is_name =
        (1..=CLUSTER_BYTES_MAX).contains(&cluster.len()) && !cluster.contains(['\n', '\r']);
    if !is_name || node.get() == 0 {
        return Err(IdentityError::Invalid { cluster: cluster.into(), node });
    }
    fs::create_dir_all(dir).map_err(|e| io_error(dir, e))?;
    let lock = lock(dir)?;
    let (incarnation, data) = match read(dir)? {
        Some(stored) => check(stored, cluster, node)?,
        None => (0, draw_data()),
    };
    let identity =
        DataIdentity { cluster: cluster.into(), node, incarnation: incarnation + 1, data };
    failpoint::hit(Step::IdentityWrite).map_err(|e| io_error(dir, e.into()))?;
    replace_file(dir, "identity", &encode(&identity))
        .map_err(|e| io_error(&dir.join("identity"), e))?;
    failpoint::pass(Step::IdentityWritten);
    Ok((lock, identity))
}

fn lock(dir: &Path) -> Result<DirectoryLock, IdentityError> {
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| io_error(&path, e))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(DirectoryLock { _file: file }),
        Err(Errno::WOULDBLOCK) => Err(IdentityError::Locked { dir: dir.into() }),
        Err(errno) => Err(io_error(&path, errno.into())),
    }
}

/// The stored identity; `None` for a directory that holds nothing yet.
fn read(dir: &Path) -> Result<Option<DataIdentity>, IdentityError> {
    let path = dir.join("identity");
    match fs::read(&path) {
        Ok(bytes) => decode(&bytes, &path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let holds_data = ["log", "state"].iter().any(|sub| dir.join(sub).exists());
            if holds_data { Err(IdentityError::Missing { dir: dir.into() }) } else { Ok(None) }
        }
        Err(error) => Err(io_error(&path, error)),
    }
}

/// The incarnation and the data of an identity that is the one asked for.
fn check(stored: DataIdentity, cluster: &str, node: NodeId) -> Result<(u64, u64), IdentityError> {
    if stored.cluster != cluster {
        let configured = cluster.into();
        return Err(IdentityError::ClusterMismatch { stored: stored.cluster, configured });
    }
    if stored.node != node {
        return Err(IdentityError::NodeMismatch { stored: stored.node, configured: node });
    }
    Ok((stored.incarnation, stored.data))
}

/// Never 0, which stands for no data.
fn draw_data() -> u64 {
    rand::random_range(1..=u64::MAX)
}

pub(crate) fn encode(identity: &DataIdentity) -> Vec<u8> {
    let DataIdentity { cluster, node, incarnation, data } = identity;
    let mut text = format!(
        "{MAGIC}\nformat {FORMAT_VERSION}\ncluster {cluster}\nnode {node}\nincarnation {incarnation}\n\
         data {data:016x}\n"
    );
    text.push_str(&format!("crc32c {:08x}\n", crc32c::crc32c(text.as_bytes())));
    text.into_bytes()
}

pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<DataIdentity, IdentityError> {
    let damaged = || IdentityError::Damaged { path: path.into() };
    let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
    let (body, sum) = text.rsplit_once("crc32c ").ok_or_else(damaged)?;
    if sum != format!("{:08x}\n", crc32c::crc32c(body.as_bytes())) {
        return Err(damaged());
    }
    let mut lines = body.split('\n');
    let mut field = |name: &str| lines.next().and_then(|line| line.strip_prefix(name));
    field(MAGIC).ok_or_else(damaged)?;
    let stored: u32 = field("format ").and_then(|v| v.parse().ok()).ok_or_else(damaged)?;
    if stored != FORMAT_VERSION {
        return Err(IdentityError::FormatMismatch { stored, supported: FORMAT_VERSION });
    }
    let cluster = field("cluster ").ok_or_else(damaged)?.to_owned();
    let node = field("node ").and_then(|v| v.parse().ok()).ok_or_else(damaged)?;
    let incarnation = field("incarnation ").and_then(|v| v.parse().ok()).ok_or_else(damaged)?;
    // Directories of before this line was written get theirs now.
    let data = match field("data ") {
        Some(data) => u64::from_str_radix(data, 16).map_err(|_| damaged())?,
        None => draw_data(),
    };
    Ok(DataIdentity { cluster, node: NodeId::new(node), incarnation, data })
}

/// Replaces the file `name` so that a crash leaves the old or the new one, durably the new one once
/// this returns.
pub(crate) fn replace_file(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let staged = dir.join(format!("{name}.new"));
    let mut file = File::create(&staged)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    failpoint::hit(Step::FileRename)?;
    fs::rename(&staged, dir.join(name))?;
    File::open(dir)?.sync_all()
}

fn io_error(path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Io { path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incarnation_rises_at_every_open() {
        let dir = tempfile::tempdir().unwrap();
        let mut data = None;
        for incarnation in 1..=3 {
            let (_lock, identity) = claim(dir.path(), "blue", NodeId::new(7)).unwrap();
            let cluster = "blue".to_owned();
            let data = *data.get_or_insert(identity.data);
            assert_eq!(identity, DataIdentity { cluster, node: NodeId::new(7), incarnation, data });
        }
    }

    #[test]
    fn another_directory_holds_other_data() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let data = dirs.map(|dir| claim(dir.path(), "blue", NodeId::new(7)).unwrap().1.data);
        assert_ne!(data[0], data[1]);
    }

    #[test]
    fn another_cluster_or_node_is_refused_with_both_names() {
        let dir = tempfile::tempdir().unwrap();
        drop(claim(dir.path(), "blue", NodeId::new(7)).unwrap());
        let error = claim(dir.path(), "green", NodeId::new(7)).unwrap_err();
        assert_eq!(error.to_string(), r#"the directory belongs to cluster "blue", not "green""#);
        let error = claim(dir.path(), "blue", NodeId::new(8)).unwrap_err();
        assert_eq!(error.to_string(), "the directory belongs to node 7, not 8");
        let (_lock, identity) = claim(dir.path(), "blue", NodeId::new(7)).unwrap();
        assert_eq!(identity.incarnation, 2, "refusals do not count as opens");
    }

    #[test]
    fn a_second_user_is_refused_while_the_first_lives() {
        let dir = tempfile::tempdir().unwrap();
        let first = claim(dir.path(), "blue", NodeId::new(7)).unwrap();
        let second = claim(dir.path(), "blue", NodeId::new(7));
        assert!(matches!(second, Err(IdentityError::Locked { .. })));
        drop(first);
        assert!(claim(dir.path(), "blue", NodeId::new(7)).is_ok());
    }

    #[test]
    fn every_damaged_byte_is_refused() {
        let identity =
            DataIdentity { cluster: "blue".into(), node: NodeId::new(7), incarnation: 12, data: 5 };
        let good = encode(&identity);
        let path = Path::new("identity");
        assert_eq!(decode(&good, path).unwrap(), identity);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode(&bad, path), Err(IdentityError::Damaged { .. })), "bit {bit}");
        }
    }

    /// Goal: what is read is what was written, byte by byte.
    #[test]
    fn a_carriage_return_is_no_end_of_a_line() {
        let node = NodeId::new(7);
        let written = DataIdentity { cluster: "blue\r".into(), node, incarnation: 12, data: 5 };
        assert_eq!(decode(&encode(&written), Path::new("identity")).unwrap(), written);
    }

    #[test]
    fn data_without_identity_and_bad_names_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("log")).unwrap();
        let missing = claim(dir.path(), "blue", NodeId::new(7));
        assert!(matches!(missing, Err(IdentityError::Missing { .. })));
        for (cluster, node) in [("", 1), ("a\nb", 1), ("blue", 0)] {
            let invalid = claim(dir.path(), cluster, NodeId::new(node));
            assert!(matches!(invalid, Err(IdentityError::Invalid { .. })));
        }
    }

    #[test]
    fn a_newer_format_is_refused() {
        let mut text = format!("{MAGIC}\nformat 9\ncluster blue\nnode 7\nincarnation 1\n");
        text.push_str(&format!("crc32c {:08x}\n", crc32c::crc32c(text.as_bytes())));
        let error = decode(text.as_bytes(), Path::new("identity")).unwrap_err();
        assert!(matches!(error, IdentityError::FormatMismatch { stored: 9, supported: 1 }));
    }
}
