//! Lent log: the open journal outlives the log writer that uses it.
//!
//! ```text
//! LogLender ─lend→ LentLog ─owned by→ LogWriter ─dies→ back to the lender ─lend→ the next one
//! ```
//!
//! A log writer that dies between two calls leaves a sound store, and its successor goes on with it:
//! to open the journal again takes the longer, the more is in it. One that dies within a call, or
//! after a failure, takes the store along, and the journal is opened anew.
//!
//! Promise: a store has one owner; one that comes back after the next was opened is dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use polyraft_core::entry::CompactionPoint;
use polyraft_core::ids::{GroupId, LogIndex};
use polyraft_core::ports::{
    CommitStats, GroupAppend, GroupIdentity, LogReader, LogStats, LogStore, RestoredLog,
    StorageError,
};

use crate::node_parts::OpenLog;

/// Where the journal is while no log writer has it.
#[derive(Default)]
pub struct LogLender {
    shelf: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    /// How many times the store was lent.
    loans: u64,
    returned: Option<Box<dyn LogStore>>,
}

impl LogLender {
    /// The store as the writer before left it, or else what `open` opens.
    ///
    /// # Errors
    /// As `open`'s.
    pub fn lend(self: &Arc<Self>, open: &OpenLog) -> Result<Box<dyn LogStore>, StorageError> {
        let mut shelf = self.lock();
        shelf.loans += 1;
        let inner = match shelf.returned.take() {
            Some(store) => store,
            None => open()?,
        };
        let (lender, loan) = (self.clone(), shelf.loans);
        Ok(Box::new(LentLog { inner: Some(inner), lender, loan, is_sound: true }))
    }

    fn take_back(&self, loan: u64, store: Box<dyn LogStore>) {
        let mut shelf = self.lock();
        if shelf.loans == loan {
            shelf.returned = Some(store);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A store on loan: returned when it is dropped, if it is sound.
struct LentLog {
    inner: Option<Box<dyn LogStore>>,
    lender: Arc<LogLender>,
    loan: u64,
    /// False within a call, and after one that failed.
    is_sound: bool,
}

impl LentLog {
    fn inner(&self) -> &dyn LogStore {
        &**self.inner.as_ref().expect("it is there until the drop")
    }

    fn change<T>(
        &mut self,
        call: impl FnOnce(&mut dyn LogStore) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let was_sound = std::mem::replace(&mut self.is_sound, false);
        let result = call(&mut **self.inner.as_mut().expect("it is there until the drop"));
        let is_unharmed = matches!(result, Ok(_) | Err(StorageError::Full { .. }));
        self.is_sound = was_sound && is_unharmed;
        result
    }
}

impl LogStore for LentLog {
    fn commit(&mut self, appends: &[GroupAppend]) -> Result<CommitStats, StorageError> {
        self.change(|store| store.commit(appends))
    }

    fn compact(&mut self, points: &[(GroupId, CompactionPoint)]) -> Result<(), StorageError> {
        self.change(|store| store.compact(points))
    }

    fn restore(&self, group: GroupId, applied: LogIndex) -> Result<RestoredLog, StorageError> {
        self.inner().restore(group, applied)
    }

    fn groups(&self) -> Vec<(GroupId, GroupIdentity)> {
        self.inner().groups()
    }

    fn collect_garbage(&mut self) -> Result<bool, StorageError> {
        self.change(|store| store.collect_garbage())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.inner().reader()
    }

    fn stats(&self) -> LogStats {
        self.inner().stats()
    }
}

impl Drop for LentLog {
    fn drop(&mut self) {
        if let Some(store) = self.inner.take().filter(|_| self.is_sound) {
            self.lender.take_back(self.loan, store);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use super::*;

    /// A store whose commits do what the number of their appends says.
    struct Scripted;

    impl LogStore for Scripted {
        fn commit(&mut self, appends: &[GroupAppend]) -> Result<CommitStats, StorageError> {
            match appends.len() {
                0 => Ok(CommitStats::default()),
                1 => Err(StorageError::Full { what: "the script".into() }),
                2 => Err(StorageError::Poisoned),
                _ => panic!("as scripted"),
            }
        }

        fn compact(&mut self, _: &[(GroupId, CompactionPoint)]) -> Result<(), StorageError> {
            Ok(())
        }

        fn restore(&self, group: GroupId, _: LogIndex) -> Result<RestoredLog, StorageError> {
            Err(StorageError::UnknownGroup { group })
        }

        fn groups(&self) -> Vec<(GroupId, GroupIdentity)> {
            Vec::new()
        }

        fn collect_garbage(&mut self) -> Result<bool, StorageError> {
            Ok(false)
        }

        fn reader(&self) -> Arc<dyn LogReader> {
            unreachable!("nobody reads here")
        }
    }

    /// How often the store has been opened when two writers used it, the first for these commits.
    fn opened_after(commits: &[usize]) -> u64 {
        let opened = AtomicU64::new(0);
        let opened: &'static AtomicU64 = Box::leak(Box::new(opened));
        let open = move || {
            opened.fetch_add(1, SeqCst);
            Ok(Box::new(Scripted) as Box<dyn LogStore>)
        };
        let lender = Arc::new(LogLender::default());
        let mut first = lender.lend(&open).expect("it opens");
        for appends in commits {
            let appends = vec![GroupAppend::empty(GroupId::new(1)); *appends];
            // A writer that panics in a commit is dropped while it unwinds.
            let _ = catch_unwind(AssertUnwindSafe(|| first.commit(&appends)));
        }
        drop(first);
        lender.lend(&open).expect("it opens");
        opened.load(SeqCst)
    }

    #[test]
    fn a_writer_that_dies_between_calls_leaves_the_store_open() {
        assert_eq!(opened_after(&[0, 0]), 1);
        assert_eq!(opened_after(&[1, 0]), 1, "a full disk has written nothing");
    }

    #[test]
    fn a_store_that_failed_or_was_left_within_a_call_is_opened_anew() {
        assert_eq!(opened_after(&[2]), 2);
        assert_eq!(opened_after(&[2, 0]), 2, "what failed once is never sound again");
        assert_eq!(opened_after(&[3]), 2);
    }

    #[test]
    fn a_store_that_comes_back_late_is_not_lent_again() {
        let lender = Arc::new(LogLender::default());
        let opened = Arc::new(AtomicU64::new(0));
        let count = opened.clone();
        let open = move || {
            count.fetch_add(1, SeqCst);
            Ok(Box::new(Scripted) as Box<dyn LogStore>)
        };
        let late = lender.lend(&open).expect("it opens");
        let current = lender.lend(&open).expect("it opens");
        drop(late);
        drop(current);
        lender.lend(&open).expect("it opens");
        assert_eq!(opened.load(SeqCst), 2);
    }
}
