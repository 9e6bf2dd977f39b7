//! What a node may use: groups, memory, disk, threads.
//!
//! Every limit names what happens at it; none is reached silently.

use std::time::Duration;

use polyraft_storage::lmdb::PRESIZE_BYTES;

use crate::config_error::Findings;

/// The smallest journal, and what maps are a multiple of: one page of LMDB.
const PAGE_BYTES: u64 = 4 << 10;
/// The smallest map: what a new environment writes once, and half as much for what it then holds.
const MAP_BYTES_MIN: u64 = 48 << 20;

const _: () = assert!(MAP_BYTES_MIN >= PRESIZE_BYTES as u64 * 3 / 2);

/// Limits on work and retention, per node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Groups on this node; one more is a typed error, and 80 % a warning (RT-9). From 1. Default
    /// 20,000: twice what is tested, so that a move of groups between nodes has room.
    pub groups_max: usize,
    /// Deadline of a proposal that brings none of its own; queueing counts (BP-10). 1 ms to 1 h.
    /// Default 5 s: longer than one election on the default profile.
    pub proposal_deadline: Duration,
    /// Entries kept in a log once every replica has them and they are durably applied here. Entries
    /// that some replica lacks are always kept, however many: nothing else could bring it up to
    /// date. Fewer spares disk. From 1. Default 5,000.
    pub catch_up_entries: u64,
    /// Charged bytes (data and 32 per entry) of a log beyond which fewer than those entries are kept.
    /// Within a sixteenth and one entry; entries applied before the last start count as nothing. At
    /// most `storage.journal_bytes_max`. From 1. Default 64 MiB.
    pub catch_up_bytes: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            groups_max: 20_000,
            proposal_deadline: Duration::from_secs(5),
            catch_up_entries: 5_000,
            catch_up_bytes: 64 << 20,
        }
    }
}

impl LimitsConfig {
    /// Limits that are hit within ten entries.
    pub const fn tiny() -> Self {
        Self {
            groups_max: 4,
            proposal_deadline: Duration::from_secs(5),
            catch_up_entries: 5,
            catch_up_bytes: 1 << 10,
        }
    }

    /// Records every rule that is broken.
    pub(crate) fn check(&self, findings: &mut Findings) {
        findings.require(
            (1..=1_000_000).contains(&self.groups_max),
            "limits.groups_max",
            self.groups_max,
            "must be 1 to 1000000",
        );
        findings.require(
            self.proposal_deadline >= Duration::from_millis(1)
                && self.proposal_deadline <= Duration::from_secs(3_600),
            "limits.proposal_deadline",
            humantime::format_duration(self.proposal_deadline),
            "must be 1ms to 1h",
        );
        findings.require(
            self.catch_up_entries >= 1,
            "limits.catch_up_entries",
            self.catch_up_entries,
            "must be at least 1",
        );
        findings.require(
            self.catch_up_bytes >= 1,
            "limits.catch_up_bytes",
            self.catch_up_bytes,
            "must be at least 1 byte",
        );
    }
}

/// Sizes of this node's two LMDB environments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageConfig {
    /// Address space for the log's environment; not disk, which grows with use. At least twice
    /// `journal_bytes_max`: the cold table and the pages of a running commit need room too. A full
    /// map refuses appends until logs are compacted, which may use 32 MiB more. 48 MiB to 64 TiB.
    /// Default 64 GiB.
    pub log_map_bytes: u64,
    /// Address space for the state's environment. 48 MiB to 64 TiB. Default 256 GiB.
    pub state_map_bytes: u64,
    /// Journal size at which its prefix is moved away, which bounds start-up: it is read once. Larger
    /// moves less, smaller starts faster. At least `limits.catch_up_bytes`, or a single group's tail
    /// would be moved over and over. Default 1 GiB.
    pub journal_bytes_max: u64,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self { log_map_bytes: 64 << 30, state_map_bytes: 256 << 30, journal_bytes_max: 1 << 30 }
    }
}

impl StorageConfig {
    /// The smallest maps, and a journal that rolls within ten entries.
    pub const fn tiny() -> Self {
        Self {
            log_map_bytes: MAP_BYTES_MIN,
            state_map_bytes: MAP_BYTES_MIN,
            journal_bytes_max: PAGE_BYTES,
        }
    }

    /// Records every rule that is broken.
    pub(crate) fn check(&self, limits: &LimitsConfig, findings: &mut Findings) {
        for (key, bytes) in [
            ("storage.log_map_bytes", self.log_map_bytes),
            ("storage.state_map_bytes", self.state_map_bytes),
        ] {
            findings.require(
                (MAP_BYTES_MIN..=1 << 46).contains(&bytes) && bytes % PAGE_BYTES == 0,
                key,
                bytes,
                "must be a multiple of 4 KiB, 48 MiB to 64 TiB",
            );
        }
        findings.require(
            self.journal_bytes_max >= PAGE_BYTES,
            "storage.journal_bytes_max",
            self.journal_bytes_max,
            "must be at least 4 KiB",
        );
        findings.relate(
            self.log_map_bytes / 2 >= self.journal_bytes_max,
            ("storage.log_map_bytes", self.log_map_bytes),
            "must be at least twice",
            ("storage.journal_bytes_max", self.journal_bytes_max),
        );
        findings.relate(
            self.journal_bytes_max >= limits.catch_up_bytes,
            ("storage.journal_bytes_max", self.journal_bytes_max),
            "must be at least",
            ("limits.catch_up_bytes", limits.catch_up_bytes),
        );
    }
}

/// Threads of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ThreadsConfig {
    /// Arbiters that run group actors, the first of them the transport's tasks too. 1 to 256, or `None`
    /// (default): one per two cores, as disks, state machines and clients need threads of their own.
    pub shards: Option<usize>,
    /// Threads that apply committed entries; one group uses one at a time. They are started when
    /// they are needed, and up to sixteen at least, because a state machine may block. 1 to 256, or
    /// `None` (default): one per core.
    pub apply_workers: Option<usize>,
}

impl ThreadsConfig {
    /// One thread of each kind.
    pub const fn tiny() -> Self {
        Self { shards: Some(1), apply_workers: Some(1) }
    }

    /// Arbiters to start on this machine.
    pub fn shards(&self) -> usize {
        self.shards.unwrap_or_else(|| cores().div_ceil(2))
    }

    /// Apply threads to start on this machine.
    pub fn apply_workers(&self) -> usize {
        self.apply_workers.unwrap_or_else(cores)
    }

    /// Records every rule that is broken.
    pub(crate) fn check(&self, findings: &mut Findings) {
        for (key, threads) in
            [("threads.shards", self.shards), ("threads.apply_workers", self.apply_workers)]
        {
            let threads = threads.unwrap_or(1);
            findings.require((1..=256).contains(&threads), key, threads, "must be 1 to 256");
        }
    }
}

/// Cores that this process may use; 1 where the system does not say.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(256))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_tiny_are_valid() {
        let mut findings = Findings::default();
        for limits in [LimitsConfig::default(), LimitsConfig::tiny()] {
            limits.check(&mut findings);
        }
        StorageConfig::default().check(&LimitsConfig::default(), &mut findings);
        StorageConfig::tiny().check(&LimitsConfig::tiny(), &mut findings);
        ThreadsConfig::default().check(&mut findings);
        ThreadsConfig::tiny().check(&mut findings);
        assert!(findings.into_errors().is_none());
    }

    /// Goal: a map that a node could not start on is refused. Method: both ends of the range, and one
    /// step beyond each. That a node starts on the smallest is shown with a real one.
    #[test]
    fn maps_are_as_large_as_a_start_needs() {
        let findings_of = |bytes: u64| {
            let mut findings = Findings::default();
            let storage = StorageConfig { state_map_bytes: bytes, ..StorageConfig::default() };
            storage.check(&LimitsConfig::default(), &mut findings);
            findings.into_errors().map(|errors| errors.to_string())
        };
        for bytes in [MAP_BYTES_MIN, 1 << 46] {
            assert_eq!(findings_of(bytes), None, "{bytes}");
        }
        for bytes in [0, MAP_BYTES_MIN - PAGE_BYTES, MAP_BYTES_MIN - 1, (1 << 46) + PAGE_BYTES] {
            let text = findings_of(bytes).expect("it is out of range");
            let expected = format!(
                "storage.state_map_bytes = {bytes}: must be a multiple of 4 KiB, 48 MiB to 64 TiB"
            );
            assert!(text.contains(&expected), "{text}");
        }
    }

    #[test]
    fn relations_name_both_values() {
        let mut findings = Findings::default();
        let storage = StorageConfig { log_map_bytes: 1 << 20, ..StorageConfig::default() };
        storage.check(&LimitsConfig::default(), &mut findings);
        let text = findings.into_errors().unwrap().to_string();
        assert!(
            text.contains(
                "storage.log_map_bytes = 1048576: must be at least twice \
                 storage.journal_bytes_max = 1073741824"
            ),
            "{text}"
        );
    }

    #[test]
    fn threads_are_at_least_one() {
        assert!(ThreadsConfig::default().shards() >= 1);
        let mut findings = Findings::default();
        ThreadsConfig { shards: Some(0), apply_workers: Some(257) }.check(&mut findings);
        assert_eq!(findings.into_errors().unwrap().as_slice().len(), 2);
    }
}
