//! Notices a link on which this side hears but is not heard (TR-8).
//!
//! QUIC's idle timeout sees a silent peer. It does not see one-way loss: what the peer sends keeps
//! this side's timer running, and its retransmissions repeat old acknowledgements. So each beat tells
//! how many were received; beats sent without any progress of that for the idle timeout end the
//! connection.

use std::time::Duration;

use tokio::time::Instant;

/// Counters of a connection at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sample {
    /// Beats sent.
    pub(super) asked: u64,
    /// Beats that the peer says it received.
    pub(super) acknowledged: u64,
}

#[derive(Debug)]
pub(super) struct Liveness {
    timeout: Duration,
    last: Sample,
    observed_at: Instant,
    unanswered_since: Option<Instant>,
}

impl Liveness {
    pub(super) fn new(timeout: Duration, now: Instant, first: Sample) -> Self {
        Self { timeout, last: first, observed_at: now, unanswered_since: None }
    }

    /// Takes a sample; whether the link must be given up.
    pub(super) fn is_unheard(&mut self, now: Instant, sample: Sample) -> bool {
        // After a pause of this process the answers may be in the socket, not read yet.
        let paused = now.duration_since(self.observed_at) > self.timeout / 2;
        let last = std::mem::replace(&mut self.last, sample);
        self.observed_at = now;
        if paused || sample.acknowledged > last.acknowledged {
            self.unanswered_since = None;
        } else if sample.asked > last.asked {
            self.unanswered_since.get_or_insert(now);
        }
        self.unanswered_since.is_some_and(|since| now.duration_since(since) >= self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(3);

    /// Feeds one sample each 250 ms and returns after how many the link was given up.
    fn given_up_after(samples: impl IntoIterator<Item = (u64, u64)>) -> Option<usize> {
        let start = Instant::now();
        let mut liveness = Liveness::new(TIMEOUT, start, Sample::default());
        samples.into_iter().enumerate().find_map(|(i, (asked, acknowledged))| {
            let now = start + Duration::from_millis(250) * (i as u32 + 1);
            liveness.is_unheard(now, Sample { asked, acknowledged }).then_some(i)
        })
    }

    #[test]
    fn questions_without_answers_end_at_the_timeout() {
        assert_eq!(given_up_after((1..100).map(|i| (i, 0))), Some(12));
    }

    #[test]
    fn answers_keep_it_up_and_so_does_having_asked_nothing() {
        assert_eq!(given_up_after((1..100).map(|i| (i, i))), None);
        assert_eq!(given_up_after((1..100).map(|_| (0, 0))), None);
    }

    #[test]
    fn a_pause_of_this_process_is_not_held_against_the_peer() {
        let start = Instant::now();
        let mut liveness = Liveness::new(TIMEOUT, start, Sample::default());
        assert!(!liveness.is_unheard(start, Sample { asked: 1, acknowledged: 0 }));
        let asked = Sample { asked: 2, acknowledged: 0 };
        assert!(!liveness.is_unheard(start + 10 * TIMEOUT, asked));
    }
}
