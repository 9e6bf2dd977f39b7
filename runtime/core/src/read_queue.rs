//! ReadIndex: many reads share one confirmation, and none waits for ever.
//!
//! ```text
//! read → [readers, in order] ─one context for all that wait→ raft-rs ─ReadState→ (reader, index)
//!             └ asked again under a new context every `retry_ticks`; failed after `expire_ticks`
//! ```
//!
//! Promise: a reader leaves exactly once; a context is unique in the cluster and never reused, so
//! an answer can only confirm reads that were asked before it. However late it comes: rounds that take
//! longer than a retry do not starve.
//! Source: Raft thesis §6.4; DESIGN §3, rule 12.

use std::collections::VecDeque;

use crate::ids::{LogIndex, ReplicaId};

/// Readers in one group, in the order in which they asked.
#[derive(Debug)]
pub struct ReadQueue<R> {
    replica: ReplicaId,
    life: u64,
    next_context: u64,
    retry_ticks: u64,
    expire_ticks: u64,
    /// When each asked.
    readers: VecDeque<(u64, R)>,
    /// How many readers have left, so that places in the queue have numbers that stay.
    left: u64,
    rounds: VecDeque<Round>,
}

/// A context that was asked for: it confirms every reader before the place `upto`.
#[derive(Debug)]
struct Round {
    context: u64,
    sent_tick: u64,
    upto: u64,
    /// Not answered in time. An answer is welcome all the same.
    is_late: bool,
}

/// Rounds in flight, late ones apart: one being confirmed, one behind it so that confirmation never
/// idles.
const ROUNDS_MAX: usize = 2;

impl<R> ReadQueue<R> {
    /// A queue for `replica` in the life that `life` (a random number) names.
    pub fn new(replica: ReplicaId, life: u64, retry_ticks: u64, expire_ticks: u64) -> Self {
        Self {
            replica,
            life,
            next_context: 0,
            retry_ticks,
            expire_ticks,
            readers: VecDeque::new(),
            left: 0,
            rounds: VecDeque::new(),
        }
    }

    /// Adds a reader.
    pub fn push(&mut self, tick: u64, reader: R) {
        self.readers.push_back((tick, reader));
    }

    /// Starts a round for all that wait, if one may start: the context to give to raft-rs.
    pub fn start_round(&mut self, tick: u64) -> Option<Vec<u8>> {
        let upto = self.left + self.readers.len() as u64;
        let in_flight = || self.rounds.iter().filter(|round| !round.is_late);
        let asked = in_flight().map(|round| round.upto).max().unwrap_or(self.left);
        if asked >= upto || in_flight().count() >= ROUNDS_MAX {
            return None;
        }
        self.next_context += 1;
        let context = self.next_context;
        self.rounds.push_back(Round { context, sent_tick: tick, upto, is_late: false });
        Some(self.encode(context))
    }

    /// A context was confirmed at `index`: all readers that had asked before it.
    pub fn confirmed(&mut self, context: &[u8], index: LogIndex) -> Vec<(R, LogIndex)> {
        let Some(at) = self.rounds.iter().position(|r| self.encode(r.context) == context) else {
            return Vec::new();
        };
        let upto = self.rounds[at].upto;
        self.leave(upto - self.left).map(|reader| (reader, index)).collect()
    }

    /// Rounds without an answer are given up on, and readers that waited too long come back.
    pub fn on_tick(&mut self, tick: u64) -> Vec<R> {
        for round in &mut self.rounds {
            round.is_late |= tick >= round.sent_tick + self.retry_ticks;
        }
        let expire_ticks = self.expire_ticks;
        let expired = self.readers.iter().take_while(|(at, _)| tick >= at + expire_ticks).count();
        self.leave(expired as u64).collect()
    }

    /// Every reader, in order: the replica stops.
    pub fn drain(&mut self) -> Vec<R> {
        self.leave(self.readers.len() as u64).collect()
    }

    /// The first `count` readers; rounds that nobody waits for any more go with them.
    fn leave(&mut self, count: u64) -> impl Iterator<Item = R> {
        self.left += count;
        while self.rounds.front().is_some_and(|round| round.upto <= self.left) {
            self.rounds.pop_front();
        }
        self.readers.drain(..count as usize).map(|(_, reader)| reader)
    }

    /// Readers in line and in flight.
    pub fn len(&self) -> usize {
        self.readers.len()
    }

    /// Whether nobody reads.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn encode(&self, context: u64) -> Vec<u8> {
        [self.replica.get(), self.life, context].iter().flat_map(|n| n.to_be_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> ReadQueue<&'static str> {
        ReadQueue::new(ReplicaId::new(101), 9, 3, 10)
    }

    const AT: LogIndex = LogIndex::new(40);

    #[test]
    fn many_readers_share_one_round() {
        let mut queue = queue();
        queue.push(0, "a");
        queue.push(0, "b");
        let context = queue.start_round(0).expect("readers wait");
        assert_eq!(queue.start_round(0), None);
        assert_eq!(queue.confirmed(&context, AT), [("a", AT), ("b", AT)]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_later_answer_confirms_earlier_rounds_and_never_the_reverse() {
        let mut queue = queue();
        queue.push(0, "a");
        let first = queue.start_round(0).expect("readers wait");
        queue.push(0, "b");
        let second = queue.start_round(0).expect("readers wait");
        assert_eq!(queue.confirmed(&first, AT), [("a", AT)]);
        queue.push(0, "c");
        let third = queue.start_round(0).expect("readers wait");
        assert_eq!(queue.confirmed(&third, AT), [("b", AT), ("c", AT)]);
        assert_eq!(queue.confirmed(&second, AT), []);
    }

    #[test]
    fn rounds_are_bounded() {
        let mut queue = queue();
        for reader in ["a", "b"] {
            queue.push(0, reader);
            assert!(queue.start_round(0).is_some());
        }
        queue.push(0, "c");
        assert_eq!(queue.start_round(0), None);
    }

    #[test]
    fn an_unanswered_round_is_asked_again_in_order_under_a_new_context() {
        let mut queue = queue();
        queue.push(0, "a");
        let lost = queue.start_round(0).expect("readers wait");
        queue.push(2, "b");
        assert_eq!(queue.on_tick(3), Vec::<&str>::new());
        let retried = queue.start_round(3).expect("readers wait");
        assert_ne!(lost, retried);
        assert_eq!(queue.confirmed(&retried, AT), [("a", AT), ("b", AT)]);
        assert_eq!(queue.confirmed(&lost, AT), []);
    }

    #[test]
    fn a_late_answer_confirms_those_who_had_asked_before_its_round() {
        let mut queue = queue();
        queue.push(0, "a");
        let late = queue.start_round(0).expect("readers wait");
        queue.push(2, "b");
        assert_eq!(queue.on_tick(3), Vec::<&str>::new());
        let retried = queue.start_round(3).expect("readers wait");
        assert_eq!(queue.confirmed(&late, AT), [("a", AT)]);
        assert_eq!(queue.confirmed(&retried, AT), [("b", AT)]);
    }

    /// Goal: a network on which a round takes two retries serves reads. Method: each round is
    /// answered so late.
    #[test]
    fn rounds_that_take_longer_than_a_retry_do_not_starve() {
        let (mut queue, mut under_way, mut answered) = (queue(), VecDeque::new(), 0);
        for tick in 0..100 {
            queue.push(tick, "a");
            let expired = queue.on_tick(tick);
            assert!(expired.is_empty(), "{expired:?} expired at tick {tick}");
            under_way.extend(queue.start_round(tick).map(|context| (tick, context)));
            if let Some((_, context)) = under_way.pop_front_if(|(sent, _)| tick >= *sent + 6) {
                answered += queue.confirmed(&context, AT).len();
            }
        }
        assert!(answered > 80, "{answered} of 100 readers were answered");
    }

    #[test]
    fn rounds_are_forgotten_with_their_last_reader() {
        let mut queue = queue();
        for tick in (0..=60).step_by(3) {
            queue.on_tick(tick);
            queue.push(tick, "a");
            assert!(queue.start_round(tick).is_some());
            assert!(queue.rounds.len() <= 5, "{} rounds", queue.rounds.len());
        }
    }

    #[test]
    fn rounds_lost_together_stay_in_order() {
        let mut queue = queue();
        for reader in ["a", "b"] {
            queue.push(0, reader);
            assert!(queue.start_round(0).is_some());
        }
        queue.push(0, "c");
        assert_eq!(queue.on_tick(10), ["a", "b", "c"]);
    }

    #[test]
    fn readers_expire() {
        let mut queue = queue();
        queue.push(0, "a");
        queue.push(5, "b");
        assert_eq!(queue.on_tick(10), ["a"]);
        assert_eq!(queue.drain(), ["b"]);
    }

    #[test]
    fn nobody_waiting_starts_no_round() {
        assert_eq!(queue().start_round(0), None);
    }

    #[test]
    fn a_context_names_replica_life_and_round() {
        let mut queue = ReadQueue::new(ReplicaId::new(3), 99, 3, 10);
        queue.push(0, "a");
        let context = queue.start_round(0).expect("a reader waits");
        let expected: Vec<u8> = [3u64, 99, 1].iter().flat_map(|n| n.to_be_bytes()).collect();
        assert_eq!(context, expected);
    }

    #[test]
    fn another_life_confirms_nothing() {
        let mut queue = queue();
        queue.push(0, "a");
        let own = queue.start_round(0).expect("a reader waits");
        let mut other = ReadQueue::new(ReplicaId::new(1), 78_787, 3, 10);
        other.push(0, "b");
        let foreign = other.start_round(0).expect("a reader waits");
        assert_eq!(queue.confirmed(&foreign, AT), []);
        assert_eq!(queue.confirmed(&own, AT), [("a", AT)]);
    }

    #[test]
    fn bytes_that_are_no_context_confirm_nothing() {
        let mut queue = queue();
        queue.push(0, "a");
        assert!(queue.start_round(0).is_some());
        assert_eq!(queue.confirmed(b"", AT), []);
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn a_context_confirms_once() {
        let mut queue = queue();
        queue.push(0, "a");
        let context = queue.start_round(0).expect("a reader waits");
        assert_eq!(queue.confirmed(&context, AT), [("a", AT)]);
        assert_eq!(queue.confirmed(&context, AT), []);
    }

    #[test]
    fn an_answer_in_time_is_waited_for() {
        let mut queue = queue();
        queue.push(0, "a");
        let context = queue.start_round(0).expect("a reader waits");
        assert_eq!(queue.on_tick(2), Vec::<&str>::new());
        assert_eq!(queue.confirmed(&context, AT), [("a", AT)]);
    }

    #[test]
    fn a_reader_expires_with_its_tick_and_not_before() {
        let mut queue = queue();
        queue.push(5, "a");
        assert_eq!(queue.on_tick(14), Vec::<&str>::new());
        assert_eq!(queue.on_tick(15), ["a"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn retrying_does_not_make_a_reader_younger() {
        let mut queue = queue();
        queue.push(0, "a");
        assert!(queue.start_round(0).is_some());
        assert_eq!(queue.on_tick(4), Vec::<&str>::new());
        assert!(queue.start_round(4).is_some());
        assert_eq!(queue.on_tick(10), ["a"]);
    }

    #[test]
    fn readers_are_counted_in_line_and_in_flight() {
        let mut queue = queue();
        assert!(queue.is_empty());
        queue.push(0, "a");
        queue.push(0, "b");
        assert!(queue.start_round(0).is_some());
        queue.push(0, "c");
        assert_eq!(queue.len(), 3);
    }

    #[test]
    fn draining_takes_those_in_flight_first() {
        let mut queue = queue();
        queue.push(0, "a");
        assert!(queue.start_round(0).is_some());
        queue.push(0, "b");
        assert_eq!(queue.drain(), ["a", "b"]);
        assert_eq!(queue.drain(), Vec::<&str>::new());
    }

    #[test]
    fn a_queue_whose_readers_are_all_in_flight_is_not_empty() {
        let mut queue = queue();
        queue.push(0, "a");
        assert!(!queue.is_empty());
        let context = queue.start_round(0).expect("a reader waits");
        assert!(!queue.is_empty());
        queue.confirmed(&context, AT);
        assert!(queue.is_empty());
    }
}
