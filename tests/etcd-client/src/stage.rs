//! A stage: one cluster under traffic, on which troubles are set off and ended.
//!
//! ```text
//! Layout ─start→ three processes, traffic ─begin→ trouble … ─end→ as before
//! ```
//!
//! Promise: what a trouble did to processes, certificates and data is undone by its end. Needs the
//! binary's `--chaos`; certificates that expire soon need `openssl`.
//! Not here: what each trouble is ([`crate::trouble`]), and what must be seen of it.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::admin;
use crate::node_process::{Cluster, Settings, Stopped};
use crate::traffic::{Amount, Traffic};

/// What lets its bearer inject faults into the nodes of a stage.
const TOKEN: &str = "stage-token-0123456789-0123456789";
/// How long each of two processes stands still while the other runs.
const TURN: Duration = Duration::from_millis(300);

/// How a stage's cluster is configured, and what it bears at rest.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// The stage's name, which its series carry as the label `cluster`.
    pub name: &'static str,
    /// Keyspaces.
    pub keyspaces: u64,
    /// The profile of timings, by its name.
    pub profile: &'static str,
    /// Further tables of the configuration, as TOML.
    pub tables: &'static str,
    /// Traffic at rest.
    pub traffic: Amount,
}

/// One cluster that runs.
pub struct Stage {
    // A process that stands still goes on before it is killed.
    pub(crate) paused: Vec<Stopped>,
    /// The cluster.
    pub cluster: Cluster,
    pub(crate) binary: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) layout: Layout,
    pub(crate) flood: Option<Traffic>,
    traffic: Option<Traffic>,
    again: JoinSet<()>,
}

impl Stage {
    /// Makes the layout's cluster in the new directory `dir`, starts it, waits until it serves, and puts
    /// it under traffic.
    ///
    /// # Errors
    /// It does not start or serve.
    pub async fn start(
        binary: &Path,
        dir: PathBuf,
        layout: Layout,
    ) -> Result<Self, Box<dyn Error>> {
        std::fs::create_dir_all(&dir)?;
        let groups: Vec<_> = (1..=layout.keyspaces).collect();
        let Layout { profile, tables, .. } = layout;
        let settings = Settings { groups: &groups, profile, tables };
        let mut cluster = Cluster::prepare_with(binary, &dir, settings)?;
        cluster.enable_chaos(TOKEN)?;
        cluster.start_all().await?;
        let traffic = Some(Traffic::start(cluster.endpoints(), layout.traffic)?);
        let (paused, flood, again) = (Vec::new(), None, JoinSet::new());
        let binary = binary.to_owned();
        Ok(Self { cluster, binary, dir, layout, paused, flood, traffic, again })
    }

    /// The stage's name.
    pub fn name(&self) -> &'static str {
        self.layout.name
    }

    /// Requests of the traffic that succeeded so far.
    pub fn answered(&self) -> u64 {
        self.traffic.as_ref().map_or(0, Traffic::answered)
    }

    /// Injects a fault into node `at`, counted from 0.
    ///
    /// # Errors
    /// The node does not answer, or refuses it.
    pub async fn inject(&self, at: usize, fault: &str) -> Result<(), admin::AdminError> {
        admin::inject(self.cluster.admin(at), TOKEN, fault).await
    }

    /// Injects a fault into nodes in turn, over and over, until [`Stage::stop_again`].
    pub(crate) fn inject_again(&mut self, nodes: &[usize], fault: &'static str, pause: Duration) {
        let addresses: Vec<_> = nodes.iter().map(|at| self.cluster.admin(*at).to_owned()).collect();
        self.again.spawn(async move {
            for address in addresses.iter().cycle() {
                // Its actor may be between two lives; the next one is not.
                let _ = admin::inject(address, TOKEN, fault).await;
                tokio::time::sleep(pause).await;
            }
        });
    }

    /// Lets two processes run in turn, never both, until [`Stage::stop_again`].
    pub(crate) fn take_turns(&mut self, one: u32, other: u32) {
        self.again.spawn(async move {
            let mut stopped = Stopped::stop(one);
            for next in [other, one].into_iter().cycle() {
                tokio::time::sleep(TURN).await;
                // Before the one that stood still goes on.
                stopped = Stopped::stop(next);
                if stopped.is_err() {
                    return;
                }
            }
            drop(stopped);
        });
    }

    pub(crate) async fn stop_again(&mut self) {
        self.again.shutdown().await;
    }

    /// Ends every fault of node `at`.
    ///
    /// # Errors
    /// The node does not answer.
    pub async fn end_faults(&self, at: usize) -> Result<(), admin::AdminError> {
        admin::end_faults(self.cluster.admin(at), TOKEN).await
    }

    /// Ends node `at`'s process, does `change`, and starts it again.
    ///
    /// # Errors
    /// It cannot be ended, changed or started.
    pub(crate) fn restart_with(
        &mut self,
        at: usize,
        change: impl FnOnce(&mut Self) -> Result<(), Box<dyn Error>>,
    ) -> Result<(), Box<dyn Error>> {
        self.cluster.end(at)?;
        change(self)?;
        Ok(self.cluster.start(at)?)
    }
}
