//! Metric catalogue: every series family that a node exports, with its kind, unit and meaning.
//!
//! ```text
//! METRICS ─describe→ recorder → HELP and TYPE        tests: every family here moves, and no other
//! ```
//!
//! Promise: one prefix; base units, which the name ends with; a counter ends in `_total`. A family
//! that the code counts and this table lacks, or the other way round, fails the test below.
//! Not here: the values, which are recorded where things happen.
//! Source: Prometheus, "Metric and label naming".

use metrics::Unit;

/// What every name begins with.
pub const PREFIX: &str = "polyraft_";

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

/// One family.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, with the prefix.
    pub name: &'static str,
    /// How it behaves.
    pub kind: MetricKind,
    /// What is counted or measured.
    pub unit: Unit,
    /// What it says, in one sentence.
    pub help: &'static str,
}

const fn counter(name: &'static str, unit: Unit, help: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Counter, unit, help }
}

const fn gauge(name: &'static str, unit: Unit, help: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Gauge, unit, help }
}

const fn histogram(name: &'static str, unit: Unit, help: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Histogram, unit, help }
}

/// Every family, by name.
pub const METRICS: [Metric; 35] = [
    counter("polyraft_actor_down_total", Unit::Count, "Actors that ended, by kind."),
    counter("polyraft_actor_panics_total", Unit::Count, "Actors that ended by a panic, by kind."),
    counter("polyraft_applied_commands_total", Unit::Count, "Commands that were applied."),
    counter("polyraft_applied_entries_total", Unit::Count, "Log entries that were applied."),
    counter("polyraft_apply_faults_total", Unit::Count, "State machines that failed."),
    histogram(
        "polyraft_apply_slice_duration_seconds",
        Unit::Seconds,
        "Time that one slice of one group's entries took a worker.",
    ),
    histogram(
        "polyraft_arbiter_stall_seconds",
        Unit::Seconds,
        "How long a thread of actors kept a ping waiting, by place.",
    ),
    gauge("polyraft_awake_groups", Unit::Count, "Groups that are ticked."),
    histogram("polyraft_batch_commands", Unit::Count, "Commands in one batch."),
    histogram(
        "polyraft_batch_wait_seconds",
        Unit::Seconds,
        "How long the oldest unit of a batch had waited when it was cut.",
    ),
    counter("polyraft_batches_total", Unit::Count, "Batches cut, by reason."),
    counter("polyraft_elections_won_total", Unit::Count, "Elections won by replicas here."),
    gauge("polyraft_faults_in_force", Unit::Count, "Injected faults that act now."),
    counter("polyraft_faults_injected_total", Unit::Count, "Faults that were injected, by kind."),
    counter("polyraft_group_lives_total", Unit::Count, "Groups started or rebuilt."),
    counter("polyraft_groups_faulted_total", Unit::Count, "Groups taken out of service here."),
    histogram(
        "polyraft_heartbeat_interval_seconds",
        Unit::Seconds,
        "Between two frames with heartbeats from one peer.",
    ),
    counter("polyraft_leader_changes_total", Unit::Count, "Changes of leader that replicas saw."),
    counter(
        "polyraft_link_dropped_total",
        Unit::Count,
        "Messages that found the outbox full, and frames without a connection, by reason.",
    ),
    histogram("polyraft_link_frame_bytes", Unit::Bytes, "Size of one frame to a peer."),
    counter("polyraft_link_frames_total", Unit::Count, "Frames handed to the transport, by lane."),
    counter("polyraft_link_refused_frames_total", Unit::Count, "Frames that cannot be decoded."),
    counter(
        "polyraft_link_unknown_group_total",
        Unit::Count,
        "Answers of peers that they lack the group they were addressed for.",
    ),
    histogram("polyraft_log_commit_appends", Unit::Count, "Groups' appends in one commit."),
    counter("polyraft_log_commit_bytes_total", Unit::Bytes, "Bytes written to the journal."),
    histogram(
        "polyraft_log_commit_duration_seconds",
        Unit::Seconds,
        "Time of one commit of the journal, with its sync.",
    ),
    counter("polyraft_log_commit_entries_total", Unit::Count, "Entries written to the journal."),
    gauge("polyraft_log_full", Unit::Count, "1 while the journal's disk or map is full."),
    gauge("polyraft_log_queue_appends", Unit::Count, "Appends that are not durable yet."),
    counter(
        "polyraft_mailbox_dropped_total",
        Unit::Count,
        "Messages that found a mailbox full, by kind of actor.",
    ),
    counter(
        "polyraft_peer_messages_refused_total",
        Unit::Count,
        "Raft messages that a replica refused, by reason.",
    ),
    counter("polyraft_rejected_commands_total", Unit::Count, "Commands that machines rejected."),
    histogram(
        "polyraft_state_flush_duration_seconds",
        Unit::Seconds,
        "Time of one commit of applied state, with its sync.",
    ),
    histogram("polyraft_state_flush_groups", Unit::Count, "Groups in one commit of state."),
    histogram(
        "polyraft_tick_lateness_seconds",
        Unit::Seconds,
        "How late the node's one timer fired.",
    ),
];

/// Tells the process's recorder, if there is one, what every family means. Idempotent.
pub fn describe() {
    for Metric { name, kind, unit, help } in METRICS {
        match kind {
            MetricKind::Counter => metrics::describe_counter!(name, unit, help),
            MetricKind::Gauge => metrics::describe_gauge!(name, unit, help),
            MetricKind::Histogram => metrics::describe_histogram!(name, unit, help),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    /// The kind and name of every family that a source file records, by `counter!("…` and so on.
    fn recorded(text: &str, into: &mut BTreeMap<String, MetricKind>) {
        let macros = [
            ("counter!(\"", MetricKind::Counter),
            ("gauge!(\"", MetricKind::Gauge),
            ("histogram!(\"", MetricKind::Histogram),
        ];
        for (start, kind) in macros {
            for rest in text.split(&format!("metrics::{start}")).skip(1) {
                let name = rest.split('"').next().expect("a split has a first part");
                into.insert(name.to_owned(), kind);
            }
        }
    }

    /// Goal: the table is the truth. Method: compare it with the sources of this crate, and of the
    /// node's chaos: nothing else records.
    #[test]
    fn the_table_names_exactly_what_the_code_records() {
        let mut found = BTreeMap::new();
        let actors = Path::new(env!("CARGO_MANIFEST_DIR"));
        for folder in [actors.join("src"), actors.join("../runtime/node/src")] {
            for entry in folder.read_dir().unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() && path.file_name().unwrap() != "metric_catalogue.rs" {
                    recorded(&std::fs::read_to_string(path).unwrap(), &mut found);
                }
            }
        }
        let table: BTreeMap<_, _> = METRICS.iter().map(|m| (m.name.to_owned(), m.kind)).collect();
        assert_eq!(found, table);
        assert_eq!(table.len(), METRICS.len(), "a family is there twice");
        assert!(METRICS.is_sorted_by_key(|metric| metric.name));
    }

    #[test]
    fn names_follow_one_convention() {
        for Metric { name, kind, unit, help } in METRICS {
            let rest = name.strip_prefix(PREFIX).unwrap_or_else(|| panic!("{name}: prefix"));
            assert!(rest.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            let (base, is_total) = match rest.strip_suffix("_total") {
                Some(base) => (base, true),
                None => (rest, false),
            };
            assert_eq!(is_total, kind == MetricKind::Counter, "{name}: only counters are totals");
            assert_eq!(base.ends_with("_seconds"), unit == Unit::Seconds, "{name}");
            assert_eq!(base.ends_with("_bytes"), unit == Unit::Bytes, "{name}");
            assert!(matches!(unit, Unit::Seconds | Unit::Bytes | Unit::Count), "{name}");
            assert!(help.ends_with('.') && help.len() > 10, "{name}: {help}");
        }
    }
}
