//! The log writer against a disk that the test controls.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, mpsc};

use polyraft_core::entry::{CompactionPoint, Configuration, HardState, LogEntry};
use polyraft_core::ids::{ReplicaId, Term};
use polyraft_core::ports::{GroupIdentity, LogReader};
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::clock::SystemClock;
use crate::mailbox::ActorKind;
use crate::testing::{Probe, guard, paused};

/// What the next commits answer; beyond the script they succeed.
enum Answer {
    Full,
    Fail,
    Corrupt(GroupId),
}

/// A log in memory. A gate, if set, holds every commit, or every collection, until the test sends a unit.
#[derive(Default)]
struct Disk {
    commits: Vec<Vec<GroupAppend>>,
    script: VecDeque<Answer>,
    last: BTreeMap<GroupId, LogIndex>,
    gate: Option<mpsc::Receiver<()>>,
    collection_gate: Option<mpsc::Receiver<()>>,
    garbage: usize,
    collected: usize,
    compacted: Vec<(GroupId, CompactionPoint)>,
}

#[derive(Clone, Default)]
struct FakeLog(Arc<Mutex<Disk>>);

impl FakeLog {
    fn disk(&self) -> std::sync::MutexGuard<'_, Disk> {
        self.0.lock().expect("no test panics while holding it")
    }
}

impl LogStore for FakeLog {
    fn commit(&mut self, appends: &[GroupAppend]) -> Result<CommitStats, StorageError> {
        let gate = self.disk().gate.take();
        if let Some(gate) = gate {
            // A closed gate stays open.
            let _ = gate.recv();
            self.disk().gate = Some(gate);
        }
        let mut disk = self.disk();
        match disk.script.pop_front() {
            Some(Answer::Full) => return Err(StorageError::Full { what: "test".into() }),
            Some(Answer::Fail) => {
                let source = std::io::Error::from_raw_os_error(5).into();
                return Err(StorageError::Io { doing: "sync", source });
            }
            Some(Answer::Corrupt(group)) => {
                return Err(StorageError::Corrupt { group, what: "test".into() });
            }
            None => {}
        }
        for append in appends {
            if let Some(entry) = append.entries.last() {
                disk.last.insert(append.group, entry.index);
            }
        }
        disk.commits.push(appends.to_vec());
        Ok(CommitStats::default())
    }

    fn compact(&mut self, points: &[(GroupId, CompactionPoint)]) -> Result<(), StorageError> {
        self.disk().compacted.extend(points);
        Ok(())
    }

    fn restore(&self, group: GroupId, _: LogIndex) -> Result<RestoredLog, StorageError> {
        let last = *self.disk().last.get(&group).ok_or(StorageError::UnknownGroup { group })?;
        Ok(RestoredLog {
            identity: GroupIdentity { name: "g".into(), replica: ReplicaId::new(1) },
            hard_state: HardState::default(),
            configuration: Configuration::default(),
            compacted: CompactionPoint::default(),
            last,
            term_runs: Vec::new(),
            entries: Vec::new(),
        })
    }

    fn groups(&self) -> Vec<(GroupId, GroupIdentity)> {
        Vec::new()
    }

    fn collect_garbage(&mut self) -> Result<bool, StorageError> {
        let gate = self.disk().collection_gate.take();
        if let Some(gate) = gate {
            let _ = gate.recv();
            self.disk().collection_gate = Some(gate);
        }
        let mut disk = self.disk();
        disk.collected += 1;
        disk.garbage = disk.garbage.saturating_sub(1);
        Ok(disk.garbage > 0)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        unreachable!("the log writer never reads entries")
    }
}

struct Bench {
    log: FakeLog,
    writer: Addr<LogWriter>,
    progress: Arc<LogWriterProgress>,
    done: Recipient<AppendPersisted>,
    persisted: UnboundedReceiver<AppendPersisted>,
    failed: UnboundedReceiver<StorageFailed>,
    refused: UnboundedReceiver<GroupRefused>,
}

const GROUP: GroupId = GroupId::new(1);

impl Bench {
    /// The writer on `arbiter`, everything else on the current one.
    fn start_on(arbiter: &ArbiterHandle, config: LogWriterConfig) -> Self {
        let (log, progress) = (FakeLog::default(), Arc::<LogWriterProgress>::default());
        let (done, persisted) = Probe::start();
        let (failed_to, failed) = Probe::start();
        let (refused_to, refused) = Probe::start();
        let (store, shown, guard) = (log.clone(), progress.clone(), guard(ActorKind::LogWriter));
        let writer = LogWriter::start_in_arbiter(arbiter, move |ctx| {
            ctx.set_mailbox_capacity(1_024);
            let clock = Arc::new(SystemClock::start());
            let ports =
                LogWriterPorts { clock, progress: shown, failed: failed_to, refused: refused_to };
            LogWriter::new(Box::new(store), config, ports, guard)
        });
        Self { log, writer, progress, done, persisted, failed, refused }
    }

    fn start() -> Self {
        Self::start_on(&Arbiter::current(), LogWriterConfig::default())
    }

    async fn append(&self, group: u64, number: u64) {
        let mut append = GroupAppend::empty(GroupId::new(group));
        append.entries.push(LogEntry {
            index: LogIndex::new(number),
            term: Term::new(1),
            kind: polyraft_core::entry::EntryKind::Normal,
            data: bytes::Bytes::new(),
        });
        self.submit(append, number).await;
    }

    async fn compact(&self, group: u64, number: u64, point: CompactionPoint) {
        let compact = Some(point);
        let append = GroupAppend { compact, ..GroupAppend::empty(GroupId::new(group)) };
        self.submit(append, number).await;
    }

    async fn submit(&self, append: GroupAppend, number: u64) {
        let (incarnation, number) = (Incarnation::new(1), ReadyNumber::new(number));
        let message = Append { append, incarnation, number, done: self.done.clone() };
        self.writer.send(message).await.expect("the writer runs");
    }

    async fn persisted(&mut self) -> (u64, u64) {
        let fact = self.persisted.recv().await.expect("the probe runs");
        (fact.group.get(), fact.upto.get())
    }

    async fn restore(&self, group: u64) -> oneshot::Receiver<Result<RestoredLog, StorageError>> {
        let (reply, restored) = oneshot::channel();
        let restore = Restore { group: GroupId::new(group), applied: LogIndex::ZERO, reply };
        self.writer.send(restore).await.expect("the writer runs");
        restored
    }
}

/// Goal: a hundred groups share a sync (ST-2), and nobody is told before it. Method: hold the first
/// commit at a gate while the appends arrive in the mailbox.
#[test]
fn appends_during_a_commit_share_the_next_one() {
    System::new().block_on(async {
        let arbiter = Arbiter::new();
        let mut bench = Bench::start_on(&arbiter.handle(), LogWriterConfig::default());
        let (open, gate) = mpsc::channel();
        bench.log.disk().gate = Some(gate);
        bench.append(1, 1).await;
        while bench.progress.in_commit_for(SystemClock::start().now()).is_none() {
            tokio::task::yield_now().await;
        }
        for group in 1..=100 {
            let mut append = GroupAppend::empty(GroupId::new(group));
            append.hard_state = Some(HardState::default());
            let (incarnation, number) = (Incarnation::new(1), ReadyNumber::new(2));
            let message = Append { append, incarnation, number, done: bench.done.clone() };
            bench.writer.try_send(message).expect("room for a hundred");
        }
        assert!(bench.persisted.try_recv().is_err(), "acknowledged before the sync");
        open.send(()).expect("the commit waits");
        assert_eq!(bench.persisted().await, (1, 1));
        drop(open);
        for group in 1..=100 {
            assert_eq!(bench.persisted().await, (group, 2));
        }
        assert_eq!(bench.log.disk().commits.len(), 2);
        assert_eq!(bench.progress.in_commit_for(SystemClock::start().now()), None);
    });
}

/// Goal: one fact per group and commit, with the highest number; the appends stay in order.
#[test]
fn several_readies_of_a_group_are_acknowledged_at_once() {
    paused(async {
        let mut bench = Bench::start();
        let appends = (1..=5).map(|number| bench.append(1, number));
        futures_join(appends).await;
        assert_eq!(bench.persisted().await, (1, 5));
        let commits = &bench.log.disk().commits;
        assert_eq!(commits.len(), 1);
        let order: Vec<u64> = commits[0].iter().map(|a| a.entries[0].index.get()).collect();
        assert_eq!(order, [1, 2, 3, 4, 5]);
    });
}

/// Polls every future once before waiting for any, so that all their messages are queued together.
async fn futures_join(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        futures.retain_mut(|f| f.as_mut().poll(cx).is_pending());
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[test]
fn a_batch_ends_at_its_byte_cap() {
    paused(async {
        let config = LogWriterConfig { commit_bytes_max: 200, ..LogWriterConfig::default() };
        let mut bench = Bench::start_on(&Arbiter::current(), config);
        // 96 charged bytes each: two per commit.
        futures_join((1..=5).map(|group| bench.append(group, 1))).await;
        for group in 1..=5 {
            assert_eq!(bench.persisted().await, (group, 1));
        }
        let widths: Vec<usize> = bench.log.disk().commits.iter().map(Vec::len).collect();
        assert_eq!(widths, [2, 2, 1]);
    });
}

#[test]
fn a_restore_sees_what_was_queued_before_it() {
    paused(async {
        let bench = Bench::start();
        bench.append(1, 7).await;
        let before = bench.restore(1).await;
        bench.append(1, 8).await;
        let unknown = bench.restore(2).await;
        assert_eq!(before.await.expect("served").expect("exists").last, LogIndex::new(7));
        let error = unknown.await.expect("served").expect_err("was never created");
        assert!(matches!(error, StorageError::UnknownGroup { .. }), "{error}");
        assert_eq!(bench.log.disk().last[&GROUP], LogIndex::new(8));
    });
}

/// Goal: ST-12. Method: fail one sync, then keep appending to a disk that would work again.
#[test]
fn after_a_failed_sync_nothing_is_acknowledged() {
    paused(async {
        let mut bench = Bench::start();
        bench.log.disk().script.push_back(Answer::Fail);
        bench.append(1, 1).await;
        let failed = bench.failed.recv().await.expect("reported");
        assert_eq!(failed.store, StoreKind::Log);
        for number in 2..20 {
            bench.append(1, number).await;
        }
        let restored = bench.restore(1).await.await.expect("answered");
        assert!(matches!(restored, Err(StorageError::Poisoned)));
        assert!(bench.persisted.try_recv().is_err());
        assert!(bench.log.disk().commits.is_empty());
        assert!(bench.failed.try_recv().is_err(), "reported once");
        assert!(bench.progress.is_poisoned());
    });
}

#[test]
fn a_full_disk_holds_acknowledgements_until_it_has_room() {
    paused(async {
        let mut bench = Bench::start();
        bench.log.disk().script.extend([Answer::Full, Answer::Full, Answer::Full]);
        bench.append(1, 1).await;
        bench.append(2, 1).await;
        bench.append(1, 2).await;
        assert!(bench.progress.is_full());
        assert!(bench.persisted.try_recv().is_err());
        assert_eq!(bench.persisted().await, (1, 2));
        assert_eq!(bench.persisted().await, (2, 1));
        assert!(!bench.progress.is_full());
        let disk = bench.log.disk();
        assert_eq!(disk.commits.len(), 1);
        let order: Vec<u64> = disk.commits[0].iter().map(|a| a.group.get()).collect();
        assert_eq!(order, [1, 2, 1], "kept in order");
        assert!(disk.collected >= 3, "each retry tries to make room");
    });
}

/// Goal: a compaction that waits behind appends for which there is no room is committed ahead of them,
/// and its group hears of it in its turn.
#[test]
fn a_compaction_does_not_wait_behind_what_it_makes_room_for() {
    paused(async {
        let mut bench = Bench::start();
        bench.log.disk().script.push_back(Answer::Full);
        bench.append(1, 1).await;
        let point = CompactionPoint { index: LogIndex::new(1), term: Term::new(1) };
        bench.compact(1, 2, point).await;
        assert_eq!(bench.persisted().await, (1, 2));
        let disk = bench.log.disk();
        assert_eq!(disk.compacted, [(GroupId::new(1), point)]);
        let [commit] = &disk.commits[..] else { panic!("{:?}", disk.commits) };
        let compactions: Vec<_> = commit.iter().map(|append| append.compact).collect();
        assert_eq!(compactions, [None, Some(point)], "once more, in order");
    });
}

#[test]
fn garbage_is_collected_piece_by_piece_when_idle() {
    paused(async {
        let mut bench = Bench::start();
        bench.log.disk().garbage = 10;
        bench.append(1, 1).await;
        bench.persisted().await;
        while bench.log.disk().garbage > 0 {
            // Virtual time has to pass, a piece per pause.
            tokio::time::sleep(COLLECTION_PAUSE).await;
        }
        assert_eq!(bench.log.disk().collected, 10);
    });
}

/// Goal: a disk that stands still is seen, whatever the log writer was doing when it stopped. Method: a
/// collection that does not end.
#[test]
fn a_collection_that_stands_still_is_seen() {
    System::new().block_on(async {
        let arbiter = Arbiter::new();
        let mut bench = Bench::start_on(&arbiter.handle(), LogWriterConfig::default());
        let (open, gate) = mpsc::channel();
        bench.log.disk().collection_gate = Some(gate);
        bench.append(1, 1).await;
        bench.persisted().await;
        let now = || SystemClock::start().now();
        while bench.progress.in_commit_for(now()).is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.log.disk().collected, 0, "it waits in the collection");
        drop(open);
        while bench.progress.in_commit_for(now()).is_some() {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.progress.commits(), 1, "a collection is no commit");
    });
}

#[test]
fn a_creator_is_told_after_the_sync() {
    paused(async {
        let bench = Bench::start();
        let (reply, created) = oneshot::channel();
        let append = GroupAppend::empty(GroupId::new(4));
        bench.writer.send(CreateGroup { append, reply }).await.expect("the writer runs");
        created.await.expect("answered").expect("durable");
        assert_eq!(bench.log.disk().commits.len(), 1);
    });
}

/// Goal: one group's corruption stops neither its siblings nor the process.
#[test]
fn a_refused_group_is_dropped_from_its_batch() {
    paused(async {
        let mut bench = Bench::start();
        bench.log.disk().script.push_back(Answer::Corrupt(GroupId::new(2)));
        futures_join((1..=3).map(|group| bench.append(group, 1))).await;
        assert_eq!(bench.refused.recv().await.expect("reported").group, GroupId::new(2));
        assert_eq!(bench.persisted().await, (1, 1));
        assert_eq!(bench.persisted().await, (3, 1));
        assert!(bench.persisted.try_recv().is_err());
        assert!(bench.failed.try_recv().is_err());
        assert!(!bench.progress.is_poisoned());
    });
}

/// Goal: the journal cannot outgrow its cap because the writer is never idle. Method: one append per
/// commit and all of them queued from the start.
#[test]
fn garbage_is_collected_under_constant_load() {
    paused(async {
        let config = LogWriterConfig { commit_bytes_max: 1, ..LogWriterConfig::default() };
        let mut bench = Bench::start_on(&Arbiter::current(), config);
        bench.log.disk().garbage = usize::MAX;
        futures_join((1..=640).map(|group| bench.append(group, 1))).await;
        let mut at_half = 0;
        for group in 1..=640 {
            bench.persisted().await;
            if group == 320 {
                at_half = bench.log.disk().collected;
            }
        }
        assert_eq!(bench.log.disk().commits.len(), 640);
        assert!(at_half >= 1, "nothing was collected before the queue was empty");
        assert!(bench.log.disk().collected >= 9);
    });
}
