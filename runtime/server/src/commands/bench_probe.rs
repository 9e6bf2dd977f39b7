//! The costs that a benchmark's figures are read against: one sync, and the processor's time.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Syncs of one probe; the median of so many is stable, and they take well under a second.
const SYNCS: usize = 64;
/// Bytes written before each sync: a page, as a small commit would.
const PAGE_BYTES: usize = 4_096;
/// The kernel counts a process's time in these for user space (`USER_HZ`), whatever its own clock.
const TICKS_PER_SECOND: u64 = 100;

/// The median duration of overwriting one page of a file in `dir` and syncing its data.
///
/// # Errors
/// The file cannot be written.
pub fn sync_median(dir: &Path) -> io::Result<Duration> {
    let path = dir.join("sync-probe");
    let file = File::create(&path)?;
    let page = [0x5a; PAGE_BYTES];
    file.write_all_at(&page, 0)?;
    file.sync_all()?;
    let mut took = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.write_all_at(&page, 0)?;
        file.sync_data()?;
        took.push(began.elapsed());
    }
    fs::remove_file(&path)?;
    took.sort();
    Ok(took[SYNCS / 2])
}

/// Processor time of this process so far, all threads, user and system, to 10 ms.
///
/// # Errors
/// The system does not say.
pub(super) fn processor_time() -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "/proc/self/stat");
    let ticks = processor_ticks(&stat).ok_or_else(malformed)?;
    Ok(Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND))
}

/// Fields 14 and 15; the second field may hold spaces, but ends with the last parenthesis.
fn processor_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a) b 1) S 1 7 7 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 4 0 99 1 2";
        assert_eq!(processor_ticks(stat), Some(42));
        assert_eq!(processor_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn a_probe_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        assert!(sync_median(dir.path()).unwrap() > Duration::ZERO);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(processor_time().is_ok());
    }
}
