//! A state machine with storage of its own: a map in memory, and in a file that it writes by itself.
//! The index that the file has durable decides what is applied again after a restart.
//!
//! ```text
//! apply → map in memory ─persist, twice a second→ file: applied index, then a line per word
//! start: file → map ─→ the log repeats what came after that index, and nothing else
//!
//! cargo run -p polyraft --example own_storage
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use polyraft::certificates::{CertificateAuthority, Validity};
use polyraft::{
    ApplyContext, ApplyError, ClusterConfig, GroupId, GroupSpec, LogIndex, Node, NodeConfig,
    NodeId, OwnStorage, Response, State, StateMachine, TlsPaths,
};

/// Counts words: a command is a word and answers its count; a query is a word.
#[derive(Default)]
struct WordCount {
    path: PathBuf,
    durable: LogIndex,
    counts: BTreeMap<String, u64>,
    /// What the unit of work changed, with the counts before.
    undo: Vec<(String, Option<u64>)>,
    /// Commands that were applied, to show what is replayed.
    applied: Arc<AtomicU64>,
}

/// The file's index and counts; nothing if there is no file yet.
fn load(path: &Path) -> std::io::Result<(u64, BTreeMap<String, u64>)> {
    if !path.exists() {
        return Ok((0, BTreeMap::new()));
    }
    let text = std::fs::read_to_string(path)?;
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    let mut pairs = pairs.map(|(count, word)| (word.to_owned(), count.parse().unwrap_or(0)));
    let applied = pairs.next().map_or(0, |(_, applied)| applied);
    Ok((applied, pairs.collect()))
}

/// Replaces the file: written, synced, renamed, and the rename synced.
fn save(path: &Path, applied: LogIndex, counts: &BTreeMap<String, u64>) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    writeln!(file, "{applied} applied")?;
    counts.iter().try_for_each(|(word, count)| writeln!(file, "{count} {word}"))?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

impl StateMachine for WordCount {
    fn open(&mut self, _: &dyn State) -> Result<(), ApplyError> {
        let loaded = load(&self.path);
        let failed =
            |error: std::io::Error| ApplyError::OwnStorage { doing: "open", source: error.into() };
        let (applied, counts) = loaded.map_err(failed)?;
        (self.durable, self.counts) = (LogIndex::new(applied), counts);
        Ok(())
    }

    fn apply(
        &mut self,
        _: &mut dyn State,
        _: &ApplyContext,
        word: &[u8],
    ) -> Result<Response, ApplyError> {
        let word = String::from_utf8_lossy(word).into_owned();
        if word.is_empty() || word.contains('\n') {
            return Ok(Response::Rejected("a word has letters and is on one line".into()));
        }
        self.applied.fetch_add(1, SeqCst);
        self.undo.push((word.clone(), self.counts.get(&word).copied()));
        let count = self.counts.entry(word).or_default();
        *count += 1;
        Ok(Response::Accepted(count.to_string().into()))
    }

    fn query(&self, _: &dyn State, word: &[u8]) -> Result<Bytes, ApplyError> {
        let count = self.counts.get(&*String::from_utf8_lossy(word));
        Ok(count.copied().unwrap_or_default().to_string().into())
    }

    fn own_storage(&mut self) -> Option<&mut dyn OwnStorage> {
        Some(self)
    }
}

impl OwnStorage for WordCount {
    fn durable(&self) -> LogIndex {
        self.durable
    }

    fn begin(&mut self) {
        self.undo.clear();
    }

    fn rollback(&mut self) {
        for (word, before) in self.undo.drain(..).rev() {
            match before {
                Some(count) => self.counts.insert(word, count),
                None => self.counts.remove(&word),
            };
        }
    }

    fn persist(&mut self, applied: LogIndex) -> Result<(), ApplyError> {
        save(&self.path, applied, &self.counts)
            .map_err(|error| ApplyError::OwnStorage { doing: "persist", source: error.into() })?;
        self.durable = applied;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let (config, path) = (config(dir.path())?, dir.path().join("words"));
    let start = |applied: Arc<AtomicU64>| {
        let (config, path) = (config.clone(), path.clone());
        Node::start(config, move |_| {
            let (path, applied) = (path.clone(), applied.clone());
            Box::new(WordCount { path, applied, ..WordCount::default() })
        })
    };

    let node = start(Arc::default()).await?;
    let words = node.group("words").ok_or("the group is not here")?;
    for _ in 0..100 {
        words.propose("tree").await?;
    }
    let undone = words.propose_atomic(vec!["tree".into(), "leaf".into(), "\n".into()]).await?;
    assert!(undone.responses.iter().all(|response| !response.is_accepted()));
    while load(&path)?.0 < undone.index.get() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("the file has everything up to index {}", load(&path)?.0);
    for _ in 0..5 {
        words.propose("tree").await?;
    }
    node.stop().await;
    drop(node); // The data directory is free for the next one.

    let applied = Arc::new(AtomicU64::new(0));
    let node = start(applied.clone()).await?;
    let words = node.group("words").ok_or("the group is not here")?;
    let (trees, leaves) = (words.read("tree").await?, words.read("leaf").await?);
    let again = applied.load(SeqCst);
    println!("after a restart: {trees:?} trees, {leaves:?} leaves; {again} commands applied again");
    assert_eq!((&trees[..], &leaves[..]), (&b"105"[..], &b"0"[..]));
    assert!(again <= 5, "what the file has is not applied again");
    node.stop().await;
    Ok(())
}

fn config(dir: &Path) -> Result<NodeConfig, Box<dyn Error>> {
    let id = NodeId::new(1);
    let authority = CertificateAuthority::create("demo", Validity::default())?;
    authority.save(dir)?;
    authority.issue(id)?.save(dir)?;
    let group = GroupSpec::new(GroupId::new(1), "words");
    let config = NodeConfig::builder()
        .cluster(ClusterConfig::builder("demo").node(id, "127.0.0.1:7400").group(group))
        .node_id(id)
        .data_dir(dir.join("data"))
        .listen(([127, 0, 0, 1], 0).into())
        .tls(TlsPaths::in_dir(dir, id))
        .build()?;
    Ok(config)
}
