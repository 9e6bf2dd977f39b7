//! The names that a PromQL expression, or a text about metrics, mentions.
//!
//! ```text
//! rate(polyraft_batch_wait_seconds_bucket{node="1"}[5m]) ─names→ polyraft_batch_wait_seconds_bucket
//! ```
//!
//! Promise: every word that begins as a metric or a recording rule does is found. Not here: parsing;
//! strings of label values are read as text, where such a word is a mistake anyway.

use std::collections::BTreeMap;

use polyraft_actors::metric_catalogue::{METRICS, MetricKind, PREFIX};

/// Words that begin with the catalogue's prefix.
pub fn metrics(text: &str) -> Vec<&str> {
    words(text).filter(|word| word.starts_with(PREFIX) && !word.contains(':')).collect()
}

/// Words that are named as recording rules are: `level:metric:operation`.
pub fn recordings(text: &str) -> Vec<&str> {
    words(text).filter(|word| word.contains(&format!(":{PREFIX}"))).collect()
}

/// The family that a series name belongs to, if the catalogue has it: a histogram by one of its three
/// series, anything else by its own name.
pub fn family(name: &str) -> Option<&'static str> {
    let families: BTreeMap<_, _> = METRICS.iter().map(|m| (m.name, m.kind)).collect();
    let suffixes = ["_bucket", "_sum", "_count"];
    let base = suffixes.iter().find_map(|end| name.strip_suffix(end));
    let wanted = |name: &str, is_histogram: bool| {
        let (name, kind) = families.get_key_value(name)?;
        ((*kind == MetricKind::Histogram) == is_histogram).then_some(*name)
    };
    wanted(name, false).or_else(|| wanted(base?, true))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(move |c| !is_part(c)).map(|word| word.trim_matches(':')).filter(|w| !w.is_empty())
}
