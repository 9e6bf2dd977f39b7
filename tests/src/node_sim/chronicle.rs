//! Chronicle: what happened, with virtual times, as a hash and, if asked for, as text.
//!
//! Promise: the text adds nothing to the run: a seed with a trace and without has the same hash.

use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::time::Instant;

use super::Counts;

/// The chronicle of one run.
pub struct Chronicle {
    start: Option<Instant>,
    hasher: DefaultHasher,
    is_traced: bool,
    counts: Counts,
}

impl Chronicle {
    /// An empty one.
    pub fn new(is_traced: bool) -> Self {
        let (hasher, counts) = (DefaultHasher::new(), Counts::default());
        Self { start: None, hasher, is_traced, counts }
    }

    /// Notes something that is part of the run's hash; `text` is made for a trace only.
    pub fn note(&mut self, what: impl Hash, text: impl FnOnce() -> String) {
        let now = Instant::now();
        let at = now - *self.start.get_or_insert(now);
        (at.as_micros() as u64).hash(&mut self.hasher);
        what.hash(&mut self.hasher);
        if self.is_traced {
            println!("{:>10.3} ms  {}", at.as_secs_f64() * 1_000.0, text());
        }
    }

    /// Counts `what` once more.
    pub fn count(&mut self, what: &'static str) {
        self.counts.add(what, 1);
    }

    /// How often each thing was counted.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The hash of everything noted.
    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }
}
