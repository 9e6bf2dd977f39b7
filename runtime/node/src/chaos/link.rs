//! Link faults: what becomes of each frame between this node and a peer.
//!
//! ```text
//! frame ─judge: every fault of this peer, direction and lane→ vanishes
//!                                                           └ arrives: later, twice, held back
//! ```
//!
//! Promise: what chance decides is a function of the node, the fault's number and how many frames it
//! has seen: an experiment repeats its draws (CH-7). Not here: carrying frames (`links`).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use polyraft_actors::entropy::{Entropy, SeededEntropy};
use polyraft_core::ids::NodeId;
use polyraft_core::ports::Lane;
use tokio::time::Instant;

use super::fault::{Direction, LinkFault};

/// One link fault in force, and what it has done.
#[derive(Debug)]
pub(super) struct ActiveLink {
    pub(super) fault: LinkFault,
    dice: SeededEntropy,
    /// When the last of the bytes that it throttles will have passed, out and in.
    free_at: [Mutex<Option<Instant>>; 2],
    pub(super) dropped: AtomicU64,
    pub(super) delayed: AtomicU64,
    pub(super) duplicated: AtomicU64,
    pub(super) reordered: AtomicU64,
    pub(super) throttled: AtomicU64,
    pub(super) disconnects: AtomicU64,
}

/// Which way one frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Out,
    In,
}

/// What becomes of a frame.
#[derive(Debug)]
pub(super) enum Passage {
    /// It is gone.
    Vanishes,
    /// It arrives at `due`, `copies` times; held back by a fault, behind those that follow it.
    Arrives { due: Instant, copies: u32, held_by: Option<Arc<ActiveLink>> },
}

impl ActiveLink {
    /// A fault whose draws are a function of `seed`.
    pub(super) fn new(fault: LinkFault, seed: u64) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            fault,
            dice: SeededEntropy::new(seed),
            free_at: Default::default(),
            dropped: zero(),
            delayed: zero(),
            duplicated: zero(),
            reordered: zero(),
            throttled: zero(),
            disconnects: zero(),
        }
    }

    /// Whether it has a say about such frames.
    pub(super) fn concerns(&self, way: Way, peer: NodeId, lane: Lane) -> bool {
        let goes = match self.fault.direction {
            Direction::Out => way == Way::Out,
            Direction::In => way == Way::In,
            Direction::Both => true,
        };
        goes && self.fault.peer == peer && self.fault.lane.is_none_or(|only| only == lane)
    }

    /// Whether it silences a peer altogether, one way at least: beats that are not answered end a
    /// connection as surely as beats that do not arrive.
    pub(super) fn silences(&self, peer: NodeId) -> bool {
        self.fault.cut && self.fault.lane.is_none() && self.fault.peer == peer
    }

    fn chance(&self, per_mille: u64, count: &AtomicU64) -> bool {
        let hit = per_mille > 0 && self.dice.next_u64() % 1_000 < per_mille;
        count.fetch_add(u64::from(hit), Relaxed);
        hit
    }

    fn drops(&self) -> bool {
        if self.fault.cut {
            self.dropped.fetch_add(1, Relaxed);
            return true;
        }
        self.chance(self.fault.loss_per_mille, &self.dropped)
    }

    fn delay(&self) -> Duration {
        let LinkFault { delay, jitter, .. } = self.fault;
        let share = self.dice.next_u64() as f64 / u64::MAX as f64;
        let delay = delay + jitter.mul_f64(if jitter.is_zero() { 0.0 } else { share });
        self.delayed.fetch_add(u64::from(!delay.is_zero()), Relaxed);
        delay
    }

    /// When a frame that is there at `now` has passed at the rate that is left to it.
    fn throttle(&self, way: Way, now: Instant, bytes: usize) -> Instant {
        let rate = self.fault.bandwidth_bytes_per_s;
        if rate == 0 {
            return now;
        }
        self.throttled.fetch_add(1, Relaxed);
        let free_at = &self.free_at[way as usize];
        let mut free_at = free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let passes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let due = free_at.map_or(now, |free_at| free_at.max(now)) + passes;
        *free_at = Some(due);
        due
    }
}

/// What `faults` together make of a frame of so many bytes; those injected earlier see it first.
/// Requests are never repeated: the port says so, and a forwarded proposal that comes twice is proposed
/// twice.
pub(super) fn judge(
    faults: &[Arc<ActiveLink>],
    (way, lane): (Way, Lane),
    now: Instant,
    bytes: usize,
) -> Passage {
    let (mut due, mut copies, mut held_by) = (now, 1, None);
    for fault in faults {
        if fault.drops() {
            return Passage::Vanishes;
        }
        due = fault.throttle(way, due, bytes) + fault.delay();
        // It counts once another has overtaken it.
        if fault.chance(fault.fault.reorder_per_mille, &AtomicU64::new(0)) {
            held_by = Some(fault.clone());
        } else if lane != Lane::Request
            && fault.chance(fault.fault.duplicate_per_mille, &fault.duplicated)
        {
            copies += 1;
        }
    }
    Passage::Arrives { due, copies, held_by }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId::new(2);

    fn active(change: impl Fn(&mut LinkFault)) -> Arc<ActiveLink> {
        let mut fault = LinkFault::new(PEER, Direction::Both);
        change(&mut fault);
        Arc::new(ActiveLink::new(fault, 7))
    }

    /// Which of 1,000 frames arrive.
    fn arrivals(fault: &Arc<ActiveLink>) -> Vec<bool> {
        let now = Instant::now();
        let judged = |_| judge(std::slice::from_ref(fault), (Way::Out, Lane::Append), now, 100);
        (0..1_000).map(judged).map(|p| matches!(p, Passage::Arrives { .. })).collect()
    }

    #[test]
    fn losses_are_as_many_as_asked_and_repeat_with_their_seed() {
        let lossy = || active(|fault| fault.loss_per_mille = 300);
        let (first, again) = (lossy(), lossy());
        let arrived = arrivals(&first);
        assert_eq!(arrived, arrivals(&again));
        let lost = arrived.iter().filter(|arrives| !**arrives).count();
        assert!((250..350).contains(&lost), "{lost}");
        assert_eq!(first.dropped.load(Relaxed), lost as u64);
        let cut = active(|fault| fault.cut = true);
        assert!(!arrivals(&cut).contains(&true));
    }

    #[test]
    fn delay_jitter_and_bandwidth_add_up() {
        let fault = active(|fault| {
            fault.delay = Duration::from_millis(50);
            fault.jitter = Duration::from_millis(10);
            fault.bandwidth_bytes_per_s = 1_000;
        });
        let now = Instant::now();
        for at in 1..=5 {
            let passed = now + Duration::from_millis(100 * at + 50);
            let Passage::Arrives { due, copies: 1, held_by: None } =
                judge(std::slice::from_ref(&fault), (Way::In, Lane::Append), now, 100)
            else {
                panic!("it arrives once, in order");
            };
            assert!(due >= passed && due <= passed + Duration::from_millis(10), "{at}");
        }
        let Passage::Arrives { due, .. } = judge(&[fault], (Way::Out, Lane::Append), now, 100)
        else {
            panic!("it arrives");
        };
        assert!(due < now + Duration::from_millis(200), "each way has a rate of its own");
    }

    #[test]
    fn a_fault_concerns_its_peer_its_way_and_its_lane() {
        let fault = active(|fault| {
            (fault.direction, fault.lane, fault.cut) = (Direction::Out, Some(Lane::Append), true);
        });
        assert!(fault.concerns(Way::Out, PEER, Lane::Append));
        assert!(!fault.concerns(Way::In, PEER, Lane::Append));
        assert!(!fault.concerns(Way::Out, PEER, Lane::Control));
        assert!(!fault.concerns(Way::Out, NodeId::new(3), Lane::Append));
        assert!(!fault.silences(PEER), "other lanes still speak");
        assert!(active(|fault| fault.cut = true).silences(PEER));
    }

    #[test]
    fn a_frame_arrives_twice_or_is_held_back() {
        let passage = |change: fn(&mut LinkFault)| {
            let (fault, now) = (active(change), Instant::now());
            let passage = judge(std::slice::from_ref(&fault), (Way::Out, Lane::Append), now, 1);
            let Passage::Arrives { copies, held_by, .. } = passage else { panic!("it arrives") };
            (copies, held_by.is_some(), fault.duplicated.load(Relaxed))
        };
        assert_eq!(passage(|fault| fault.duplicate_per_mille = 1_000), (2, false, 1));
        assert_eq!(passage(|fault| fault.reorder_per_mille = 1_000), (1, true, 0));
    }
}
