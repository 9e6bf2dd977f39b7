//! Peer register: the data that each peer has shown, one small file per peer (ST-9).
//!
//! ```text
//! DIR/peers/ID      data, incarnation, boot, checksum; replaced atomically when a peer's life changes
//! ```
//!
//! Promise: a peer's first mark is durable before it is admitted; without its file a peer is met for
//! the first time. Removing the file is how a person allows a node to come back with other data: it is
//! read at every connection, so no restart is needed.
//! Not here: what is refused and why (`polyraft_core::peer_data`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use polyraft_core::failpoint::{self, Step};
use polyraft_core::ids::NodeId;
use polyraft_core::peer_data::{DataMark, ForeignData, PeerRegister};

use crate::identity::replace_file;

/// The register in a data directory.
#[derive(Debug)]
pub struct FilePeerRegister {
    dir: PathBuf,
    /// Two connections of one peer may be judged at once.
    one_at_a_time: Mutex<()>,
}

/// A file that is no record of a peer.
#[derive(Debug, thiserror::Error)]
#[error("{} is damaged", path.display())]
struct Damaged {
    path: PathBuf,
}

impl FilePeerRegister {
    /// The register of the data directory `dir`, which this process has claimed.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.join("peers"), one_at_a_time: Mutex::new(()) }
    }

    fn read(&self, peer: NodeId) -> Result<Option<DataMark>, ForeignData> {
        let path = self.dir.join(peer.to_string());
        match fs::read_to_string(&path) {
            Ok(text) => match decode(&text) {
                Some(mark) => Ok(Some(mark)),
                None => Err(ForeignData::Unusable(Box::new(Damaged { path }))),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ForeignData::Unusable(Box::new(error))),
        }
    }

    fn write(&self, peer: NodeId, mark: DataMark) -> io::Result<()> {
        failpoint::hit(Step::RegisterWrite)?;
        fs::create_dir_all(&self.dir)?;
        replace_file(&self.dir, &peer.to_string(), encode(mark).as_bytes())?;
        failpoint::pass(Step::RegisterWritten);
        Ok(())
    }
}

impl PeerRegister for FilePeerRegister {
    fn admit(&self, peer: NodeId, shown: DataMark) -> Result<(), ForeignData> {
        let _one_at_a_time = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = self.read(peer)? else {
            return self.write(peer, shown).map_err(|e| ForeignData::Unusable(Box::new(e)));
        };
        shown.follows(known)?;
        if shown != known {
            // A full disk must not keep a peer out that is known; an older record refuses less.
            if let Err(error) = self.write(peer, shown) {
                tracing::warn!(%peer, %error, "a peer's new life cannot be recorded");
            }
        }
        Ok(())
    }
}

pub(crate) fn encode(DataMark { data, incarnation, boot }: DataMark) -> String {
    let mut text = format!("data {data:016x}\nincarnation {incarnation}\nboot {boot:016x}\n");
    text.push_str(&format!("crc32c {:08x}\n", crc32c::crc32c(text.as_bytes())));
    text
}

pub(crate) fn decode(text: &str) -> Option<DataMark> {
    let (body, sum) = text.rsplit_once("crc32c ")?;
    if sum != format!("{:08x}\n", crc32c::crc32c(body.as_bytes())) {
        return None;
    }
    let mut lines = body.split('\n');
    let mut field = |name: &str| lines.next()?.strip_prefix(name);
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let data = hex(field("data ")?)?;
    let incarnation = field("incarnation ")?.parse().ok()?;
    Some(DataMark { data, incarnation, boot: hex(field("boot ")?)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(data: u64, incarnation: u64, boot: u64) -> DataMark {
        DataMark { data, incarnation, boot }
    }

    #[test]
    fn what_a_peer_showed_is_remembered_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let peer = NodeId::new(3);
        let admit = |shown| FilePeerRegister::new(dir.path()).admit(peer, shown);
        admit(mark(7, 1, 10)).unwrap();
        admit(mark(7, 1, 10)).unwrap();
        admit(mark(7, 2, 11)).unwrap();
        assert!(matches!(admit(mark(7, 1, 10)), Err(ForeignData::Older { known: 2, shown: 1 })));
        assert!(matches!(admit(mark(8, 5, 12)), Err(ForeignData::Replaced { .. })));
        FilePeerRegister::new(dir.path()).admit(NodeId::new(4), mark(8, 5, 12)).unwrap();
        fs::remove_file(dir.path().join("peers/3")).unwrap();
        admit(mark(8, 5, 12)).expect("its record was removed: it is met for the first time");
    }

    #[test]
    fn every_damaged_byte_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let register = FilePeerRegister::new(dir.path());
        let (peer, shown) = (NodeId::new(3), mark(7, 1, 10));
        register.admit(peer, shown).unwrap();
        let path = dir.path().join("peers/3");
        let good = fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bad).unwrap();
            assert!(
                matches!(register.admit(peer, shown), Err(ForeignData::Unusable(_))),
                "bit {bit}"
            );
        }
    }
}
