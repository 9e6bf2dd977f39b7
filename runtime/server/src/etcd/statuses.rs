//! What went wrong, in etcd's codes and words: clients compare the messages literally.

use polyraft::{ProposeError, ReadError};
use tonic::{Code, Status};

use crate::proto::keyspace::Refusal;

const TIMED_OUT: &str = "etcdserver: request timed out";
/// Clients must read this as "it may have been done".
const OUTCOME_UNKNOWN: &str = "etcdserver: request timed out, possibly due to connection lost";
const TOO_MANY_REQUESTS: &str = "etcdserver: too many requests";
const NO_LEADER: &str = "etcdserver: no leader";
const LEADER_CHANGED: &str = "etcdserver: leader changed";
const UNHEALTHY: &str = "etcdserver: unhealthy cluster";
const STOPPED: &str = "etcdserver: server stopped";

pub(super) fn too_large() -> Status {
    Status::invalid_argument("etcdserver: request is too large")
}

/// The keyspace's own rules.
pub(crate) fn of_refusal(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Compacted => {
            Status::out_of_range("etcdserver: mvcc: required revision has been compacted")
        }
        Refusal::FutureRevision => {
            Status::out_of_range("etcdserver: mvcc: required revision is a future revision")
        }
        Refusal::KeyNotFound => Status::invalid_argument("etcdserver: key not found"),
        Refusal::LeaseNotFound => Status::not_found("etcdserver: requested lease not found"),
        Refusal::KeyTooLong => Status::invalid_argument(format!(
            "polyraft: a key may have at most {} bytes, a run of zeros counted as two",
            crate::mvcc::KEY_ENCODED_BYTES_MAX
        )),
        Refusal::Unspecified => Status::internal("polyraft: refused for an unknown reason"),
    }
}

/// A write without a result.
pub(super) fn of_propose(error: &ProposeError) -> Status {
    if error.may_have_committed() {
        return Status::unavailable(OUTCOME_UNKNOWN);
    }
    match error {
        ProposeError::NotLeader { leader: None, .. } => Status::unavailable(NO_LEADER),
        ProposeError::NotLeader { .. } | ProposeError::Superseded { .. } => {
            Status::unavailable(LEADER_CHANGED)
        }
        ProposeError::Overloaded { .. } => Status::resource_exhausted(TOO_MANY_REQUESTS),
        ProposeError::Expired { .. } => Status::unavailable(TIMED_OUT),
        ProposeError::TooLarge { .. } | ProposeError::BatchLength { .. } => too_large(),
        ProposeError::Faulted { .. } => Status::unavailable(UNHEALTHY),
        ProposeError::Stopped { .. } => Status::unavailable(STOPPED),
        other => Status::unavailable(other.to_string()),
    }
}

/// Whether `status`, the answer to a write, promises that it was not and will not be done. What a
/// client's own end makes up, such as a lost connection, promises nothing.
pub(crate) fn was_not_done(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => {
            let promises = [NO_LEADER, LEADER_CHANGED, TIMED_OUT, UNHEALTHY, STOPPED];
            promises.contains(&status.message())
        }
        Code::ResourceExhausted => status.message() == TOO_MANY_REQUESTS,
        Code::InvalidArgument => true,
        _ => false,
    }
}

/// A read without a result.
pub(super) fn of_read(error: &ReadError) -> Status {
    match error {
        ReadError::TimedOut { .. } => Status::unavailable(TIMED_OUT),
        ReadError::Overloaded { .. } => Status::resource_exhausted(TOO_MANY_REQUESTS),
        ReadError::Faulted { .. } => Status::unavailable(UNHEALTHY),
        ReadError::Stopped { .. } => Status::unavailable(STOPPED),
        // Another node answers.
        damaged @ ReadError::Damaged { .. } => Status::unavailable(damaged.to_string()),
        other => Status::internal(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use polyraft::{GroupId, NodeId, Term};

    #[test]
    fn writes_fail_with_etcds_codes() {
        let group = GroupId::new(1);
        let (term, leader) = (Term::new(2), Some(NodeId::new(3)));
        let deadline = Duration::from_secs(1);
        for (error, code, message) in [
            (
                ProposeError::NotLeader { group, term, leader: None },
                Code::Unavailable,
                "etcdserver: no leader",
            ),
            (
                ProposeError::NotLeader { group, term, leader },
                Code::Unavailable,
                "etcdserver: leader changed",
            ),
            (
                ProposeError::Overloaded { group, what: "queue" },
                Code::ResourceExhausted,
                "etcdserver: too many requests",
            ),
            (ProposeError::Expired { group, deadline }, Code::Unavailable, TIMED_OUT),
            (
                ProposeError::TooLarge { group, bytes: 2, max: 1 },
                Code::InvalidArgument,
                "etcdserver: request is too large",
            ),
            (ProposeError::Faulted { group }, Code::Unavailable, UNHEALTHY),
            (ProposeError::Stopped { group }, Code::Unavailable, STOPPED),
        ] {
            let status = of_propose(&error);
            assert_eq!((status.code(), status.message()), (code, message), "{error}");
        }
    }

    /// Goal: no unknown outcome reads like a failure. Method: the error's own verdict.
    #[test]
    fn unknown_outcomes_are_told_apart() {
        let group = GroupId::new(1);
        let deadline = Duration::from_secs(1);
        for error in [ProposeError::Unknown { group }, ProposeError::TimedOut { group, deadline }] {
            assert_eq!(of_propose(&error).message(), OUTCOME_UNKNOWN);
            assert!(!was_not_done(&of_propose(&error)));
        }
        let known = [
            ProposeError::Superseded { group },
            ProposeError::Expired { group, deadline },
            ProposeError::Stopped { group },
        ];
        for error in known {
            assert!(was_not_done(&of_propose(&error)), "{error}");
        }
    }

    #[test]
    fn reads_and_refusals_have_etcds_codes() {
        let group = GroupId::new(1);
        let deadline = Duration::from_secs(1);
        let status = of_read(&ReadError::TimedOut { group, deadline });
        assert_eq!((status.code(), status.message()), (Code::Unavailable, TIMED_OUT));
        assert_eq!(of_refusal(Refusal::Compacted).code(), Code::OutOfRange);
        assert_eq!(of_refusal(Refusal::FutureRevision).code(), Code::OutOfRange);
        assert_eq!(of_refusal(Refusal::KeyNotFound).code(), Code::InvalidArgument);
        assert_eq!(of_refusal(Refusal::LeaseNotFound).code(), Code::NotFound);
    }
}
