//! One replica of one group: raft-rs behind inputs and outputs.
//!
//! ```text
//! on_message ─┐                        ┌→ appends   → on_persisted
//! on_tick ────┤                        ├→ send
//! propose ────┼→ RawNode ─take_output─→├→ apply     → on_applied
//! read ───────┤                        ├→ undecided, reads, events
//! on_… ───────┘                        └→ fetches   → on_fetched
//! ```
//!
//! Promise: nothing that depends on durability leaves before `on_persisted` covers it; entries are
//! handed over in order, once; every waiter comes back exactly once.
//! Invariants, asserted: `compacted ≤ durable applied ≤ applied ≤ commit ≤ last`, `persisted ≤ last`.
//! Not here: clocks (ticks come in), randomness (a seed comes in), I/O (ports).
//! Source: raft-rs `RawNode`, async ready; Raft thesis §10.2.1.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{RaftState, RawNode, ReadState, StateRole};

use crate::append_window::AppendWindows;
use crate::apply_queue::{ApplyQueue, Next};
use crate::compaction::{Compaction, Retention};
use crate::conf_change::ConfChange;
use crate::disk_stall::DiskStall;
use crate::election_timer::{EarlyStand, ElectionTimer};
use crate::entry::{Configuration, HardState, LogEntry, Member};
use crate::ids::{GroupId, LogIndex, NodeId, ReadyNumber, ReplicaId, Term};
use crate::log_tail::{self, Fetch, LogTail};
use crate::message::{Body, Envelope, RaftKind, RaftMessage};
use crate::output::{Append, Committed, Output, Refusal, Refused, StepError};
use crate::pending::{PendingProposals, Undecided};
use crate::ports::{GroupAppend, RestoredLog};
use crate::quorum_contact::QuorumContact;
use crate::raft_bridge;
use crate::raft_log;
use crate::read_queue::ReadQueue;
use crate::status::{GroupEvent, GroupStatus, Health, Role};
use crate::validate::{ReplicaView, validate};

/// What a replica must be told that its log does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaConfig {
    /// The group.
    pub group: GroupId,
    /// Election timeouts are drawn from `[election_ticks, 2 × election_ticks)`.
    pub election_ticks: u64,
    /// A leader sends heartbeats every so many ticks; less than `election_ticks`.
    pub heartbeat_ticks: u64,
    /// Random, and different in every life: seeds election timeouts and read contexts.
    pub seed: u64,
    /// Entries kept in memory once applied, in bytes.
    pub tail_bytes_max: usize,
    /// Committed entries that the applier may hold, in bytes.
    pub apply_in_flight_bytes_max: usize,
    /// Committed entries not yet applied, in bytes, beyond which proposals are refused; a follower
    /// refuses appends beyond twice this.
    pub apply_backlog_bytes_max: usize,
    /// Entries under way to one follower, in bytes; the append that crosses it still goes (RF-6).
    pub append_in_flight_bytes_max: usize,
    /// What stays in the log after it was compacted.
    pub retention: Retention,
    /// Whether this replica stands early when it starts. One of a group's members should, so that a
    /// new group does not wait for an election timeout. Whoever voted for itself last does so too,
    /// and after a restart takes back what it led; the one picked here leaves it the turn. Pre-vote
    /// keeps both from disturbing a leader.
    pub stands_first: bool,
}

/// A replica. `W` waits for a proposal, `R` for a read; both belong to the shell.
pub struct Replica<W, R> {
    config: ReplicaConfig,
    name: Arc<str>,
    id: ReplicaId,
    raft: RawNode<LogTail>,
    configuration: Arc<Configuration>,
    pending: PendingProposals<W>,
    reads: ReadQueue<R>,
    applying: ApplyQueue,
    windows: AppendWindows,
    compaction: Compaction,
    timer: ElectionTimer,
    early_stand: Option<EarlyStand>,
    stall: DiskStall,
    contact: QuorumContact,
    /// Questions for a read index that this leader was asked by others.
    asked: u64,
    tick: u64,
    held: VecDeque<outgoing::Held>,
    appended: ReadyNumber,
    persisted: ReadyNumber,
    configured: ReadyNumber,
    promised: ReadyNumber,
    announced: LogIndex,
    saved_hard_state: HardState,
    strangers: VecDeque<Member>,
    seen: (Role, Term, Option<NodeId>),
    output: Output<W, R>,
}

/// Most senders outside the configuration whose nodes are remembered.
const STRANGERS_MAX: usize = 8;

impl<W, R> Replica<W, R> {
    /// A replica over what storage restored, behind a state that has durably applied `applied`.
    ///
    /// # Errors
    /// raft-rs refused the configuration: the restored log is inconsistent. Or there is none: a
    /// replica that joins starts with the one that the group was created with, else the changes in
    /// the log would add up to another.
    pub fn new(
        config: ReplicaConfig,
        restored: RestoredLog,
        applied: LogIndex,
    ) -> Result<Self, raft::Error> {
        assert!(
            restored.compacted.index <= applied && applied <= restored.last,
            "group {}: applied {applied} outside the log ({}, {}]",
            config.group,
            restored.compacted.index,
            restored.last
        );
        if restored.configuration.voters.is_empty() {
            return Err(raft::Error::ConfigInvalid("a configuration without voters".into()));
        }
        let id = restored.identity.replica;
        let raft = RawNode::new(
            &raft_bridge::raft_config(&config, id, applied),
            restored_tail(&restored, applied),
            &raft_log::logger(config.group),
        )?;
        let read_retry = 2 * config.heartbeat_ticks;
        let tail = raft.store();
        let mut compaction = Compaction::new(config.retention, applied);
        compaction.log_changed(tail.tail_start(), tail.last(), tail.end_bytes());
        let mut replica = Self {
            name: restored.identity.name.as_str().into(),
            id,
            configuration: Arc::new(restored.configuration),
            pending: PendingProposals::default(),
            reads: ReadQueue::new(id, config.seed, read_retry, 3 * config.election_ticks),
            applying: ApplyQueue::new(applied, config.apply_in_flight_bytes_max),
            windows: AppendWindows::new(config.append_in_flight_bytes_max),
            compaction,
            timer: ElectionTimer::new(config.election_ticks, config.seed),
            early_stand: None,
            stall: DiskStall::default(),
            contact: QuorumContact::default(),
            asked: 0,
            tick: 0,
            held: VecDeque::new(),
            appended: ReadyNumber::default(),
            persisted: ReadyNumber::default(),
            configured: ReadyNumber::default(),
            promised: ReadyNumber::default(),
            announced: LogIndex::ZERO,
            saved_hard_state: restored.hard_state,
            strangers: VecDeque::new(),
            seen: (Role::Follower, restored.hard_state.term, None),
            output: Output::default(),
            config,
            raft,
        };
        let voted = replica.saved_hard_state.vote;
        if voted == Some(id) || replica.config.stands_first {
            replica.stand_early(if voted.is_none_or(|candidate| candidate == id) { 1 } else { 3 });
        }
        replica.pin_election_timeout();
        Ok(replica)
    }

    /// A message from the replica's peer on the authenticated node `from`.
    ///
    /// # Errors
    /// It was refused and changed nothing; see [`StepError`].
    pub fn on_message(&mut self, from: NodeId, envelope: Envelope) -> Result<(), StepError> {
        let Envelope { from: sender, to, body, .. } = envelope;
        let Body::Raft(mut message) = body else { return Err(StepError::NotRaft) };
        validate(&self.view(), from, sender, to, &message)?;
        let backlog_max = 2 * self.config.apply_backlog_bytes_max;
        if !message.entries.is_empty() && self.applying.backlog_bytes() > backlog_max {
            return Err(StepError::ApplyBacklogFull(self.config.group));
        }
        if !message.entries.is_empty() && self.is_disk_behind(backlog_max) {
            return Err(StepError::DiskBacklogFull(self.config.group));
        }
        self.meet(Member { replica: sender, node: from });
        let (term, floor) = (message.term.get(), message.compact_floor);
        let is_refused_vote = message.kind == RaftKind::RequestVoteResponse && message.reject;
        self.before_answer(sender, &message);
        self.name_once(&mut message);
        self.forget_ended_leader(sender, &message);
        let stepped = self.raft.step(raft_bridge::message_to_raft(message, sender, self.id));
        self.keep_beyond_matched(sender);
        if is_refused_vote {
            self.stand_again_in_turn();
        }
        if term == self.raft.raft.term && sender.get() == self.raft.raft.leader_id {
            self.compaction.raise_floor(floor);
        }
        self.pin_election_timeout();
        match stepped {
            Ok(()) | Err(raft::Error::StepPeerNotFound) => Ok(()),
            Err(error) => Err(StepError::Raft(error)),
        }
    }

    /// Whether more than so many bytes of entries wait for the disk. A leader sends on to whoever answers
    /// its heartbeats, which a follower does while its disk stands still.
    fn is_disk_behind(&self, bytes_max: usize) -> bool {
        let (tail, persisted) = (self.raft.store(), self.raft.raft.raft_log.persisted);
        let waiting = || tail.entries_after(LogIndex::new(persisted)).map(log_tail::charged_bytes);
        tail.bytes() > bytes_max && waiting().sum::<usize>() > bytes_max
    }

    /// A leader never stands in its own term. One that stands for a later term has restarted or
    /// stepped down, so that nobody needs to be kept from disturbing it, nor to wait for it. Should
    /// its log have become too short to win, the other voters stand one after the other.
    fn forget_ended_leader(&mut self, sender: ReplicaId, message: &RaftMessage) {
        let stands = matches!(message.kind, RaftKind::RequestPreVote | RaftKind::RequestVote);
        let raft = &mut self.raft.raft;
        if stands && raft.leader_id == sender.get() && message.term.get() > raft.term {
            raft.leader_id = 0;
            self.stand_early(1 + self.turn());
        }
    }

    /// What a follower's answer frees must be known before raft-rs sends more because of it.
    fn before_answer(&mut self, follower: ReplicaId, message: &RaftMessage) {
        let raft = &mut self.raft.raft;
        if raft.state != StateRole::Leader || message.term.get() != raft.term {
            return;
        }
        self.contact.leads(raft.term, self.tick);
        self.contact.heard(follower.get(), self.tick);
        match message.kind {
            RaftKind::AppendResponse if !message.reject => {
                self.windows.acknowledging(raft, follower.get(), message.index.get());
            }
            RaftKind::HeartbeatResponse => self.windows.heartbeat_answered(raft, follower.get()),
            _ => {}
        }
    }

    /// A rejection that arrives late takes raft-rs back behind what the follower has acknowledged,
    /// where entries may be compacted: the follower would wait for ever for a snapshot.
    fn keep_beyond_matched(&mut self, follower: ReplicaId) {
        if let Some(progress) = self.raft.raft.mut_prs().get_mut(follower.get()) {
            progress.next_idx = progress.next_idx.max(progress.matched + 1);
        }
    }

    /// A sender that the configuration does not name: this replica lags behind, and catches up only
    /// if it can answer.
    fn meet(&mut self, sender: Member) {
        if self.configuration.node_of(sender.replica).is_some() {
            return;
        }
        self.strangers.retain(|known| known.replica != sender.replica);
        self.strangers.push_back(sender);
        if self.strangers.len() > STRANGERS_MAX {
            self.strangers.pop_front();
        }
    }

    fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        let stranger = || self.strangers.iter().find(|s| s.replica == replica).map(|s| s.node);
        self.configuration.node_of(replica).or_else(stranger)
    }

    /// One tick of the configured length has passed.
    pub fn on_tick(&mut self) {
        self.tick += 1;
        self.output.reads_failed.extend(self.reads.on_tick(self.tick));
        if self.would_win_unpersisted() {
            return;
        }
        self.pin_election_timeout();
        self.step_down_if_cut_off();
        let successor = self.successor_if_unfit();
        let campaigned = self.raft.tick() && self.raft.raft.state != StateRole::Leader;
        if campaigned {
            self.timer.draw();
        }
        self.stand_if_due();
        self.resign(successor);
        self.pin_election_timeout();
    }

    /// This replica's place among the voters, so that those who stand for one reason do so one by one.
    fn turn(&self) -> u64 {
        self.configuration.voters.iter().position(|voter| *voter == self.id).unwrap_or(0) as u64
    }

    /// Plans to stand after twice `turn` heartbeat intervals, unless there is a leader by then.
    fn stand_early(&mut self, turn: u64) {
        let wait = 2 * self.config.heartbeat_ticks;
        self.early_stand = Some(EarlyStand { due: self.tick + turn * wait, wait });
    }

    fn stand_if_due(&mut self) {
        if self.raft.raft.leader_id != 0 {
            self.early_stand = None;
        }
        let Some(EarlyStand { due, wait }) = self.early_stand else { return };
        if self.tick >= due {
            let wait = 2 * wait; // An election that takes longer than the wait is not cut short for ever.
            let next = EarlyStand { due: due + wait, wait };
            self.early_stand = (wait < self.config.election_ticks).then_some(next);
            self.campaign();
        }
    }

    /// A sole voter wins at once; raft-rs asserts that its whole log is durable then.
    fn would_win_unpersisted(&self) -> bool {
        let raft = &self.raft.raft;
        let unpersisted = raft.raft_log.persisted < raft.raft_log.last_index();
        raft.state != StateRole::Leader && raft.prs().is_singleton() && unpersisted
    }

    /// Every append up to `number` is durable.
    pub fn on_persisted(&mut self, number: ReadyNumber) {
        assert!(number <= self.appended, "append {number} was never produced");
        if number > self.persisted {
            self.persisted = number;
            self.stall.ended();
        }
        self.release_held();
    }

    /// The log writer died with appends in hand, and nobody knows which of them are durable: what is
    /// not known to be is submitted again, as one append. To write it twice is harmless, because
    /// nothing that it promises has left yet.
    pub fn on_log_writer_replaced(&mut self) {
        if self.persisted == self.appended {
            return;
        }
        let persisted = LogIndex::new(self.raft.raft.raft_log.persisted);
        let tail = self.raft.store();
        let append = GroupAppend {
            hard_state: Some(self.saved_hard_state),
            configuration: (self.configured > self.persisted)
                .then(|| (*self.configuration).clone()),
            entries: tail.entries_after(persisted).cloned().map(log_entry).collect(),
            compact: Some(tail.compacted()).filter(|point| point.index > LogIndex::ZERO),
            ..GroupAppend::empty(self.config.group)
        };
        self.submit(append);
    }

    /// The applier has applied everything up to `index`, and made it durable up to `durable`.
    pub fn on_applied(&mut self, index: LogIndex, durable: LogIndex) {
        assert!(durable <= index, "durable state {durable} is ahead of applied {index}");
        self.applying.on_applied(index);
        let last = self.raft.raft.raft_log.last_index();
        self.raft.advance_apply_to(index.get());
        if self.raft.raft.raft_log.last_index() > last {
            self.raft.raft.bcast_append(); // It left a joint configuration, and would wait for a heartbeat.
        }
        self.compaction.durable_applied(durable);
        self.raft.mut_store().evict(self.config.tail_bytes_max, index);
    }

    /// Durable entries that [`Output::fetches`] asked for. Every fetch is answered, unless compaction
    /// overtook it: the same entries are not asked for again before.
    pub fn on_fetched(&mut self, fetch: Fetch, entries: Vec<LogEntry>) {
        let entries = entries.into_iter().map(raft_bridge::entry_to_raft).collect();
        self.raft.mut_store().fetch_ended(fetch.from);
        self.raft.mut_store().set_fetched(entries);
        self.windows.fetched(&mut self.raft.raft);
        self.raft.on_entries_fetched(fetch.context);
        self.raft.mut_store().set_fetched(Vec::new());
    }

    /// Messages to the replica on `node` were dropped, or its link is down.
    pub fn on_unreachable(&mut self, node: NodeId) {
        if let Some(replica) = self.configuration.replica_on(node) {
            self.raft.report_unreachable(replica.get());
        }
    }

    /// Proposes one encoded batch (see [`crate::batch`]) as one entry. `waiter` is registered first.
    ///
    /// # Errors
    /// The entry was not appended; waiter and batch come back.
    pub fn propose(&mut self, batch: Bytes, waiter: W) -> Result<(), Refused<W>> {
        if let Some(why) = self.refuse_proposal() {
            return Err(Refused { waiter, batch, why });
        }
        let index = LogIndex::new(self.raft.raft.raft_log.last_index()).next();
        let term = Term::new(self.raft.raft.term);
        self.pending.register(index, term, waiter);
        let entry = Entry { data: batch.clone(), ..Entry::default() };
        if self.step_proposal(entry).is_err() {
            let waiter = self.pending.unregister_last().expect("it was registered above");
            return Err(Refused { waiter, batch, why: Refusal::UncommittedFull });
        }
        assert_eq!(self.raft.raft.raft_log.last_index(), index.get(), "one batch, one entry");
        Ok(())
    }

    /// Proposes a change of membership. It takes effect when its entry is applied; if another one
    /// turns out to be pending, raft-rs makes an empty entry of it, and nothing changes.
    ///
    /// # Errors
    /// This replica does not lead, or a change is pending: nothing was proposed.
    pub fn propose_members(&mut self, change: &ConfChange) -> Result<LogIndex, Refusal> {
        if let Some(why) = self.refuse_proposal() {
            return Err(why);
        }
        if self.raft.raft.has_pending_conf() {
            return Err(Refusal::ChangePending);
        }
        let mut entry = Entry { data: change.encode(), ..Entry::default() };
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        self.step_proposal(entry).map_err(|_| Refusal::UncommittedFull)?;
        Ok(LogIndex::new(self.raft.raft.raft_log.last_index()))
    }

    /// Reads that wait for their index.
    pub fn reads_waiting(&self) -> usize {
        self.reads.len()
    }

    /// Asks for the index at which a linearizable read may be answered.
    pub fn read(&mut self, reader: R) {
        self.reads.push(self.tick, reader);
    }

    /// Asks this leader to hand leadership to the replica on `node`. The outcome is an event.
    pub fn transfer_leader(&mut self, node: NodeId) {
        let leads = self.raft.raft.state == StateRole::Leader;
        if let Some(replica) = self.configuration.replica_on(node).filter(|_| leads) {
            self.raft.transfer_leader(replica.get());
        }
    }

    /// Stands for election now, if it has a vote.
    pub fn campaign(&mut self) {
        if self.raft.raft.promotable() && !self.would_win_unpersisted() {
            let _ = self.raft.campaign();
        }
        self.pin_election_timeout();
    }

    /// The commit index of this leader, if its followers have not been sent it. It goes out with the
    /// next append; where none follows, the shell asks for it after a while.
    pub fn unannounced(&self) -> Option<LogIndex> {
        let commit = LogIndex::new(self.raft.raft.raft_log.committed);
        (self.raft.raft.state == StateRole::Leader && commit > self.announced).then_some(commit)
    }

    /// Sends the commit index to the followers, unless they were sent `upto` or a later one already.
    /// Returns whether there is output to take.
    pub fn announce_commit(&mut self, upto: LogIndex) -> bool {
        let is_due = self.announced < upto && self.unannounced().is_some();
        if is_due {
            self.raft.raft.bcast_append();
            self.announced = LogIndex::new(self.raft.raft.raft_log.committed);
        }
        is_due
    }

    /// Everything that followed from the inputs since the last call.
    pub fn take_output(&mut self) -> Output<W, R> {
        loop {
            self.start_reads();
            self.hand_over_committed();
            self.windows.fill(&mut self.raft.raft);
            if self.pass_on() {
                continue;
            }
            if !self.raft.has_ready() {
                break;
            }
            self.process_ready();
        }
        self.pin_election_timeout();
        self.compact();
        self.output.fetches = self.raft.mut_store().take_fetches();
        std::mem::take(&mut self.output)
    }

    /// Takes every waiter and reader: the replica stops.
    pub fn drain(&mut self) -> (Vec<W>, Vec<R>) {
        (self.pending.leadership_lost(LogIndex::ZERO).collect(), self.reads.drain())
    }

    /// A copy of what is worth publishing.
    pub fn status(&self) -> GroupStatus {
        let log = &self.raft.raft.raft_log;
        let status = GroupStatus {
            group: self.config.group,
            name: self.name.clone(),
            replica: self.id,
            health: Health::Healthy,
            role: self.role(),
            term: Term::new(self.raft.raft.term),
            leader: self.leader(),
            compacted: self.raft.store().compacted().index,
            last: LogIndex::new(log.last_index()),
            persisted: LogIndex::new(log.persisted),
            commit: LogIndex::new(log.committed),
            applied: self.applying.applied(),
            replicated: match self.raft.raft.state {
                StateRole::Leader => self.replicated_floor(),
                _ => LogIndex::ZERO,
            },
            configuration: self.configuration.clone(),
        };
        assert!(status.compacted <= status.applied, "compacted beyond applied: {status:?}");
        assert!(status.applied <= status.commit, "applied beyond commit: {status:?}");
        assert!(status.commit <= status.last, "commit beyond last: {status:?}");
        assert!(status.persisted <= status.last, "persisted beyond last: {status:?}");
        status
    }

    /// This replica's role.
    pub fn role(&self) -> Role {
        match self.raft.raft.state {
            StateRole::Follower => Role::Follower,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Candidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
        }
    }

    /// The leader's node, if known.
    pub fn leader(&self) -> Option<NodeId> {
        let leader = self.raft.raft.leader_id;
        (leader != 0).then(|| self.node_of(ReplicaId::new(leader))).flatten()
    }

    fn view(&self) -> ReplicaView<'_> {
        let log = &self.raft.raft.raft_log;
        ReplicaView {
            replica: self.id,
            term: Term::new(self.raft.raft.term),
            commit: LogIndex::new(log.committed),
            last: LogIndex::new(log.last_index()),
            last_term: Term::new(log.last_term()),
            persisted: LogIndex::new(log.persisted),
            leads: self.raft.raft.state == StateRole::Leader,
            configuration: &self.configuration,
        }
    }

    fn refuse_proposal(&self) -> Option<Refusal> {
        let raft = &self.raft.raft;
        let is_leaving = raft.lead_transferee.is_some() || !self.configuration.is_voter(self.id);
        if raft.state != StateRole::Leader || is_leaving {
            return Some(Refusal::NotLeader);
        }
        let full = self.applying.backlog_bytes() > self.config.apply_backlog_bytes_max;
        full.then_some(Refusal::ApplyBacklogFull)
    }

    fn step_proposal(&mut self, entry: Entry) -> raft::Result<()> {
        self.windows.proposing(&mut self.raft.raft, entry.data.len());
        let mut message = Message { from: self.id.get(), ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(vec![entry].into());
        self.raft.raft.step(message)?;
        self.announced = LogIndex::new(self.raft.raft.raft_log.committed);
        Ok(())
    }

    /// Reads go to raft-rs only when it will not drop them: a leader first commits in its own term
    /// (RD-3), a follower needs to know its leader.
    fn start_reads(&mut self) {
        let raft = &self.raft.raft;
        let ready = match raft.state {
            StateRole::Leader => raft.commit_to_current_term(),
            _ => raft.leader_id != 0,
        };
        if ready && let Some(context) = self.reads.start_round(self.tick) {
            self.raft.read_index(context);
            self.output.read_rounds += 1;
        }
    }

    fn process_ready(&mut self) {
        let mut ready = self.raft.ready();
        let number = ready.number();
        let mut messages = ready.take_messages();
        self.windows.sent(&messages);
        messages.extend(ready.take_persisted_messages());
        let entries = ready.take_entries();
        self.grow_log(&entries);
        if ready.must_sync() {
            self.append(&entries);
        }
        let behind_log = self.send_what_may_go(messages);
        self.hold(number, behind_log);
        self.confirm_reads(ready.take_read_states());
        self.applying.push(ready.take_committed_entries());
        self.raft.advance_append_async(ready);
        self.observe_role();
        self.release_held();
    }

    fn confirm_reads(&mut self, reads: Vec<ReadState>) {
        for read in reads {
            let index = LogIndex::new(read.index);
            self.output.reads.extend(self.reads.confirmed(&read.request_ctx, index));
        }
    }

    fn grow_log(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first().map(|entry| LogIndex::new(entry.index)) else { return };
        let tail = self.raft.mut_store();
        tail.append(entries);
        self.compaction.log_changed(first, tail.last(), tail.end_bytes());
    }

    /// A hard state that only learned a commit index is not worth a sync: it goes with the next one.
    fn append(&mut self, entries: &[Entry]) {
        let hard_state = raft_bridge::hard_state_from_raft(&self.raft.raft.hard_state());
        let changed = (hard_state != self.saved_hard_state).then_some(hard_state);
        let is_promise = |state: HardState| (state.term, state.vote);
        let promises = is_promise(hard_state) != is_promise(self.saved_hard_state);
        self.saved_hard_state = hard_state;
        self.submit(GroupAppend {
            hard_state: changed,
            entries: entries.iter().cloned().map(log_entry).collect(),
            ..GroupAppend::empty(self.config.group)
        });
        if promises {
            self.promised = self.appended;
        }
    }

    fn submit(&mut self, append: GroupAppend) {
        self.appended = self.appended.next();
        self.output.appends.push(Append { number: self.appended, append });
    }

    /// The index up to which every replica's log is durable, as this leader knows it.
    fn replicated_floor(&self) -> LogIndex {
        let matched = self.raft.raft.prs().iter().map(|(_, progress)| progress.matched).min();
        LogIndex::new(matched.unwrap_or(0))
    }

    /// The applier passes a conf entry only when the configuration is durable: state and log are
    /// made durable apart, and a restart replays no change that the state has already passed.
    fn hand_over_committed(&mut self) {
        while self.configured <= self.persisted
            && let Some(next) = self.applying.take_next()
        {
            match next {
                Next::Configure(entry) => self.configure(&entry),
                Next::Hand(entry) => self.hand_over(entry),
            }
        }
    }

    fn hand_over(&mut self, entry: Entry) {
        let (index, term) = (LogIndex::new(entry.index), Term::new(entry.term));
        let undecided = &mut self.output.undecided;
        let waiter = self.pending.committed(index, term, |waiter| {
            undecided.push((waiter, Undecided::Superseded));
        });
        let entry = log_entry(entry);
        self.output.apply.push(Committed { entry, waiter });
    }

    fn configure(&mut self, entry: &Entry) {
        let index = LogIndex::new(entry.index);
        if index <= self.configuration.index {
            return; // A replay after a restart: this configuration is already in force.
        }
        let change = ConfChange::decode(&entry.data).expect("changes are checked before the log");
        let raft_change = raft_bridge::conf_change_to_raft(&change);
        let Ok(state) = self.raft.apply_conf_change(&raft_change) else { return };
        let configuration =
            raft_bridge::configuration_after(&self.configuration, &change, index, &state);
        self.configuration = Arc::new(configuration.clone());
        self.strangers.clear();
        self.contact.joined(self.raft.raft.prs(), self.tick);
        let mut append = GroupAppend::empty(self.config.group);
        append.configuration = Some(configuration.clone());
        self.submit(append);
        self.configured = self.appended;
        self.output.events.push(GroupEvent::ConfChanged { configuration });
    }

    fn compact(&mut self) {
        if self.raft.raft.state == StateRole::Leader {
            self.compaction.raise_floor(self.replicated_floor());
        }
        let compacted = self.raft.store().compacted().index;
        let tail = self.raft.store();
        let Some(index) = self.compaction.due(compacted, tail.last()) else { return };
        let point = self.raft.mut_store().compact(index);
        let mut append = GroupAppend::empty(self.config.group);
        append.compact = Some(point);
        self.submit(append);
    }

    /// raft-rs draws timeouts from thread-local randomness; ours replace them (DESIGN §3, rule 9).
    fn pin_election_timeout(&mut self) {
        let raft = &mut self.raft.raft;
        let timeout = self.timer.timeout(raft.term, raft.state as u8);
        if raft.randomized_election_timeout() != timeout {
            raft.set_randomized_election_timeout(timeout);
        }
    }

    fn observe_role(&mut self) {
        let now = (self.role(), Term::new(self.raft.raft.term), self.leader());
        let was = std::mem::replace(&mut self.seen, now);
        if was == now {
            return;
        }
        let (role, term, leader) = now;
        // Several inputs are observed at once: it may have gone on to stand, or even to lead again.
        let has_resigned = was.0 == Role::Leader && (role != Role::Leader || was.1 != term);
        if has_resigned {
            let commit = LogIndex::new(self.raft.raft.raft_log.committed);
            let lost = self.pending.leadership_lost(commit);
            self.output.undecided.extend(lost.map(|waiter| (waiter, Undecided::Unknown)));
        }
        if has_resigned || was.0 != Role::Follower && role == Role::Follower {
            self.output.events.push(GroupEvent::BecameFollower { term });
        }
        if role == Role::Leader && (has_resigned || was.0 != Role::Leader) {
            self.output.events.push(GroupEvent::BecameLeader { term });
        }
        if (was.1, was.2) != (term, leader) {
            self.output.events.push(GroupEvent::LeaderChanged { term, leader });
        }
    }
}

/// The commit index is persisted lazily, so the state may have durably applied more than it says.
fn restored_tail(restored: &RestoredLog, applied: LogIndex) -> LogTail {
    let mut hard_state = restored.hard_state;
    hard_state.commit = hard_state.commit.max(applied);
    assert!(hard_state.commit <= restored.last, "commit {} is not in the log", hard_state.commit);
    let initial = RaftState::new(
        raft_bridge::hard_state_to_raft(hard_state),
        raft_bridge::conf_state_to_raft(&restored.configuration),
    );
    let entries = restored.entries.iter().cloned().map(raft_bridge::entry_to_raft).collect();
    let runs = restored.term_runs.clone();
    LogTail::new(initial, restored.compacted, runs, restored.last, entries)
}

/// An entry of this replica's own log, in our terms.
fn log_entry(entry: Entry) -> LogEntry {
    raft_bridge::entry_from_raft(entry).expect("only entries of our kinds enter the log")
}

#[path = "replica_fitness.rs"]
mod fitness;
#[path = "replica_outgoing.rs"]
mod outgoing;

#[cfg(test)]
#[path = "replica_tests.rs"]
mod tests;
