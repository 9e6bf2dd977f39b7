//! ReadIndex: many reads share one confirmation, and none waits for ever.
//!
//! ```text
//! read → [waiting] ─one context→ [in flight] ─ReadState→ (reader, index)
//!             ↑────── unanswered for `retry_ticks` ─────┘
//!             └────── waiting for `expire_ticks`, or leader lost → failed
//! ```
//!
//! Promise: a reader leaves exactly once; a context is unique in the cluster and never reused, so
//! an answer can only confirm reads that were asked before it. What is given up on is waited for twice
//! as long the next time, and at least twice as long as the last answer took: rounds that are slow
//! but arrive do not starve.
//! Source: Raft thesis §6.4; DESIGN §3, rule 12.

use std::collections::VecDeque;

use crate::ids::{LogIndex, ReplicaId};

/// Readers in one group, in the order in which they asked.
#[derive(Debug)]
pub struct ReadQueue<R> {
    replica: ReplicaId,
    life: u64,
    next_context: u64,
    retry_ticks_min: u64,
    retry_ticks: u64,
    expire_ticks: u64,
    waiting: Vec<(u64, R)>,
    in_flight: VecDeque<Round<R>>,
}

#[derive(Debug)]
struct Round<R> {
    context: u64,
    sent_tick: u64,
    readers: Vec<(u64, R)>,
}

/// Rounds in flight: one being confirmed, one behind it so that confirmation never idles.
const ROUNDS_MAX: usize = 2;

impl<R> ReadQueue<R> {
    /// A queue for `replica` in the life that `life` (a random number) names.
    pub fn new(replica: ReplicaId, life: u64, retry_ticks: u64, expire_ticks: u64) -> Self {
        Self {
            replica,
            life,
            next_context: 0,
            retry_ticks_min: retry_ticks,
            retry_ticks,
            expire_ticks,
            waiting: Vec::new(),
            in_flight: VecDeque::new(),
        }
    }

    /// Adds a reader.
    pub fn push(&mut self, tick: u64, reader: R) {
        self.waiting.push((tick, reader));
    }

    /// Starts a round for all that wait, if one may start: the context to give to raft-rs.
    pub fn start_round(&mut self, tick: u64) -> Option<Vec<u8>> {
        if self.waiting.is_empty() || self.in_flight.len() >= ROUNDS_MAX {
            return None;
        }
        self.next_context += 1;
        let round = Round {
            context: self.next_context,
            sent_tick: tick,
            readers: std::mem::take(&mut self.waiting),
        };
        let context = self.encode(round.context);
        self.in_flight.push_back(round);
        Some(context)
    }

    /// A context was confirmed at `index`: its readers, and those of earlier rounds whose answer
    /// was lost, since they asked before it.
    pub fn confirmed(&mut self, tick: u64, context: &[u8], index: LogIndex) -> Vec<(R, LogIndex)> {
        let Some(at) = self.in_flight.iter().position(|r| self.encode(r.context) == context) else {
            return Vec::new();
        };
        let took = tick - self.in_flight[at].sent_tick;
        self.retry_ticks = self.retry_ticks_min.max(2 * took);
        let rounds = self.in_flight.drain(..=at);
        rounds.flat_map(|r| r.readers).map(|(_, reader)| (reader, index)).collect()
    }

    /// Puts unanswered rounds back in line and gives back readers that waited too long.
    pub fn on_tick(&mut self, tick: u64) -> Vec<R> {
        let is_lost = |round: &&Round<R>| tick >= round.sent_tick + self.retry_ticks;
        let lost = self.in_flight.iter().take_while(is_lost).count();
        if lost > 0 {
            // Beyond that nobody waits.
            self.retry_ticks = (2 * self.retry_ticks).min(self.expire_ticks);
        }
        let readers = self.in_flight.drain(..lost).flat_map(|round| round.readers);
        self.waiting.splice(0..0, readers);
        let expire_ticks = self.expire_ticks;
        let expired = self.waiting.iter().take_while(|(at, _)| tick >= at + expire_ticks).count();
        self.waiting.drain(..expired).map(|(_, reader)| reader).collect()
    }

    /// Every reader, in order: the replica stops.
    pub fn drain(&mut self) -> Vec<R> {
        let rounds = self.in_flight.drain(..).flat_map(|r| r.readers);
        rounds.chain(self.waiting.drain(..)).map(|(_, reader)| reader).collect()
    }

    /// Readers in line and in flight.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.in_flight.iter().map(|r| r.readers.len()).sum::<usize>()
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
        assert_eq!(queue.confirmed(3, &context, AT), [("a", AT), ("b", AT)]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_later_answer_confirms_earlier_rounds_and_never_the_reverse() {
        let mut queue = queue();
        queue.push(0, "a");
        let first = queue.start_round(0).expect("readers wait");
        queue.push(0, "b");
        let second = queue.start_round(0).expect("readers wait");
        assert_eq!(queue.confirmed(3, &first, AT), [("a", AT)]);
        queue.push(0, "c");
        let third = queue.start_round(0).expect("readers wait");
        assert_eq!(queue.confirmed(3, &third, AT), [("b", AT), ("c", AT)]);
        assert_eq!(queue.confirmed(3, &second, AT), []);
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
    fn a_lost_round_is_retried_in_order_under_a_new_context() {
        let mut queue = queue();
        queue.push(0, "a");
        let lost = queue.start_round(0).expect("readers wait");
        queue.push(2, "b");
        assert_eq!(queue.on_tick(3), Vec::<&str>::new());
        let retried = queue.start_round(3).expect("readers wait");
        assert_ne!(lost, retried);
        assert_eq!(queue.confirmed(3, &lost, AT), []);
        assert_eq!(queue.confirmed(3, &retried, AT), [("a", AT), ("b", AT)]);
    }

    /// Rounds that take so many ticks, one after the other: which of the first four are answered.
    fn answered(takes: u64) -> [bool; 4] {
        let (mut queue, mut tick) = (ReadQueue::new(ReplicaId::new(101), 9, 3, 1_000), 0);
        [(); 4].map(|()| {
            queue.push(tick, "a");
            let context = queue.start_round(tick).expect("readers wait");
            for _ in 0..takes {
                tick += 1;
                assert!(queue.on_tick(tick).is_empty(), "nobody has waited for long");
            }
            !queue.confirmed(tick, &context, AT).is_empty()
        })
    }

    #[test]
    fn rounds_that_take_longer_than_the_retry_do_not_starve() {
        assert_eq!(answered(2), [true; 4]);
        assert_eq!(answered(4), [false, true, true, true]);
        assert_eq!(answered(10), [false, false, true, true]);
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
        assert_eq!(queue.confirmed(3, &foreign, AT), []);
        assert_eq!(queue.confirmed(3, &own, AT), [("a", AT)]);
    }

    #[test]
    fn bytes_that_are_no_context_confirm_nothing() {
        let mut queue = queue();
        queue.push(0, "a");
        assert!(queue.start_round(0).is_some());
        assert_eq!(queue.confirmed(3, b"", AT), []);
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn a_context_confirms_once() {
        let mut queue = queue();
        queue.push(0, "a");
        let context = queue.start_round(0).expect("a reader waits");
        assert_eq!(queue.confirmed(3, &context, AT), [("a", AT)]);
        assert_eq!(queue.confirmed(3, &context, AT), []);
    }

    #[test]
    fn an_answer_in_time_is_waited_for() {
        let mut queue = queue();
        queue.push(0, "a");
        let context = queue.start_round(0).expect("a reader waits");
        assert_eq!(queue.on_tick(2), Vec::<&str>::new());
        assert_eq!(queue.confirmed(3, &context, AT), [("a", AT)]);
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
        queue.confirmed(3, &context, AT);
        assert!(queue.is_empty());
    }
}
