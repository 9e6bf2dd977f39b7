//! What the unit tests of several actors share: a probe that turns facts into a channel.

use std::collections::{BTreeMap, VecDeque};
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use actix::prelude::*;
use bytes::Bytes;
use polyraft_core::batch::{self, Unit};
use polyraft_core::entry::{EntryKind, LogEntry};
use polyraft_core::ids::{GroupId, Incarnation, LogIndex, Term};
use polyraft_core::own_storage::OwnStorage;
use polyraft_core::ports::{GroupState, StateFlush, StateStore, StorageError};
use polyraft_core::state_machine::{
    ApplyContext, ApplyError, Response, State, StateError, StateMachine,
};
use tokio::sync::mpsc;

use crate::guard::DownGuard;
use crate::mailbox::ActorKind;

/// Receives messages of one type and hands them to the test.
pub struct Probe<M> {
    seen: mpsc::UnboundedSender<M>,
    message: PhantomData<M>,
}

impl<M: Message<Result = ()> + Send + Unpin + 'static> Probe<M> {
    /// A recipient on the current arbiter, and where its messages come out.
    pub fn start() -> (Recipient<M>, mpsc::UnboundedReceiver<M>) {
        let (seen, received) = mpsc::unbounded_channel();
        let probe = Self { seen, message: PhantomData };
        (Actor::start(probe).recipient(), received)
    }
}

impl<M: Unpin + 'static> Actor for Probe<M> {
    type Context = Context<Self>;
}

impl<M: Message<Result = ()> + Unpin + 'static> Handler<M> for Probe<M> {
    type Result = ();

    fn handle(&mut self, message: M, _: &mut Self::Context) {
        // The test may have ended.
        let _ = self.seen.send(message);
    }
}

/// Runs `test` in an actix system on this thread with tokio's time paused: timers fire in order as
/// soon as nothing else can run.
pub fn paused<T>(test: impl Future<Output = T>) -> T {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime")
    };
    System::with_tokio_rt(runtime).block_on(test)
}

/// A guard whose reports go nowhere.
pub fn guard(actor: ActorKind) -> DownGuard {
    let (to, _downs) = Probe::start();
    DownGuard::new(actor, None, Incarnation::new(1), to)
}

/// Durable states in memory.
#[derive(Default)]
pub struct FakeStateStore {
    base: Mutex<BTreeMap<GroupId, Durable>>,
    failures: Mutex<VecDeque<StorageError>>,
    flushes: AtomicUsize,
}

/// What of one group is durable.
#[derive(Clone, Default)]
struct Durable {
    applied: (LogIndex, Term),
    values: BTreeMap<Bytes, Bytes>,
}

impl FakeStateStore {
    /// Flushes that succeeded.
    pub fn flushes(&self) -> usize {
        self.flushes.load(SeqCst)
    }

    /// Makes the next flush fail.
    pub fn fail_next(&self, error: StorageError) {
        self.failures.lock().expect("not poisoned").push_back(error);
    }
}

impl StateStore for FakeStateStore {
    fn open(&self, group: GroupId) -> Result<Box<dyn GroupState>, StorageError> {
        let base = self.base.lock().expect("not poisoned").get(&group).cloned().unwrap_or_default();
        Ok(Box::new(FakeState::over(group, base)))
    }

    fn flush(&self, flushes: &[StateFlush]) -> Result<usize, StorageError> {
        if let Some(error) = self.failures.lock().expect("not poisoned").pop_front() {
            return Err(error);
        }
        let mut base = self.base.lock().expect("not poisoned");
        for flush in flushes {
            let durable = base.entry(flush.group).or_default();
            durable.applied = (flush.applied, flush.applied_term);
            for (key, value) in flush.writes.iter() {
                match value {
                    Some(value) => durable.values.insert(key.clone(), value.clone()),
                    None => durable.values.remove(key),
                };
            }
        }
        self.flushes.fetch_add(1, SeqCst);
        Ok(0)
    }
}

/// A state that keeps every value in one map, and apart what the next flush would write.
pub struct FakeState {
    group: GroupId,
    values: BTreeMap<Bytes, Bytes>,
    applied: (LogIndex, Term),
    durable: LogIndex,
    undo: Vec<(Bytes, Option<Bytes>)>,
    active: BTreeMap<Bytes, Option<Bytes>>,
    frozen: Option<LogIndex>,
    damaged: Option<Bytes>,
}

impl FakeState {
    /// An empty state.
    pub fn empty(group: GroupId) -> Self {
        Self::over(group, Durable::default())
    }

    fn over(group: GroupId, base: Durable) -> Self {
        Self {
            group,
            values: base.values,
            applied: base.applied,
            durable: base.applied.0,
            undo: Vec::new(),
            active: BTreeMap::new(),
            frozen: None,
            damaged: None,
        }
    }

    /// From now on reading `key`, alone or among others, meets damage.
    pub fn damage(&mut self, key: &[u8]) {
        self.damaged = Some(Bytes::copy_from_slice(key));
    }

    fn check(&self, is_read: impl Fn(&[u8]) -> bool) -> Result<(), StateError> {
        if self.damaged.as_ref().is_some_and(|key| is_read(key)) {
            let what = "damaged by the test".into();
            return Err(StorageError::Corrupt { group: self.group, what }.into());
        }
        Ok(())
    }

    fn write(&mut self, key: &[u8], value: Option<Bytes>) {
        let key = Bytes::copy_from_slice(key);
        let before = match value.clone() {
            Some(value) => self.values.insert(key.clone(), value),
            None => self.values.remove(&key),
        };
        self.undo.push((key.clone(), before));
        self.active.insert(key, value);
    }
}

impl State for FakeState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        self.check(|damaged| damaged == key)?;
        Ok(self.values.get(key).cloned())
    }

    fn put(&mut self, key: &[u8], value: Bytes) -> Result<(), StateError> {
        self.write(key, Some(value));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), StateError> {
        self.write(key, None);
        Ok(())
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        _reverse: bool,
        visit: &mut dyn FnMut(&[u8], &Bytes) -> bool,
    ) -> Result<(), StateError> {
        for (key, value) in self.values.range::<[u8], _>((from, to)) {
            if !visit(key, value) {
                break;
            }
        }
        self.check(|damaged| RangeBounds::<[u8]>::contains(&(from, to), damaged))
    }
}

impl GroupState for FakeState {
    fn applied(&self) -> (LogIndex, Term) {
        self.applied
    }

    fn durable_applied(&self) -> LogIndex {
        self.durable
    }

    fn set_applied(&mut self, index: LogIndex, term: Term) {
        self.applied = (index, term);
    }

    fn begin(&mut self) {
        self.undo.clear();
    }

    fn rollback(&mut self) {
        for (key, before) in std::mem::take(&mut self.undo).into_iter().rev() {
            match &before {
                Some(value) => self.values.insert(key.clone(), value.clone()),
                None => self.values.remove(&key),
            };
            self.active.insert(key, before);
        }
    }

    fn buffered_bytes(&self) -> usize {
        self.active.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, Bytes::len)).sum()
    }

    fn freeze(&mut self) -> Option<StateFlush> {
        if self.frozen.is_some() || self.applied.0 == self.durable {
            return None;
        }
        self.frozen = Some(self.applied.0);
        Some(StateFlush {
            group: self.group,
            applied: self.applied.0,
            applied_term: self.applied.1,
            writes: Arc::new(std::mem::take(&mut self.active)),
        })
    }

    fn flushed(&mut self) {
        self.durable = self.frozen.take().expect("a flush is outstanding");
    }
}

/// A machine that keeps a set of names and, derived, their number.
///
/// Commands: `add NAME` (rejected as `exists`), `time`, `panic`, `eio`.
/// Queries: `list`, `count`.
#[derive(Default)]
pub struct Ledger {
    count: usize,
}

impl Ledger {
    fn names(state: &dyn State) -> Result<Vec<String>, StateError> {
        let mut names = Vec::new();
        state.scan(Bound::Unbounded, Bound::Unbounded, false, &mut |name, _| {
            names.push(String::from_utf8_lossy(name).into_owned());
            true
        })?;
        Ok(names)
    }

    fn add(&mut self, state: &mut dyn State, name: &[u8]) -> Result<Response, ApplyError> {
        if state.get(name)?.is_some() {
            return Ok(Response::Rejected(Bytes::from_static(b"exists")));
        }
        state.put(name, Bytes::from_static(b"1"))?;
        self.count += 1;
        Ok(Response::Accepted(Bytes::new()))
    }
}

impl StateMachine for Ledger {
    fn open(&mut self, state: &dyn State) -> Result<(), ApplyError> {
        self.count = Self::names(state)?.len();
        Ok(())
    }

    fn apply(
        &mut self,
        state: &mut dyn State,
        context: &ApplyContext,
        command: &[u8],
    ) -> Result<Response, ApplyError> {
        match command {
            b"time" => Ok(Response::Accepted(context.time_ms.to_string().into())),
            b"panic" => panic!("the machine was told to"),
            b"eio" => {
                let source = std::io::Error::from_raw_os_error(5).into();
                Err(StateError::from(StorageError::Io { doing: "read", source }).into())
            }
            _ => match command.strip_prefix(b"add ") {
                Some(name) => self.add(state, name),
                None => Err(ApplyError::Decode { what: "no such command".into() }),
            },
        }
    }

    fn query(&self, state: &dyn State, query: &[u8]) -> Result<Bytes, ApplyError> {
        match query {
            b"list" => Ok(Self::names(state)?.join(" ").into()),
            b"count" => Ok(self.count.to_string().into()),
            _ => Err(ApplyError::Decode { what: "no such query".into() }),
        }
    }
}

/// What an [`EngineMachine`] has durable; outlives the machine, as a directory would.
#[derive(Clone, Default)]
pub struct Engine(Arc<Mutex<EngineRows>>);

#[derive(Clone, Default)]
struct EngineRows {
    applied: LogIndex,
    names: Vec<String>,
    persists: Vec<LogIndex>,
    fails: bool,
}

impl Engine {
    /// An engine that was persisted at `applied` with these names.
    pub fn with(applied: u64, names: &[&str]) -> Self {
        let names = names.iter().map(ToString::to_string).collect();
        let rows = EngineRows { applied: LogIndex::new(applied), names, ..EngineRows::default() };
        Self(Arc::new(Mutex::new(rows)))
    }

    /// The index that is durable.
    pub fn durable(&self) -> LogIndex {
        self.0.lock().expect("not poisoned").applied
    }

    /// Every index that was persisted, in order.
    pub fn persists(&self) -> Vec<LogIndex> {
        self.0.lock().expect("not poisoned").persists.clone()
    }

    /// Makes every persist from now on fail.
    pub fn fail(&self) {
        self.0.lock().expect("not poisoned").fails = true;
    }
}

/// A machine with storage of its own: the names it was given, in order.
///
/// Commands: `add NAME` (rejected as `exists`), `put NAME` (into the runtime's state, which is not
/// allowed). Query: anything, answered by the names.
pub struct EngineMachine {
    engine: Engine,
    names: Vec<String>,
    undo: Vec<String>,
}

impl EngineMachine {
    /// A machine that has not opened `engine` yet.
    pub fn over(engine: &Engine) -> Self {
        Self { engine: engine.clone(), names: Vec::new(), undo: Vec::new() }
    }
}

impl StateMachine for EngineMachine {
    fn open(&mut self, _: &dyn State) -> Result<(), ApplyError> {
        self.names = self.engine.0.lock().expect("not poisoned").names.clone();
        Ok(())
    }

    fn apply(
        &mut self,
        state: &mut dyn State,
        _: &ApplyContext,
        command: &[u8],
    ) -> Result<Response, ApplyError> {
        let text = String::from_utf8_lossy(command).into_owned();
        let Some(name) = text.strip_prefix("add ") else {
            state.put(command, Bytes::new())?;
            return Ok(Response::Accepted(Bytes::new()));
        };
        if self.names.iter().any(|known| known == name) {
            return Ok(Response::Rejected(Bytes::from_static(b"exists")));
        }
        self.names.push(name.to_owned());
        Ok(Response::Accepted(Bytes::new()))
    }

    fn query(&self, _: &dyn State, _: &[u8]) -> Result<Bytes, ApplyError> {
        Ok(self.names.join(" ").into())
    }

    fn own_storage(&mut self) -> Option<&mut dyn OwnStorage> {
        Some(self)
    }
}

impl OwnStorage for EngineMachine {
    fn durable(&self) -> LogIndex {
        self.engine.durable()
    }

    fn begin(&mut self) {
        self.undo = self.names.clone();
    }

    fn rollback(&mut self) {
        self.names = self.undo.clone();
    }

    fn persist(&mut self, applied: LogIndex) -> Result<(), ApplyError> {
        let mut rows = self.engine.0.lock().expect("not poisoned");
        if rows.fails {
            let source = std::io::Error::from_raw_os_error(5).into();
            return Err(ApplyError::OwnStorage { doing: "persist", source });
        }
        (rows.applied, rows.names) = (applied, self.names.clone());
        rows.persists.push(applied);
        Ok(())
    }
}

/// One caller's unit.
pub fn unit(atomic: bool, commands: &[&str]) -> Unit {
    let commands = commands.iter().map(|c| Bytes::copy_from_slice(c.as_bytes())).collect();
    Unit { atomic, commands }
}

/// An entry that carries `units`.
pub fn batch_entry(index: u64, time_ms: u64, units: &[Unit]) -> LogEntry {
    LogEntry {
        index: LogIndex::new(index),
        term: Term::new(1),
        kind: EntryKind::Normal,
        data: batch::encode(time_ms, units.iter()),
    }
}
