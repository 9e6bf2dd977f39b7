//! Mailboxes: every capacity and every overflow policy in one table, and the two ways to send.
//!
//! ```text
//! offer        → bounded: a full mailbox drops the message, which is counted
//! deliver_fact → never lost: bounded by credits instead of by the mailbox
//! ```
//!
//! actix's `do_send` queues past a mailbox's capacity, so `clippy.toml` bans it everywhere but in
//! [`deliver_fact`]. Facts sent with it are answers to outstanding work, and the work is capped:
//! that cap, named in the table, bounds the mailbox (RT-2).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use actix::dev::SendError;
use actix::{Actor, Addr, Context, Handler, Message, Recipient};

/// The kinds of actor of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ActorKind {
    /// Owns one group's replica.
    Group,
    /// Cuts a group's proposals into batches.
    Batcher,
    /// The node's one timer.
    Tick,
    /// Owns the journal.
    LogWriter,
    /// Applies one group's committed entries.
    Applier,
    /// Makes applied state durable.
    StateFlusher,
    /// Sends to and receives from one peer.
    PeerLink,
    /// Rebuilds what died.
    Supervisor,
    /// Measures stalls of the arbiters.
    Watchdog,
}

impl ActorKind {
    /// Its name in metrics, logs, events and status pages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Batcher => "batcher",
            Self::Tick => "tick",
            Self::LogWriter => "log_writer",
            Self::Applier => "applier",
            Self::StateFlusher => "state_flusher",
            Self::PeerLink => "peer_link",
            Self::Supervisor => "supervisor",
            Self::Watchdog => "watchdog",
        }
    }
}

/// What happens to a message that finds its mailbox full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The sender is told and answers its caller `Overloaded`.
    Refuse,
    /// It is dropped and counted; its protocol repeats or repairs it.
    Drop,
    /// It cannot: the number of messages is bounded by the credits named here.
    Credits(&'static str),
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Mailbox {
    /// Whose mailbox.
    pub actor: ActorKind,
    /// Messages that `offer` and `try_send` let wait.
    pub capacity: usize,
    /// What happens beyond.
    pub when_full: WhenFull,
}

/// Every mailbox of a node.
pub const MAILBOXES: [Mailbox; 9] = [
    row(ActorKind::Group, 1_024, WhenFull::Drop),
    row(ActorKind::Batcher, 4_096, WhenFull::Refuse),
    row(ActorKind::Tick, 4_096, WhenFull::Credits("one registration per group actor's life")),
    row(ActorKind::LogWriter, 16_384, WhenFull::Credits("unpersisted readies per group")),
    row(ActorKind::Applier, 256, WhenFull::Credits("committed but unapplied bytes per group")),
    row(ActorKind::StateFlusher, 16_384, WhenFull::Credits("one outstanding flush per group")),
    row(ActorKind::PeerLink, 8_192, WhenFull::Drop),
    row(ActorKind::Supervisor, 4_096, WhenFull::Credits("one Down per actor's life")),
    row(ActorKind::Watchdog, 16, WhenFull::Drop),
];

const fn row(actor: ActorKind, capacity: usize, when_full: WhenFull) -> Mailbox {
    Mailbox { actor, capacity, when_full }
}

/// The capacity of `actor`'s mailbox, in messages.
pub const fn capacity(actor: ActorKind) -> usize {
    MAILBOXES[actor as usize].capacity
}

/// What became of an offered message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Offer {
    /// It is in the mailbox.
    Queued,
    /// The mailbox is full; the message is gone and was counted.
    Dropped,
    /// The actor is gone.
    Closed,
}

/// Anything that leads to an actor's mailbox.
pub trait Port<M: Message> {
    /// Sends if there is room.
    ///
    /// # Errors
    /// The mailbox is full or closed; the message comes back.
    fn try_to(&self, message: M) -> Result<(), SendError<M>>;

    /// Sends whether there is room or not. Called by [`deliver_fact`] alone.
    fn force(&self, message: M);
}

impl<M> Port<M> for Recipient<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn try_to(&self, message: M) -> Result<(), SendError<M>> {
        self.try_send(message)
    }

    #[allow(clippy::disallowed_methods)] // The audited place: see `deliver_fact`.
    fn force(&self, message: M) {
        self.do_send(message);
    }
}

impl<A, M> Port<M> for Addr<A>
where
    A: Actor<Context = Context<A>> + Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn try_to(&self, message: M) -> Result<(), SendError<M>> {
        self.try_send(message)
    }

    #[allow(clippy::disallowed_methods)] // The audited place: see `deliver_fact`.
    fn force(&self, message: M) {
        self.do_send(message);
    }
}

/// Sends `message` if there is room; otherwise drops it and counts the drop.
pub fn offer<M: Message>(to: &impl Port<M>, actor: ActorKind, message: M) -> Offer {
    match to.try_to(message) {
        Ok(()) => Offer::Queued,
        Err(SendError::Full(_)) => {
            metrics::counter!("polyraft_mailbox_dropped_total", "actor" => actor.as_str())
                .increment(1);
            Offer::Dropped
        }
        Err(SendError::Closed(_)) => Offer::Closed,
    }
}

/// Sends a fact that must not be lost: the answer to work that the receiver, or a cap on the
/// receiver's behalf, has outstanding. If the receiver is gone so is its interest.
///
/// Its callers are bounded by the credits in [`MAILBOXES`].
pub fn deliver_fact<M: Message>(to: &impl Port<M>, message: M) {
    to.force(message);
}

/// Most messages that one actor of each kind took in one turn, since somebody asked. Of the process,
/// like everything that is exported.
static HIGH_WATER: [AtomicU64; MAILBOXES.len()] = [const { AtomicU64::new(0) }; MAILBOXES.len()];

/// The most messages that one actor of this kind took in one turn since the last call.
pub fn take_high_water(actor: ActorKind) -> u64 {
    HIGH_WATER[actor as usize].swap(0, Relaxed)
}

/// One turn of an actor that takes all that waits in its mailbox before it acts. actix does not say
/// how many messages wait; how many were taken in one go says it a moment later.
#[derive(Debug)]
pub(crate) struct Turn {
    actor: ActorKind,
    messages: u64,
}

impl Turn {
    pub(crate) fn of(actor: ActorKind) -> Self {
        Self { actor, messages: 0 }
    }

    /// One more message was taken.
    pub(crate) fn message(&mut self) {
        self.messages += 1;
    }

    /// The mailbox was found empty.
    pub(crate) fn end(&mut self) {
        let messages = std::mem::take(&mut self.messages);
        HIGH_WATER[self.actor as usize].fetch_max(messages, Relaxed);
    }
}

/// Makes types messages without an answer: the only kind that crosses between actors, so that none
/// ever waits for another.
macro_rules! messages {
    ($($message:ty),+ $(,)?) => {
        $(impl actix::Message for $message {
            type Result = ();
        })+
    };
}
pub(crate) use messages;

#[cfg(test)]
mod tests {
    use actix::prelude::*;

    use super::*;

    struct Ping;

    messages!(Ping);

    struct Deaf;

    impl Actor for Deaf {
        type Context = Context<Self>;

        fn started(&mut self, ctx: &mut Self::Context) {
            ctx.set_mailbox_capacity(4);
        }
    }

    impl Handler<Ping> for Deaf {
        type Result = ();

        fn handle(&mut self, _: Ping, _: &mut Self::Context) {}
    }

    #[test]
    fn the_longest_turn_is_remembered_until_it_is_asked_for() {
        let kind = ActorKind::Watchdog; // No other test's.
        let (mut long, mut short) = (Turn::of(kind), Turn::of(kind));
        (0..7).for_each(|_| long.message());
        long.end();
        short.message();
        short.end();
        assert_eq!((take_high_water(kind), take_high_water(kind)), (7, 0));
        long.message();
        long.end();
        assert_eq!(take_high_water(kind), 1);
    }

    #[test]
    fn the_table_is_indexed_by_kind() {
        for (at, row) in MAILBOXES.iter().enumerate() {
            assert_eq!(row.actor as usize, at, "{:?} is out of place", row.actor);
            assert!(row.capacity > 0, "{:?} has no mailbox", row.actor);
        }
    }

    #[test]
    fn offers_to_a_full_mailbox_are_dropped_and_facts_are_not() {
        System::new().block_on(async {
            let recipient = Deaf.start().recipient::<Ping>();
            // The actor cannot run before this task yields.
            let results: Vec<Offer> =
                (0..100).map(|_| offer(&recipient, ActorKind::Watchdog, Ping)).collect();
            assert!(results.contains(&Offer::Queued));
            assert!(results.contains(&Offer::Dropped));
            deliver_fact(&recipient, Ping);
            assert!(recipient.connected());
        });
    }
}
