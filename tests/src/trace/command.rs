//! A trace's command line, split into its words.

use bytes::Bytes;
use polyraft_core::ids::NodeId;

use super::TraceError;

/// One command line: a name, words and `key=value` options.
#[derive(Debug)]
pub(super) struct Command<'a> {
    line: &'a str,
    pub name: &'a str,
    pub words: Vec<&'a str>,
    options: Vec<(&'a str, &'a str)>,
}

impl<'a> Command<'a> {
    pub fn new(line: &'a str) -> Self {
        let mut words: Vec<_> = line.split_whitespace().collect();
        let name = if words.is_empty() { "" } else { words.remove(0) };
        let options = words.iter().filter_map(|word| word.split_once('=')).collect();
        words.retain(|word| !word.contains('='));
        Self { line, name, words, options }
    }

    pub fn error(&self, why: &str) -> TraceError {
        TraceError { command: self.line.to_owned(), why: why.to_owned() }
    }

    pub fn word(&self, at: usize) -> Result<&'a str, TraceError> {
        self.words.get(at).copied().ok_or_else(|| self.error("a word is missing"))
    }

    pub fn node(&self, at: usize) -> Result<NodeId, TraceError> {
        self.parse_node(self.word(at)?)
    }

    pub fn parse_node(&self, word: &str) -> Result<NodeId, TraceError> {
        let id = word.strip_prefix('n').and_then(|id| id.parse().ok());
        id.map(NodeId::new).ok_or_else(|| self.error("not a node"))
    }

    /// `n1->n2`.
    pub fn link(&self, at: usize) -> Result<(NodeId, NodeId), TraceError> {
        let word = self.word(at)?;
        let (from, to) = word.split_once("->").ok_or_else(|| self.error("not a link"))?;
        Ok((self.parse_node(from)?, self.parse_node(to)?))
    }

    pub fn number(&self, at: usize, default: usize) -> Result<usize, TraceError> {
        let Some(word) = self.words.get(at) else { return Ok(default) };
        word.parse().map_err(|_| self.error("not a number"))
    }

    pub fn option(&self, key: &str) -> Option<&'a str> {
        self.options.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }

    pub fn option_number(&self, key: &str, default: u64) -> Result<u64, TraceError> {
        let Some(value) = self.option(key) else { return Ok(default) };
        value.parse().map_err(|_| self.error("not a number"))
    }

    pub fn has(&self, word: &str) -> bool {
        self.words.contains(&word)
    }
}

/// A word as a command's bytes: `*1000` stands for that many of them.
pub(super) fn command_bytes(word: &str) -> Bytes {
    match word.strip_prefix('*').and_then(|count| count.parse().ok()) {
        Some(count) => vec![b'x'; count].into(),
        None => Bytes::copy_from_slice(word.as_bytes()),
    }
}
