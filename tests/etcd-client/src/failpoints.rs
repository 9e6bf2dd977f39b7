//! What is tried at every step of persistence and handing over: which process, ending or failing how,
//! and what must become of it.
//!
//! The binary under test prints its steps' names; a run compares them with this table first, so that a
//! step added there is tried here.

use std::fmt;

/// Which process is struck, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The one that leads, under load.
    Leader,
    /// Another one, under load.
    Follower,
    /// The one that led before all were killed: it stands first, and is struck as it does.
    Candidate,
    /// Any, as it starts again.
    Starting,
    /// One to whom a restarted peer shows its new life.
    Peer,
    /// Any, as it first starts, in a new cluster.
    Creating,
}

/// What must become of a process whose step fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// It acknowledges nothing any more, and says why.
    StoreFailed,
    /// The group is out of service on this node, and says why.
    Faulted,
    /// The process does not start, and says why.
    Ended,
    /// Nothing: it goes on.
    Healthy,
}

/// What happens at the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The process ends as by a crash.
    Abort,
    /// The step fails.
    Fail(Remedy),
}

/// One step, one role, one action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// The step's name.
    pub step: &'static str,
    /// Who is struck.
    pub role: Role,
    /// How.
    pub action: Action,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, role, action } = self;
        let (role, action) = (format!("{role:?}"), format!("{action:?}"));
        write!(f, "{step:18} {role:10} {action:18}")
    }
}

use Remedy::{Ended, Faulted, Healthy, StoreFailed};
use Role::{Candidate, Creating, Follower, Leader, Peer, Starting};

const BOTH: &[Role] = &[Leader, Follower];
const ALSO_CANDIDATE: &[Role] = &[Leader, Follower, Candidate];
const ALSO_STARTING: &[Role] = &[Leader, Follower, Starting];

/// Every step, the roles in which it is passed, and what must follow if it can fail. One step may have
/// rows for several roles.
const STEPS: &[(&str, &[Role], Option<Remedy>)] = &[
    ("identity-write", &[Starting], Some(Ended)),
    ("file-rename", &[Starting], Some(Ended)),
    ("identity-written", &[Starting], None),
    ("stores-open", &[Starting], None),
    ("transport-started", &[Starting], None),
    ("group-restore", &[Starting], Some(Faulted)),
    ("group-restored", &[Starting], None),
    ("register-write", &[Peer], Some(Healthy)),
    ("register-written", &[Peer], None),
    ("create-submit", &[Creating], None),
    ("create-told", &[Creating], None),
    ("create-stored", &[Creating], None),
    ("append-submit", ALSO_CANDIDATE, None),
    ("compaction-submit", BOTH, None),
    ("redo-write", ALSO_CANDIDATE, Some(StoreFailed)),
    ("redo-written", ALSO_CANDIDATE, Some(StoreFailed)),
    // A group's first record is its creation.
    ("redo-write", &[Creating], Some(Ended)),
    ("redo-written", &[Creating], Some(Ended)),
    ("settle-start", BOTH, Some(StoreFailed)),
    ("settle-start", &[Starting], Some(Ended)),
    ("settle-inside", BOTH, Some(StoreFailed)),
    ("settle-inside", &[Starting], Some(Ended)),
    ("settle-committed", ALSO_STARTING, None),
    ("journal-appended", ALSO_CANDIDATE, None),
    ("append-told", ALSO_CANDIDATE, None),
    ("compaction-told", BOTH, None),
    ("append-persisted", ALSO_CANDIDATE, None),
    ("message-send", ALSO_CANDIDATE, None),
    ("message-received", ALSO_CANDIDATE, None),
    ("apply-start", BOTH, Some(Faulted)),
    ("apply-done", BOTH, None),
    ("reply-sent", &[Leader], None),
    ("flush-start", BOTH, Some(StoreFailed)),
    ("flush-inside", BOTH, Some(StoreFailed)),
    ("flush-committed", BOTH, None),
    ("flush-told", BOTH, None),
    ("collect-start", BOTH, Some(StoreFailed)),
    ("collect-inside", BOTH, Some(StoreFailed)),
    ("collect-committed", BOTH, None),
    ("cold-inside", BOTH, Some(StoreFailed)),
];

/// The names of the steps in the table.
pub fn steps() -> impl Iterator<Item = &'static str> {
    STEPS.iter().map(|(step, ..)| *step)
}

/// Everything that is tried, in the table's order.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (step, roles, remedy) in STEPS {
        for role in *roles {
            cases.push(Case { step, role: *role, action: Action::Abort });
            // A candidate's failed write is a follower's: it is no leader yet.
            if let Some(remedy) = remedy.filter(|_| *role != Candidate) {
                cases.push(Case { step, role: *role, action: Action::Fail(remedy) });
            }
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_case_is_tried_once() {
        let cases: BTreeSet<_> = cases().iter().map(Case::to_string).collect();
        assert_eq!(cases.len(), super::cases().len());
    }
}
