//! What happened, in the pipeline's words: proposed, submitted, persisted, committed, applied.

use polyraft_core::conf_change::{ConfChange, ConfChangeKind};
use polyraft_core::entry::{Configuration, EntryKind, LogEntry};
use polyraft_core::ids::{NodeId, ReplicaId};
use polyraft_core::message::{Body, Envelope, RaftKind, RaftMessage};
use polyraft_core::output::Append;
use polyraft_core::status::{GroupEvent, GroupStatus};

use crate::host::commands_of;

/// Replica 101 is `n1`'s first, and so on.
pub(super) fn replica(id: ReplicaId) -> String {
    format!("n{}", id.get() / 100)
}

fn replicas(ids: &[ReplicaId]) -> String {
    ids.iter().map(|id| replica(*id)).collect::<Vec<_>>().join(" ")
}

fn node(id: Option<NodeId>) -> String {
    id.map_or("none".into(), |id| format!("n{id}"))
}

pub(super) fn entry(entry: &LogEntry) -> String {
    let what = match entry.kind {
        EntryKind::ConfChange => change(entry),
        EntryKind::Normal if entry.data.is_empty() => "-".into(),
        EntryKind::Normal => {
            let commands = commands_of(entry);
            commands.iter().map(|c| command(c)).collect::<Vec<_>>().join(" ")
        }
    };
    format!("{}/t{} {what}", entry.index, entry.term)
}

fn command(bytes: &[u8]) -> String {
    if bytes.len() > 40 {
        return format!("<{} bytes>", bytes.len());
    }
    format!("\"{}\"", String::from_utf8_lossy(bytes))
}

fn change(entry: &LogEntry) -> String {
    let change = ConfChange::decode(&entry.data).expect("only valid changes are proposed");
    if change.steps.is_empty() {
        return "leave joint".into();
    }
    let step = |step: &polyraft_core::conf_change::ConfChangeStep| {
        let kind = match step.kind {
            ConfChangeKind::AddVoter => "add-voter",
            ConfChangeKind::AddLearner => "add-learner",
            ConfChangeKind::Remove => "remove",
        };
        format!("{kind} {}", replica(step.replica))
    };
    change.steps.iter().map(step).collect::<Vec<_>>().join(", ")
}

fn entries(list: &[LogEntry]) -> String {
    format!("[{}]", list.iter().map(entry).collect::<Vec<_>>().join(", "))
}

pub(crate) fn envelope(from: NodeId, envelope: &Envelope) -> String {
    let Body::Raft(message) = &envelope.body else { panic!("replicas send steps of Raft only") };
    format!("n{from}->{} {}", replica(envelope.to), self::message(message))
}

fn message(message: &RaftMessage) -> String {
    let RaftMessage { term, log_term, index, commit, .. } = message;
    let verdict = if message.reject { "no" } else { "yes" };
    let mut text = match message.kind {
        RaftKind::Append => {
            format!(
                "append t{term} after {index}/t{log_term} {} commit {commit}",
                entries(&message.entries)
            )
        }
        RaftKind::AppendResponse if message.reject => {
            format!("append refused t{term} at {index}, try {}/t{log_term}", message.reject_hint)
        }
        RaftKind::AppendResponse => format!("append acknowledged t{term} up to {index}"),
        RaftKind::RequestVote => format!("vote? t{term} last {index}/t{log_term}"),
        RaftKind::RequestVoteResponse => format!("vote {verdict} t{term}"),
        RaftKind::RequestPreVote => format!("pre-vote? t{term} last {index}/t{log_term}"),
        RaftKind::RequestPreVoteResponse => format!("pre-vote {verdict} t{term}"),
        RaftKind::Heartbeat => format!("heartbeat t{term} commit {commit}"),
        RaftKind::HeartbeatResponse => format!("heartbeat response t{term}"),
        RaftKind::TimeoutNow => format!("timeout now t{term}"),
        RaftKind::ReadIndex => "read index?".into(),
        RaftKind::ReadIndexResponse => format!("read index {index} t{term}"),
    };
    if let Some(round) = message.context.get(16..24) {
        let round = u64::from_be_bytes(round.try_into().expect("8 bytes"));
        text += &format!(" round {round}");
    }
    if message.compact_floor.get() > 0 {
        text += &format!(" floor {}", message.compact_floor);
    }
    text
}

pub(super) fn append(append: &Append) -> String {
    let mut parts = Vec::new();
    if let Some(hard_state) = append.append.hard_state {
        let vote = hard_state.vote.map_or("none".into(), replica);
        parts.push(format!("t{} vote {vote} commit {}", hard_state.term, hard_state.commit));
    }
    if let Some(configuration) = &append.append.configuration {
        parts.push(self::configuration(configuration));
    }
    if !append.append.entries.is_empty() {
        parts.push(entries(&append.append.entries));
    }
    if let Some(point) = append.append.compact {
        parts.push(format!("compact up to {}/t{}", point.index, point.term));
    }
    format!("submitted {}: {}", append.number, parts.join(", "))
}

fn configuration(configuration: &Configuration) -> String {
    let Configuration { index, voters, learners, voters_outgoing, learners_next, .. } =
        configuration;
    let mut text = format!("configuration {index}: voters {}", replicas(voters));
    for (name, list) in
        [("outgoing", voters_outgoing), ("learners", learners), ("learners next", learners_next)]
    {
        if !list.is_empty() {
            text += &format!("; {name} {}", replicas(list));
        }
    }
    text
}

pub(super) fn event(event: &GroupEvent) -> String {
    match event {
        GroupEvent::BecameLeader { term } => format!("became leader in t{term}"),
        GroupEvent::BecameFollower { term } => format!("became follower in t{term}"),
        GroupEvent::LeaderChanged { term, leader } => {
            format!("sees leader {} in t{term}", node(*leader))
        }
        GroupEvent::ConfChanged { configuration } => {
            format!("is in {}", self::configuration(configuration))
        }
        other => format!("{other:?}"),
    }
}

pub(super) fn status(status: &GroupStatus) -> String {
    format!(
        "{} t{} leader {} last {} persisted {} commit {} applied {} compacted {}",
        status.role.as_str(),
        status.term,
        node(status.leader),
        status.last,
        status.persisted,
        status.commit,
        status.applied,
        status.compacted
    )
}
