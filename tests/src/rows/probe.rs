//! What a row's figures are read against beside the price of a sync: this process's memory, and the time
//! that a virtual machine's host gave to others.

use std::fs;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::report::{Report, mib};

/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(50);

/// Bytes of this process's own memory: resident and anonymous, without the pages of mapped files,
/// which the system takes back when it needs them.
///
/// # Panics
/// The system does not say.
pub fn anonymous_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a process has a status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("the kernel counts anonymous pages") * 1_024
}

/// Processor time that the host of this virtual machine has taken from it so far, of all cores.
///
/// # Panics
/// The system does not say.
pub fn stolen() -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string("/proc/stat").expect("a system has statistics");
    let ticks = stat.split_whitespace().nth(8).and_then(|ticks| ticks.parse().ok());
    TICK * ticks.expect("the kernel counts stolen time")
}

/// Watches this process's memory from a thread of its own.
pub struct MemoryWatch {
    stop: Sender<()>,
    thread: JoinHandle<Vec<u64>>,
    before: u64,
}

/// How this process's memory went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryCurve {
    /// When the watch began, in bytes.
    pub before: u64,
    /// One look after the other, in bytes.
    pub looks: Vec<u64>,
}

impl MemoryWatch {
    /// Begins.
    ///
    /// # Panics
    /// No thread can be started.
    pub fn start() -> Self {
        let (stop, stopped) = channel();
        let before = anonymous_bytes();
        let thread = std::thread::spawn(move || look_until(&stopped));
        Self { stop, thread, before }
    }

    /// Ends.
    ///
    /// # Panics
    /// The watch has panicked.
    pub fn stop(self) -> MemoryCurve {
        drop(self.stop);
        let looks = self.thread.join().expect("it only reads and counts");
        MemoryCurve { before: self.before, looks }
    }
}

fn look_until(stopped: &Receiver<()>) -> Vec<u64> {
    let mut looks = vec![anonymous_bytes()];
    while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        looks.push(anonymous_bytes());
    }
    looks
}

impl MemoryCurve {
    /// The most that was seen, in bytes.
    pub fn peak(&self) -> u64 {
        self.looks.iter().copied().max().unwrap_or(self.before)
    }

    /// The median of the `n`th quarter of the run, from 0.
    fn quarter(&self, n: usize) -> u64 {
        let len = self.looks.len();
        let mut looks = self.looks[len * n / 4..len * (n + 1) / 4].to_vec();
        looks.sort_unstable();
        looks.get(looks.len() / 2).copied().unwrap_or(self.before)
    }

    /// Adds the figures, and the condition that the run took at most `bound` bytes more than before.
    pub fn report_bound(&self, report: &mut Report, bound: u64) {
        let grown = self.peak().saturating_sub(self.before);
        report.figure("anonymous memory before, peak", self.words());
        let wanted = format!("at most {}", mib(bound));
        report.check("memory taken at the peak", mib(grown), wanted, grown <= bound);
    }

    /// Adds the condition that memory does not grow any more from the second quarter to the last:
    /// by a tenth and 16 MiB at most, which is what an allocator does on its own.
    pub fn report_flat(&self, report: &mut Report) {
        let (second, last) = (self.quarter(1), self.quarter(3));
        let bound = second + second / 10 + (16 << 20);
        let seen = format!("{} then {}", mib(second), mib(last));
        let wanted = format!("at most {}", mib(bound));
        report.check("memory, second and last quarter", seen, wanted, last <= bound);
    }

    fn words(&self) -> String {
        format!("{}, {}", mib(self.before), mib(self.peak()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_growing_curve_is_not_flat_and_a_high_one_is_not_bounded() {
        let verdict = |looks: Vec<u64>| {
            let curve = MemoryCurve { before: 0, looks };
            let (mut flat, mut bound) = (Report::new(""), Report::new(""));
            curve.report_flat(&mut flat);
            curve.report_bound(&mut bound, 100 << 20);
            (flat.passes(), bound.passes())
        };
        assert_eq!(verdict(vec![50 << 20; 8]), (true, true));
        assert_eq!(verdict(vec![150 << 20; 8]), (true, false));
        assert_eq!(verdict((1..=8).map(|n| (n * 12) << 20).collect()), (false, true));
    }

    #[test]
    fn memory_that_is_written_to_is_seen() {
        let watch = MemoryWatch::start();
        let block = vec![1_u8; 64 << 20];
        let held = anonymous_bytes();
        let curve = watch.stop();
        assert!(block.iter().all(|byte| *byte == 1));
        assert!(held >= curve.before + (60 << 20), "{held} after {}", curve.before);
    }
}
