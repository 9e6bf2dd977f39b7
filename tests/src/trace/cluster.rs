//! The cluster that a trace's commands act on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use polyraft_core::compaction::Retention;
use polyraft_core::conf_change::{ConfChange, ConfChangeKind, ConfChangeStep, ConfTransition};
use polyraft_core::entry::{Configuration, LogEntry};
use polyraft_core::ids::{LogIndex, NodeId, ReplicaId, Term};
use polyraft_core::message::{Body, Envelope, RaftKind, RaftMessage};
use polyraft_core::replica::{Replica, ReplicaConfig};
use polyraft_storage::journal::JournalOptions;

use super::command::{Command, command_bytes};
use super::{TraceError, describe};
use crate::host::{GROUP, Host, ProposalTag, ReadTag, encode_commands, member, replica_of};

/// Rounds after which a cluster that does not come to rest is taken for broken.
const SETTLE_ROUNDS_MAX: usize = 1_000;

/// Hosts, the links between them, and the lines printed since the last block.
#[derive(Default)]
pub struct TracedCluster {
    hosts: BTreeMap<NodeId, Host>,
    links: BTreeMap<(NodeId, NodeId), VecDeque<Envelope>>,
    isolated: BTreeSet<NodeId>,
    commits: BTreeMap<NodeId, LogIndex>,
    proposals: ProposalTag,
    reads: ReadTag,
    config: Option<ReplicaConfig>,
    initial: Configuration,
    is_quiet: bool,
    /// Commit indices are announced by the command of that name only.
    is_lazy: bool,
    lines: Vec<String>,
}

impl TracedCluster {
    /// Carries out one command line.
    ///
    /// # Errors
    /// It is no command.
    pub fn run(&mut self, line: &str) -> Result<(), TraceError> {
        let command = Command::new(line);
        match command.name {
            "cluster" => self.create(&command)?,
            "join" => self.join(command.node(0)?),
            "tick" => self.tick(&command)?,
            "campaign" => self.feed(command.node(0)?, Replica::campaign)?,
            "propose" => self.propose(&command)?,
            "conf" => self.propose_members(&command)?,
            "persist" => self.persist(command.node(0)?, command.number(1, usize::MAX)?),
            "deliver" => self.deliver(&command)?,
            "drop" | "duplicate" => self.tamper(&command)?,
            "isolate" => _ = self.isolated.insert(command.node(0)?),
            "heal" => self.isolated.clear(),
            "announce" => self.announce(command.node(0)?),
            "apply" => self.apply(&command)?,
            "fetch" => self.fetch(command.node(0)?),
            "crash" => self.crash(&command)?,
            "restart" => self.restart(command.node(0)?),
            "replace-log-writer" => self.replace_log_writer(&command)?,
            "read" => self.read(command.node(0)?),
            "transfer" => {
                let to = command.node(1)?;
                self.feed(command.node(0)?, |replica| replica.transfer_leader(to))?;
            }
            "unreachable" => {
                let to = command.node(1)?;
                self.feed(command.node(0)?, |replica| replica.on_unreachable(to))?;
            }
            "forge" => self.forge(&command)?,
            "status" => self.status(),
            "links" => self.show_links(),
            "log" => self.show_log(command.node(0)?)?,
            "settle" => self.settle(),
            _ => return Err(command.error("no such command")),
        }
        Ok(())
    }

    /// What was printed since the last call.
    pub fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    fn create(&mut self, command: &Command<'_>) -> Result<(), TraceError> {
        let count = command.number(0, 3)? as u64;
        self.is_lazy = command.has("lazy");
        let bytes = |key| Ok(command.option_number(key, 64 << 20)? as usize);
        let retention = Retention {
            keep_entries: command.option_number("keep", 1_000)?,
            keep_bytes: command.option_number("keep_bytes", 64 << 20)?,
            step_entries: command.option_number("step", 1_000)?,
        };
        let config = ReplicaConfig {
            group: GROUP,
            election_ticks: command.option_number("election", 10)?,
            heartbeat_ticks: command.option_number("heartbeat", 2)?,
            seed: 0,
            tail_bytes_max: bytes("tail")?,
            apply_in_flight_bytes_max: bytes("in_flight")?,
            apply_backlog_bytes_max: bytes("backlog")?,
            append_in_flight_bytes_max: bytes("window")?,
            retention,
            stands_first: false,
        };
        let members: Vec<_> = (1..=count).map(|node| member(NodeId::new(node))).collect();
        let first = command.option("stands_first").map(|node| command.parse_node(node));
        let first = first.transpose()?;
        for node in (1..=count).map(NodeId::new) {
            let mut config = config.clone();
            config.stands_first = first == Some(node);
            self.add_host(node, config, Configuration::initial(members.clone()));
        }
        self.config = Some(config);
        self.initial = Configuration::initial(members);
        Ok(())
    }

    fn join(&mut self, node: NodeId) {
        let config = self.config.clone().expect("`cluster` comes first");
        let initial = self.initial.clone();
        self.add_host(node, config, initial);
    }

    fn add_host(&mut self, node: NodeId, mut config: ReplicaConfig, initial: Configuration) {
        config.seed = node.get();
        let host = Host::create(node, config, initial, JournalOptions::default());
        self.hosts.insert(node, host);
    }

    fn host(&mut self, node: NodeId) -> &mut Host {
        self.hosts.get_mut(&node).expect("a node that was created")
    }

    fn say(&mut self, line: String) {
        self.lines.push(line);
    }

    /// Feeds one input to a replica and takes what follows.
    fn feed<T>(
        &mut self,
        node: NodeId,
        input: impl FnOnce(&mut Replica<ProposalTag, ReadTag>) -> T,
    ) -> Result<T, TraceError> {
        let result = match self.host(node).replica_mut() {
            Some(replica) => input(replica),
            None => {
                let (command, why) = (format!("n{node}"), "is down".to_owned());
                return Err(TraceError { command, why });
            }
        };
        self.take(node);
        Ok(result)
    }

    fn announce(&mut self, node: NodeId) {
        self.host(node).announce();
        self.take(node);
    }

    fn take(&mut self, node: NodeId) {
        if !self.is_lazy {
            self.host(node).announce();
        }
        let taken = self.host(node).take();
        for event in &taken.events {
            self.say(format!("n{node} {}", describe::event(event)));
        }
        for append in taken.appends.iter().filter(|_| !self.is_quiet) {
            self.lines.push(format!("n{node} {}", describe::append(append)));
        }
        for envelope in taken.send {
            if !self.is_quiet {
                self.say(describe::envelope(node, &envelope));
            }
            self.links.entry((node, envelope.to_node)).or_default().push_back(envelope);
        }
        let commit = self.host(node).replica().map(|replica| replica.status().commit);
        let seen = self.commits.entry(node).or_default();
        if let Some(commit) = commit.filter(|commit| commit > seen) {
            *seen = commit;
            self.say(format!("n{node} committed {commit}"));
        }
        for (proposal, how) in taken.undecided {
            self.say(format!("n{node} #{proposal} {}", format!("{how:?}").to_lowercase()));
        }
        for (read, index) in taken.reads {
            self.say(format!("n{node} read {read} confirmed at {index}"));
        }
        for read in taken.reads_failed {
            self.say(format!("n{node} read {read} failed"));
        }
    }

    fn tick(&mut self, command: &Command<'_>) -> Result<(), TraceError> {
        let nodes: Vec<_> = match command.word(0)? {
            "all" => self.hosts.keys().copied().collect(),
            word => vec![command.parse_node(word)?],
        };
        for _ in 0..command.number(1, 1)? {
            for &node in &nodes {
                if self.host(node).replica().is_some() {
                    self.feed(node, Replica::on_tick)?;
                }
            }
        }
        Ok(())
    }

    fn propose(&mut self, command: &Command<'_>) -> Result<(), TraceError> {
        let node = command.node(0)?;
        let commands: Vec<_> = command.words[1..].iter().map(|w| command_bytes(w)).collect();
        self.proposals += 1;
        let tag = self.proposals;
        let batch = encode_commands(&commands);
        let Some(replica) = self.host(node).replica_mut() else {
            return Err(command.error("it is down"));
        };
        match replica.propose(batch, tag) {
            Ok(()) => self.say(format!("n{node} proposed #{tag}")),
            Err(refused) => {
                assert_eq!(refused.waiter, tag, "the waiter comes back");
                self.say(format!("n{node} refused #{tag}: {:?}", refused.why));
            }
        }
        self.take(node);
        Ok(())
    }

    fn propose_members(&mut self, command: &Command<'_>) -> Result<(), TraceError> {
        let node = command.node(0)?;
        let mut change = ConfChange {
            transition: if command.has("explicit") {
                ConfTransition::Explicit
            } else if command.has("joint") {
                ConfTransition::Implicit
            } else {
                ConfTransition::Auto
            },
            ..ConfChange::default()
        };
        let transitions = ["joint", "explicit"];
        let steps: Vec<_> =
            command.words[1..].iter().filter(|word| !transitions.contains(word)).collect();
        for pair in steps.chunks_exact(2) {
            let kind = match *pair[0] {
                "add-voter" => ConfChangeKind::AddVoter,
                "add-learner" => ConfChangeKind::AddLearner,
                "remove" => ConfChangeKind::Remove,
                _ => return Err(command.error("not a step")),
            };
            let target = command.parse_node(pair[1])?;
            change.steps.push(ConfChangeStep { kind, replica: replica_of(target) });
            if kind != ConfChangeKind::Remove {
                change.members.push(member(target));
            }
        }
        match self.host(node).replica_mut().map(|replica| replica.propose_members(&change)) {
            Some(Ok(index)) => self.say(format!("n{node} proposed a change as {index}")),
            Some(Err(why)) => self.say(format!("n{node} refused the change: {why:?}")),
            None => return Err(command.error("it is down")),
        }
        self.take(node);
        Ok(())
    }

    fn persist(&mut self, node: NodeId, count: usize) {
        let appends = self.host(node).persist(count);
        if let Some(last) = appends.last().filter(|_| !self.is_quiet) {
            self.say(format!("n{node} persisted {}", last.number));
        }
        self.take(node);
    }

    fn deliver(&mut self, command: &Command<'_>) -> Result<(), TraceError> {
        if command.words.is_empty() {
            let busy: Vec<_> = self.links.keys().copied().collect();
            for link in busy {
                let count = self.links[&link].len();
                self.deliver_link(link, count);
            }
            return Ok(());
        }
        let link = command.link(0)?;
        let count = command.number(1, self.links.get(&link).map_or(0, VecDeque::len))?;
        self.deliver_link(link, count);
        Ok(())
    }

    fn deliver_link(&mut self, link: (NodeId, NodeId), count: usize) {
        let (from, to) = link;
        for _ in 0..count {
            let queued = self.links.get_mut(&link).and_then(VecDeque::pop_front);
            let Some(envelope) = queued else { return };
            if !self.isolated.contains(&from) && !self.isolated.contains(&to) {
                self.receive(from, to, envelope);
            }
        }
    }

    fn receive(&mut self, from: NodeId, to: NodeId, envelope: Envelope) {
        let Some(replica) = self.hosts.get_mut(&to).and_then(Host::replica_mut) else { return };
        let result = replica.on_message(from, envelope);
        if let Err(error) = result {
            self.say(format!("n{to} refused a message of n{from}: {error}"));
        }
        self.take(to);
    }

    fn tamper(&mut self, command: &Command<'_>) -> Result<(), TraceError> {
        let queue = self.links.entry(command.link(0)?).or_default();
        match command.name {
            "drop" => {
                let count = command.number(1, queue.len())?.min(queue.len());
                queue.drain(..count);
            }
            _ => {
                let copies: Vec<_> = queue.iter().cloned().collect();
                queue.extend(copies);
            }
        }
        Ok(())
    }

    fn apply(&mut self, command: &Command<'_>) -> Result<(), TraceError> {
        let node = command.node(0)?;
        let is_durable = command.has("durable");
        let count = if is_durable { usize::MAX } else { command.number(1, usize::MAX)? };
        self.apply_on(node, count, is_durable);
        Ok(())
    }

    fn apply_on(&mut self, node: NodeId, count: usize, is_durable: bool) {
        for applied in self.host(node).apply(count) {
            let answer = applied.waiter.map_or(String::new(), |tag| format!(": answers #{tag}"));
            self.say(format!("n{node} applied {}{answer}", describe::entry(&applied.entry)));
        }
        if is_durable {
            self.host(node).flush();
        }
        self.take(node);
    }

    fn fetch(&mut self, node: NodeId) {
        while let Some((from, to)) = self.host(node).fetch() {
            self.say(format!("n{node} fetched [{from}, {to})"));
            self.take(node);
        }
    }

    fn crash(&mut self, command: &Command<'_>) -> Result<(), TraceError> {
        let node = command.node(0)?;
        let written = command.option_number("written", 0)? as usize;
        let (waiters, readers) = self.host(node).crash(written);
        for tag in waiters {
            self.say(format!("n{node} #{tag} unanswered"));
        }
        for read in readers {
            self.say(format!("n{node} read {read} unanswered"));
        }
        self.links.retain(|(from, to), _| *from != node && *to != node);
        self.commits.remove(&node);
        Ok(())
    }

    fn replace_log_writer(&mut self, command: &Command<'_>) -> Result<(), TraceError> {
        let (node, written) = (command.node(0)?, command.option_number("written", 0)? as usize);
        self.host(node).replace_log_writer(written);
        self.take(node);
        Ok(())
    }

    fn restart(&mut self, node: NodeId) {
        self.host(node).restart(JournalOptions::default());
        self.take(node);
        self.status_of(node);
    }

    fn read(&mut self, node: NodeId) {
        self.reads += 1;
        let tag = self.reads;
        if let Some(replica) = self.host(node).replica_mut() {
            replica.read(tag);
        }
        self.take(node);
    }

    /// `forge n2 from=n1 kind=heartbeat term=3 commit=9`: a message that no correct peer sends.
    fn forge(&mut self, command: &Command<'_>) -> Result<(), TraceError> {
        let to = command.node(0)?;
        let from = command.parse_node(command.option("from").unwrap_or("n1"))?;
        let sender = command.parse_node(command.option("sender").unwrap_or(&format!("n{from}")))?;
        let kind = match command.option("kind").unwrap_or("heartbeat") {
            "append" => RaftKind::Append,
            "append-response" => RaftKind::AppendResponse,
            "heartbeat" => RaftKind::Heartbeat,
            "vote-response" => RaftKind::RequestVoteResponse,
            "timeout-now" => RaftKind::TimeoutNow,
            "read-index" => RaftKind::ReadIndex,
            _ => return Err(command.error("not a kind")),
        };
        let index = |key| Ok(LogIndex::new(command.option_number(key, 0)?));
        let term = |key| Ok(Term::new(command.option_number(key, 0)?));
        let mut message = RaftMessage::new(kind, term("term")?);
        message.index = index("index")?;
        message.log_term = term("log_term")?;
        message.commit = index("commit")?;
        if let Some(entry) = command.option("entry") {
            let at = entry.parse().map_err(|_| command.error("not an index"))?;
            message.entries.push(LogEntry {
                index: LogIndex::new(at),
                term: term("entry_term")?,
                kind: polyraft_core::entry::EntryKind::Normal,
                data: bytes::Bytes::new(),
            });
        }
        let replica = command.option_number("to_replica", replica_of(to).get())?;
        let envelope = Envelope {
            group: GROUP,
            from: replica_of(from),
            to: ReplicaId::new(replica),
            to_node: to,
            body: Body::Raft(message),
        };
        self.receive(sender, to, envelope);
        Ok(())
    }

    fn status(&mut self) {
        let nodes: Vec<_> = self.hosts.keys().copied().collect();
        nodes.into_iter().for_each(|node| self.status_of(node));
    }

    fn status_of(&mut self, node: NodeId) {
        let status = match self.host(node).replica() {
            Some(replica) => describe::status(&replica.status()),
            None => "down".into(),
        };
        self.say(format!("n{node} {status}"));
    }

    fn show_links(&mut self) {
        let queued: Vec<_> = self
            .links
            .iter()
            .flat_map(|((from, _), queue)| queue.iter().map(|e| describe::envelope(*from, e)))
            .collect();
        self.lines.extend(queued);
    }

    fn show_log(&mut self, node: NodeId) -> Result<(), TraceError> {
        let log: Vec<_> = self.host(node).log().iter().map(describe::entry).collect();
        self.say(format!("n{node} log: {}", log.join(", ")));
        Ok(())
    }

    /// Lets everything that is under way happen, and prints what it leads to, not how.
    fn settle(&mut self) {
        self.is_quiet = true;
        for _ in 0..SETTLE_ROUNDS_MAX {
            if !self.settle_round() {
                self.is_quiet = false;
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    fn settle_round(&mut self) -> bool {
        let mut is_busy = false;
        let nodes: Vec<_> = self.hosts.keys().copied().collect();
        for node in nodes {
            let host = self.host(node);
            let is_up = host.replica().is_some();
            let has_work =
                host.appends_waiting() + host.committed_waiting() > 0 || host.has_fetches();
            if is_up && has_work {
                is_busy = true;
                self.persist(node, usize::MAX);
                self.fetch(node);
                self.apply_on(node, usize::MAX, true);
            }
        }
        let links: Vec<_> = self.links.iter().map(|(link, queue)| (*link, queue.len())).collect();
        for (link, count) in links.into_iter().filter(|(_, count)| *count > 0) {
            is_busy = true;
            self.deliver_link(link, count);
        }
        is_busy
    }
}
