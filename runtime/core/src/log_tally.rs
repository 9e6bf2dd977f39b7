//! Log tally: one line per interval for what a fault can repeat without end (OB-5).
//!
//! ```text
//! add, add, add … → Some(1), None, None … (interval over) → Some(3)
//! ```
//!
//! One tally per call site. Promise: the first occurrence is logged at once, and every line says for
//! how many it stands. Not here: the line, and the time, which is handed in.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::time::Moment;

/// The same line is logged at most this often.
pub const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Counts what one line would say.
#[derive(Debug, Default)]
pub struct LogTally {
    unlogged: AtomicU64,
    /// Nanoseconds of the moment from which on the next line is due; 0 before the first.
    due: AtomicU64,
}

impl LogTally {
    /// Counts one occurrence: how many the line stands for that is to be logged now, this one
    /// included, or `None` if none is.
    pub fn add(&self, now: Moment) -> Option<u64> {
        self.unlogged.fetch_add(1, Relaxed);
        let due = self.due.load(Relaxed);
        let now_ns = nanos(now);
        let next = nanos(now.after(LOG_INTERVAL));
        // Of several at once, one logs for all.
        let is_due = now_ns >= due;
        if is_due && self.due.compare_exchange(due, next, Relaxed, Relaxed).is_ok() {
            return Some(self.unlogged.swap(0, Relaxed));
        }
        None
    }
}

fn nanos(moment: Moment) -> u64 {
    u64::try_from(moment.since_start().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_logged_once_per_interval_and_fully_counted() {
        let tally = LogTally::default();
        let at = |tenths| Moment::START.after(LOG_INTERVAL * tenths / 10);
        assert_eq!(tally.add(at(0)), Some(1));
        assert_eq!(tally.add(at(1)), None);
        assert_eq!(tally.add(at(9)), None);
        assert_eq!(tally.add(at(10)), Some(3));
        assert_eq!(tally.add(at(19)), None);
        assert_eq!(tally.add(at(50)), Some(2));
    }

    #[test]
    fn each_call_site_has_its_own() {
        let (one, other) = (LogTally::default(), LogTally::default());
        assert_eq!(one.add(Moment::START), Some(1));
        assert_eq!(other.add(Moment::START), Some(1));
        assert_eq!(one.add(Moment::START), None);
    }
}
