//! How much happened, so that a quiet run is seen.

/// Declares the counts once: fields, sums, and names in order.
macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        /// How much happened in a run, or in many.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Counts {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl Counts {
            /// Adds another run's counts to these.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Every count with its name.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name as u64),)*]
            }
        }
    };
}

counts! {
    /// Simulated ticks.
    ticks: u64,
    /// Messages sent.
    messages: u64,
    /// Terms with a leader.
    elections: usize,
    /// Proposals acknowledged.
    applied: usize,
    /// Proposals refused, expired or stopped before they were proposed.
    never_proposed: usize,
    /// Batches that were refused by their replica and whose units went back in line.
    requeued: usize,
    /// Proposals whose outcome the client was not told.
    unknown: usize,
    /// Reads answered.
    reads: usize,
    /// Appends made durable.
    persisted: usize,
    /// States compared with that of another replica, or of an earlier life.
    states_compared: usize,
    /// Crashes.
    crashes: usize,
    /// Crashes in the middle of a write, which may be torn or lost.
    interrupted: usize,
    /// Log writers that died.
    log_writers_replaced: usize,
    /// Changes of membership that took effect, on any replica.
    changes: usize,
    /// Proposals that were appended, and whose place another leader's entry took.
    overwritten: usize,
    /// Durable entries read for slow followers.
    fetches: usize,
    /// Disks that stood still for a while.
    stalls: usize,
    /// Disks that were full for a while.
    full: usize,
    /// Writes that failed, after which nothing is acknowledged until a restart.
    disks_failed: usize,
    /// Bits flipped on disks.
    flips: usize,
    /// Replicas taken out of service because damage was found.
    faulted: usize,
    /// Nodes that came back on an empty disk.
    wiped: usize,
    /// Messages of nodes without their memory that were refused.
    refused_wiped: usize,
    /// Nodes without their memory that were replaced by a new replica.
    rejoined: usize,
    /// Processes that stood still for a while.
    pauses: usize,
    /// Wall clocks that jumped.
    clock_jumps: usize,
}
