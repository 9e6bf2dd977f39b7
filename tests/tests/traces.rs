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
    all_restart,
    announce_after_losing_leadership,
    announce_alone,
    announce_by_heartbeat,
    announce_crash_before,
    announce_duplicated,
    announce_lost,
    announce_read_needs_none,
    announce_to_a_learner,
    announce_with_the_next_append,
    append_split,
    apply_backlog,
    apply_in_flight,
    backlog_at_new_leader,
    change_among_proposals,
    change_refused_where_nobody_leads,
    change_refused_while_handing_over,
    change_superseded,
    change_that_changes_nothing,
    change_waits_for_what_was_in_the_log,
    commit_ahead_of_entries,
    commit_by_followers,
    commit_lazy,
    compaction_by_bytes,
    compaction_floor,
    conf_barrier,
    conf_durable_first,
    conflict_then_campaign,
    crash_after_append_is_durable,
    crash_before_append_is_durable,
    crash_candidate_applied_not_durable,
    crash_candidate_at_once,
    crash_candidate_before_vote,
    crash_candidate_committed_unapplied,
    crash_candidate_written,
    crash_follower_applied_durable,
    crash_follower_applied_not_durable,
    crash_follower_before_acknowledging,
    crash_follower_committed_unapplied,
    crash_follower_compaction_queued,
    crash_follower_compaction_written,
    crash_follower_configuration_queued,
    crash_follower_configuration_written,
    crash_follower_entries_queued,
    crash_follower_entries_written,
    crash_follower_hard_state_queued,
    crash_leader_applied_durable,
    crash_leader_applied_not_durable,
    crash_leader_committed_unapplied,
    crash_leader_compaction_queued,
    crash_leader_compaction_written,
    crash_leader_configuration_queued,
    crash_leader_configuration_written,
    crash_leader_entries_queued,
    crash_leader_entries_written,
    crash_leader_hard_state_queued,
    crash_learner_applied_durable,
    crash_learner_applied_not_durable,
    crash_learner_committed_unapplied,
    crash_learner_compaction_queued,
    crash_learner_compaction_written,
    crash_learner_configuration_queued,
    crash_learner_configuration_written,
    crash_learner_entries_queued,
    crash_learner_entries_written,
    crash_learner_hard_state_queued,
    crash_pre_candidate_applied_not_durable,
    crash_pre_candidate_at_once,
    crash_pre_candidate_committed_unapplied,
    crash_pre_candidate_entries_queued,
    crash_pre_candidate_entries_written,
    crash_voter_before_vote,
    dead_follower_removed,
    divergent_tails,
    duplicated_acknowledgements,
    duplicated_appends,
    duplicated_votes,
    duplicates,
    election,
    even_split,
    events_leader_cut_off,
    events_leader_restarts,
    events_learner_becomes_leader,
    events_transfers,
    fetch_answered_after_step_down,
    fetch_ended_by_a_crash,
    five_hear_one,
    five_hear_two,
    five_lose_two,
    five_remove_two_at_once,
    four_lose_their_leader,
    four_voters_and_a_stalled_disk,
    four_voters_need_three,
    held_acknowledgement_outlives_its_entry,
    invalid_messages,
    isolated_follower_rejoins,
    joint_election_needs_both_majorities,
    joint_leader_crashes_before_commit,
    joint_leader_crashes_before_sending,
    joint_leader_crashes_leaving,
    joint_leader_crashes_when_joint,
    joint_leader_hears_the_old_half_only,
    joint_left_by_hand,
    joint_left_without_a_heartbeat,
    joint_needs_both_majorities,
    joint_needs_the_old_majority,
    late_acknowledgement_at_candidate,
    late_append,
    late_heartbeat,
    late_rejection_after_compaction,
    late_timeout_now,
    late_timeout_now_with_unpersisted_tail,
    late_vote_at_follower,
    late_vote_at_leader,
    leader_demoted,
    leader_restarts_twice,
    leader_sends_before_own_sync,
    learner_after_compaction,
    learner_elects_nobody,
    learner_has_no_vote,
    learner_holds_compaction_back,
    learner_promoted,
    learner_removed,
    learner_through_an_election,
    learners_keep_no_leader,
    log_writer_replaced_configuration,
    log_writer_replaced_follower,
    log_writer_replaced_idle,
    log_writer_replaced_leader,
    log_writer_replaced_learner,
    log_writer_replaced_truncation,
    log_writer_replaced_twice,
    log_writer_replaced_vote,
    log_writer_replaced_written,
    long_log_of_an_old_term_loses,
    old_append_after_newer,
    old_leader_is_told,
    old_term_is_not_committed_by_counting,
    one_change_at_a_time,
    one_to_three,
    one_to_three_and_back,
    one_way_leader,
    persist_covers_earlier,
    pre_vote_refused_by_a_newer_term,
    pre_vote_refused_by_lease,
    pre_vote_stale_follower,
    promoted_learner_is_needed,
    proposal_of_a_leader_that_is_cut_off,
    proposal_refused_after_restart,
    proposal_refused_at_candidate,
    proposal_refused_at_follower,
    proposal_refused_at_pre_candidate,
    proposal_taken_before_own_vote_is_durable,
    proposals_between_transfers,
    read_after_voters_change,
    read_ahead_of_apply,
    read_answer_of_an_old_term,
    read_answered_after_step_down,
    read_at_candidate,
    read_at_isolated_leader,
    read_at_new_leader,
    read_at_removed_leader,
    read_before_first_commit,
    read_does_not_wait_for_what_comes_later,
    read_duplicated,
    read_during_transfer,
    read_expiry,
    read_follower,
    read_follower_answer_lost,
    read_follower_crashes,
    read_follower_request_lost,
    read_follower_round_lost,
    read_in_joint_configuration,
    read_index,
    read_leader_answers_lost,
    read_leader_crashes,
    read_leader_one_answer_lost,
    read_learner,
    read_lost_round,
    read_of_two_followers,
    read_passed_on_by_old_leader,
    read_rounds_bounded,
    read_sole_voter_with_learner,
    read_waits_for_what_came_before,
    remove_joint_two,
    removed_member,
    removed_member_keeps_asking,
    reordered_appends,
    restart,
    restart_in_joint,
    restarted_candidate_disturbs_nobody,
    restarted_leader_has_less,
    restarted_leader_leads_again,
    rolling_restart,
    seven_lose_three,
    short_log_loses,
    single_replica,
    single_replica_crash,
    single_unpersisted,
    slow_disk_keeps_leading,
    slow_follower_disk,
    slow_follower_fetch,
    split_vote,
    stalled_disk_hands_over,
    stalled_disk_hands_over_again,
    stalled_disk_of_five,
    stalled_disks_keep_their_leader,
    stands_first,
    step_down_spares_the_committed,
    superseded,
    superseded_at_once,
    tail_is_lost_with_its_node,
    tail_survives_with_its_leader,
    three_way_partition,
    transfer,
    transfer_at_follower,
    transfer_before_a_change_is_applied,
    transfer_duplicated,
    transfer_leader_crashes,
    transfer_target_crashes,
    transfer_target_crashes_after_standing,
    transfer_timeout_now_lost,
    transfer_to_isolated,
    transfer_to_itself,
    transfer_to_lagging,
    transfer_to_learner,
    transfer_twice,
    transfer_votes_lost,
    transfer_waits_for_the_targets_sync,
    transfer_within_a_joint_configuration,
    truncation_unpersisted,
    two_learners_promoted_at_once,
    two_minorities,
    two_voters_cannot_drop_the_dead_one,
    two_voters_need_both,
    uncommitted_full,
    unknown_candidate,
    unknown_leader,
    unknown_on_step_down,
    unreachable,
    vote_only_ready,
    vote_survives_crash,
    voter_demoted,
    voter_demoted_and_promoted_again,
    voter_replaced_at_once,
    window_in_bytes,
    window_with_loss,
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
