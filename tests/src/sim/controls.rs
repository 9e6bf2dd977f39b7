//! Negative controls: how many seeds it takes to notice each deliberately broken shell (CH-6).

use super::run;
use crate::host::Sabotage;

/// Seeds within which every sabotage must be noticed.
pub const SEEDS_MAX: u64 = 500;

/// How a sabotage was noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detection {
    /// The sabotage.
    pub sabotage: Sabotage,
    /// Seeds run, from 1, the last of which failed; `None` if all of them passed.
    pub seeds: Option<u64>,
    /// What the last one said, in one line.
    pub by: String,
}

/// Runs seeds from 1 until one fails.
pub fn detect(sabotage: Sabotage) -> Detection {
    let failed =
        (1..=SEEDS_MAX).find_map(|seed| Some((seed, run(seed, Some(sabotage), false).failure?)));
    let seeds = failed.as_ref().map(|(seed, _)| *seed);
    let by = failed.map_or(String::new(), |(_, failure)| failure.to_string());
    Detection { sabotage, seeds, by: by.lines().next().unwrap_or_default().to_owned() }
}

/// The table of all detections, in Markdown.
pub fn table(detections: &[Detection]) -> String {
    let mut table = String::from("| broken shell | seeds | noticed by |\n|---|---|---|\n");
    for Detection { sabotage, seeds, by } in detections {
        let seeds = seeds.map_or("never".to_owned(), |seeds| seeds.to_string());
        let rule = by.split_once(": ").map_or(by.as_str(), |(rule, _)| rule);
        table.push_str(&format!("| {sabotage:?} | {seeds} | {rule} |\n"));
    }
    table
}
