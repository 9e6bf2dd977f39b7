//! Seams: where measurements and fault tests put something between a node and its adapters.
//!
//! ```text
//! log writer ─LogStore→ [log] ─→ journal          config ─→ [settings] ─→ every actor
//! ```
//!
//! Hidden from the documentation and no part of what is promised: a real disk is made slow here, and
//! what has no knob is turned off to be compared with itself.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use polyraft_actors::node_parts::NodeSettings;
use polyraft_core::ports::LogStore;

use crate::config::NodeConfig;
use crate::config_error::ConfigErrors;
use crate::config_file;

/// Puts a store around the journal; called for each life of the log writer.
pub type WrapLog = dyn Fn(Box<dyn LogStore>) -> Box<dyn LogStore> + Send + Sync;
/// Changes what the configuration says.
pub type ChangeSettings = dyn Fn(&mut NodeSettings) + Send + Sync;

/// What is put in between; by default nothing.
#[derive(Clone)]
pub struct Seams {
    /// Around the journal.
    pub log: Arc<WrapLog>,
    /// After the configuration.
    pub settings: Arc<ChangeSettings>,
}

impl Default for Seams {
    fn default() -> Self {
        Self { log: Arc::new(|journal| journal), settings: Arc::new(|_| {}) }
    }
}

/// Reads a configuration as [`NodeConfig::from_toml_file`] does, from a text and these variables.
///
/// # Errors
/// Everything that is wrong with it.
pub fn config_from_text(
    text: &str,
    vars: impl Iterator<Item = (OsString, OsString)>,
) -> Result<NodeConfig, ConfigErrors> {
    config_file::parse(text, Path::new("text"), vars)
}
