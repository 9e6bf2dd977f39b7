//! Process figures: what the kernel says of this process.
//!
//! ```text
//! /proc/self/{stat, status, limits, fd}, /proc/stat ─parse→ ProcessFigures → gauges
//! ```
//!
//! Where there is no such file nothing is exported. Source: proc(5).

use std::fs;

/// This process, as of now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ProcessFigures {
    cpu_seconds: u64,
    resident_bytes: u64,
    threads: u64,
    started_at: f64,
    open_fds: u64,
    max_fds: u64,
}

/// In which the kernel tells times to processes: `USER_HZ`, the same on every architecture of Linux
/// but Alpha and ia64.
const TICKS_PER_SECOND: u64 = 100;

/// What else is needed to make sense of `stat`.
#[derive(Debug, Clone, Copy)]
struct Others {
    resident_bytes: u64,
    /// Seconds from 1970 to the boot.
    booted_at: u64,
    open_fds: u64,
    max_fds: u64,
}

impl ProcessFigures {
    /// Reads them; `None` where the kernel has no such files.
    pub(crate) fn read() -> Option<Self> {
        let others = Others {
            resident_bytes: resident_bytes(&fs::read_to_string("/proc/self/status").ok()?)?,
            booted_at: boot_time(&fs::read_to_string("/proc/stat").ok()?)?,
            open_fds: fs::read_dir("/proc/self/fd").ok()?.count() as u64,
            max_fds: max_fds(&fs::read_to_string("/proc/self/limits").ok()?)?,
        };
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?, others)
    }

    fn parse(stat: &str, others: Others) -> Option<Self> {
        // The name may hold anything, blanks and parentheses included; the state follows the last.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let started = number(19)? as f64 / TICKS_PER_SECOND as f64;
        Some(Self {
            cpu_seconds: (number(11)? + number(12)?) / TICKS_PER_SECOND,
            threads: number(17)?,
            started_at: others.booted_at as f64 + started,
            resident_bytes: others.resident_bytes,
            open_fds: others.open_fds,
            max_fds: others.max_fds,
        })
    }

    /// Exports them.
    pub(crate) fn record(&self) {
        metrics::counter!("polyraft_process_cpu_seconds_total").absolute(self.cpu_seconds);
        metrics::gauge!("polyraft_process_resident_bytes").set(self.resident_bytes as f64);
        metrics::gauge!("polyraft_process_threads").set(self.threads as f64);
        metrics::gauge!("polyraft_process_open_fds").set(self.open_fds as f64);
        metrics::gauge!("polyraft_process_max_fds").set(self.max_fds as f64);
        metrics::gauge!("polyraft_process_start_timestamp_seconds").set(self.started_at);
    }
}

fn boot_time(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// The soft limit; the largest number there is for none.
fn max_fds(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_the_end_of_the_name() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 900 0 1 0 250 150 0 0 20 0 12 0 5000 \
                    900000 300 18446744073709551615 1 1 0 0";
        let others =
            Others { resident_bytes: 5_000, booted_at: 1_000, open_fds: 3, max_fds: 1_024 };
        let expected = ProcessFigures {
            cpu_seconds: 4,
            resident_bytes: 5_000,
            threads: 12,
            started_at: 1_050.0,
            open_fds: 3,
            max_fds: 1_024,
        };
        assert_eq!(ProcessFigures::parse(stat, others), Some(expected));
        assert_eq!(ProcessFigures::parse("7 (a) S 1", others), None);
    }

    #[test]
    fn limits_and_boot_time_are_found_by_name() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  4096  files\n";
        assert_eq!(max_fds(limits), Some(1_024));
        assert_eq!(max_fds("Max open files  unlimited  unlimited  files"), Some(u64::MAX));
        assert_eq!(resident_bytes("Name: a\nVmRSS:\t    1200 kB\n"), Some(1_228_800));
        assert_eq!(boot_time("cpu 1 2 3\nbtime 1700000000\nprocesses 5\n"), Some(1_700_000_000));
    }

    #[test]
    fn this_process_has_figures() {
        let figures = ProcessFigures::read().expect("Linux has them");
        assert!(figures.resident_bytes > 100_000 && figures.threads > 0, "{figures:?}");
        assert!(figures.open_fds > 0 && figures.open_fds < figures.max_fds, "{figures:?}");
        assert!(figures.started_at > 1_600_000_000.0, "{figures:?}");
    }
}
