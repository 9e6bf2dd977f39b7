//! The data directory of `polyraft dev`: one cluster, made at its first start.
//!
//! ```text
//! polyraft-data/ dev.json            what the cluster was made with
//!                certs/              authority and node certificates
//!                node-1/ node-2/ …   a data directory per node
//! ```
//!
//! Promise: a directory made with other numbers is refused and left as it is. `dev.json` is written
//! last, so an interrupted first start is simply repeated.

use std::path::{Path, PathBuf};

use polyraft::NodeId;
use polyraft::certificates::{CertificateAuthority, CertificateError, Validity};
use serde::{Deserialize, Serialize};

/// The name of every development cluster.
pub const DEV_CLUSTER: &str = "dev";

/// What a development cluster is made with; unchangeable afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevShape {
    /// Nodes, from 1.
    pub nodes: u64,
    /// Keyspaces, from 1.
    pub keyspaces: u64,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevDataError {
    /// It was made with other numbers.
    #[error(
        "{dir} holds a cluster of {} nodes with {} keyspaces, not of {} with {}: \
         start it with --nodes {} --keyspaces {}, or choose another --data-dir",
        .made.nodes, .made.keyspaces, .asked.nodes, .asked.keyspaces, .made.nodes, .made.keyspaces
    )]
    Mismatch {
        /// The directory.
        dir: PathBuf,
        /// What it was made with.
        made: DevShape,
        /// What was asked for.
        asked: DevShape,
    },
    /// Its description cannot be read.
    #[error("{file} is not the description of a development cluster")]
    Description {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// It cannot be read or written.
    #[error("cannot use {path}")]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its certificates could not be made.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
}

/// A data directory that fits.
#[derive(Debug)]
pub struct DevData {
    dir: PathBuf,
}

impl DevData {
    /// Opens `dir`, or makes it.
    ///
    /// # Errors
    /// It was made with another shape, or cannot be read or written.
    pub fn open(dir: &Path, asked: DevShape) -> Result<Self, DevDataError> {
        let data = Self { dir: dir.to_owned() };
        match data.read_shape()? {
            Some(made) if made == asked => Ok(data),
            Some(made) => Err(DevDataError::Mismatch { dir: data.dir, made, asked }),
            None => {
                data.make(asked)?;
                Ok(data)
            }
        }
    }

    /// Where the certificates are.
    pub fn certificates(&self) -> PathBuf {
        self.dir.join("certs")
    }

    /// Where `node` keeps its data.
    pub fn node(&self, node: NodeId) -> PathBuf {
        self.dir.join(format!("node-{node}"))
    }

    fn description(&self) -> PathBuf {
        self.dir.join("dev.json")
    }

    fn read_shape(&self) -> Result<Option<DevShape>, DevDataError> {
        let file = self.description();
        match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|source| DevDataError::Description { file, source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DevDataError::Io { path: file, source }),
        }
    }

    fn make(&self, shape: DevShape) -> Result<(), DevDataError> {
        let certificates = self.certificates();
        if certificates.exists() {
            // Of a first start that did not come to its end; no node has run with them.
            io(&certificates, std::fs::remove_dir_all(&certificates))?;
        }
        let authority = CertificateAuthority::create(DEV_CLUSTER, Validity::default())?;
        authority.save(&certificates)?;
        for node in 1..=shape.nodes {
            authority.issue(NodeId::new(node))?.save(&certificates)?;
        }
        let text = serde_json::to_vec(&shape).expect("two numbers are always JSON");
        let (file, draft) = (self.description(), self.dir.join("dev.json.new"));
        io(&draft, std::fs::write(&draft, text))?;
        io(&file, std::fs::rename(&draft, &file))
    }
}

fn io<T>(path: &Path, result: std::io::Result<T>) -> Result<T, DevDataError> {
    result.map_err(|source| DevDataError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: DevShape = DevShape { nodes: 2, keyspaces: 3 };

    #[test]
    fn a_directory_is_made_once_and_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let data = DevData::open(dir.path(), SHAPE).unwrap();
        let ca = std::fs::read(data.certificates().join("ca.pem")).unwrap();
        assert!(data.certificates().join("node-2.key").exists());
        let data = DevData::open(dir.path(), SHAPE).unwrap();
        assert_eq!(std::fs::read(data.certificates().join("ca.pem")).unwrap(), ca);
    }

    #[test]
    fn another_shape_is_refused_with_both_values() {
        let dir = tempfile::tempdir().unwrap();
        DevData::open(dir.path(), SHAPE).unwrap();
        let asked = DevShape { nodes: 5, ..SHAPE };
        let error = DevData::open(dir.path(), asked).unwrap_err().to_string();
        assert!(error.contains("2 nodes with 3 keyspaces, not of 5 with 3"), "{error}");
        DevData::open(dir.path(), SHAPE).unwrap();
    }

    #[test]
    fn an_interrupted_first_start_is_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let data = DevData::open(dir.path(), SHAPE).unwrap();
        std::fs::remove_file(data.description()).unwrap();
        DevData::open(dir.path(), SHAPE).unwrap();
    }

    #[test]
    fn a_damaged_description_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        DevData::open(dir.path(), SHAPE).unwrap();
        std::fs::write(dir.path().join("dev.json"), "{").unwrap();
        let error = DevData::open(dir.path(), SHAPE).unwrap_err();
        assert!(matches!(error, DevDataError::Description { .. }), "{error}");
        assert_eq!(std::fs::read(dir.path().join("dev.json")).unwrap(), b"{");
    }
}
