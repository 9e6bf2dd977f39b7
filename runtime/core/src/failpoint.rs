//! Failpoints: the steps at which a crash test ends the process, or makes the step fail.
//!
//! ```text
//! step ─hit(Step)→ handler, if there is one: go on, fail, or never return
//! ```
//!
//! Promise: without the feature `failpoints`, which no default build enables, [`hit`] is an empty
//! function: there is no handler to set, and no step has a name. With it, what happens at a step is
//! up to the one handler of the process.
//! Not here: which step ends which process; see the `polyraft-failpoints` binary.
//! Source: FreeBSD's fail(9).

use crate::ports::StorageError;
use crate::state_machine::StateError;

/// Declares the steps, in the order of a proposal's life, with what each is called in tests.
macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident = $name:literal,)*) => {
        /// A step of persistence or of handing over.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Step {
            $($(#[$doc])* $step,)*
        }

        #[cfg(any(test, feature = "failpoints"))]
        impl Step {
            /// Every step.
            pub const ALL: &'static [Self] = &[$(Self::$step,)*];

            /// Its name in tests.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$step => $name,)*
                }
            }
        }
    };
}

steps! {
    /// The node's identity is about to be replaced.
    IdentityWrite = "identity-write",
    /// A new file is durable beside the one that it replaces.
    FileRename = "file-rename",
    /// The node's identity is durable.
    IdentityWritten = "identity-written",
    /// The stores are open, and no thread runs yet.
    StoresOpen = "stores-open",
    /// The transport listens, and no actor runs yet.
    TransportStarted = "transport-started",
    /// A group's state is open, and its log is not.
    GroupRestore = "group-restore",
    /// A group's log and state are read, and its actors do not run yet.
    GroupRestored = "group-restored",
    /// A peer's data are about to be recorded.
    RegisterWrite = "register-write",
    /// A peer's data are recorded, and it is not admitted yet.
    RegisterWritten = "register-written",
    /// A new group is about to go to the log writer.
    CreateSubmit = "create-submit",
    /// A new group is durable, and its creator does not know.
    CreateTold = "create-told",
    /// The supervisor knows that a new group is durable, and has not started it.
    CreateStored = "create-stored",
    /// An append is about to go to the log writer.
    AppendSubmit = "append-submit",
    /// A compaction is about to go to the log writer.
    CompactionSubmit = "compaction-submit",
    /// A record is about to be written to the redo log.
    RedoWrite = "redo-write",
    /// A record is in the redo log, and nobody knows.
    RedoWritten = "redo-written",
    /// What is pending is about to be brought to its table.
    SettleStart = "settle-start",
    /// What is pending is in the transaction, which is not committed.
    SettleInside = "settle-inside",
    /// What was pending is in its table, and the writer still counts in the old generation.
    SettleCommitted = "settle-committed",
    /// A record is durable, and not in the index.
    JournalAppended = "journal-appended",
    /// Appends are durable and indexed, and no group has been told.
    AppendTold = "append-told",
    /// A compaction is durable, and its group has not been told.
    CompactionTold = "compaction-told",
    /// A group is being told that an append is durable.
    AppendPersisted = "append-persisted",
    /// Messages are about to go to a link.
    MessageSend = "message-send",
    /// Messages of a peer are about to be stepped.
    MessageReceived = "message-received",
    /// An entry is about to be applied.
    ApplyStart = "apply-start",
    /// An entry is applied, and nobody has been answered.
    ApplyDone = "apply-done",
    /// The callers of an entry have been answered.
    ReplySent = "reply-sent",
    /// Applied state is about to be made durable.
    FlushStart = "flush-start",
    /// A group's state and applied index are in the transaction, which is not committed.
    FlushInside = "flush-inside",
    /// Applied state is durable, and the flusher does not know.
    FlushCommitted = "flush-committed",
    /// The flusher knows that applied state is durable, and no applier has been told.
    FlushTold = "flush-told",
    /// It is decided which records of the journal go.
    CollectStart = "collect-start",
    /// What outlives its record is in the transaction, and the record is too.
    CollectInside = "collect-inside",
    /// Records are gone from the journal, and not from memory.
    CollectCommitted = "collect-committed",
    /// Dead rows of the cold table are deleted in the transaction, and their group still lists them.
    ColdInside = "cold-inside",
}

/// A step that failed because a test said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a failpoint was hit")]
pub struct Injected(Step);

impl From<Injected> for StorageError {
    fn from(injected: Injected) -> Self {
        Self::Io { doing: "passing a failpoint", source: Box::new(injected) }
    }
}

impl From<Injected> for StateError {
    fn from(injected: Injected) -> Self {
        StorageError::from(injected).into()
    }
}

impl From<Injected> for std::io::Error {
    fn from(injected: Injected) -> Self {
        Self::other(injected)
    }
}

/// Decides what happens at a step: whether it fails. May end the process.
#[cfg(feature = "failpoints")]
pub type Handler = fn(Step) -> bool;

#[cfg(feature = "failpoints")]
static HANDLER: std::sync::OnceLock<Handler> = std::sync::OnceLock::new();

/// Sets the handler of the process, for good. A second one is ignored.
#[cfg(feature = "failpoints")]
pub fn set_handler(handler: Handler) {
    let _ = HANDLER.set(handler);
}

/// A step that may fail.
///
/// # Errors
/// The handler says so.
#[cfg(feature = "failpoints")]
pub fn hit(step: Step) -> Result<(), Injected> {
    match HANDLER.get() {
        Some(handler) if handler(step) => Err(Injected(step)),
        _ => Ok(()),
    }
}

/// A step that may fail.
///
/// # Errors
/// Never, without the feature.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(step: Step) -> Result<(), Injected> {
    let _ = step;
    Ok(())
}

/// A step that cannot fail: the process ends there, or goes on.
#[inline]
pub fn pass(step: Step) {
    // What cannot fail ignores a handler that says so.
    let _ = hit(step);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_step_has_a_name_of_its_own() {
        let names: BTreeSet<_> = Step::ALL.iter().map(|step| step.as_str()).collect();
        assert_eq!(names.len(), Step::ALL.len());
    }

    #[test]
    fn without_a_handler_no_step_fails() {
        assert!(Step::ALL.iter().all(|step| hit(*step).is_ok()));
    }

    #[test]
    fn a_failed_step_is_an_error_of_the_disk() {
        let injected = Injected(Step::RedoWrite);
        assert!(matches!(injected.into(), StorageError::Io { doing: "passing a failpoint", .. }));
        assert!(matches!(injected.into(), StateError::Storage(StorageError::Io { .. })));
    }
}
