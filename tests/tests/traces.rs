//! Goal: what replicas do, step by step, is what was reviewed.
//!
//! Method: replay every file of `testdata`, each in a test of its own; see `polyraft_tests::trace`.
//! A new trace is a file with commands and its name in the list below. Rewrite what follows from the
//! commands with `UPDATE_TRACES=1 cargo test -p polyraft-tests --test traces`, and review the diff.

use std::collections::BTreeSet;
use std::path::PathBuf;

use polyraft_tests::trace;

/// One test per trace, and the list of them.
macro_rules! traces {
    ($($name:ident,)*) => {
        const TRACES: &[&str] = &[$(stringify!($name)),*];

        $(
            #[test]
            fn $name() {
                replays(stringify!($name));
            }
        )*
    };
}

traces! {
    acknowledge_order,
    acknowledgement_after_step_down,
    add_voter_joint,
    append_split,
    apply_backlog,
    apply_in_flight,
    commit_by_followers,
    commit_lazy,
    compaction_by_bytes,
    compaction_floor,
    conf_barrier,
    conf_durable_first,
    conflict_then_campaign,
    crash_after_append_is_durable,
    crash_before_append_is_durable,
    crash_candidate_before_vote,
    crash_follower_before_acknowledging,
    crash_voter_before_vote,
    divergent_tails,
    duplicated_votes,
    duplicates,
    election,
    invalid_messages,
    isolated_follower_rejoins,
    joint_left_by_hand,
    joint_needs_both_majorities,
    leader_sends_before_own_sync,
    learner_has_no_vote,
    learner_promoted,
    old_leader_is_told,
    one_change_at_a_time,
    one_to_three,
    persist_covers_earlier,
    pre_vote_refused_by_lease,
    pre_vote_stale_follower,
    read_at_isolated_leader,
    read_before_first_commit,
    read_expiry,
    read_follower,
    read_index,
    read_lost_round,
    remove_joint_two,
    removed_member,
    restart,
    short_log_loses,
    single_replica,
    single_replica_crash,
    single_unpersisted,
    slow_follower_fetch,
    split_vote,
    stands_first,
    superseded,
    superseded_at_once,
    transfer,
    transfer_to_isolated,
    transfer_to_lagging,
    truncation_unpersisted,
    uncommitted_full,
    unknown_candidate,
    unknown_leader,
    unknown_on_step_down,
    unreachable,
    vote_only_ready,
    vote_survives_crash,
    window_in_bytes,
    written_but_unacknowledged,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

/// The first line that differs, with what was expected and found.
fn difference(expected: &str, found: &str) -> String {
    let pairs = expected.lines().zip(found.lines()).enumerate();
    let first = pairs.into_iter().find(|(_, (expected, found))| expected != found);
    match first {
        Some((at, (expected, found))) => {
            format!("line {}:\n  expected: {expected}\n  found:    {found}", at + 1)
        }
        None => "one is longer than the other".into(),
    }
}

fn replays(name: &str) {
    let path = folder().join(name).with_extension("txt");
    let text = std::fs::read_to_string(&path).expect("a listed trace has a file");
    let found = trace::replay(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    if std::env::var_os("UPDATE_TRACES").is_some() {
        std::fs::write(&path, found).expect("writable");
        return;
    }
    assert!(found == text, "{name}, {}", difference(&text, &found));
}

#[test]
fn every_file_is_a_listed_trace() {
    let entries = std::fs::read_dir(folder()).expect("testdata is beside this crate's manifest");
    let files: BTreeSet<_> =
        entries.map(|entry| entry.expect("readable").file_name().into_string()).collect();
    let listed = TRACES.iter().map(|name| Ok(format!("{name}.txt"))).collect();
    assert_eq!(files, listed);
}
