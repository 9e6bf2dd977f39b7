//! What `polyraft bench` can measure. In-flight numbers are totals over all groups: with 16 groups
//! and 4,096 in flight, each group has 256 callers, and each caller has one call at a time.

use polyraft::{BatchingConfig, BatchingPreset};

/// One load on one fresh cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scenario {
    /// How it is asked for, and what its files are called.
    pub name: String,
    /// Which question its figures answer.
    pub question: &'static str,
    /// Groups, each with a replica on every node.
    pub groups: u64,
    /// Callers over all groups, spread evenly; each waits for its answer before it calls again.
    pub in_flight: u64,
    /// Commands of one call: 1 is `propose`, more is `propose_batch`.
    pub commands_per_call: usize,
    /// Whether commands of several calls share entries.
    pub is_batching: bool,
}

impl Scenario {
    /// A load of the user's own making.
    pub fn custom(groups: u64, in_flight: u64) -> Self {
        let name = format!("custom-{groups}x{in_flight}");
        let question = "how fast is the load that was asked for?";
        Self { name, question, groups, in_flight, commands_per_call: 1, is_batching: true }
    }

    /// Every scenario, in the order in which they run.
    pub fn all() -> Vec<Self> {
        let scenario = |name: &str, question, (groups, in_flight), commands_per_call| Self {
            name: name.to_owned(),
            question,
            groups,
            in_flight,
            commands_per_call,
            is_batching: true,
        };
        let mut unbatched =
            scenario("batching-off", "the same callers, an entry each", (1, 100), 1);
        unbatched.is_batching = false;
        vec![
            scenario("throughput", "how many operations per second at the most?", (16, 4_096), 1),
            scenario("one-in-flight", "what does a lone caller wait?", (1, 1), 1),
            scenario("batching-on", "what does batching gain 100 callers?", (1, 100), 1),
            unbatched,
            scenario("producers-64", "what do 64 producers get from one group?", (1, 64), 1),
            scenario("single-16", "16 callers, a command per call", (1, 16), 1),
            scenario("propose-batch-16", "what does propose_batch(100) gain them?", (1, 16), 100),
            scenario("groups-100", "does throughput survive 100 groups?", (100, 4_096), 1),
        ]
    }

    /// The batching of the nodes.
    pub fn batching(&self) -> BatchingConfig {
        BatchingConfig { enabled: self.is_batching, ..BatchingPreset::Default.batching() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn scenarios_have_names_of_their_own_and_callers_for_every_group() {
        let all = Scenario::all();
        let names: BTreeSet<_> = all.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
        for scenario in &all {
            assert!(scenario.in_flight >= scenario.groups, "{}", scenario.name);
        }
        let off: Vec<_> = all.iter().filter(|s| !s.batching().enabled).collect();
        assert_eq!(off.len(), 1);
        assert_eq!(off[0].in_flight, 100);
    }
}
