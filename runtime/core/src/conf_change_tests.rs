//! Tests of conf changes: round trips, and each rule by its error.

use super::*;

fn replica(id: u64) -> ReplicaId {
    ReplicaId::new(id)
}

fn change() -> ConfChange {
    let step = |kind, id| ConfChangeStep { kind, replica: replica(id) };
    ConfChange {
        transition: ConfTransition::Explicit,
        steps: vec![step(ConfChangeKind::AddVoter, 4), step(ConfChangeKind::Remove, 1)],
        members: vec![Member { replica: replica(4), node: NodeId::new(9) }],
    }
}

#[test]
fn a_change_survives_the_log() {
    assert_eq!(ConfChange::decode(&change().encode()), Ok(change()));
}

/// What decoding says of a change that was broken by `edit` after it had been made.
fn refused(edit: impl FnOnce(&mut ConfChange)) -> ConfChangeError {
    let mut broken = change();
    edit(&mut broken);
    ConfChange::decode(&broken.encode()).expect_err("broken")
}

#[test]
fn an_added_replica_needs_a_node() {
    assert_eq!(refused(|c| c.members.clear()), ConfChangeError::NoNode { replica: replica(4) });
}

#[test]
fn an_added_learner_needs_a_node() {
    let error = refused(|c| {
        c.steps[0].kind = ConfChangeKind::AddLearner;
        c.members.clear();
    });
    assert_eq!(error, ConfChangeError::NoNode { replica: replica(4) });
}

#[test]
fn a_removed_replica_needs_no_node() {
    let steps = vec![change().steps[1]];
    let removal = ConfChange { steps, ..ConfChange::default() };
    assert_eq!(ConfChange::decode(&removal.encode()), Ok(removal));
}

#[test]
fn a_replica_is_changed_once() {
    let error = refused(|c| c.steps.push(c.steps[1]));
    assert_eq!(error, ConfChangeError::Duplicate { replica: replica(1) });
}

#[test]
fn a_replica_lives_on_one_node() {
    let elsewhere = Member { replica: replica(4), node: NodeId::new(8) };
    let error = refused(|c| c.members.push(elsewhere));
    assert_eq!(error, ConfChangeError::Duplicate { replica: replica(4) });
}

#[test]
fn replica_0_is_none() {
    assert_eq!(refused(|c| c.steps[0].replica = replica(0)), ConfChangeError::ZeroId);
}

#[test]
fn a_member_is_neither_replica_0_nor_on_node_0() {
    assert_eq!(refused(|c| c.members[0].node = NodeId::new(0)), ConfChangeError::ZeroId);
    assert_eq!(refused(|c| c.members[0].replica = replica(0)), ConfChangeError::ZeroId);
}

/// A change that removes `count` replicas.
fn removals(count: u64) -> ConfChange {
    let step = |id| ConfChangeStep { kind: ConfChangeKind::Remove, replica: replica(id) };
    ConfChange { steps: (1..=count).map(step).collect(), ..ConfChange::default() }
}

#[test]
fn a_change_has_at_most_64_steps() {
    assert_eq!(ConfChange::decode(&removals(64).encode()), Ok(removals(64)));
    let error = ConfChange::decode(&removals(65).encode());
    assert_eq!(error, Err(ConfChangeError::TooMany { steps: 65 }));
}

#[test]
fn members_count_as_steps() {
    let member = |id| Member { replica: replica(id), node: NodeId::new(1) };
    let error = refused(|c| c.members = (1..=65).map(member).collect());
    assert_eq!(error, ConfChangeError::TooMany { steps: 65 });
}

#[test]
fn an_unknown_transition_is_named() {
    let error = ConfChange::decode(&Bytes::from_static(&[8, 9]));
    assert_eq!(error, Err(ConfChangeError::Unknown { field: "transition", value: 9 }));
}

#[test]
fn an_unknown_kind_of_step_is_named() {
    let raw = proto::ConfChange {
        transition: 0,
        changes: vec![proto::ConfChangeSingle { kind: 7, replica: 1 }],
        context: Bytes::new(),
    };
    let error = ConfChange::decode(&raw.encode_to_vec().into());
    assert_eq!(error, Err(ConfChangeError::Unknown { field: "kind", value: 7 }));
}

#[test]
fn bytes_that_are_no_change_are_refused() {
    let error = ConfChange::decode(&Bytes::from_static(&[0xff]));
    assert!(matches!(error, Err(ConfChangeError::Decode(_))), "{error:?}");
}

#[test]
fn a_context_that_is_none_is_refused() {
    let context = Bytes::from_static(&[0xff]);
    let raw = proto::ConfChange { transition: 0, changes: vec![], context };
    let error = ConfChange::decode(&raw.encode_to_vec().into());
    assert!(matches!(error, Err(ConfChangeError::Decode(_))), "{error:?}");
}

#[test]
fn every_transition_and_kind_survives() {
    use ConfChangeKind::{AddLearner, AddVoter, Remove};
    use ConfTransition::{Auto, Explicit, Implicit};
    for transition in [Auto, Implicit, Explicit] {
        for kind in [AddVoter, AddLearner, Remove] {
            let mut made = ConfChange { transition, ..change() };
            made.steps[0].kind = kind;
            assert_eq!(ConfChange::decode(&made.encode()), Ok(made));
        }
    }
}

#[test]
fn leaving_a_joint_configuration_is_the_empty_change() {
    assert!(ConfChange::default().encode().is_empty());
    assert_eq!(ConfChange::decode(&Bytes::new()), Ok(ConfChange::default()));
}

#[test]
fn added_members_join_those_before_in_order() {
    let member = |id, node| Member { replica: replica(id), node: NodeId::new(node) };
    let before = Configuration::initial(vec![member(1, 10), member(7, 70)]);
    let after = change().members_after(&before);
    assert_eq!(after, [member(1, 10), member(4, 9), member(7, 70)]);
}

#[test]
fn a_member_that_moves_is_where_the_change_says() {
    let member = |node| Member { replica: replica(4), node: NodeId::new(node) };
    assert_eq!(change().members_after(&Configuration::initial(vec![member(40)])), [member(9)]);
}

#[test]
fn members_that_no_list_names_are_forgotten() {
    let member = |id| Member { replica: replica(id), node: NodeId::new(id) };
    let lists = ConfLists {
        voters: vec![replica(1)],
        learners: vec![replica(2)],
        voters_outgoing: vec![replica(3)],
        learners_next: vec![replica(4)],
        auto_leave: true,
    };
    let made = lists.clone().configuration(LogIndex::new(9), (1..=5).map(member).collect());
    let expected = Configuration {
        index: LogIndex::new(9),
        members: (1..=4).map(member).collect(),
        voters: lists.voters,
        learners: lists.learners,
        voters_outgoing: lists.voters_outgoing,
        learners_next: lists.learners_next,
        auto_leave: true,
    };
    assert_eq!(made, expected);
}

#[test]
fn each_refusal_says_what_it_found() {
    let texts = [
        ConfChangeError::Unknown { field: "kind", value: 7 },
        ConfChangeError::ZeroId,
        ConfChangeError::Duplicate { replica: replica(3) },
        ConfChangeError::NoNode { replica: replica(4) },
        ConfChangeError::TooMany { steps: 65 },
    ]
    .map(|error| error.to_string());
    let expected = [
        "conf change has the unknown kind 7",
        "conf change names replica or node 0",
        "conf change names replica 3 twice",
        "conf change adds replica 4 without its node",
        "conf change of 65 steps; at most 64 are allowed",
    ];
    assert_eq!(texts, expected);
}

/// Goal: what is in a log is read by every build. Method: the bytes of each part, in full.
#[test]
fn a_change_is_these_bytes() {
    let expected = [
        &[0x08, 2][..],
        &[0x12, 2, 0x10, 4],
        &[0x12, 4, 0x08, 1, 0x10, 1],
        &[0x1a, 6, 0x0a, 4, 0x08, 4, 0x10, 9],
    ];
    assert_eq!(change().encode(), expected.concat());
}

#[test]
fn transitions_and_kinds_are_numbered_as_by_raft() {
    use ConfTransition::{Auto, Explicit, Implicit};
    let transitions = [Auto, Implicit, Explicit].map(|t| transition_to_proto(t) as i32);
    let kind = |kind| step_to_proto(&ConfChangeStep { kind, replica: replica(1) }).kind;
    let kinds = [ConfChangeKind::AddVoter, ConfChangeKind::Remove, ConfChangeKind::AddLearner];
    assert_eq!((transitions, kinds.map(kind)), ([0, 1, 2], [0, 1, 2]));
}
