//! Guard: an actor that goes away, for whatever reason, is reported.
//!
//! ```text
//! actor ─owns→ DownGuard ─drop→ Down → Supervisor → new life from a factory
//! ```
//!
//! Promise: one [`Down`] per life, also when a handler panics: actix drops the actor while the panic
//! unwinds, and so the guard. Not here: what to do about it (`supervisor`).
//!
//! A life that ends by panic leaves its arbiter and its siblings alone. `stopped()` must never
//! panic: actix calls it during that unwinding.

use actix::prelude::*;
use polyraft_core::ids::{GroupId, Incarnation};

use crate::mailbox::{ActorKind, deliver_fact, messages};

messages!(Down, Kill);

/// Fact from a [`DownGuard`] to the supervisor: an actor is gone. One per life, so the mailbox
/// cannot fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Down {
    /// What kind of actor.
    pub actor: ActorKind,
    /// Whose, if it belongs to one group.
    pub group: Option<GroupId>,
    /// Which of its lives ended.
    pub incarnation: Incarnation,
    /// Whether by a panic, and not by a stop.
    pub panicked: bool,
}

/// Owned by an actor; reports [`Down`] when dropped.
#[derive(Debug)]
pub struct DownGuard {
    down: Down,
    to: Recipient<Down>,
}

impl DownGuard {
    /// A guard for one life of one actor.
    pub fn new(
        actor: ActorKind,
        group: Option<GroupId>,
        incarnation: Incarnation,
        to: Recipient<Down>,
    ) -> Self {
        Self { down: Down { actor, group, incarnation, panicked: false }, to }
    }

    /// The life that is guarded.
    pub fn incarnation(&self) -> Incarnation {
        self.down.incarnation
    }
}

impl Drop for DownGuard {
    fn drop(&mut self) {
        self.down.panicked = std::thread::panicking();
        let down = self.down;
        if down.panicked {
            metrics::counter!("polyraft_actor_panics_total", "actor" => down.actor.as_str())
                .increment(1);
            tracing::error!(
                actor = down.actor.as_str(),
                group = down.group.map(GroupId::get),
                "actor panicked"
            );
        }
        deliver_fact(&self.to, down);
    }
}

/// How a [`Kill`] ends an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillMode {
    /// The handler panics.
    Panic,
    /// The context is stopped.
    Stop,
}

/// Command from chaos and tests to any actor: end this life. Offered; a full mailbox drops it.
#[derive(Debug, Clone, Copy)]
pub struct Kill {
    /// How.
    pub mode: KillMode,
}

impl Kill {
    /// What every actor's handler of `Kill` does.
    ///
    /// # Panics
    /// In [`KillMode::Panic`], as asked.
    pub fn obey<A: Actor<Context = Context<A>>>(self, ctx: &mut Context<A>) {
        match self.mode {
            KillMode::Panic => panic!("killed on request"),
            KillMode::Stop => ctx.stop(),
        }
    }
}

/// Implements `Handler<Kill>` by [`Kill::obey`] and `Handler<Stall>` by [`crate::stall::Stall::obey`],
/// for actors that die and stand still like any other.
macro_rules! killable {
    ($actor:ty) => {
        impl actix::Handler<$crate::stall::Stall> for $actor {
            type Result = ();

            fn handle(&mut self, stall: $crate::stall::Stall, ctx: &mut Self::Context) {
                stall.obey(self, ctx);
            }
        }

        impl actix::Handler<$crate::guard::Kill> for $actor {
            type Result = ();

            fn handle(&mut self, kill: $crate::guard::Kill, ctx: &mut Self::Context) {
                kill.obey(ctx);
            }
        }
    };
}
pub(crate) use killable;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Probe;

    struct Mortal {
        _guard: DownGuard,
    }

    impl Actor for Mortal {
        type Context = Context<Self>;
    }

    killable!(Mortal);

    fn end_of_life(mode: KillMode) -> Down {
        System::new().block_on(async move {
            let (probe, mut downs) = Probe::<Down>::start();
            let group = Some(GroupId::new(3));
            let guard = DownGuard::new(ActorKind::Group, group, Incarnation::new(5), probe);
            let addr = Mortal { _guard: guard }.start();
            addr.try_send(Kill { mode }).expect("an empty mailbox");
            downs.recv().await.expect("a guard always reports")
        })
    }

    #[test]
    fn a_panic_and_a_stop_are_both_reported() {
        let expected = Down {
            actor: ActorKind::Group,
            group: Some(GroupId::new(3)),
            incarnation: Incarnation::new(5),
            panicked: true,
        };
        assert_eq!(end_of_life(KillMode::Panic), expected);
        assert_eq!(end_of_life(KillMode::Stop), Down { panicked: false, ..expected });
    }

    #[test]
    fn messages_behind_a_panic_do_not_panic_again() {
        System::new().block_on(async {
            let (probe, mut downs) = Probe::<Down>::start();
            let guard = DownGuard::new(ActorKind::Group, None, Incarnation::new(1), probe);
            let addr = Mortal { _guard: guard }.start();
            for _ in 0..8 {
                addr.try_send(Kill { mode: KillMode::Panic }).expect("room for eight");
            }
            assert!(downs.recv().await.expect("a guard always reports").panicked);
            assert!(!addr.connected());
        });
    }
}
