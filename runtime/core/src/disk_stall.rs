//! Disk stall: how long appends have waited for the disk without any of them becoming durable.
//!
//! Promise: time counts only while something waits, and starts anew with every append of the node that
//! becomes durable: a disk that is busy is not one that stands still. Not here: what a leader does about
//! it (`Replica::successor_if_unfit`).

/// Counts the ticks without progress.
#[derive(Debug, Default)]
pub(crate) struct DiskStall {
    ticks: u64,
}

impl DiskStall {
    /// One tick has passed; returns for how many ticks something has waited.
    pub fn on_tick(&mut self, is_waiting: bool) -> u64 {
        self.ticks = if is_waiting { self.ticks + 1 } else { 0 };
        self.ticks
    }

    /// For how many ticks something has waited.
    pub fn ticks(&self) -> u64 {
        self.ticks
    }

    /// Something became durable.
    pub fn ended(&mut self) {
        self.ticks = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_waiting_counts() {
        let mut stall = DiskStall::default();
        assert_eq!([true, true, false, true].map(|waits| stall.on_tick(waits)), [1, 2, 0, 1]);
    }

    #[test]
    fn progress_starts_anew_although_more_waits() {
        let mut stall = DiskStall::default();
        stall.on_tick(true);
        stall.on_tick(true);
        stall.ended();
        assert_eq!(stall.on_tick(true), 1);
    }
}
