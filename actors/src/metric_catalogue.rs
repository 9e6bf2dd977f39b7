//! Metric catalogue: every series family that a node exports, with its kind, unit, meaning and labels.
//!
//! ```text
//! METRICS ─describe→ recorder → HELP and TYPE        tests: every family here moves, and no other
//!    ├─register→ every series whose labels are known, at zero, from the start
//!    └─render──→ grafana/metrics.md
//! ```
//!
//! Promise: one prefix; base units, which the name ends with; a counter ends in `_total`; no label
//! that grows with the groups. A family that the code records and this table lacks, or the other way
//! round, fails the test below.
//! Not here: the values, which are recorded where things happen.
//! Source: Prometheus, "Metric and label naming".

use metrics::{Label as Pair, Unit};

use crate::mailbox::{ActorKind, MAILBOXES};

/// What every name begins with.
pub const PREFIX: &str = "polyraft_";

/// What moves a family that every busy cluster moves.
pub const LOAD: &str = "load";

/// How a family behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

impl MetricKind {
    /// As in a `TYPE` line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The stages of a proposal, as everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Waits for its batch.
    Proposed,
    /// In the leader's log.
    Submitted,
    /// Durable on the leader.
    Persisted,
    /// Durable on a majority, and handed to the applier.
    Committed,
    /// Applied and answered.
    Applied,
    /// No stage: of the node, or of what is no proposal.
    None,
}

impl Stage {
    /// Its name in labels and documents; a dash for none.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proposed => "proposed",
            Self::Submitted => "submitted",
            Self::Persisted => "persisted",
            Self::Committed => "committed",
            Self::Applied => "applied",
            Self::None => "–",
        }
    }
}

/// The values of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// These, each from the start.
    Known(&'static [&'static str]),
    /// As many as there are of something that does not grow with the groups.
    Bounded(&'static str),
}

/// One label of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// What it can say.
    pub values: Values,
}

const fn label(name: &'static str, values: &'static [&'static str]) -> Label {
    Label { name, values: Values::Known(values) }
}

/// One family.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, with the prefix.
    pub name: &'static str,
    /// How it behaves.
    pub kind: MetricKind,
    /// What is counted or measured.
    pub unit: Unit,
    /// Its labels.
    pub labels: &'static [Label],
    /// The stage of a proposal that it is about.
    pub stage: Stage,
    /// What moves it: [`LOAD`], or what has to happen first.
    pub moved_by: &'static str,
    /// What it says, in one sentence.
    pub help: &'static str,
}

/// Kinds of actor, in the order of [`MAILBOXES`].
const ACTORS: [&str; MAILBOXES.len()] = {
    let mut names = [""; MAILBOXES.len()];
    let mut at = 0;
    while at < MAILBOXES.len() {
        names[at] = MAILBOXES[at].actor.as_str();
        at += 1;
    }
    names
};
/// Kinds whose actors take what waits for them in turns.
pub const TURNING: [ActorKind; 5] = [
    ActorKind::Group,
    ActorKind::Batcher,
    ActorKind::LogWriter,
    ActorKind::StateFlusher,
    ActorKind::PeerLink,
];
const TURNING_NAMES: [&str; TURNING.len()] = {
    let mut names = [""; TURNING.len()];
    let mut at = 0;
    while at < TURNING.len() {
        names[at] = TURNING[at].as_str();
        at += 1;
    }
    names
};

/// Why a handshake failed or an authenticated connection was given up, as the transport says it.
pub const HANDSHAKE_FAILURES: [&str; 23] = [
    "no_certificate",
    "untrusted_issuer",
    "expired",
    "not_yet_valid",
    "revoked",
    "bad_certificate",
    "no_node_uri",
    "wrong_cluster",
    "wrong_node",
    "unknown_peer",
    "wrong_alpn",
    "handshake",
    "handshake_timeout",
    "busy",
    "refused_by_peer",
    "replaced_data",
    "older_data",
    "data_unknown",
    "bad_preamble",
    "frame_too_large",
    "frame_truncated",
    "frame_stalled",
    "lane_closed",
];

const ACTOR: Label = label("actor", &ACTORS);
const TURN: Label = label("actor", &TURNING_NAMES);
const CERTIFICATE: Label = label("certificate", &["leaf", "ca"]);
const CONSISTENCY: Label = label("consistency", &["linearizable", "stale"]);
const DROP: Label = label("reason", &["outbox", "disconnected"]);
const FAULT: Label = label("kind", &["kill_actor", "stall_actor", "link", "disk", "clock"]);
const FLUSH: Label = label("reason", &["count", "bytes", "linger", "idle", "off"]);
const HANDSHAKE: Label = label("reason", &HANDSHAKE_FAILURES);
const HEALTH: Label = label("health", &["healthy", "restarting", "faulted", "stopped"]);
const LANE: Label = label("lane", &["control", "append", "request"]);
const METHOD: Label = label("method", &REQUEST_METHODS);
const PEER: Label = Label { name: "peer", values: Values::Bounded("node ids of the other nodes") };
const PLACE: Label = Label { name: "place", values: Values::Bounded("watched kinds of threads") };
const REFUSED: Label =
    label("reason", &["invalid", "apply_backlog_full", "disk_backlog_full", "raft"]);
const RELOAD: Label = label("outcome", &["ok", "failed"]);
const ROLE: Label = label("role", &["follower", "pre_candidate", "candidate", "leader"]);
const PROPOSED: Label = label("outcome", &PROPOSAL_OUTCOMES);
const READ: Label = label("outcome", &READ_OUTCOMES);
const STAGE: Label = label(
    "stage",
    &[
        Stage::Submitted.as_str(),
        Stage::Persisted.as_str(),
        Stage::Committed.as_str(),
        Stage::Applied.as_str(),
    ],
);
const STORE: Label = label("store", &["log", "state"]);
const VERSION: Label = Label { name: "version", values: Values::Bounded("one: the running one's") };
/// How proposals end, as their callers see it: that of an error is its name.
pub const PROPOSAL_OUTCOMES: [&str; 11] = [
    "applied",
    "not_leader",
    "overloaded",
    "expired",
    "too_large",
    "batch_length",
    "superseded",
    "unknown",
    "timed_out",
    "faulted",
    "stopped",
];
/// How reads end, as their callers see it.
pub const READ_OUTCOMES: [&str; 6] =
    ["answered", "timed_out", "overloaded", "query_failed", "faulted", "stopped"];
/// Methods of etcd's API with series of their own; the last is every other one.
pub const REQUEST_METHODS: [&str; 6] = ["Range", "Put", "DeleteRange", "Txn", "Compact", "other"];
/// gRPC's status codes, by number.
pub const GRPC_CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const CODE: Label = label("code", &GRPC_CODES);

/// A row per family: kind, name, unit, labels, stage, what moves it; what it says.
macro_rules! table {
    ($($kind:ident $name:literal $unit:ident $labels:tt $stage:ident $by:expr => $help:literal;)*) => {
        /// Every family, by name.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: $name,
            kind: MetricKind::$kind,
            unit: Unit::$unit,
            labels: &$labels,
            stage: Stage::$stage,
            moved_by: $by,
            help: $help,
        },)*];
    };
}

table! {
    Counter "polyraft_actor_down_total" Count [ACTOR] None "an actor's end"
        => "Actors that ended, by kind.";
    Counter "polyraft_actor_panics_total" Count [ACTOR] None "an actor's panic"
        => "Actors that ended by a panic, by kind.";
    Counter "polyraft_actor_restarts_total" Count [ACTOR] None "an actor's end"
        => "Actors that were started again after they had ended, by kind.";
    Counter "polyraft_applied_commands_total" Count [] Applied LOAD
        => "Commands that were applied.";
    Counter "polyraft_applied_entries_total" Count [] Applied LOAD
        => "Log entries that were applied.";
    Counter "polyraft_apply_faults_total" Count [] Applied "a state machine that fails"
        => "State machines that failed.";
    Gauge "polyraft_apply_lag_entries" Count [] Committed "machines slower than proposals"
        => "Entries that are committed and not applied here, of all groups.";
    Gauge "polyraft_apply_lag_max_entries" Count [] Committed "machines slower than proposals"
        => "Entries that are committed and not applied here, of the group that has most.";
    Histogram "polyraft_apply_slice_duration_seconds" Seconds [] Applied LOAD
        => "Time that one slice of one group's entries took a worker.";
    Histogram "polyraft_arbiter_stall_seconds" Seconds [PLACE] None LOAD
        => "How long a thread of actors kept a ping waiting, by place.";
    Gauge "polyraft_awake_groups" Count [] None "a group that is created"
        => "Groups that are ticked.";
    Histogram "polyraft_batch_bytes" Bytes [] Submitted LOAD
        => "Size of one batch.";
    Histogram "polyraft_batch_commands" Count [] Submitted LOAD
        => "Commands in one batch.";
    Histogram "polyraft_batch_wait_seconds" Seconds [] Proposed LOAD
        => "How long the oldest unit of a batch had waited when it was cut.";
    Counter "polyraft_batches_total" Count [FLUSH] Submitted LOAD
        => "Batches cut, by reason.";
    Gauge "polyraft_build_info" Count [VERSION] None "a start"
        => "1, with the version that runs.";
    Gauge "polyraft_certificate_expiry_timestamp_seconds" Seconds [CERTIFICATE] None "a start, a rotation"
        => "When the certificate in use ends, in seconds since 1970; of several, the first to end.";
    Counter "polyraft_certificate_reloads_total" Count [RELOAD] None "a reload of certificates"
        => "Reloads of the certificate files, by outcome.";
    Counter "polyraft_checksum_failures_total" Count [STORE] None "damaged data"
        => "Damaged data that was met, by store.";
    Counter "polyraft_compactions_total" Count [] None "load that outgrows the kept tail"
        => "Logs of groups that were cut at their beginning.";
    Gauge "polyraft_config_election_timeout_seconds" Seconds [] None "a start"
        => "The configured election timeout, the shortest that is drawn.";
    Gauge "polyraft_config_heartbeat_interval_seconds" Seconds [] None "a start"
        => "The configured interval of heartbeats.";
    Histogram "polyraft_election_duration_seconds" Seconds [] None "an election"
        => "From standing to leading, of elections won by replicas here.";
    Counter "polyraft_elections_started_total" Count [] None "an election"
        => "Times that replicas here stood for election, asking first or at once.";
    Counter "polyraft_elections_won_total" Count [] None "an election"
        => "Elections won by replicas here.";
    Gauge "polyraft_faults_in_force" Count [] None "an injected fault"
        => "Injected faults that act now.";
    Counter "polyraft_faults_injected_total" Count [FAULT] None "an injected fault"
        => "Faults that were injected, by kind.";
    Counter "polyraft_group_lives_total" Count [] None "a start, a group's actor's end"
        => "Groups started or rebuilt.";
    Gauge "polyraft_groups" Count [ROLE] None "a start, an election"
        => "Groups with a replica in service here, by its role.";
    Gauge "polyraft_groups_by_health" Count [HEALTH] None "a start, a group's actor's end"
        => "Groups with a replica here, by their health on this node.";
    Counter "polyraft_groups_faulted_total" Count [] None "a group that fails"
        => "Groups taken out of service here.";
    Gauge "polyraft_groups_without_leader" Count [] None "a start, a leader's end"
        => "Groups in service here whose replica knows no leader.";
    Counter "polyraft_handshake_failures_total" Count [HANDSHAKE] None "a peer that is refused"
        => "Connections refused or given up, by reason.";
    Histogram "polyraft_heartbeat_interval_seconds" Seconds [PEER] None LOAD
        => "Between two frames with heartbeats from one peer.";
    Histogram "polyraft_heartbeat_sent_interval_seconds" Seconds [PEER] None LOAD
        => "Between two frames with heartbeats that were sent to one peer.";
    Gauge "polyraft_journal_bytes" Bytes [] Persisted LOAD
        => "Bytes of the records that the journal holds.";
    Counter "polyraft_journal_collected_bytes_total" Bytes [] None "a journal at its limit"
        => "Bytes of the records that garbage collection removed.";
    Counter "polyraft_journal_collections_total" Count [] None LOAD
        => "Pieces of garbage collection that were run.";
    Gauge "polyraft_journal_limit_bytes" Bytes [] None "a start"
        => "Bytes of records beyond which garbage is collected.";
    Counter "polyraft_leader_changes_total" Count [] None "an election"
        => "Changes of leader that replicas here saw, to none included.";
    Histogram "polyraft_leaderless_duration_seconds" Seconds [] None "an election"
        => "How long a replica here knew no leader, once it knew one again.";
    Counter "polyraft_link_connects_total" Count [PEER] None "a start, a cut link"
        => "How often the link to one peer came up; all but the first are reconnects. A connection that takes the place of one that works is none.";
    Counter "polyraft_link_dropped_total" Count [DROP] None "a cut link, a flood"
        => "Messages that found the outbox full, and frames without a connection, by reason.";
    Histogram "polyraft_link_frame_bytes" Bytes [] None LOAD
        => "Size of one frame to a peer.";
    Counter "polyraft_link_frames_total" Count [LANE] None LOAD
        => "Frames handed to the transport, by lane.";
    Gauge "polyraft_link_queue_bytes" Bytes [PEER] None "a cut or slow link"
        => "Bytes that wait to be sent to one peer.";
    Counter "polyraft_link_received_bytes_total" Bytes [PEER] None LOAD
        => "Bytes received from one peer, with framing.";
    Counter "polyraft_link_received_frames_total" Count [PEER] None LOAD
        => "Frames received from one peer.";
    Counter "polyraft_link_refused_frames_total" Count [] None "a faulty peer"
        => "Frames that cannot be decoded.";
    Gauge "polyraft_link_round_trip_seconds" Seconds [PEER] None LOAD
        => "Smoothed round trip to one peer; 0 without a connection.";
    Counter "polyraft_link_sent_bytes_total" Bytes [PEER] None LOAD
        => "Bytes sent to one peer, with framing.";
    Counter "polyraft_link_sent_frames_total" Count [PEER] None LOAD
        => "Frames sent to one peer.";
    Counter "polyraft_link_unknown_group_total" Count [] None "a group its peers lack"
        => "Answers of peers that they lack the group they were addressed for.";
    Gauge "polyraft_link_up" Count [PEER] None "a start, a cut link"
        => "1 while there is a connection to the peer, else 0.";
    Gauge "polyraft_log_commit_age_seconds" Seconds [] Persisted "a stalled disk"
        => "How long the journal's commit, or piece of garbage collection, that is under way has been running; 0 between two.";
    Histogram "polyraft_log_commit_appends" Count [] Persisted LOAD
        => "Groups' appends in one commit: the width of a group commit.";
    Counter "polyraft_log_commit_bytes_total" Bytes [] Persisted LOAD
        => "Bytes written to the journal.";
    Histogram "polyraft_log_commit_duration_seconds" Seconds [] Persisted LOAD
        => "Time of one commit of the journal, with its sync.";
    Counter "polyraft_log_commit_entries_total" Count [] Persisted LOAD
        => "Entries written to the journal.";
    Gauge "polyraft_log_full" Count [] Persisted "a full disk or map"
        => "1 while the journal's disk or map is full.";
    Gauge "polyraft_log_queue_appends" Count [] Submitted LOAD
        => "Appends that are not durable yet.";
    Histogram "polyraft_log_sync_duration_seconds" Seconds [] Persisted LOAD
        => "Time that a commit of the journal spent writing to the disk until it was durable.";
    Gauge "polyraft_mailbox_capacity_messages" Count [TURN] None "a start"
        => "Messages that one mailbox takes, by kind of actor.";
    Counter "polyraft_mailbox_dropped_total" Count [ACTOR] None "a flood"
        => "Messages that found a mailbox full, by kind of actor.";
    Gauge "polyraft_mailbox_high_water_messages" Count [TURN] None LOAD
        => "Most messages that one actor of the kind took in one turn within the last half minute.";
    Counter "polyraft_peer_messages_refused_total" Count [REFUSED] None "a faulty or overloaded peer"
        => "Raft messages that a replica refused, by reason.";
    Counter "polyraft_process_cpu_seconds_total" Seconds [] None LOAD
        => "Processor time of this process, of user and system, in whole seconds.";
    Gauge "polyraft_process_max_fds" Count [] None "a start"
        => "Files that this process may have open.";
    Gauge "polyraft_process_open_fds" Count [] None LOAD
        => "Files that this process has open.";
    Gauge "polyraft_process_resident_bytes" Bytes [] None LOAD
        => "Memory of this process that is resident, mapped files included.";
    Gauge "polyraft_process_start_timestamp_seconds" Seconds [] None "a start"
        => "When this process started, in seconds since 1970.";
    Gauge "polyraft_process_threads" Count [] None LOAD
        => "Threads of this process.";
    Histogram "polyraft_proposal_duration_seconds" Seconds [] Applied LOAD
        => "From a caller's proposal to its outcome, whichever.";
    Histogram "polyraft_proposal_stage_duration_seconds" Seconds [STAGE] Applied LOAD
        => "How long a batch that was proposed here took to reach the stage from the one before.";
    Counter "polyraft_proposals_forwarded_total" Count [] Proposed LOAD
        => "Callers' proposals that were passed on to the leader's node.";
    Gauge "polyraft_proposals_pending" Count [] Proposed LOAD
        => "Callers' proposals without an outcome yet.";
    Counter "polyraft_proposals_total" Count [PROPOSED] Applied LOAD
        => "Callers' proposals, by outcome.";
    Gauge "polyraft_propose_queue_commands" Count [] Proposed LOAD
        => "Commands that wait for a batch, of all groups.";
    Histogram "polyraft_read_duration_seconds" Seconds [CONSISTENCY] Applied LOAD
        => "From a caller's read to its outcome, whichever.";
    Histogram "polyraft_read_index_duration_seconds" Seconds [] None LOAD
        => "How long the first of the reads that were confirmed together had waited for it.";
    Counter "polyraft_read_index_rounds_total" Count [] None LOAD
        => "Rounds that were started to confirm reads, repeated ones included.";
    Counter "polyraft_reads_total" Count [CONSISTENCY, READ] Applied LOAD
        => "Callers' reads, by outcome.";
    Gauge "polyraft_reads_waiting" Count [] None "a leader that cannot be confirmed"
        => "Reads that wait for their index, of all groups.";
    Counter "polyraft_rejected_commands_total" Count [] Applied "commands that break a machine's rules"
        => "Commands that machines rejected.";
    Gauge "polyraft_replication_lag_max_entries" Count [] Submitted "a follower that is away"
        => "Entries that the slowest member of a group led here lacks, of the group that has most.";
    Histogram "polyraft_request_duration_seconds" Seconds [METHOD] None "requests of etcd clients"
        => "Time of one request to the binary's etcd API.";
    Counter "polyraft_requests_total" Count [METHOD, CODE] None "requests of etcd clients"
        => "Requests to the binary's etcd API, by method and gRPC code.";
    Gauge "polyraft_runtime_alive_tasks" Count [] None LOAD
        => "Tasks of the tokio runtime that started the node.";
    Gauge "polyraft_runtime_queued_tasks" Count [] None "a busy runtime"
        => "Tasks that wait in that runtime's global queue.";
    Gauge "polyraft_runtime_workers" Count [] None "a start"
        => "Worker threads of that runtime.";
    Counter "polyraft_state_flush_bytes_total" Bytes [] Applied LOAD
        => "Bytes of keys and values of applied state that were made durable.";
    Histogram "polyraft_state_flush_duration_seconds" Seconds [] Applied LOAD
        => "Time of one commit of applied state, with its sync.";
    Histogram "polyraft_state_flush_groups" Count [] Applied LOAD
        => "Groups in one commit of state.";
    Gauge "polyraft_state_full" Count [] Applied "a full disk or map"
        => "1 while the state's disk or map is full.";
    Gauge "polyraft_storage_failed" Count [STORE] None "a failed disk"
        => "1 once the store has failed and acknowledges nothing any more.";
    Gauge "polyraft_storage_file_bytes" Bytes [STORE] None LOAD
        => "Size of the store's data file on disk, with blocks reserved ahead.";
    Gauge "polyraft_storage_map_bytes" Bytes [STORE] None "a map that grows"
        => "Size of the store's map; it grows by itself up to its limit.";
    Gauge "polyraft_storage_map_limit_bytes" Bytes [STORE] None "a start"
        => "Size that the store's map may grow to.";
    Gauge "polyraft_storage_used_bytes" Bytes [STORE] None LOAD
        => "Bytes of the pages that the store's data takes, without free ones.";
    Counter "polyraft_term_changes_total" Count [] None "an election"
        => "Times that replicas here entered a later term.";
    Gauge "polyraft_term_max" Count [] None "a start, an election"
        => "The highest term of a replica here.";
    Histogram "polyraft_tick_lateness_seconds" Seconds [] None LOAD
        => "How late the node's one timer fired.";
    Gauge "polyraft_uncommitted_entries" Count [] Persisted LOAD
        => "Entries in logs here that are not known to be committed, of all groups.";
}

/// Tells the process's recorder, if there is one, what every family means, and registers every
/// counter and histogram whose labels are known, so that it is there at zero. Idempotent.
pub fn describe() {
    for metric in METRICS {
        let Metric { name, kind, unit, help, .. } = *metric;
        match kind {
            MetricKind::Counter => metrics::describe_counter!(name, unit, help),
            MetricKind::Gauge => metrics::describe_gauge!(name, unit, help),
            MetricKind::Histogram => metrics::describe_histogram!(name, unit, help),
        }
        register(metric);
    }
}

/// Gauges are left to those who know a value: 0 would say something that may be wrong.
fn register(metric: &Metric) {
    for labels in known_series(metric.labels) {
        match metric.kind {
            MetricKind::Counter => drop(metrics::counter!(metric.name, labels)),
            MetricKind::Histogram => drop(metrics::histogram!(metric.name, labels)),
            MetricKind::Gauge => {}
        }
    }
}

/// Every combination of the labels' values; none if one of them is not known beforehand.
fn known_series(labels: &'static [Label]) -> Vec<Vec<Pair>> {
    let mut series = vec![Vec::new()];
    for Label { name, values } in labels {
        let Values::Known(values) = values else { return Vec::new() };
        let with = |one: &Vec<Pair>, value: &'static str| {
            [one.as_slice(), &[Pair::from_static_parts(name, value)]].concat()
        };
        series = series.iter().flat_map(|one| values.iter().map(|v| with(one, v))).collect();
    }
    series
}

/// The table as Markdown, for people who write queries.
pub fn render() -> String {
    let mut text = String::from(INTRODUCTION);
    for metric in METRICS {
        let labels: Vec<_> = metric.labels.iter().map(rendered_label).collect();
        let labels = if labels.is_empty() { "–".to_owned() } else { labels.join("; ") };
        let row = [
            &format!("`{}`", metric.name),
            metric.kind.as_str(),
            metric.unit.as_str(),
            &labels,
            metric.stage.as_str(),
            metric.moved_by,
            metric.help,
        ];
        text.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    text
}

fn rendered_label(Label { name, values }: &Label) -> String {
    match values {
        Values::Known(known) => format!("`{name}`: {}", known.join(", ")),
        Values::Bounded(what) => format!("`{name}`: {what}"),
    }
}

const INTRODUCTION: &str = "\
# Metrics

Every series family that a node exports, rendered from
[metric_catalogue.rs](../actors/src/metric_catalogue.rs) (`UPDATE_DOCS=1 cargo test -p polyraft-actors
--lib metric_catalogue` rewrites this file; without it the same test compares). Names are a contract: what is
here is not renamed or given another meaning without a line in the change log.

Histograms have `_bucket`, `_sum` and `_count`. No label grows with the groups: a node exports as many
series with ten thousand groups as with ten. Figures of single groups are at the admin interface, as
JSON. Counters and histograms with known labels are there from the start, at zero; gauges as soon as the
node knows a value, at the latest a second after it started. A process that runs several nodes exports
sums of counters, and of gauges what its nodes have together where that is a sum, else what one of them said
last.

*Stage* is the stage of a proposal that a family is about: proposed, submitted, persisted, committed, applied.
*Moved by* says what has to happen before a family moves; \"load\" is proposals and reads on a whole cluster.
`polyraft_request…` is recorded by the binary alone, everything else by the library, whoever embeds it.

| name | type | unit | labels | stage | moved by | meaning |
|---|---|---|---|---|---|---|
";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    /// The kind and name of every family that a source file records, by `counter!("…` and so on.
    fn recorded(text: &str, into: &mut BTreeMap<String, MetricKind>) {
        let macros = [
            ("counter!(", MetricKind::Counter),
            ("gauge!(", MetricKind::Gauge),
            ("histogram!(", MetricKind::Histogram),
        ];
        for (start, kind) in macros {
            for rest in text.split(start).skip(1) {
                let Some(rest) = rest.trim_start().strip_prefix('"') else { continue };
                let name = rest.split('"').next().expect("a split has a first part");
                into.insert(name.to_owned(), kind);
            }
        }
    }

    fn recorded_below(folder: &Path, into: &mut BTreeMap<String, MetricKind>) {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                recorded_below(&path, into);
            } else if path.file_name().unwrap() != "metric_catalogue.rs" {
                let text = std::fs::read_to_string(path).unwrap();
                // What a unit test records is no family of a node.
                recorded(text.split("#[cfg(test)]\nmod tests").next().unwrap(), into);
            }
        }
    }

    /// Goal: the table is the truth. Method: compare it with the sources of all that records.
    #[test]
    fn the_table_names_exactly_what_the_code_records() {
        let mut found = BTreeMap::new();
        let actors = Path::new(env!("CARGO_MANIFEST_DIR"));
        for folder in ["src", "../runtime/node/src", "../runtime/server/src"] {
            recorded_below(&actors.join(folder), &mut found);
        }
        let table: BTreeMap<_, _> = METRICS.iter().map(|m| (m.name.to_owned(), m.kind)).collect();
        assert_eq!(found, table);
        assert_eq!(table.len(), METRICS.len(), "a family is there twice");
        assert!(METRICS.is_sorted_by_key(|metric| metric.name));
    }

    #[test]
    fn names_follow_one_convention() {
        for Metric { name, kind, unit, help, .. } in METRICS {
            let rest = name.strip_prefix(PREFIX).unwrap_or_else(|| panic!("{name}: prefix"));
            assert!(rest.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            let (base, is_total) = match rest.strip_suffix("_total") {
                Some(base) => (base, true),
                None => (rest, false),
            };
            assert_eq!(is_total, *kind == MetricKind::Counter, "{name}: only counters are totals");
            assert_eq!(base.ends_with("_seconds"), *unit == Unit::Seconds, "{name}");
            assert_eq!(base.ends_with("_bytes"), *unit == Unit::Bytes, "{name}");
            assert!(matches!(unit, Unit::Seconds | Unit::Bytes | Unit::Count), "{name}");
            assert!(help.ends_with('.') && help.len() > 10, "{name}: {help}");
        }
    }

    /// Goal: the page is the table. Method: render it; `UPDATE_DOCS=1` writes what is compared else.
    #[test]
    fn the_page_is_rendered_from_the_table() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../grafana/metrics.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&page, render()).unwrap();
        }
        let written = std::fs::read_to_string(&page).unwrap_or_default();
        assert!(written == render(), "grafana/metrics.md is out of date: run with UPDATE_DOCS=1");
    }

    #[test]
    fn labels_multiply_into_known_series() {
        let series = known_series(&[CONSISTENCY, RELOAD]);
        let texts: Vec<_> = series
            .iter()
            .map(|one| one.iter().map(|pair| pair.value()).collect::<Vec<_>>().join(" "))
            .collect();
        let expected = ["linearizable ok", "linearizable failed", "stale ok", "stale failed"];
        assert_eq!(texts, expected);
        assert_eq!(known_series(&[]).len(), 1);
        assert_eq!(known_series(&[RELOAD, PEER]).len(), 0);
    }

    #[test]
    fn actors_are_called_as_in_the_table_of_mailboxes() {
        assert_eq!(ACTORS, MAILBOXES.map(|row| row.actor.as_str()));
        assert_eq!(TURNING_NAMES, TURNING.map(ActorKind::as_str));
    }
}
