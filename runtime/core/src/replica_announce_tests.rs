//! Goal: followers hear of a commit index with the next append, or when the shell asks, and once.

use super::*;

const fn at(index: u64) -> LogIndex {
    LogIndex::new(index)
}

/// A leader of three whose entry 2 is committed, with everything else taken.
fn committed_two() -> TestReplica {
    let mut leader = leader();
    leader.announce_commit(at(1));
    take(&mut leader);
    propose(&mut leader, "a");
    take(&mut leader);
    acknowledge(&mut leader, 1, 2);
    leader.on_persisted(ReadyNumber::new(3));
    leader
}

#[test]
fn a_commit_alone_sends_nothing() {
    let mut leader = committed_two();
    assert_eq!(take(&mut leader), ["apply 2 a"]);
    assert_eq!(leader.unannounced(), Some(at(2)));
}

#[test]
fn the_next_append_takes_the_commit_index_along() {
    let mut leader = committed_two();
    take(&mut leader);
    propose(&mut leader, "b");
    assert_eq!(leader.unannounced(), None);
    let sent = take(&mut leader).into_iter().filter(|line| line.starts_with("send"));
    // Node 3 has never answered, and is sent one append at a time.
    assert_eq!(sent.collect::<Vec<_>>(), ["send 201 Append 2 [3] 2"]);
}

#[test]
fn an_announcement_goes_to_every_follower_once() {
    let mut leader = committed_two();
    take(&mut leader);
    leader.announce_commit(at(2));
    assert_eq!(take(&mut leader).first().map(String::as_str), Some("send 201 Append 2 [] 2"));
    assert_eq!(leader.unannounced(), None);
    leader.announce_commit(at(2));
    assert_eq!(take(&mut leader), [""; 0]);
}

#[test]
fn what_was_announced_meanwhile_is_not_announced_again() {
    let mut leader = committed_two();
    propose(&mut leader, "b");
    take(&mut leader);
    leader.announce_commit(at(2));
    assert_eq!(take(&mut leader), [""; 0]);
}

#[test]
fn only_a_leader_has_something_to_announce() {
    let mut leader = committed_two();
    take(&mut leader);
    step(&mut leader, 2, append(2, (2, 1), Vec::new(), 2));
    assert_eq!((leader.role(), leader.unannounced()), (Role::Follower, None));
    leader.announce_commit(at(2));
    assert!(take(&mut leader).iter().all(|line| !line.starts_with("send 301")));
}

#[test]
fn a_sole_voter_announces_to_nobody() {
    let mut leader = sole_leader();
    if let Some(commit) = leader.unannounced() {
        leader.announce_commit(commit);
    }
    assert_eq!((leader.unannounced(), take(&mut leader)), (None, Vec::new()));
}
