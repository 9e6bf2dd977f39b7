//! Fault desk: where actors report deaths and failures, whichever supervisor is alive.
//!
//! ```text
//! group, applier, log writer ─GroupFailed, ApplyFailed, GroupRefused→ desk → quarantine
//! log writer, flusher ─StorageFailed→ desk → the node stops acknowledging
//! DownGuard ─Down→ desk → the current Supervisor
//! ```
//!
//! A failure is reported once. A supervisor that dies with the report in its mailbox would leave the
//! group hanging, neither served nor faulted (RT-12); the desk does nothing that could panic, and so
//! outlives every supervisor. Not here: rebuilding (`supervisor`).

use std::sync::Arc;

use actix::prelude::*;
use polyraft_core::ids::GroupId;
use polyraft_core::status::{GroupEvent, Health};

use crate::applier::ApplyFailed;
use crate::guard::Down;
use crate::log_writer::{GroupRefused, StorageFailed};
use crate::mailbox::{deliver_fact, messages};
use crate::node_parts::NodeParts;

messages!(GroupFailed);

/// Fact from a group: its log cannot be read any more. At most one per life.
#[derive(Debug)]
pub struct GroupFailed {
    /// The group.
    pub group: GroupId,
    /// Why.
    pub reason: String,
}

/// The actor. Runs with the supervisor.
pub struct FaultDesk {
    parts: Arc<NodeParts>,
}

impl FaultDesk {
    /// The desk of a node.
    pub fn new(parts: Arc<NodeParts>) -> Self {
        Self { parts }
    }
}

/// Takes one group out of service on this node, for good; everything else goes on.
pub(crate) fn quarantine(parts: &NodeParts, group: GroupId, reason: String) {
    tracing::error!(%group, reason, "group faulted");
    metrics::counter!("polyraft_groups_faulted_total").increment(1);
    let Some(cell) = parts.directory.group(group).filter(|cell| !cell.is_out()) else { return };
    cell.publish_health(Health::Faulted(reason.clone()));
    cell.retire();
    cell.raise(GroupEvent::GroupFaulted { reason });
}

impl Actor for FaultDesk {
    type Context = Context<Self>;
}

impl Handler<Down> for FaultDesk {
    type Result = ();

    fn handle(&mut self, down: Down, _: &mut Self::Context) {
        if let Some(cell) = down.group.and_then(|group| self.parts.directory.group(group)) {
            cell.note_down(down.incarnation, down.actor);
        }
        if let Some(supervisor) = self.parts.supervisor() {
            deliver_fact(&supervisor, down);
        }
    }
}

impl Handler<ApplyFailed> for FaultDesk {
    type Result = ();

    fn handle(&mut self, failed: ApplyFailed, _: &mut Self::Context) {
        let ApplyFailed { group, index, reason, .. } = failed;
        quarantine(
            &self.parts,
            group,
            format!("applied up to {}, and no further: {reason}", index.prev()),
        );
    }
}

impl Handler<GroupRefused> for FaultDesk {
    type Result = ();

    fn handle(&mut self, refused: GroupRefused, _: &mut Self::Context) {
        quarantine(&self.parts, refused.group, refused.error.to_string());
    }
}

impl Handler<GroupFailed> for FaultDesk {
    type Result = ();

    fn handle(&mut self, GroupFailed { group, reason }: GroupFailed, _: &mut Self::Context) {
        quarantine(&self.parts, group, reason);
    }
}

impl Handler<StorageFailed> for FaultDesk {
    type Result = ();

    fn handle(&mut self, failed: StorageFailed, _: &mut Self::Context) {
        let reason = format!("the {:?} store failed: {}", failed.store, failed.error);
        tracing::error!(reason, "storage failed: this node acknowledges nothing any more");
        self.parts.storage_failed(reason);
    }
}
