//! Rows: requirements that are figures, each measured by one function on a three-node cluster.
//!
//! ```text
//! Row ─run(Plan)→ Cluster (QUIC, mTLS, LMDB) + load + fault ─→ Report: histograms, checks, verdict
//! ```
//!
//! One file per family. A row says what it offered, what it saw, and whether that is what was asked;
//! `bin/rows.rs` runs them. These are benchmarks: what can be shown without a clock is an ordinary
//! test as well.

mod appending;
mod applying;
mod batching;
mod heartbeats;
mod lanes;
mod load;
mod meters;
mod priorities;
pub mod probe;
mod queues;
mod repetitions;
pub mod report;
mod rogue;
mod stalls;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use report::Report;

/// How a row is run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How long to measure, without set-up and tear-down.
    pub time: Duration,
}

/// A row that is being measured.
pub type Running = Pin<Box<dyn Future<Output = Report>>>;

/// One row.
pub struct Row {
    /// As the requirements call it.
    pub id: &'static str,
    /// What is asked, in a few words.
    pub asked: &'static str,
    /// Measures it. Needs a multi-threaded tokio runtime.
    pub run: fn(Plan) -> Running,
}

macro_rules! row {
    ($id:literal, $asked:literal, $run:path) => {
        Row { id: $id, asked: $asked, run: |plan| Box::pin($run(plan)) }
    };
}

/// Every row.
pub const ROWS: &[Row] = &[
    row!("TK-1", "tick jitter p99.9 < 5 ms at full load", heartbeats::tk_1),
    row!(
        "TK-1-policies",
        "TK-1 by the scheduling policy of the tick's thread",
        priorities::tk_1_policies
    ),
    row!("TK-2", "heartbeat intervals of 150 ± 15 ms", heartbeats::tk_2),
    row!("TK-3", "heartbeats while each apply batch sleeps 500 ms", heartbeats::tk_3),
    row!("TK-4", "heartbeats while each sync takes 1 s", heartbeats::tk_4),
    row!("RT-2", "memory while each mailbox is flooded", queues::rt_2),
    row!("RT-3", "heartbeats with 1,000,000 proposals queued", queues::rt_3),
    row!("RT-6", "no stall > 10 ms while each sync takes 2 s", stalls::rt_6),
    row!("RT-7", "status < 10 ms while a disk stands still", stalls::rt_7),
    row!("BP-5", "a lone client's p50, batching on and off", batching::bp_5),
    row!("BP-10", "memory under overload", queues::bp_10),
    row!("BP-12", "failures within 50 ms of a step-down", batching::bp_12),
    row!("AP-1", "10,000 entries with pauses of 0 to 500 ms", repetitions::ap_1),
    row!("AP-2", "memory and terms at a hundredth of the arrival rate", applying::ap_2),
    row!("AP-6", "1,000 elections that no machine sees", repetitions::ap_6),
    row!("AP-10", "other groups beside one that sleeps 500 ms", applying::ap_10),
    row!("AP-11", "apply to wake p99 < 1 ms", applying::ap_11),
    row!("RF-4", "heartbeats beside a peer that swallows everything", heartbeats::rf_4),
    row!("RF-9", "a log bounded over 1,000,000 writes", repetitions::rf_9),
    row!("ST-2", "commits for 100 groups with a proposal each", appending::st_2),
    row!("ST-4", "append latency from 1,000 to 1,000,000 entries", appending::st_4),
    row!("RL-6", "a leader whose disk stands still leads for 10 s at most", stalls::rl_6),
    row!("TR-3", "heartbeats beside a full lane, 1 % loss", lanes::tr_3),
    row!("TR-9", "p99 with frames merged and not", lanes::tr_9),
];
