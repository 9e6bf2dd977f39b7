//! Stall: an actor that, on request, handles nothing for a while.
//!
//! ```text
//! chaos ─Stall→ actor: ctx.wait(length, or released) ─→ goes on with what has queued up
//! ```
//!
//! The actor waits and its thread does not, so its siblings on the arbiter go on. Its timers and
//! futures stand still with it. Whoever asked holds a [`StallHandle`]: it tells how long the stall has
//! lasted, resolves when it is over, and ends it when dropped.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::mailbox::messages;

messages!(Stall);

/// Command from chaos to any actor: handle nothing for so long. Offered; a full mailbox drops it.
#[derive(Debug)]
pub struct Stall {
    length: Duration,
    released: oneshot::Receiver<()>,
    span: StallSpan,
}

/// When a stall began and ended. Its end is noted when it is dropped, however the actor went.
#[derive(Debug)]
struct StallSpan {
    times: Arc<StallTimes>,
    _over: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
struct StallTimes {
    began: OnceLock<Instant>,
    ended: OnceLock<Instant>,
}

/// How long an actor has handled nothing. A cheap clone.
#[derive(Debug, Clone)]
pub struct StallMeter(Arc<StallTimes>);

/// The asking side of a stall, which it ends when dropped.
#[derive(Debug)]
pub struct StallHandle {
    _release: oneshot::Sender<()>,
}

/// Resolves when a stall is over, or will never begin.
pub type StallOver = oneshot::Receiver<()>;

impl Stall {
    /// A stall of at most `length`, what ends it, what measures it, and what tells that it is over.
    pub fn new(length: Duration) -> (Self, StallHandle, StallMeter, StallOver) {
        let (release, released) = oneshot::channel();
        let (over, is_over) = oneshot::channel();
        let times = Arc::<StallTimes>::default();
        let span = StallSpan { times: times.clone(), _over: over };
        let handle = StallHandle { _release: release };
        (Self { length, released, span }, handle, StallMeter(times), is_over)
    }

    /// What every actor's handler of `Stall` does.
    pub fn obey<A: Actor<Context = Context<A>>>(self, actor: &A, ctx: &mut Context<A>) {
        let Self { length, released, span } = self;
        span.times.began.get_or_init(Instant::now);
        let stalled = async move {
            // Either outcome ends it: the time has passed, or whoever asked has let go.
            let _ = tokio::time::timeout(length, released).await;
            drop(span);
        };
        ctx.wait(stalled.into_actor(actor));
    }
}

impl Drop for StallSpan {
    fn drop(&mut self) {
        self.times.ended.get_or_init(Instant::now);
    }
}

impl StallMeter {
    /// How long the actor has stood still; zero before the stall begins.
    pub fn stalled_for(&self) -> Duration {
        let Some(began) = self.0.began.get() else { return Duration::ZERO };
        let until = self.0.ended.get().copied().unwrap_or_else(Instant::now);
        until.duration_since(*began)
    }
}
