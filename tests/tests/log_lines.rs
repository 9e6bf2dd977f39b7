//! Goal: no line per tick, message or proposal at `info` or above (OB-5).
//! Method: every line of a cluster that serves two thousand proposals over two hundred ticks is counted,
//! by what it says. Alone in its binary: a process has one log.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use polyraft_tests::cluster::{Cluster, DEADLINE, Shape, wait_for};
use polyraft_tests::machines::add;
use tokio::task::JoinSet;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

const PROPOSALS: usize = 2_000;
const AT_ONCE: usize = 50;
const TICKS: u32 = 200;
/// A start that writes nothing for so long is over.
const QUIET: Duration = Duration::from_secs(1);
/// On a quiet machine there are none. A busy one may elect, or find a thread stalled, a few times; that
/// does not grow with the proposals.
const LINES_MAX: usize = 10;

/// Lines so far, by target and message.
static LINES: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());

/// Counts what a node logs by default.
struct Counter;

impl Subscriber for Counter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().target().to_owned());
        event.record(&mut line);
        *LINES.lock().expect("no line panics").entry(line.0).or_default() += 1;
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// A line without its fields: they would tell repetitions apart.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 += &format!(": {value:?}");
        }
    }
}

fn take() -> BTreeMap<String, usize> {
    std::mem::take(&mut LINES.lock().expect("no line panics"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serving_writes_no_lines() {
    tracing::subscriber::set_global_default(Counter).unwrap();
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    propose(&cluster, AT_ONCE).await;
    tracing::info!("a line");
    assert_eq!(LINES.lock().expect("no line panics").get("log_lines: a line"), Some(&1));
    // Two nodes that dial each other at once settle a moment later which connection stays.
    let quiet = async || {
        tokio::time::sleep(QUIET).await;
        take().is_empty().then_some(())
    };
    wait_for(DEADLINE, "the end of the start", quiet).await;

    let tick = cluster.node(1).config().cluster().effective_timing().tick;
    let ticking = tokio::spawn(tokio::time::sleep(tick * TICKS));
    propose(&cluster, PROPOSALS).await;
    ticking.await.unwrap();
    let lines = take();
    assert!(lines.values().sum::<usize>() <= LINES_MAX, "{lines:#?}");
    cluster.stop_all().await;
}

/// So many proposals, on every node in turn.
async fn propose(cluster: &Cluster, proposals: usize) {
    let handles = cluster.everywhere(1);
    let mut under_way = JoinSet::new();
    for n in 0..proposals {
        if under_way.len() == AT_ONCE {
            under_way.join_next().await.expect("some are").expect("no panic");
        }
        let handle = handles[n % handles.len()].clone();
        under_way.spawn(async move { drop(handle.propose(add("n")).await.expect("a leader")) });
    }
    under_way.join_all().await;
}
