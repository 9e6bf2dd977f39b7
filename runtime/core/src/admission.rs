//! Admission: whether one more unit would still be decided in time.
//!
//! ```text
//! cut ─→ [in flight, in order] ─decided→ pace: busy time per command
//!                                 └─ took more than half its deadline → congested
//! push ─→ congested, and pace × commands ahead > half the unit's deadline? ─→ refused
//! ```
//!
//! A queue that is bounded in commands and bytes alone holds minutes of work where each command takes
//! long. First in, first out then means that whatever is proposed is about to expire: the machine is
//! busy and nobody hears `Ok`. So work is bounded in time as well: under overload a unit is taken only
//! if what is ahead of it, queued and in flight, is expected to take no more than half of its
//! deadline. The other half is for errors of the expectation.
//!
//! The pace is the time per command in which something was in flight, so that idle time does not
//! count, and neither does the latency of batches that are under way together. It is halfway renewed
//! every [`PACE_SLOT`]. A batch that is being decided for longer than the pace promised counts at
//! once, not when it ends.
//!
//! Promise: nothing is refused unless a batch took, or is taking, more than half of its deadline; what
//! has nothing ahead of it never is. Congestion ends with a batch that took less than an eighth.
//!
//! Batches are taken to be decided in the order in which they were cut. A few that are not, when
//! leadership changes, make the pace wrong for a slot.
//!
//! Not here: bounds in commands and bytes, expiry (`propose_batcher`); what a replica accepts.
//! Source: Little's law; CoDel (RFC 8289) for judging a queue by the time spent in it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Moment;

/// Busy time after which the pace is renewed.
const PACE_SLOT: Duration = Duration::from_millis(100);
/// A unit may expect to take this share of its deadline, as a divisor; a batch that took more is late.
const LATE_SHARE: u32 = 2;
/// A batch that took less than this share of its deadline, as a divisor, ends congestion.
const CALM_SHARE: u32 = 8;

const _: () = assert!(CALM_SHARE > 2 * LATE_SHARE, "congestion would come and go with each batch");

/// Who waits longest in a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Oldest {
    /// When it was queued.
    pub(crate) pushed: Moment,
    /// Until when it waits.
    pub(crate) deadline: Option<Moment>,
}

impl Oldest {
    /// Whether more than one part in `share` of its deadline has passed.
    fn has_used(&self, share: u32, now: Moment) -> bool {
        self.deadline
            .is_some_and(|deadline| now.since(self.pushed) > deadline.since(self.pushed) / share)
    }
}

/// A batch that was cut and is not decided.
#[derive(Debug)]
struct InFlight {
    cut: Moment,
    commands: usize,
    oldest: Oldest,
}

/// What one batcher's batches take.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    in_flight: VecDeque<InFlight>,
    in_flight_commands: usize,
    last_decided: Moment,
    /// Busy time and commands since the pace was renewed.
    slot: (Duration, usize),
    pace: Duration,
    congested: bool,
}

impl Admission {
    /// A batch was cut.
    pub(crate) fn on_cut(&mut self, now: Moment, commands: usize, oldest: Oldest) {
        self.in_flight_commands += commands;
        self.in_flight.push_back(InFlight { cut: now, commands, oldest });
    }

    /// The earliest of the batches in flight was decided.
    pub(crate) fn on_decided(&mut self, now: Moment) {
        let busy = self.in_service(now);
        let first = self.in_flight.pop_front().expect("a decided batch was in flight");
        self.in_flight_commands -= first.commands;
        self.last_decided = now;
        self.slot = (self.slot.0 + busy, self.slot.1 + first.commands);
        if self.slot.0 >= PACE_SLOT {
            let (busy, commands) = std::mem::take(&mut self.slot);
            self.pace = (self.pace + per_command(busy, commands)) / 2;
        }
        self.congested = first.oldest.has_used(LATE_SHARE, now)
            || self.congested && first.oldest.has_used(CALM_SHARE, now);
    }

    /// Whether batches take long for their deadlines.
    pub(crate) fn is_congested(&self) -> bool {
        self.congested
    }

    /// Whether a unit that waits until `deadline` is expected to be decided in time, behind so many
    /// `queued` commands.
    pub(crate) fn admits(&self, now: Moment, deadline: Option<Moment>, queued: usize) -> bool {
        let Some(deadline) = deadline else { return true };
        let first = self.in_flight.front();
        let is_late = first.is_some_and(|first| first.oldest.has_used(LATE_SHARE, now));
        if !self.congested && !is_late {
            return true;
        }
        let of_first = first.map(|first| per_command(self.in_service(now), first.commands));
        let pace = of_first.unwrap_or_default().max(self.pace);
        let ahead = u32::try_from(self.ahead(queued)).unwrap_or(u32::MAX);
        pace.saturating_mul(ahead) <= deadline.since(now) / LATE_SHARE
    }

    /// Commands ahead of a unit behind so many `queued` ones.
    pub(crate) fn ahead(&self, queued: usize) -> usize {
        queued + self.in_flight_commands
    }

    /// How long the earliest batch has been the earliest.
    fn in_service(&self, now: Moment) -> Duration {
        let first = self.in_flight.front();
        first.map_or(Duration::ZERO, |first| now.since(first.cut.max(self.last_decided)))
    }
}

fn per_command(busy: Duration, commands: usize) -> Duration {
    busy / u32::try_from(commands.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deadline of every unit here.
    const DEADLINE: Duration = Duration::from_secs(4);

    fn at(millis: u64) -> Moment {
        Moment::new(Duration::from_millis(millis))
    }

    fn pushed(millis: u64) -> Oldest {
        let pushed = at(millis);
        Oldest { pushed, deadline: Some(pushed.after(DEADLINE)) }
    }

    fn admits(admission: &Admission, millis: u64, queued: usize) -> bool {
        let now = at(millis);
        admission.admits(now, Some(now.after(DEADLINE)), queued)
    }

    /// Batches of 100 commands that take a second each, cut together; the third is late.
    fn congested() -> Admission {
        let mut admission = Admission::default();
        (0..4).for_each(|_| admission.on_cut(at(0), 100, pushed(0)));
        (1..=3).for_each(|second| admission.on_decided(at(1_000 * second)));
        assert!(admission.is_congested());
        admission
    }

    #[test]
    fn nothing_is_refused_while_batches_are_in_time() {
        let mut admission = Admission::default();
        (0..2).for_each(|_| admission.on_cut(at(0), 100, pushed(0)));
        admission.on_decided(at(1_000));
        admission.on_decided(at(2_000));
        assert!(!admission.is_congested());
        assert!(admits(&admission, 2_000, usize::MAX / 2));
    }

    #[test]
    fn a_late_batch_bounds_what_is_ahead_by_the_pace() {
        let admission = congested();
        // 10 ms each less an eighth, what the first three slots have not forgotten of a pace of zero:
        // half a deadline has room for 228, and 100 are in flight.
        assert!(admits(&admission, 3_000, 128));
        assert!(!admits(&admission, 3_000, 129));
    }

    #[test]
    fn each_unit_is_held_against_its_own_deadline() {
        let admission = congested();
        let patient = Some(at(3_000).after(100 * DEADLINE));
        assert!(admission.admits(at(3_000), patient, 10_000));
        assert!(admission.admits(at(3_000), None, usize::MAX / 2));
        assert!(!admission.admits(at(3_000), Some(at(3_100)), 0), "100 are in flight");
    }

    #[test]
    fn what_has_nothing_ahead_is_never_refused() {
        let mut admission = congested();
        admission.on_decided(at(4_000));
        assert!(admission.is_congested());
        assert!(admission.admits(at(4_000), Some(at(4_001)), 0));
    }

    #[test]
    fn a_batch_that_is_not_decided_counts_once_it_is_late() {
        let mut admission = Admission::default();
        admission.on_cut(at(0), 10, pushed(0));
        assert!(admits(&admission, 2_000, 1_000));
        assert!(!admits(&admission, 2_001, 0), "what is ahead takes 2 s already");
        admission.on_decided(at(2_002));
        assert!(admission.is_congested());
    }

    #[test]
    fn congestion_ends_with_a_fast_batch_and_not_with_a_moderate_one() {
        let mut admission = congested();
        admission.on_cut(at(3_000), 10, pushed(3_000));
        admission.on_decided(at(3_100)); // The fourth of the first ones.
        admission.on_decided(at(3_600));
        assert!(admission.is_congested(), "600 ms are more than an eighth");
        admission.on_cut(at(4_000), 10, pushed(4_000));
        admission.on_decided(at(4_500));
        assert!(!admission.is_congested());
        assert!(admits(&admission, 4_500, usize::MAX / 2));
    }

    #[test]
    fn idle_time_and_shared_latency_are_no_pace() {
        let mut admission = Admission::default();
        for second in 0..10 {
            let start = 1_000 * second;
            (0..10).for_each(|_| admission.on_cut(at(start), 100, pushed(start)));
            (0..10).for_each(|_| admission.on_decided(at(start + 20)));
        }
        assert_eq!(admission.slot, (Duration::ZERO, 900), "the tenth round closed the second slot");
        assert!(admission.pace < Duration::from_micros(25), "{:?}", admission.pace);
    }

    #[test]
    fn the_pace_follows_a_machine_that_turns_fast_again() {
        let mut admission = congested();
        let slow = admission.pace;
        for round in 0..80 {
            let start = 3_000 + 10 * round;
            admission.on_cut(at(start), 100, pushed(start));
            admission.on_decided(at(start + 10));
        }
        assert!(admission.pace < slow / 20, "{:?} after {slow:?}", admission.pace);
    }

    #[test]
    fn the_earliest_batch_is_the_one_that_is_decided() {
        let mut admission = Admission::default();
        admission.on_cut(at(0), 10, pushed(0));
        admission.on_cut(at(0), 70, pushed(0));
        admission.on_cut(at(0), 5, pushed(0));
        admission.on_decided(at(1));
        assert_eq!(admission.ahead(0), 75);
        admission.on_decided(at(2));
        assert_eq!(admission.ahead(1), 6);
    }

    #[test]
    fn exactly_half_a_deadline_is_enough() {
        let mut admission = Admission::default();
        admission.on_cut(at(0), 10, pushed(0));
        let late = at(2_001);
        // Ten commands are ahead, and the batch that has them takes 2,001 ms already.
        assert!(admission.admits(late, Some(late.after(Duration::from_millis(4_002))), 0));
        assert!(!admission.admits(late, Some(late.after(Duration::from_millis(4_001))), 0));
    }

    #[test]
    fn a_batch_that_nobody_hurries_is_never_late() {
        let mut admission = Admission::default();
        admission.on_cut(at(0), 10, Oldest { pushed: at(0), deadline: None });
        assert!(admits(&admission, 3_600_000, 1_000));
        admission.on_decided(at(3_600_000));
        assert!(!admission.is_congested());
    }

    #[test]
    fn a_queue_beyond_counting_is_refused_under_congestion() {
        let admission = congested();
        assert!(!admits(&admission, 3_000, usize::MAX / 2));
    }

    #[test]
    fn a_batch_behind_another_is_in_service_only_once_it_is_the_earliest() {
        let mut admission = Admission::default();
        admission.on_cut(at(0), 10, pushed(0));
        admission.on_cut(at(0), 10, pushed(0));
        admission.on_decided(at(900));
        assert_eq!(admission.in_service(at(1_000)), Duration::from_millis(100));
    }
}
