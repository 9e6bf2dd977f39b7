//! Spawner: where every actor runs, decided in one place.
//!
//! ```text
//! start(spawner, Place, kind, factory) → arbiter → actor, built on its own thread
//! ```
//!
//! In production each [`Place`] maps to threads by its needs: what blocks (log writer, state
//! flusher) is alone, groups are spread over shards by id, links share the first of these with the
//! transport, and the tick shares with nobody; where the system allows it, the tick's thread goes
//! before the others when all cores are busy. Under the simulator every place is the one current
//! arbiter.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::{io, iter};

use actix::dev::channel::{self, AddressReceiver};
use actix::prelude::*;
use polyraft_core::ids::GroupId;
use tokio::runtime::{Builder, Handle};

use crate::mailbox::{ActorKind, capacity};

/// Names what an actor needs of the thread it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// The shard of a group: its group actor, batcher and applier. State machines themselves run on
    /// [`crate::workers`], so none of the three ever blocks. The first shard is the transport's thread.
    Shard(GroupId),
    /// The log writer's own thread; it blocks in every commit.
    LogWriter,
    /// The peer links, and on the same thread the transport's own tasks: what a link sends reaches
    /// its connection without a thread switch.
    Transport,
    /// The node's timer.
    Tick,
    /// The supervisor.
    Supervisor,
    /// The state flusher's own thread; it blocks in every flush.
    StateFlusher,
}

impl Place {
    /// Its name as a metrics label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shard(_) => "shard",
            Self::LogWriter => "log_writer",
            Self::Transport => "transport",
            Self::Tick => "tick",
            Self::Supervisor => "supervisor",
            Self::StateFlusher => "state_flusher",
        }
    }
}

/// An actor with its mailbox, as its arbiter runs it.
pub type Life = Pin<Box<dyn Future<Output = ()>>>;
/// Puts something around the life of an actor of this kind.
pub type WrapLife = dyn Fn(ActorKind, Life) -> Life + Send + Sync;

/// Finds the arbiter for a place.
pub trait Spawner: Send + Sync + 'static {
    /// The arbiter that serves `place`; always the same one for equal places.
    fn arbiter(&self, place: Place) -> ArbiterHandle;

    /// The arbiters that must never block, each with its label, for the watchdog.
    fn watched(&self) -> Vec<(&'static str, ArbiterHandle)>;

    /// What is put around every life, on its own thread: how a simulation delays, pauses and drops
    /// actors. Nothing, unless overridden.
    fn wrap(&self) -> Option<Arc<WrapLife>> {
        None
    }

    /// Stops every arbiter that this spawner started and waits for its thread. Idempotent.
    /// Actors still running there are dropped. Must not be called from one of those threads.
    fn stop(&self);
}

/// An actor whose address is known and which has not started: actors that need each other's address
/// are prepared first.
pub struct Prepared<A: Actor> {
    /// Its address. Messages wait until it starts.
    pub addr: Addr<A>,
    receiver: AddressReceiver<A>,
    kind: ActorKind,
}

/// Makes the address of an actor; the mailbox has its capacity from the table.
pub fn prepare<A: Actor>(kind: ActorKind) -> Prepared<A> {
    let (sender, receiver) = channel::channel(capacity(kind));
    Prepared { addr: Addr::new(sender), receiver, kind }
}

impl<A: Actor<Context = Context<A>>> Prepared<A> {
    /// Starts the actor on `place`. `factory` runs there, so the actor need not be `Send`.
    pub fn start<F>(self, spawner: &dyn Spawner, place: Place, factory: F) -> Addr<A>
    where
        F: FnOnce(&mut Context<A>) -> A + Send + 'static,
    {
        let Self { addr, receiver, kind } = self;
        let wrap = spawner.wrap();
        let started = spawner.arbiter(place).spawn_fn(move || {
            let mut ctx = Context::with_receiver(receiver);
            let actor = factory(&mut ctx);
            let life = ctx.into_future(actor);
            match wrap {
                Some(wrap) => actix::spawn(wrap(kind, Box::pin(life))),
                None => actix::spawn(life),
            };
        });
        if !started {
            tracing::warn!(actor = kind.as_str(), "not started: its arbiter has stopped");
        }
        addr
    }
}

/// Prepares an actor and starts it on `place`.
pub fn start<A, F>(spawner: &dyn Spawner, place: Place, kind: ActorKind, factory: F) -> Addr<A>
where
    A: Actor<Context = Context<A>>,
    F: FnOnce(&mut Context<A>) -> A + Send + 'static,
{
    prepare(kind).start(spawner, place, factory)
}

/// Arbiters on threads of their own. Needs a running actix `System` when it is made.
pub struct ArbiterSpawner {
    shards: Vec<ArbiterHandle>,
    log_writer: ArbiterHandle,
    state_flusher: ArbiterHandle,
    transport: ArbiterHandle,
    transport_runtime: Handle,
    tick: ArbiterHandle,
    supervisor: ArbiterHandle,
    owned: Mutex<Vec<Arbiter>>,
}

impl ArbiterSpawner {
    /// Starts the threads, `shards` of them for groups, the first of which has the links and the
    /// transport as well: more than cores only adds switches.
    ///
    /// # Errors
    /// The runtime that the links share with the transport cannot be made.
    ///
    /// # Panics
    /// If `shards` is 0, without a current actix `System`, or if a thread cannot be started.
    pub fn new(shards: usize) -> io::Result<Self> {
        assert!(shards > 0, "a node needs a shard");
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let transport_runtime = runtime.handle().clone();
        let mut owned = vec![Arbiter::with_tokio_rt(move || runtime)];
        let transport = owned[0].handle();
        let mut arbiter = || {
            let arbiter = Arbiter::new();
            let handle = arbiter.handle();
            owned.push(arbiter);
            handle
        };
        let spawner = Self {
            shards: iter::once(transport.clone()).chain((1..shards).map(|_| arbiter())).collect(),
            log_writer: arbiter(),
            state_flusher: arbiter(),
            transport,
            transport_runtime,
            tick: arbiter(),
            supervisor: arbiter(),
            owned: Mutex::new(owned),
        };
        spawner.tick.spawn_fn(go_first);
        Ok(spawner)
    }

    /// The runtime on the links' thread, for the transport's tasks. It ends with `stop`.
    pub fn transport_runtime(&self) -> &Handle {
        &self.transport_runtime
    }
}

/// Puts the current thread before all that are not of real time, where the process may
/// (`CAP_SYS_NICE`, `LimitRTPRIO=`): the tick runs for microseconds at a time, and a late one delays
/// every group's heartbeats. What it gains while all cores are busy is row TK-1-policies.
fn go_first() {
    #[cfg(unix)]
    {
        use thread_priority::unix::{
            RealtimeThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy,
            thread_native_id,
        };
        let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
        let lowest = thread_priority::ThreadPriority::from_posix(thread_priority::ScheduleParams {
            sched_priority: 1,
        });
        if let Err(error) = set_thread_priority_and_policy(thread_native_id(), lowest, policy) {
            tracing::debug!(%error, "the tick's thread keeps its priority");
        }
    }
}

/// The member of `pool` for `group`. Ids are handed out in sequence, so a remainder spreads evenly.
fn pick(pool: &[ArbiterHandle], group: GroupId) -> ArbiterHandle {
    pool[(group.get() % pool.len() as u64) as usize].clone()
}

impl Spawner for ArbiterSpawner {
    fn arbiter(&self, place: Place) -> ArbiterHandle {
        match place {
            Place::Shard(group) => pick(&self.shards, group),
            Place::LogWriter => self.log_writer.clone(),
            Place::StateFlusher => self.state_flusher.clone(),
            Place::Transport => self.transport.clone(),
            Place::Tick => self.tick.clone(),
            Place::Supervisor => self.supervisor.clone(),
        }
    }

    fn watched(&self) -> Vec<(&'static str, ArbiterHandle)> {
        let shards = self.shards.iter().map(|shard| ("shard", shard));
        let singles = [
            ("transport", &self.transport),
            ("tick", &self.tick),
            ("supervisor", &self.supervisor),
        ];
        shards.chain(singles).map(|(name, arbiter)| (name, arbiter.clone())).collect()
    }

    fn stop(&self) {
        let owned =
            std::mem::take(&mut *self.owned.lock().expect("no code panics while holding it"));
        for arbiter in &owned {
            arbiter.stop();
        }
        for arbiter in owned {
            if arbiter.join().is_err() {
                tracing::error!("an arbiter's thread panicked");
            }
        }
    }
}

/// Puts every actor on the arbiter that was current when it was made: one thread, one order.
#[derive(Debug, Clone)]
pub struct LocalSpawner {
    arbiter: ArbiterHandle,
}

impl LocalSpawner {
    /// A spawner onto the current arbiter.
    ///
    /// # Panics
    /// Outside an actix `System`.
    pub fn current() -> Self {
        Self { arbiter: Arbiter::current() }
    }
}

impl Spawner for LocalSpawner {
    fn arbiter(&self, _: Place) -> ArbiterHandle {
        self.arbiter.clone()
    }

    /// None: simulated time does not pass while an actor runs.
    fn watched(&self) -> Vec<(&'static str, ArbiterHandle)> {
        Vec::new()
    }

    /// Nothing: the arbiter belongs to whoever runs the system.
    fn stop(&self) {}
}

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};

    use super::*;

    struct WhereAreYou;

    impl Message for WhereAreYou {
        type Result = String;
    }

    struct Located;

    impl Actor for Located {
        type Context = Context<Self>;
    }

    impl Handler<WhereAreYou> for Located {
        type Result = String;

        fn handle(&mut self, _: WhereAreYou, _: &mut Self::Context) -> String {
            format!("{:?}", thread::current().id())
        }
    }

    async fn locate(spawner: &dyn Spawner, place: Place) -> String {
        let addr = start(spawner, place, ActorKind::Group, |_| Located);
        addr.send(WhereAreYou).await.expect("the actor runs")
    }

    fn here() -> String {
        let id: ThreadId = thread::current().id();
        format!("{id:?}")
    }

    #[test]
    fn places_map_to_threads() {
        System::new().block_on(async {
            let spawner = ArbiterSpawner::new(2).expect("a runtime");
            let shard = |n| Place::Shard(GroupId::new(n));
            let one = locate(&spawner, shard(1)).await;
            assert_eq!(one, locate(&spawner, shard(3)).await);
            assert_ne!(one, locate(&spawner, shard(2)).await);
            let writer = locate(&spawner, Place::LogWriter).await;
            let flusher = locate(&spawner, Place::StateFlusher).await;
            assert_ne!(writer, flusher);
            assert!(![one, here()].contains(&writer));
            spawner.stop();
            spawner.stop();
            let late = start(&spawner, Place::Tick, ActorKind::Tick, |_| Located);
            assert!(late.send(WhereAreYou).await.is_err());
        });
    }

    #[test]
    fn the_local_spawner_stays_here() {
        System::new().block_on(async {
            let spawner = LocalSpawner::current();
            assert_eq!(here(), locate(&spawner, Place::LogWriter).await);
            assert_eq!(here(), locate(&spawner, Place::Shard(GroupId::new(9))).await);
        });
    }
}
