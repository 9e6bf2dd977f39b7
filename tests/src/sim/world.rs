//! A cluster and its clients, tick by tick.
//!
//! ```text
//! storm:  misfortune → clients → [arrivals → every host: tick, cut, persist, apply, flush] → check
//! calm:   the same without misfortune, until everything has come to an end (`calm`)
//! ```
//!
//! What goes wrong is in `misfortune`, who proposes and reads in `clients`, who replaces what cannot
//! be restarted in `operator`.

use std::collections::{BTreeMap, BTreeSet};

use polyraft_core::batch_config::BatchConfig;
use polyraft_core::entry::Configuration;
use polyraft_core::ids::{LogIndex, NodeId};
use polyraft_core::peer_data::DataMark;
use polyraft_core::pending::Undecided;
use polyraft_core::replica::ReplicaConfig;
use polyraft_core::status::{GroupEvent, Role};
use polyraft_storage::journal::JournalOptions;

use super::clock::Clock;
use super::counts::Counts;
use super::desk::{self, Desk};
use super::habits::{Habits, keeps_logs, replica_config};
use super::history::History;
use super::network::{Network, Weather};
use super::{Dice, Failure};
use crate::host::{Host, Sabotage, Taken, member};
use crate::invariants::Violation;
use crate::invariants::acknowledged_once::Answer;

/// Ticks with faults.
const STORM_TICKS: u64 = 400;

/// One host with what surrounds it.
pub(super) struct Seat {
    pub host: Host,
    pub desk: Desk,
    pub clock: Clock,
    /// The disk stands still before this tick.
    pub stalled_until: u64,
    /// The disk is full before this tick.
    pub full_until: u64,
    /// What it shows of its data to its peers.
    pub mark: DataMark,
    /// Replicas that this node has hosted.
    pub replicas: u64,
}

pub(super) struct World {
    pub dice: Dice,
    pub seats: Vec<Seat>,
    pub initial: Configuration,
    pub network: Network,
    pub weather: Weather,
    pub habits: Habits,
    pub batching: BatchConfig,
    pub keeps_logs: bool,
    pub history: History,
    pub sabotage: Option<Sabotage>,
    pub next_proposal: u64,
    pub next_batch: u64,
    pub next_read: u64,
    /// Hosts whose disks were damaged or wiped, and that were not replaced since.
    pub lost: BTreeSet<usize>,
    /// What each node knows of the data of each other.
    pub known: BTreeMap<(NodeId, NodeId), DataMark>,
    /// No applier gets a turn.
    pub appliers_stand_still: bool,
}

impl World {
    pub fn new(seed: u64, sabotage: Option<Sabotage>, trace: bool) -> Self {
        let mut dice = Dice::new(seed);
        let count = dice.pick(&[1, 3, 3, 3, 4, 5]);
        let nodes: Vec<_> = (1..=count).map(NodeId::new).collect();
        let config = replica_config(&mut dice);
        let keeps_logs = keeps_logs(&config);
        let initial = Configuration::initial(nodes.iter().copied().map(member).collect());
        let weather = Weather::roll(&mut dice);
        let habits = Habits::roll(&mut dice, keeps_logs);
        let batching = desk::config(dice.per_mille(800), dice.pick(&[0, 1, 4]));
        let seats = nodes.into_iter().map(|node| {
            let stands_first = config.stands_first && node.get() == 1;
            let config = ReplicaConfig { seed: dice.number(), stands_first, ..config.clone() };
            let mut host = Host::create(node, config, initial.clone(), JournalOptions::tiny());
            if let Some(sabotage) = sabotage {
                host.sabotage(sabotage);
            }
            Seat {
                host,
                desk: Desk::new(batching),
                clock: Clock::new(dice.pick(&[500, 800, 1_000, 1_000, 1_000, 1_250, 2_000])),
                stalled_until: 0,
                full_until: 0,
                mark: DataMark { data: dice.number(), incarnation: 1, boot: dice.number() },
                replicas: 1,
            }
        });
        let seats: Vec<_> = seats.collect();
        let known = seats.iter().flat_map(|one: &Seat| {
            let of = |other: &Seat| ((one.host.node(), other.host.node()), other.mark);
            seats.iter().map(of).collect::<Vec<_>>()
        });
        let known = known.collect();
        Self {
            dice,
            seats,
            initial,
            network: Network::default(),
            weather,
            habits,
            batching,
            keeps_logs,
            history: History::new(trace),
            sabotage,
            next_proposal: 0,
            next_batch: 0,
            next_read: 0,
            lost: BTreeSet::new(),
            known,
            appliers_stand_still: false,
        }
    }

    pub fn hash(&self) -> u64 {
        self.history.hash()
    }

    pub fn counts(&self) -> Counts {
        self.history.counts()
    }

    /// A storm, then calm weather in which everything must come to an end.
    pub fn run(&mut self) -> Result<(), Failure> {
        for _ in 0..STORM_TICKS {
            self.history.counts.ticks += 1;
            self.misfortune()?;
            self.clients()?;
            self.advance()?;
        }
        self.calm()
    }

    pub fn now(&self) -> u64 {
        self.history.counts.ticks
    }

    /// One tick of every host and everything that arrives in it.
    pub fn advance(&mut self) -> Result<(), Violation> {
        let now = self.now();
        while let Some((from, envelope)) = self.network.arrival(now) {
            let to = envelope.to_node;
            let at = to.get() as usize - 1;
            if self.seats[at].clock.paused_until > now {
                self.network.launch(self.seats[at].clock.paused_until, from, envelope);
                continue;
            }
            if !self.admits(to, from) || !self.admits(from, to) {
                self.history.counts.refused_wiped += 1;
                continue;
            }
            let Some(replica) = self.seats[at].host.replica_mut() else { continue };
            if let Err(error) = replica.on_message(from, envelope) {
                self.history.note(format_args!("n{to} refused n{from}: {error}"));
            }
            if self.dice.per_mille(self.habits.take) {
                self.take(at)?;
            }
        }
        for at in 0..self.seats.len() {
            self.seats[at].clock.advance();
            self.live(at)?;
        }
        Ok(())
    }

    /// Whether `node` takes what `peer` shows for the data that it knows: production's own rule.
    fn admits(&mut self, node: NodeId, peer: NodeId) -> bool {
        let shown = self.seats[peer.get() as usize - 1].mark;
        let known = self.known.entry((node, peer)).or_insert(shown);
        let is_admitted = shown.follows(*known).is_ok();
        if is_admitted {
            *known = shown;
        }
        is_admitted
    }

    /// What a host's own clock, disk and applier do in a tick, each if it gets to it.
    fn live(&mut self, at: usize) -> Result<(), Violation> {
        let is_paused = self.seats[at].clock.paused_until > self.now();
        if self.seats[at].host.replica().is_none() || is_paused {
            return Ok(());
        }
        self.tick(at);
        if self.dice.per_mille(self.habits.take) {
            self.take(at)?;
        }
        self.serve(at)?;
        self.use_disks(at);
        if self.dice.per_mille(self.habits.take) {
            self.take(at)?;
        }
        if self.dice.per_mille(self.habits.apply) && !self.appliers_stand_still {
            let count = 1 + self.dice.below(6) as usize;
            self.apply(at, count)?;
        }
        self.take(at)?;
        self.history.check_host(&mut self.seats[at].host)?;
        self.notice_fault(at)
    }

    fn tick(&mut self, at: usize) {
        let Seat { host, clock, .. } = &mut self.seats[at];
        let waits_for_applier =
            self.sabotage == Some(Sabotage::HeartbeatsBehindApply) && host.committed_waiting() > 0;
        let replica = host.replica_mut().expect("it runs");
        if clock.tick() && !(waits_for_applier && replica.role() == Role::Leader) {
            replica.on_tick();
        }
    }

    /// What the log writer, the state flusher and a worker do.
    fn use_disks(&mut self, at: usize) {
        if self.seats[at].stalled_until > self.now() {
            return;
        }
        let Self { dice, habits, history, .. } = self;
        let host = &mut self.seats[at].host;
        let (node, was_failed) = (host.node(), host.is_failed());
        if dice.per_mille(habits.persist) {
            let persisted = host.persist(1 + dice.below(4) as usize);
            history.counts.persisted += persisted.len();
            if let Some(last) = persisted.last() {
                history.note(format_args!("n{node} persisted {}", last.number));
            }
        }
        if dice.per_mille(habits.flush) {
            host.freeze();
        }
        if dice.per_mille(habits.flush) {
            host.flush();
        }
        if dice.per_mille(habits.persist)
            && let Some((from, to)) = host.fetch()
        {
            history.note(format_args!("n{node} fetched [{from}, {to})"));
            history.counts.fetches += 1;
        }
        if dice.per_mille(100) {
            host.collect_garbage();
        }
        if host.is_failed() && !was_failed {
            history.note(format_args!("n{node} has a disk that failed: it acknowledges nothing"));
            history.counts.disks_failed += 1;
        }
    }

    pub fn take(&mut self, at: usize) -> Result<(), Violation> {
        if self.dice.per_mille(self.habits.announce) {
            self.seats[at].host.announce();
        }
        let taken = self.seats[at].host.take();
        let Taken { appends, send, undecided, reads, reads_failed, events } = taken;
        let node = self.seats[at].host.node();
        for event in &events {
            self.raised(at, event)?;
        }
        for append in appends {
            let last = append.append.entries.last().map(|entry| (entry.index, entry.term));
            self.history.note(format_args!("n{node} append {} {last:?}", append.number));
        }
        for (batch, how) in undecided {
            self.history.note(format_args!("n{node} batch {batch} {how:?}"));
            let answer = match how {
                Undecided::Superseded => Answer::Never,
                Undecided::Unknown => Answer::Unknown,
            };
            self.decided(at, batch, answer)?;
        }
        for (tag, index) in reads {
            self.history.note(format_args!("n{node} read {tag} at {index}"));
            self.history.reads.confirmed(tag, index)?;
        }
        for tag in reads_failed {
            self.history.reads.ended(tag)?;
        }
        self.send(at, send)
    }

    fn raised(&mut self, at: usize, event: &GroupEvent) -> Result<(), Violation> {
        let Seat { host, desk, .. } = &mut self.seats[at];
        self.history.note(format_args!("n{} {event:?}", host.node()));
        match event {
            GroupEvent::BecameLeader { term } => {
                self.history.elections.elected(host.id(), *term)?;
            }
            GroupEvent::BecameFollower { .. } if self.sabotage == Some(Sabotage::QueueDropped) => {
                desk.lose_queue();
            }
            GroupEvent::ConfChanged { configuration } => {
                self.history.configured(host, configuration)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn send(
        &mut self,
        at: usize,
        envelopes: Vec<polyraft_core::message::Envelope>,
    ) -> Result<(), Violation> {
        let (node, now) = (self.seats[at].host.node(), self.now());
        for envelope in envelopes {
            self.history.votes.sent(&envelope)?;
            self.history.note_sent(node, &envelope);
            let to = envelope.to_node;
            let is_sent = self.network.send(&mut self.dice, self.weather, now, node, envelope);
            if !is_sent && self.dice.per_mille(500) {
                let replica = self.seats[at].host.replica_mut().expect("it sends");
                replica.on_unreachable(to);
            }
        }
        Ok(())
    }

    fn apply(&mut self, at: usize, count: usize) -> Result<(), Violation> {
        let before = self.seats[at].host.applied().len();
        let node = self.seats[at].host.node();
        let applied = self.seats[at].host.apply(count);
        for (offset, applied) in applied.into_iter().enumerate() {
            let position = before + offset + 1;
            let index = applied.entry.index;
            self.history.applied.applied(position, &applied.entry)?;
            self.history.states.reached(node, index, applied.state)?;
            self.history.note(format_args!("n{node} applied {index}: {:016x}", applied.state));
            if let Some(batch) = applied.waiter {
                self.history.note(format_args!("n{node} batch {batch} applied at {index}"));
                self.decided(at, batch, Answer::Applied(index))?;
            }
        }
        Ok(())
    }

    /// A replica that found damage is out of service; its clients hear of it.
    pub fn notice_fault(&mut self, at: usize) -> Result<(), Violation> {
        let Some(why) = self.seats[at].host.fault() else { return Ok(()) };
        let node = self.seats[at].host.node();
        self.history.note(format_args!("n{node} is out of service: {why}"));
        self.history.counts.faulted += 1;
        self.take(at)?;
        self.stopped(at, Vec::new(), Vec::new())
    }

    /// The seats of replicas that take part: they run, and their peers know them.
    pub fn in_service(&self) -> impl Iterator<Item = &Seat> {
        let takes_part =
            |at: &usize| self.seats[*at].host.replica().is_some() && !self.is_refused(*at);
        (0..self.seats.len()).filter(move |at| takes_part(at)).map(|at| &self.seats[at])
    }

    /// The leader of the latest term, if any runs.
    pub fn leader(&self) -> Option<usize> {
        let leaders = self.seats.iter().enumerate().filter_map(|(at, seat)| {
            let replica = seat.host.replica()?;
            (replica.role() == Role::Leader).then(|| (replica.status().term, at))
        });
        leaders.max().map(|(_, at)| at)
    }

    /// The highest index that was acknowledged to any client.
    pub fn acknowledged(&mut self, index: LogIndex) {
        self.history.acknowledged = self.history.acknowledged.max(index);
    }
}
