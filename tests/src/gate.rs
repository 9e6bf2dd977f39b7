//! Gate: between the runtime and every actor of one simulated node.
//!
//! ```text
//! waker → [gate: pass, wait a while, wait until it opens, end] → actor
//! ```
//!
//! Promise: while a kind of actor is shut out, none of its code runs, timers included, as under a
//! `SIGSTOP`; a kind that takes long acts on what it is told only after that long, as a log writer does
//! on a slow disk. After `crash`, nothing of the node runs again, and what its actors held is gone.
//! With an open gate a node behaves as without one.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use actix::{Arbiter, ArbiterHandle};
use polyraft_actors::mailbox::ActorKind;
use polyraft_actors::spawner::{Life, Place, Spawner, WrapLife};
use polyraft_actors::workers::{Job, Workers};
use tokio::time::Sleep;

/// One node's gate.
#[derive(Debug, Default)]
pub struct Gate {
    crashed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    paused: bool,
    shut: BTreeMap<ActorKind, bool>,
    takes: BTreeMap<ActorKind, Duration>,
    /// Everything that lives behind the gate.
    wakers: BTreeMap<u64, Waker>,
    next: u64,
}

impl Gate {
    /// Stops the whole node, or lets it go on.
    pub fn pause(&self, paused: bool) {
        self.lock().paused = paused;
        self.wake_all();
    }

    /// Stops the node's actors of one kind, or lets them go on.
    pub fn shut(&self, kind: ActorKind, shut: bool) {
        self.lock().shut.insert(kind, shut);
        self.wake_all();
    }

    /// From now on actors of one kind act so long after they were told.
    pub fn set_takes(&self, kind: ActorKind, takes: Duration) {
        self.lock().takes.insert(kind, takes);
    }

    /// Ends everything behind the gate; it is gone once [`Gate::is_empty`].
    pub fn crash(&self) {
        self.crashed.store(true, SeqCst);
        self.wake_all();
    }

    /// Whether nothing lives behind the gate.
    pub fn is_empty(&self) -> bool {
        self.lock().wakers.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In order of birth, so that a run repeats.
    fn wake_all(&self) {
        let wakers: Vec<_> = self.lock().wakers.values().cloned().collect();
        wakers.iter().for_each(Waker::wake_by_ref);
    }

    /// Puts the gate around a life.
    pub fn guard(self: &Arc<Self>, kind: ActorKind, life: Life) -> Life {
        Box::pin(Gated { gate: self.clone(), kind, id: None, late: None, life: Some(life) })
    }
}

/// A life behind the gate.
struct Gated {
    gate: Arc<Gate>,
    kind: ActorKind,
    id: Option<u64>,
    /// Runs from being woken to being let through.
    late: Option<Pin<Box<Sleep>>>,
    life: Option<Life>,
}

impl Gated {
    /// Whether the life may run now; if not, the gate or a timer wakes it.
    fn admit(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.gate.lock();
        if self.id.is_none() {
            let id = state.next;
            state.next += 1;
            state.wakers.insert(id, cx.waker().clone());
            self.id = Some(id);
        }
        if state.paused || state.shut.get(&self.kind).copied().unwrap_or(false) {
            return Poll::Pending;
        }
        let takes = state.takes.get(&self.kind).copied().unwrap_or_default();
        drop(state);
        if self.late.is_none() && !takes.is_zero() {
            self.late = Some(Box::pin(tokio::time::sleep(takes)));
        }
        if let Some(late) = &mut self.late {
            ready!(late.as_mut().poll(cx));
            self.late = None;
        }
        Poll::Ready(())
    }
}

impl Future for Gated {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.gate.crashed.load(SeqCst) {
            self.life = None;
            return Poll::Ready(());
        }
        ready!(self.admit(cx));
        let Some(life) = &mut self.life else { return Poll::Ready(()) };
        life.as_mut().poll(cx)
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        self.life = None;
        if let Some(id) = self.id {
            self.gate.lock().wakers.remove(&id);
        }
    }
}

/// Puts every actor on the current arbiter, behind a gate.
pub struct GatedSpawner {
    arbiter: ArbiterHandle,
    gate: Arc<Gate>,
}

impl GatedSpawner {
    /// A spawner onto the current arbiter.
    ///
    /// # Panics
    /// Outside an actix `System`.
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { arbiter: Arbiter::current(), gate }
    }
}

impl Spawner for GatedSpawner {
    fn arbiter(&self, _: Place) -> ArbiterHandle {
        self.arbiter.clone()
    }

    /// The one that there is, so that the node has its watchdog.
    fn watched(&self) -> Vec<(&'static str, ArbiterHandle)> {
        vec![("simulation", self.arbiter.clone())]
    }

    fn wrap(&self) -> Option<Arc<WrapLife>> {
        let gate = self.gate.clone();
        Some(Arc::new(move |kind, life| gate.guard(kind, life)))
    }

    /// Nothing: the arbiter belongs to whoever runs the system.
    fn stop(&self) {}
}

/// Runs each job behind the gate after so much virtual time: a slow machine that leaves its thread to
/// others.
pub struct GatedWorkers {
    gate: Arc<Gate>,
    takes: Duration,
    arbiter: ArbiterHandle,
}

impl GatedWorkers {
    /// Workers on the current arbiter.
    ///
    /// # Panics
    /// Outside an actix `System`.
    pub fn new(gate: Arc<Gate>, takes: Duration) -> Self {
        Self { gate, takes, arbiter: Arbiter::current() }
    }
}

impl Workers for GatedWorkers {
    fn run(&self, job: Job) {
        let (gate, takes) = (self.gate.clone(), self.takes);
        self.arbiter.spawn_fn(move || {
            let life: Life = Box::pin(async move {
                if !takes.is_zero() {
                    tokio::time::sleep(takes).await;
                }
                job();
            });
            actix::spawn(gate.guard(ActorKind::Applier, life));
        });
    }

    /// Nothing: jobs end with their arbiter.
    fn stop(&self) {}
}
