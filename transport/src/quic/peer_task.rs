//! One task per peer: dials, judges candidates, watches the connection in use.
//!
//! ```text
//! dial ───────┐
//! accept ─────┴→ candidate ─tie break→ live ─closed, violated, unheard→ retire → pause → dial
//!                              └ loser of two that work → drain → close
//! ```
//!
//! Promise: `on_connected` and `on_disconnected` alternate, and no frame is delivered outside a pair
//! of them. At most one connection is sent on, at most one dial is under way. When both nodes have
//! dialled at once, or one dials because its certificate was replaced, the link does not go down: what is on its way on the connection that loses still
//! arrives, perhaps after later frames on the one that wins.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use polyraft_core::ids::NodeId;
use polyraft_core::ports::{Lane, TransportEvents};
use quinn::{ConnectionError, RecvStream, SendStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use super::Shared;
use super::backoff::{Backoff, DELAY_MAX, DELAY_MIN};
use super::close::CloseCode;
use super::dial::{DialError, dial};
use super::establish::Candidate;
use super::lanes::{LaneEnd, LaneTask};
use super::liveness::{Liveness, Sample};
use super::peers::{Link, Live, Orders};
use super::refusal::Refusal;
use super::tie_break::{self, Origin, Verdict};

/// How long the loser of two connections that work is read before it is closed. The peer stops sending on it
/// as soon as it has seen the winner, which has been established on this side already.
const DRAIN: Duration = Duration::from_secs(2);
/// Connections that are emptied at once: a peer that dials over and over must not gather more.
const DRAINING_MAX: usize = 4;
/// What the higher node of a pair waits longer before it dials.
const HEAD_START: Duration = DELAY_MIN;

pub(super) struct PeerTask {
    shared: Arc<Shared>,
    events: Arc<dyn TransportEvents>,
    link: Arc<Link>,
    candidates: mpsc::Receiver<Candidate>,
    orders: watch::Receiver<Orders>,
    current: Option<Current>,
    draining: VecDeque<Draining>,
    dialling: Option<JoinHandle<Result<Candidate, DialError>>>,
    dial_at: Instant,
    backoff: Backoff,
}

/// The connection in use, as only its task sees it.
struct Current {
    live: Arc<Live>,
    origin: Origin,
    since: Instant,
    lanes: JoinSet<LaneEnd>,
    watch: LivenessWatch,
}

/// A connection that lost to the one in use and is emptied, first come first.
struct Draining {
    live: Arc<Live>,
    dialled_by_peer: bool,
    lanes: JoinSet<LaneEnd>,
    until: Instant,
}

impl Draining {
    /// Closes it; no frame arrives on it afterwards.
    async fn end(mut self, code: CloseCode, reason: &str) {
        code.close(&self.live.connection, reason);
        self.lanes.shutdown().await;
    }
}

/// What happened next.
enum Event {
    Ordered,
    Candidate(Candidate),
    Dialled(Result<Candidate, DialError>),
    DialDue,
    Drained,
    Ended(End),
}

/// Why the connection in use is over.
enum End {
    Closed(ConnectionError),
    Violation(Refusal),
    Unheard,
}

impl PeerTask {
    pub(super) fn new(
        shared: Arc<Shared>,
        events: Arc<dyn TransportEvents>,
        link: Arc<Link>,
        candidates: mpsc::Receiver<Candidate>,
    ) -> Self {
        let orders = link.orders.subscribe();
        let mut task = Self {
            shared,
            events,
            link,
            candidates,
            orders,
            current: None,
            draining: VecDeque::new(),
            dialling: None,
            dial_at: Instant::now(),
            backoff: Backoff::new(),
        };
        task.dial_at += task.head_start();
        task
    }

    /// Runs until the link is told to stop.
    pub(super) async fn run(mut self) {
        let mut followed = self.orders.borrow().clone();
        while !followed.stop {
            match self.next_event().await {
                Event::Ordered => followed = self.follow(followed).await,
                Event::Candidate(candidate) => self.judge(candidate).await,
                Event::Dialled(Ok(candidate)) => self.judge(candidate).await,
                Event::Dialled(Err(DialError::Lost(lost))) if CloseCode::is_benign(&lost) => {}
                Event::Dialled(Err(error)) => self.link.set_error(error.to_string()),
                Event::DialDue => self.dial(&followed.address),
                Event::Drained => self.end_first_drain().await,
                Event::Ended(end) => self.end(end).await,
            }
        }
        if let Some(dialling) = self.dialling.take() {
            dialling.abort();
        }
        let stopping = self.shared.is_stopping();
        self.retire(if stopping { CloseCode::Shutdown } else { CloseCode::Removed }, "").await;
        // Only now may a task for the same peer speak of it again.
        self.candidates.close();
        while let Ok(candidate) = self.candidates.try_recv() {
            CloseCode::Removed.close(&candidate.connection, "");
        }
    }

    async fn next_event(&mut self) -> Event {
        let may_dial = self.wants_another() && self.dialling.is_none();
        let drained_at = self.draining.front().map(|draining| draining.until);
        tokio::select! {
            biased;
            _ = self.orders.changed() => Event::Ordered,
            Some(candidate) = self.candidates.recv() => Event::Candidate(candidate),
            dialled = dialled(&mut self.dialling) => Event::Dialled(dialled),
            end = ended(&mut self.current) => Event::Ended(end),
            () = sleep_until(self.dial_at), if may_dial => Event::DialDue,
            () = sleep_until(drained_at.unwrap_or(self.dial_at)), if drained_at.is_some() => {
                Event::Drained
            }
        }
    }

    async fn follow(&mut self, followed: Orders) -> Orders {
        let orders = self.orders.borrow_and_update().clone();
        if orders.address != followed.address {
            self.backoff.reset();
            self.dial_at = Instant::now();
        }
        if orders.reload != followed.reload && !orders.stop {
            self.judge_again().await;
            self.backoff.reset();
            self.dial_at = Instant::now() + self.head_start();
        }
        orders
    }

    /// Whether there is no connection, or one with a certificate that this node has replaced.
    fn wants_another(&self) -> bool {
        self.current.as_ref().is_none_or(|current| current.origin.round < self.shared.round())
    }

    /// Gives up the connection in use, and those that are emptied, if what is trusted now would refuse
    /// the peer.
    async fn judge_again(&mut self) {
        let (tls, peer) = (self.shared.tls(), self.link.peer);
        let allowed =
            |live: &Live, dialled_by_peer| tls.judge_again(peer, &live.connection, dialled_by_peer);
        let current = self.current.as_ref();
        let current = current.map_or(Ok(()), |current| {
            allowed(&current.live, current.origin.dialler == peer)
                .map_err(|refusal| (refusal, current.live.connection.remote_address()))
        });
        if let Err((refusal, remote)) = current {
            self.shared.refusals.record(refusal, Some(remote));
            self.link.set_error(format!("refused: {refusal}"));
            return self.retire(CloseCode::Reloaded, refusal.label()).await;
        }
        for draining in std::mem::take(&mut self.draining) {
            if allowed(&draining.live, draining.dialled_by_peer).is_ok() {
                self.draining.push_back(draining);
            } else {
                draining.end(CloseCode::Reloaded, "certificates reloaded").await;
            }
        }
    }

    fn dial(&mut self, address: &str) {
        // The next one is due after this attempt and its pause, whichever ends later.
        self.dial_at = Instant::now() + self.backoff.next_delay(rand::random());
        let attempt = dial(self.shared.clone(), self.link.peer, address.to_owned());
        self.dialling = Some(tokio::spawn(attempt));
    }

    /// Keeps the better of the candidate and the connection in use.
    async fn judge(&mut self, candidate: Candidate) {
        let inbound = candidate.origin.dialler == self.link.peer;
        // What is trusted may be something else since the handshake.
        let again = self.shared.tls().judge_again(self.link.peer, &candidate.connection, inbound);
        if let Err(refusal) = again {
            let remote = candidate.connection.remote_address();
            self.shared.refusals.record(refusal, Some(remote));
            return CloseCode::Violation.close(&candidate.connection, refusal.label());
        }
        let verdict = self.current.as_ref().map_or(Verdict::Replace, |current| {
            let silent = current.live.beats.heard_at().elapsed() > 2 * self.shared.beat_interval;
            let dead = silent || current.live.connection.close_reason().is_some();
            let lower = self.shared.node.min(self.link.peer);
            tie_break::judge(candidate.origin, current.origin, lower, dead)
        });
        match verdict {
            Verdict::Drain => {
                let live = Arc::new(Live::new(
                    candidate.connection,
                    candidate.version,
                    candidate.origin.round,
                ));
                let lanes = self.open_lanes(&live, candidate.sends, candidate.receives);
                self.drain(live, inbound, lanes).await;
            }
            Verdict::TakeOver => self.take_over(candidate).await,
            Verdict::Replace => {
                self.retire(CloseCode::Duplicate, "another takes its place").await;
                if inbound {
                    self.backoff.reset();
                }
                self.adopt(candidate, |events, peer| events.on_connected(peer));
            }
        }
    }

    /// Sends on the candidate from now on, and lets what is on its way on the other arrive: for
    /// everyone above, the link stays up.
    async fn take_over(&mut self, candidate: Candidate) {
        let before = self.current.take().expect("a candidate takes over from another connection");
        let dialled_by_peer = before.origin.dialler == self.link.peer;
        self.drain(before.live, dialled_by_peer, before.lanes).await;
        // A lane that was full on the other connection has room on this one.
        self.adopt(candidate, |events, peer| {
            Lane::ALL.into_iter().for_each(|lane| events.on_writable(peer, lane));
        });
    }

    /// Makes the candidate the connection that is sent on, and says so before its first frame.
    fn adopt(&mut self, candidate: Candidate, tell: impl FnOnce(&dyn TransportEvents, NodeId)) {
        let Candidate { connection, origin, version, sends, receives, .. } = candidate;
        let live = Arc::new(Live::new(connection, version, origin.round));
        let watch = LivenessWatch::new(self.shared.idle_timeout);
        self.link.came_up(live.clone());
        tell(&*self.events, self.link.peer);
        let lanes = self.open_lanes(&live, sends, receives);
        tracing::info!(peer = %self.link.peer, remote = %live.connection.remote_address(), "link up");
        self.current = Some(Current { live, origin, since: Instant::now(), lanes, watch });
        if self.wants_another() {
            self.dial_at = Instant::now() + self.head_start();
        }
    }

    /// Starts the tasks that move a connection's beats and frames.
    fn open_lanes(
        &self,
        live: &Arc<Live>,
        sends: Vec<SendStream>,
        receives: Vec<RecvStream>,
    ) -> JoinSet<LaneEnd> {
        let mut lanes = JoinSet::new();
        let mut streams = sends.into_iter().zip(receives);
        let (send, receive) = streams.next().expect("a candidate has every stream");
        let (beats, every) = (live.clone(), self.shared.beat_interval);
        lanes.spawn(async move { beats.beats.write(send, every).await });
        let beats = live.clone();
        lanes.spawn(async move { beats.beats.read(receive).await });
        for ((lane, queue), (send, receive)) in Lane::ALL.into_iter().zip(&live.queues).zip(streams)
        {
            let task = LaneTask {
                peer: self.link.peer,
                lane,
                events: self.events.clone(),
                traffic: self.link.traffic.clone(),
                frame_timeout: self.shared.frame_timeout,
            };
            lanes.spawn(task.clone().write(queue.clone(), send));
            lanes.spawn(task.read(receive));
        }
        lanes
    }

    /// Lets what is on its way on a connection arrive, for a while.
    async fn drain(&mut self, live: Arc<Live>, dialled_by_peer: bool, lanes: JoinSet<LaneEnd>) {
        if self.draining.len() >= DRAINING_MAX {
            self.end_first_drain().await;
        }
        let until = Instant::now() + DRAIN;
        self.draining.push_back(Draining { live, dialled_by_peer, lanes, until });
    }

    async fn end_first_drain(&mut self) {
        if let Some(draining) = self.draining.pop_front() {
            draining.end(CloseCode::Duplicate, "another is in use").await;
        }
    }

    /// Handles the end of the connection in use.
    async fn end(&mut self, end: End) {
        let lived = self.current.as_ref().map_or(Duration::ZERO, |c| c.since.elapsed());
        let (code, error) = match end {
            End::Closed(error) if CloseCode::is_benign(&error) => (CloseCode::Duplicate, None),
            End::Closed(error) => (CloseCode::Duplicate, Some(error.to_string())),
            End::Unheard => (CloseCode::Unheard, Some("the peer no longer hears us".to_owned())),
            End::Violation(refusal) => {
                let remote = self.current.as_ref().map(|c| c.live.connection.remote_address());
                self.shared.refusals.record(refusal, remote);
                (CloseCode::Violation, Some(refusal.label().to_owned()))
            }
        };
        self.retire(code, error.as_deref().unwrap_or_default()).await;
        // A link that keeps breaking must not be dialled ever faster.
        if lived >= DELAY_MAX || error.is_none() {
            self.backoff.reset();
        }
        if let Some(error) = error {
            self.link.set_error(error);
        }
        self.dial_at = Instant::now() + self.backoff.next_delay(rand::random()) + self.head_start();
    }

    /// The higher node of a pair lets the lower one dial first, so that they seldom dial at once.
    fn head_start(&self) -> Duration {
        if self.shared.node < self.link.peer { Duration::ZERO } else { HEAD_START }
    }

    /// Closes the connection in use, if any, and says so.
    async fn retire(&mut self, code: CloseCode, reason: &str) {
        let Some(mut current) = self.current.take() else { return };
        // Sends fail from here on, and no frame arrives after `on_disconnected`.
        self.link.went_down();
        code.close(&current.live.connection, reason);
        current.lanes.shutdown().await;
        for draining in std::mem::take(&mut self.draining) {
            draining.end(code, reason).await;
        }
        tracing::info!(peer = %self.link.peer, reason, "link down");
        self.events.on_disconnected(self.link.peer);
    }
}

async fn dialled(
    dialling: &mut Option<JoinHandle<Result<Candidate, DialError>>>,
) -> Result<Candidate, DialError> {
    let Some(task) = dialling else { return pending().await };
    let result = task.await;
    *dialling = None;
    // The runtime is going away, or a bug panicked: try again as after any failure.
    result.unwrap_or(Err(DialError::TimedOut))
}

async fn ended(current: &mut Option<Current>) -> End {
    let Some(Current { live, lanes, watch, .. }) = current else { return pending().await };
    let connection = &live.connection;
    tokio::select! {
        biased;
        Some(Ok(LaneEnd::Violation(refusal))) = lanes.join_next() => match connection.close_reason() {
            // The streams of a connection that the peer has closed end anyhow.
            Some(error) => End::Closed(error),
            None => End::Violation(refusal),
        },
        error = connection.closed() => End::Closed(error),
        () = watch.unheard(live) => End::Unheard,
    }
}

/// Samples the connection in use.
struct LivenessWatch {
    liveness: Liveness,
    tick: Interval,
}

impl LivenessWatch {
    /// Samples per timeout.
    const RESOLUTION: u32 = 12;

    fn new(timeout: Duration) -> Self {
        let mut tick = interval(timeout / Self::RESOLUTION);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { liveness: Liveness::new(timeout, Instant::now(), Sample::default()), tick }
    }

    /// Completes when the peer no longer hears this side. Cancelling loses nothing.
    async fn unheard(&mut self, live: &Live) {
        loop {
            self.tick.tick().await;
            if self.liveness.is_unheard(Instant::now(), live.beats.sample()) {
                return;
            }
        }
    }
}

/// A peer's task, under the name by which a later one for the same peer waits for it.
pub(super) fn spawn_after(
    predecessor: Option<JoinHandle<()>>,
    node: NodeId,
    task: PeerTask,
    handle: &tokio::runtime::Handle,
) -> JoinHandle<()> {
    debug_assert_eq!(node, task.link.peer);
    handle.spawn(async move {
        if let Some(predecessor) = predecessor {
            // Its outcome was its own; what matters is that it speaks no more.
            let _ = predecessor.await;
        }
        task.run().await;
    })
}
