//! A cluster, its clients and its misfortunes.

use bytes::Bytes;
use polyraft_core::compaction::Retention;
use polyraft_core::conf_change::{ConfChange, ConfChangeKind, ConfChangeStep, ConfTransition};
use polyraft_core::entry::Configuration;
use polyraft_core::ids::{LogIndex, NodeId};
use polyraft_core::pending::Undecided;
use polyraft_core::replica::ReplicaConfig;
use polyraft_core::status::{GroupEvent, Role};
use polyraft_storage::journal::JournalOptions;

use super::history::{Counts, History};
use super::network::{Network, Weather};
use super::{Dice, Failure};
use crate::host::{GROUP, Host, Sabotage, Taken, encode_commands, member, replica_of};
use crate::invariants::Violation;
use crate::invariants::acknowledged_once::Answer;

/// Ticks with faults.
const STORM_TICKS: u64 = 400;
/// Ticks without faults in which everything must come to an end.
const CALM_TICKS: u64 = 600;
/// A network without faults.
const FAIR: Weather = Weather { lost: 0, repeated: 0, delay_max: 1 };

/// How often things happen in one tick, in a thousand.
#[derive(Debug, Clone, Copy)]
struct Habits {
    tick: u64,
    take: u64,
    persist: u64,
    apply: u64,
    announce: u64,
    propose: u64,
    read: u64,
    transfer: u64,
    change: u64,
    crash: u64,
    restart: u64,
    replace_writer: u64,
    cut: u64,
    heal: u64,
}

pub(super) struct World {
    dice: Dice,
    hosts: Vec<Host>,
    network: Network,
    weather: Weather,
    habits: Habits,
    history: History,
    sabotage: Option<Sabotage>,
    next_proposal: u64,
    next_read: u64,
}

impl World {
    pub fn new(seed: u64, sabotage: Option<Sabotage>, trace: bool) -> Self {
        let mut dice = Dice::new(seed);
        let count = dice.pick(&[1, 3, 3, 3, 4, 5]);
        let nodes: Vec<_> = (1..=count).map(NodeId::new).collect();
        let config = config(&mut dice);
        let initial = Configuration::initial(nodes.iter().copied().map(member).collect());
        let weather = Weather {
            lost: dice.pick(&[0, 10, 50, 200]),
            repeated: dice.pick(&[0, 20, 200]),
            delay_max: dice.pick(&[0, 2, 8]),
        };
        let habits = habits(&mut dice);
        let mut hosts = Vec::new();
        for node in nodes {
            let seed = dice.number();
            let stands_first = config.stands_first && node.get() == 1;
            let config = ReplicaConfig { seed, stands_first, ..config.clone() };
            let mut host = Host::create(node, config, initial.clone(), JournalOptions::tiny());
            if let Some(sabotage) = sabotage {
                host.sabotage(sabotage);
            }
            hosts.push(host);
        }
        Self {
            dice,
            hosts,
            network: Network::default(),
            weather,
            habits,
            history: History::new(trace),
            sabotage,
            next_proposal: 0,
            next_read: 0,
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

    /// One tick of every host and everything that arrives in it.
    fn advance(&mut self) -> Result<(), Violation> {
        let now = self.history.counts.ticks;
        while let Some((from, envelope)) = self.network.arrival(now) {
            let at = envelope.to_node.get() as usize - 1;
            let Some(replica) = self.hosts[at].replica_mut() else { continue };
            if let Err(error) = replica.on_message(from, envelope) {
                self.history.note(format_args!("n{} refused n{from}: {error}", at + 1));
            }
            if self.dice.per_mille(self.habits.take) {
                self.take(at)?;
            }
        }
        for at in 0..self.hosts.len() {
            self.live(at)?;
        }
        Ok(())
    }

    /// What a host's own clock, disk and applier do in a tick, each if it gets to it.
    fn live(&mut self, at: usize) -> Result<(), Violation> {
        if self.hosts[at].replica().is_none() {
            return Ok(());
        }
        if self.dice.per_mille(self.habits.tick) {
            self.hosts[at].replica_mut().expect("it runs").on_tick();
        }
        if self.dice.per_mille(self.habits.take) {
            self.take(at)?;
        }
        if self.dice.per_mille(self.habits.persist) {
            let count = 1 + self.dice.below(4) as usize;
            self.hosts[at].persist(count);
        }
        if self.dice.per_mille(self.habits.take) {
            self.take(at)?;
        }
        if self.dice.per_mille(self.habits.apply) {
            let count = 1 + self.dice.below(6) as usize;
            self.apply(at, count)?;
        }
        if self.dice.per_mille(self.habits.apply / 4) {
            self.hosts[at].flush();
        }
        if self.dice.per_mille(self.habits.persist)
            && let Some((from, to)) = self.hosts[at].fetch()
        {
            self.history.note(format_args!("n{} fetched [{from}, {to})", at + 1));
            self.history.counts.fetches += 1;
        }
        if self.dice.per_mille(100) {
            self.hosts[at].collect_garbage();
        }
        self.take(at)?;
        self.history.check_host(&self.hosts[at])
    }

    fn take(&mut self, at: usize) -> Result<(), Violation> {
        let node = self.hosts[at].node();
        if self.dice.per_mille(self.habits.announce) {
            self.hosts[at].announce();
        }
        let Taken { appends, send, undecided, reads, reads_failed, events } = self.hosts[at].take();
        for event in events {
            self.history.note(format_args!("n{node} {event:?}"));
            match event {
                GroupEvent::BecameLeader { term } => {
                    self.history.elections.elected(self.hosts[at].id(), term)?;
                }
                GroupEvent::ConfChanged { .. } => self.history.counts.changes += 1,
                _ => {}
            }
        }
        for append in appends {
            let last = append.append.entries.last().map(|entry| (entry.index, entry.term));
            self.history.note(format_args!("n{node} append {} {last:?}", append.number));
        }
        for (tag, how) in undecided {
            self.history.note(format_args!("n{node} #{tag} {how:?}"));
            let answer = match how {
                Undecided::Superseded => Answer::Never,
                Undecided::Unknown => Answer::Unknown,
            };
            self.answer(tag, answer)?;
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

    fn send(
        &mut self,
        at: usize,
        envelopes: Vec<polyraft_core::message::Envelope>,
    ) -> Result<(), Violation> {
        let (node, now) = (self.hosts[at].node(), self.history.counts.ticks);
        for envelope in envelopes {
            self.history.votes.sent(&envelope)?;
            let to = envelope.to_node;
            self.history.note(format_args!("n{node}->n{to} {:?}", envelope.body));
            let is_sent = self.network.send(&mut self.dice, self.weather, now, node, envelope);
            if !is_sent && self.dice.per_mille(500) {
                let replica = self.hosts[at].replica_mut().expect("it sends");
                replica.on_unreachable(to);
            }
        }
        Ok(())
    }

    fn apply(&mut self, at: usize, count: usize) -> Result<(), Violation> {
        let before = self.hosts[at].applied().len();
        let applied = self.hosts[at].apply(count);
        for (offset, applied) in applied.into_iter().enumerate() {
            let position = before + offset + 1;
            self.history.applied.applied(position, &applied.entry)?;
            if let Some(tag) = applied.waiter {
                let index = applied.entry.index;
                self.history.note(format_args!("n{} #{tag} applied at {index}", at + 1));
                self.answer(tag, Answer::Applied(index))?;
            }
        }
        Ok(())
    }

    fn answer(&mut self, tag: u64, answer: Answer) -> Result<(), Violation> {
        if self.sabotage == Some(Sabotage::AnswerOnSubmit) {
            return Ok(());
        }
        self.answer_client(tag, answer)
    }

    fn answer_client(&mut self, tag: u64, answer: Answer) -> Result<(), Violation> {
        if let Answer::Applied(index) = answer {
            self.history.acknowledged = self.history.acknowledged.max(index);
        }
        self.history.proposals.answered(tag, answer)
    }

    fn clients(&mut self) -> Result<(), Violation> {
        if self.dice.per_mille(self.habits.propose) {
            for _ in 0..1 + self.dice.below(3) {
                let at = self.busiest();
                self.propose(at)?;
            }
        }
        if self.dice.per_mille(self.habits.read) {
            let at = self.dice.below(self.hosts.len() as u64) as usize;
            self.read(at)?;
        }
        Ok(())
    }

    /// Mostly a leader, now and then anyone.
    fn busiest(&mut self) -> usize {
        let leads = |host: &Host| host.replica().is_some_and(|r| r.role() == Role::Leader);
        let leaders: Vec<_> = (0..self.hosts.len()).filter(|at| leads(&self.hosts[*at])).collect();
        if leaders.is_empty() || self.dice.per_mille(100) {
            return self.dice.below(self.hosts.len() as u64) as usize;
        }
        self.dice.pick(&leaders)
    }

    fn propose(&mut self, at: usize) -> Result<(), Violation> {
        let size = self.dice.pick(&[0, 10, 40]);
        let Some(replica) = self.hosts[at].replica_mut() else { return Ok(()) };
        self.next_proposal += 1;
        let tag = self.next_proposal;
        let mut command = format!("command {tag} ").into_bytes();
        command.resize(command.len() + size, b'.');
        let command = Bytes::from(command);
        self.history.proposals.proposed(tag, command.clone());
        let status = replica.status();
        let last = status.last;
        match replica.propose(encode_commands(&[command]), tag) {
            Ok(()) if self.sabotage == Some(Sabotage::AnswerOnSubmit) => {
                self.answer_client(tag, Answer::Applied(last.next()))
            }
            Ok(()) => {
                self.history.proposals.appended(tag, last.next(), status.term);
                Ok(())
            }
            Err(refused) => self.answer_client(refused.waiter, Answer::Never),
        }
    }

    fn read(&mut self, at: usize) -> Result<(), Violation> {
        let applied = LogIndex::new(self.hosts[at].applied().len() as u64);
        let Some(replica) = self.hosts[at].replica_mut() else { return Ok(()) };
        self.next_read += 1;
        let tag = self.next_read;
        self.history.reads.asked(tag, self.history.acknowledged);
        if self.sabotage == Some(Sabotage::StaleRead) {
            return self.history.reads.confirmed(tag, applied);
        }
        replica.read(tag);
        Ok(())
    }

    fn misfortune(&mut self) -> Result<(), Violation> {
        let at = self.dice.below(self.hosts.len() as u64) as usize;
        let to = self.dice.below(self.hosts.len() as u64) as usize;
        let (node, other) = (self.hosts[at].node(), self.hosts[to].node());
        if self.dice.per_mille(self.habits.crash) {
            self.crash(at)?;
        }
        if self.dice.per_mille(self.habits.replace_writer) && self.hosts[at].replica().is_some() {
            self.replace_log_writer(at);
        }
        if self.dice.per_mille(self.habits.restart) && self.hosts[to].replica().is_none() {
            self.restart(to);
        }
        if self.dice.per_mille(self.habits.transfer)
            && let Some(replica) = self.hosts[at].replica_mut()
        {
            replica.transfer_leader(other);
        }
        if self.dice.per_mille(self.habits.change) {
            self.change_members(at, other);
        }
        if self.dice.per_mille(self.habits.cut) {
            self.cut(node, other);
        }
        if self.dice.per_mille(self.habits.heal) {
            self.network.heal();
        }
        Ok(())
    }

    /// One direction, one pair, or one node from everyone.
    fn cut(&mut self, node: NodeId, other: NodeId) {
        self.history.note(format_args!("cut n{node} n{other}"));
        self.network.cut(node, other);
        match self.dice.below(3) {
            0 => self.network.cut(other, node),
            1 => {
                for peer in self.hosts.iter().map(Host::node) {
                    self.network.cut(node, peer);
                    self.network.cut(peer, node);
                }
            }
            _ => {}
        }
    }

    /// Makes a voter a learner or the reverse; a vote is never taken from more than one.
    fn change_members(&mut self, at: usize, other: NodeId) {
        let target = replica_of(other);
        let transition = self.dice.pick(&[ConfTransition::Auto, ConfTransition::Implicit]);
        let Some(replica) = self.hosts[at].replica_mut() else { return };
        let configuration = replica.status().configuration;
        let kind = if !configuration.is_voter(target) {
            ConfChangeKind::AddVoter
        } else if configuration.voters.len() > 2 && configuration.learners.is_empty() {
            ConfChangeKind::AddLearner
        } else {
            return;
        };
        let steps = vec![ConfChangeStep { kind, replica: target }];
        let change = ConfChange { transition, steps, members: vec![member(other)] };
        let proposed = replica.propose_members(&change);
        self.history.note(format_args!("n{} {kind:?} n{other}: {proposed:?}", at + 1));
    }

    fn crash(&mut self, at: usize) -> Result<(), Violation> {
        if self.hosts[at].replica().is_none() {
            return Ok(());
        }
        let written = self.dice.below(self.hosts[at].appends_waiting() as u64 + 1) as usize;
        let written = if self.dice.per_mille(500) { 0 } else { written };
        self.history.note(format_args!("n{} crashes, {written} written", at + 1));
        self.history.counts.crashes += 1;
        let (waiters, readers) = self.hosts[at].crash(written);
        self.history.stopped(self.hosts[at].node());
        for tag in waiters {
            self.answer(tag, Answer::Unknown)?;
        }
        for tag in readers {
            self.history.reads.ended(tag)?;
        }
        Ok(())
    }

    fn replace_log_writer(&mut self, at: usize) {
        let written = self.dice.below(self.hosts[at].appends_waiting() as u64 + 1) as usize;
        self.history.note(format_args!("n{} loses its log writer, {written} written", at + 1));
        self.history.counts.log_writers_replaced += 1;
        self.hosts[at].replace_log_writer(written);
    }

    fn restart(&mut self, at: usize) {
        self.history.note(format_args!("n{} restarts", at + 1));
        self.hosts[at].restart(JournalOptions::tiny());
    }

    fn calm(&mut self) -> Result<(), Failure> {
        self.network.heal();
        self.weather = FAIR;
        self.habits = Habits {
            tick: 1_000,
            take: 1_000,
            persist: 1_000,
            apply: 1_000,
            announce: 1_000,
            ..self.habits
        };
        for at in 0..self.hosts.len() {
            if self.hosts[at].replica().is_none() {
                self.restart(at);
            }
        }
        let mut what = String::new();
        for tick in 0..CALM_TICKS {
            self.history.counts.ticks += 1;
            if tick % 50 == 0 {
                let at = self.busiest();
                self.propose(at)?;
            }
            self.advance()?;
            match self.unfinished() {
                Some(unfinished) => what = unfinished,
                None if tick > CALM_TICKS / 2 => return Ok(self.finish()?),
                None => {}
            }
        }
        Err(Failure::Stuck { what, ticks: CALM_TICKS })
    }

    /// What is still to happen.
    fn unfinished(&self) -> Option<String> {
        let unanswered = self.history.proposals.unanswered();
        if unanswered > 0 && self.sabotage != Some(Sabotage::AnswerOnSubmit) {
            return Some(format!("{unanswered} proposals unanswered"));
        }
        if self.history.reads.unanswered() > 0 {
            return Some(format!("{} reads unanswered", self.history.reads.unanswered()));
        }
        let statuses: Vec<_> =
            self.hosts.iter().map(|host| host.replica().expect("it runs").status()).collect();
        let leaders = statuses.iter().filter(|status| status.role == Role::Leader).count();
        if leaders != 1 {
            return Some(format!("{leaders} leaders"));
        }
        let last = statuses.iter().map(|status| status.last).max();
        let behind = statuses.iter().find(|status| Some(status.applied) != last);
        behind.map(|status| format!("replica {} behind {last:?}: {status:?}", status.replica))
    }

    fn finish(&mut self) -> Result<(), Violation> {
        let log = self.history.applied.entries();
        self.history.proposals.finish(log)?;
        self.history.counts.overwritten = self.history.proposals.overwritten(log)?;
        let hash = self.history.applied.hash(log.len());
        self.history.note(format_args!("state {hash}"));
        Ok(())
    }
}

fn config(dice: &mut Dice) -> ReplicaConfig {
    ReplicaConfig {
        group: GROUP,
        election_ticks: 10,
        heartbeat_ticks: dice.pick(&[1, 2, 3]),
        seed: 0,
        tail_bytes_max: dice.pick(&[0, 300, 1 << 20]),
        apply_in_flight_bytes_max: dice.pick(&[1, 200, 1 << 20]),
        apply_backlog_bytes_max: dice.pick(&[300, 1 << 20]),
        append_in_flight_bytes_max: dice.pick(&[1, 200, 1 << 20]),
        retention: Retention {
            keep_entries: dice.pick(&[0, 3, 1_000]),
            keep_bytes: dice.pick(&[200, 1 << 20]),
            step_entries: dice.pick(&[1, 4]),
        },
        stands_first: dice.per_mille(300),
    }
}

fn habits(dice: &mut Dice) -> Habits {
    let has_changes = dice.per_mille(400);
    Habits {
        tick: dice.pick(&[700, 950, 1_000]),
        take: dice.pick(&[300, 1_000]),
        persist: dice.pick(&[150, 500, 1_000]),
        apply: dice.pick(&[100, 400, 1_000]),
        announce: dice.pick(&[0, 100, 1_000]),
        propose: dice.pick(&[100, 400]),
        read: dice.pick(&[20, 200]),
        transfer: dice.pick(&[0, 10]),
        change: if has_changes { 40 } else { 0 },
        crash: dice.pick(&[0, 10, 30]),
        restart: 100,
        replace_writer: dice.pick(&[0, 10, 50]),
        cut: dice.pick(&[0, 10, 40]),
        heal: dice.pick(&[20, 60]),
    }
}
