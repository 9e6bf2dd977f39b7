//! Propose batcher: many callers' units, one entry.
//!
//! ```text
//! push ─unit→ [queue] ─poll→ Cut (one entry, its waiters) ─propose→ … ─on_decided→
//!                └─deadline→ expire ─→ waiters, never proposed
//! ```
//!
//! A batch is cut when it is full by count or by bytes, when its oldest unit has lingered long
//! enough, or at once if nothing is in flight (BP-1, BP-5): a lone client never waits for company,
//! and under load batches form by themselves while an earlier one is being replicated. Up to
//! `in_flight_max` batches are pipelined (BP-11).
//!
//! Under overload no more is queued than is expected to be decided in time (`admission`), and
//! the linger cuts no more than the batch behind the one being decided: there is company for all, and
//! small batches would only cost the others time.
//!
//! Promise: every waiter that was pushed comes back exactly once: refused by `push`, within a
//! `Cut`, from `expire`, or from `fail_all` and `stop` (BP-9). A unit whose deadline has passed is
//! never cut (BP-10). A unit is never split over two entries, and never larger than an entry (BP-16).
//!
//! Cost: constant per unit. Each unit's own deadline is looked at when it is cut; the whole queue is
//! scanned for late ones only when its earliest deadline has passed, and then at most once per
//! [`SWEEP_INTERVAL`], which is how late a queued waiter may hear of its deadline.
//!
//! Not here: the outcome of what was cut (the replica's pending map), priorities, adaptive sizes.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::admission::{Admission, Oldest};
use crate::batch::{self, BATCH_OVERHEAD_BYTES_MAX, Unit};
use crate::batch_config::{BatchConfig, BatchConfigError};
use crate::limits::{BATCH_COMMANDS_MAX, COMMAND_BYTES_MAX, ENTRY_BYTES_MAX};
use crate::time::Moment;

/// Least time between two scans of the queue for expired units.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(1);

/// Queues units and cuts them into batches. `W` is what the caller waits with: a channel, an id.
#[derive(Debug)]
pub struct ProposeBatcher<W> {
    config: BatchConfig,
    queue: VecDeque<Queued<W>>,
    /// Expired, found while cutting; `expire` hands them back.
    expired: Vec<W>,
    /// What the batches in flight say of how long the next one will take.
    admission: Admission,
    /// No queued unit expires before this.
    earliest_deadline: Option<Moment>,
    /// The next scan for expired units is not before this.
    sweep_not_before: Moment,
    /// The time of the last batch, so that it never falls.
    time_ms: u64,
    stopped: bool,
    stats: BatcherStats,
}

/// A unit that waits to be proposed.
#[derive(Debug)]
struct Queued<W> {
    unit: Unit,
    encoded_bytes: usize,
    pushed: Moment,
    deadline: Option<Moment>,
    waiter: W,
}

impl<W> Queued<W> {
    fn is_expired(&self, now: Moment) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// One batch, ready to be proposed as one entry.
#[derive(Debug)]
pub struct Cut<W> {
    /// The encoded batch: the entry's data.
    pub batch: Bytes,
    /// Commands in the batch.
    pub commands: usize,
    /// Who waits, in the batch's order, and how many of its commands are theirs.
    pub waiters: Vec<(W, usize)>,
    /// Why the batch was cut now.
    pub reason: FlushReason,
    /// When its oldest unit was pushed.
    pub oldest: Moment,
    /// How long its oldest unit had waited.
    pub waited: Duration,
}

/// Why a batch was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlushReason {
    /// As many commands as a batch may have were waiting.
    Count,
    /// As many bytes as a batch may have were waiting.
    Bytes,
    /// The oldest unit had waited for the linger.
    Linger,
    /// Nothing was in flight.
    Idle,
    /// Batching is off.
    Off,
}

impl FlushReason {
    /// Every reason, in the order of [`BatcherStats::cut_batches`].
    pub const ALL: [Self; 5] = [Self::Count, Self::Bytes, Self::Linger, Self::Idle, Self::Off];

    /// Its name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Linger => "linger",
            Self::Idle => "idle",
            Self::Off => "off",
        }
    }
}

/// A unit that was not queued, with its waiter.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused<W> {
    /// The waiter that was pushed.
    pub waiter: W,
    /// Why.
    pub reason: RefuseReason,
}

/// Why a unit was not queued. None of these was proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefuseReason {
    /// No command, or more than an entry holds. Retrying cannot help.
    #[error("a unit of {commands} commands; 1 to {BATCH_COMMANDS_MAX} are allowed")]
    Length {
        /// Commands in the unit.
        commands: usize,
    },
    /// A command, or the unit as a whole, is too large. Retrying cannot help.
    #[error("{bytes} bytes; at most {max} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit that it breaks.
        max: usize,
    },
    /// The queue holds as many commands as it may. Retry after a pause.
    #[error("the propose queue is full: {max} commands")]
    QueueCommandsFull {
        /// The limit.
        max: usize,
    },
    /// The queue holds as many bytes as it may. Retry after a pause.
    #[error("the propose queue is full: {max} bytes")]
    QueueBytesFull {
        /// The limit.
        max: usize,
    },
    /// What is ahead, in the queue and in flight, is expected to take more than half of the unit's
    /// deadline. Retry after a pause.
    #[error("{ahead} commands are ahead, too many for the deadline")]
    Congested {
        /// Commands queued and in flight.
        ahead: usize,
    },
    /// The deadline had passed already.
    #[error("the deadline had passed before the unit was queued")]
    Expired,
    /// The batcher was stopped.
    #[error("the batcher is stopped")]
    Stopped,
}

/// What a batcher has done and what waits in it (BP-21). Counters only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatcherStats {
    /// Units waiting.
    pub pending_units: usize,
    /// Commands waiting.
    pub pending_commands: usize,
    /// Encoded bytes waiting.
    pub pending_bytes: usize,
    /// Batches proposed and not decided.
    pub in_flight: usize,
    /// Units pushed, refused ones included.
    pub submitted_units: u64,
    /// Units refused by `push`.
    pub refused_units: u64,
    /// Units whose deadline passed while they waited.
    pub expired_units: u64,
    /// Units handed back by `fail_all` or `stop`.
    pub failed_units: u64,
    /// Units cut.
    pub cut_units: u64,
    /// Commands cut.
    pub cut_commands: u64,
    /// Bytes of the batches cut.
    pub cut_bytes: u64,
    /// Batches cut, by reason, in the order of [`FlushReason::ALL`].
    pub cut_batches: [u64; FlushReason::ALL.len()],
    /// Sum over all batches of how long the oldest unit had waited.
    pub waited: Duration,
}

impl<W> ProposeBatcher<W> {
    /// An empty batcher.
    ///
    /// # Errors
    /// A field of `config` is out of range.
    pub fn new(config: BatchConfig) -> Result<Self, BatchConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            queue: VecDeque::new(),
            expired: Vec::new(),
            admission: Admission::default(),
            earliest_deadline: None,
            sweep_not_before: Moment::START,
            time_ms: 0,
            stopped: false,
            stats: BatcherStats::default(),
        })
    }

    /// Replaces the configuration (BP-7). What is queued stays, under the new rules from the next
    /// `poll` on; a queue above a lowered bound takes nothing until it has drained below it.
    ///
    /// # Errors
    /// A field is out of range; the old configuration stays in force.
    pub fn reconfigure(&mut self, config: BatchConfig) -> Result<(), BatchConfigError> {
        config.validate()?;
        self.config = config;
        Ok(())
    }

    /// The configuration in force.
    pub fn config(&self) -> &BatchConfig {
        &self.config
    }

    /// A copy of the figures.
    pub fn stats(&self) -> BatcherStats {
        self.stats
    }

    /// Queues a unit; its deadline counts from now on. Call `poll` afterwards.
    ///
    /// An empty queue takes any unit that fits an entry, even one above the queue's bounds: else it
    /// could never be proposed.
    ///
    /// # Errors
    /// The unit was not queued; the waiter comes back with the reason.
    pub fn push(
        &mut self,
        now: Moment,
        unit: Unit,
        deadline: Option<Moment>,
        waiter: W,
    ) -> Result<(), Refused<W>> {
        self.stats.submitted_units += 1;
        let encoded_bytes = match self.admit(now, &unit, deadline) {
            Ok(encoded_bytes) => encoded_bytes,
            Err(reason) => {
                self.stats.refused_units += 1;
                return Err(Refused { waiter, reason });
            }
        };
        self.stats.pending_units += 1;
        self.stats.pending_commands += unit.commands.len();
        self.stats.pending_bytes += encoded_bytes;
        self.earliest_deadline = earlier(self.earliest_deadline, deadline);
        self.queue.push_back(Queued { unit, encoded_bytes, pushed: now, deadline, waiter });
        Ok(())
    }

    /// Cuts the next batch if one is due; call until it returns `None`. The batch counts as in
    /// flight until `on_decided`. `time_ms` is the wall clock, raised to the previous batch's time if
    /// it is below.
    pub fn poll(&mut self, now: Moment, time_ms: u64) -> Option<Cut<W>> {
        self.drop_expired_front(now);
        let Queued { pushed, deadline, .. } = *self.queue.front()?;
        let reason = self.due(now, pushed)?;
        let taken = self.take(now, reason);
        self.time_ms = self.time_ms.max(time_ms);
        let batch = batch::encode(self.time_ms, taken.iter().map(|queued| &queued.unit));
        let waited = now.since(pushed);
        let waiters: Vec<_> =
            taken.into_iter().map(|queued| (queued.waiter, queued.unit.commands.len())).collect();
        let commands = waiters.iter().map(|(_, commands)| commands).sum();
        self.admission.on_cut(now, commands, Oldest { pushed, deadline });
        self.record_cut(&batch, commands, waiters.len(), reason, waited);
        Some(Cut { batch, commands, waiters, reason, oldest: pushed, waited })
    }

    /// When to call `poll` and `expire` next if nothing else happens; `None` if only a push or
    /// `on_decided` can change anything. Never before `now`.
    pub fn next_wake(&self, now: Moment) -> Option<Moment> {
        if !self.expired.is_empty() {
            return Some(now);
        }
        let sweep = self.earliest_deadline.map(|deadline| deadline.max(self.sweep_not_before));
        let flush = self.queue.front().and_then(|oldest| match self.due(now, oldest.pushed) {
            Some(_) => Some(now),
            None if self.has_credit() && !self.is_patient() => {
                Some(oldest.pushed.after(self.config.linger))
            }
            None => None,
        });
        earlier(sweep, flush).map(|wake| wake.max(now))
    }

    /// One batch that was cut has come to an end, whichever; usually the earliest.
    ///
    /// # Panics
    /// If none was in flight.
    pub fn on_decided(&mut self, now: Moment) {
        assert!(self.stats.in_flight > 0, "a decided batch was in flight");
        self.stats.in_flight -= 1;
        self.admission.on_decided(now);
    }

    /// Hands back the waiters whose deadline has passed, oldest first. Their units are never cut.
    pub fn expire(&mut self, now: Moment) -> Vec<W> {
        let passed = self.earliest_deadline.is_some_and(|deadline| deadline <= now);
        if passed && self.sweep_not_before <= now {
            self.sweep(now);
        }
        std::mem::take(&mut self.expired)
    }

    /// Hands back every waiter that is queued, the expired included: leadership was lost, say. What
    /// was cut is not affected; new units are welcome.
    pub fn fail_all(&mut self) -> Vec<W> {
        let mut waiters = std::mem::take(&mut self.expired);
        self.stats.failed_units += self.queue.len() as u64;
        waiters.extend(self.queue.drain(..).map(|queued| queued.waiter));
        self.stats.pending_units = 0;
        self.stats.pending_commands = 0;
        self.stats.pending_bytes = 0;
        self.earliest_deadline = None;
        waiters
    }

    /// As `fail_all`, and refuses every unit from now on.
    pub fn stop(&mut self) -> Vec<W> {
        self.stopped = true;
        self.fail_all()
    }

    /// Raises the time below which no batch is stamped: a new leader starts from the latest time in
    /// its log.
    pub fn raise_time(&mut self, time_ms: u64) {
        self.time_ms = self.time_ms.max(time_ms);
    }

    /// The unit's encoded size if it may be queued.
    fn admit(
        &self,
        now: Moment,
        unit: &Unit,
        deadline: Option<Moment>,
    ) -> Result<usize, RefuseReason> {
        let commands = unit.commands.len();
        if self.stopped {
            return Err(RefuseReason::Stopped);
        }
        if !(1..=BATCH_COMMANDS_MAX).contains(&commands) {
            return Err(RefuseReason::Length { commands });
        }
        let encoded_bytes = encoded_bytes_within_limits(unit)?;
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Err(RefuseReason::Expired);
        }
        let queued = self.stats.pending_commands;
        if !self.admission.admits(now, deadline, queued) {
            return Err(RefuseReason::Congested { ahead: self.admission.ahead(queued) });
        }
        if self.queue.is_empty() {
            return Ok(encoded_bytes);
        }
        let (commands_max, bytes_max) =
            (self.config.queue_commands_max, self.config.queue_bytes_max);
        if self.stats.pending_commands + commands > commands_max {
            return Err(RefuseReason::QueueCommandsFull { max: commands_max });
        }
        if self.stats.pending_bytes + encoded_bytes > bytes_max {
            return Err(RefuseReason::QueueBytesFull { max: bytes_max });
        }
        Ok(encoded_bytes)
    }

    fn has_credit(&self) -> bool {
        self.stats.in_flight < self.config.in_flight_max
    }

    /// Whether what is under way keeps the group busy for long: no batch is cut because it lingered.
    fn is_patient(&self) -> bool {
        self.admission.is_congested() && self.stats.in_flight > 1
    }

    /// Why the oldest unit's batch is due now, if it is.
    fn due(&self, now: Moment, oldest: Moment) -> Option<FlushReason> {
        if !self.has_credit() {
            return None;
        }
        if !self.config.enabled {
            return Some(FlushReason::Off);
        }
        if self.stats.pending_commands >= self.config.commands_max {
            return Some(FlushReason::Count);
        }
        if self.stats.pending_bytes >= self.config.bytes_max {
            return Some(FlushReason::Bytes);
        }
        if self.stats.in_flight == 0 {
            return Some(FlushReason::Idle);
        }
        let lingered = now.since(oldest) >= self.config.linger;
        (lingered && !self.is_patient()).then_some(FlushReason::Linger)
    }

    /// Takes units for one batch: the first, and more while they fit.
    fn take(&mut self, now: Moment, reason: FlushReason) -> Vec<Queued<W>> {
        let units_max = if reason == FlushReason::Off { 1 } else { usize::MAX };
        let bytes_max = self.config.bytes_max.min(ENTRY_BYTES_MAX - BATCH_OVERHEAD_BYTES_MAX);
        let mut taken: Vec<Queued<W>> = Vec::new();
        let (mut commands, mut bytes) = (0, 0);
        while let Some(next) = self.queue.front() {
            commands += next.unit.commands.len();
            bytes += next.encoded_bytes;
            let fits = commands <= self.config.commands_max && bytes <= bytes_max;
            if !taken.is_empty() && !fits || taken.len() == units_max {
                break;
            }
            taken.extend(self.pop_front());
            self.drop_expired_front(now);
        }
        taken
    }

    /// Moves expired units from the queue's front aside, so that they cannot be cut.
    fn drop_expired_front(&mut self, now: Moment) {
        while self.queue.front().is_some_and(|queued| queued.is_expired(now)) {
            let queued = self.pop_front().expect("the front was just seen");
            self.stats.expired_units += 1;
            self.expired.push(queued.waiter);
        }
    }

    fn pop_front(&mut self) -> Option<Queued<W>> {
        let queued = self.queue.pop_front()?;
        self.stats.pending_units -= 1;
        self.stats.pending_commands -= queued.unit.commands.len();
        self.stats.pending_bytes -= queued.encoded_bytes;
        if self.queue.is_empty() {
            self.earliest_deadline = None;
        }
        Some(queued)
    }

    /// Scans the whole queue for expired units and finds the earliest deadline of the others.
    fn sweep(&mut self, now: Moment) {
        self.sweep_not_before = now.after(SWEEP_INTERVAL);
        self.earliest_deadline = None;
        for _ in 0..self.queue.len() {
            let queued = self.pop_front().expect("the loop ends with the queue");
            if queued.is_expired(now) {
                self.stats.expired_units += 1;
                self.expired.push(queued.waiter);
                continue;
            }
            self.stats.pending_units += 1;
            self.stats.pending_commands += queued.unit.commands.len();
            self.stats.pending_bytes += queued.encoded_bytes;
            self.queue.push_back(queued);
        }
        self.earliest_deadline =
            self.queue.iter().fold(None, |earliest, queued| earlier(earliest, queued.deadline));
    }

    fn record_cut(
        &mut self,
        batch: &Bytes,
        commands: usize,
        units: usize,
        reason: FlushReason,
        waited: Duration,
    ) {
        debug_assert!(batch.len() <= ENTRY_BYTES_MAX, "{} bytes in one entry", batch.len());
        self.stats.in_flight += 1;
        self.stats.cut_units += units as u64;
        self.stats.cut_commands += commands as u64;
        self.stats.cut_bytes += batch.len() as u64;
        self.stats.cut_batches[reason as usize] += 1;
        self.stats.waited += waited;
    }
}

/// The unit's encoded size, if each command and the whole are small enough (BP-16).
fn encoded_bytes_within_limits(unit: &Unit) -> Result<usize, RefuseReason> {
    if let Some(command) = unit.commands.iter().find(|c| c.len() > COMMAND_BYTES_MAX) {
        return Err(RefuseReason::TooLarge { bytes: command.len(), max: COMMAND_BYTES_MAX });
    }
    let bytes = unit.encoded_len();
    let max = ENTRY_BYTES_MAX - BATCH_OVERHEAD_BYTES_MAX;
    if bytes > max { Err(RefuseReason::TooLarge { bytes, max }) } else { Ok(bytes) }
}

/// The earlier of two moments, where `None` is never.
fn earlier(a: Option<Moment>, b: Option<Moment>) -> Option<Moment> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

// A unit of one largest command always fits an entry.
const _: () = assert!(COMMAND_BYTES_MAX + BATCH_OVERHEAD_BYTES_MAX + 16 <= ENTRY_BYTES_MAX);

#[cfg(test)]
#[path = "propose_batcher_tests.rs"]
mod tests;
