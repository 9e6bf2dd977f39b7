//! The same load on two systems in turn: puts per second, latency, and the servers' processor time.
//!
//! ```text
//! round: probe → [etcd: clients 1, 64, 1,000] → [polyraft: clients 1, 64, 1,000] → probe → …
//! ```
//!
//! Alternating in one run, because what a sync costs varies from one minute to the next. Each client
//! puts keys of its own, one at a time; its answers are timed from the call to the response. Clients
//! spread over all nodes, the first at the leader's. Both systems are three processes on the loopback
//! interface, and both sync every write.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, Error};

use crate::endpoints::connect;

/// Load before the measured part.
const WARM_UP: Duration = Duration::from_secs(1);
/// Clients share connections, this many at the most: a thousand applications would not each have
/// one core of a laptop for its handshakes.
const CONNECTIONS_MAX: usize = 32;
/// The kernel counts a process's time in these for user space (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// What is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutLoad {
    /// Clients, each with one put in flight.
    pub clients: usize,
    /// Measured seconds.
    pub seconds: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
}

/// What one system made of one load.
#[derive(Debug, Clone, PartialEq)]
pub struct PutFigures {
    /// The system.
    pub system: &'static str,
    /// Which turn this was, from 1.
    pub round: usize,
    /// The load.
    pub clients: usize,
    /// Puts acknowledged while measuring.
    pub puts: usize,
    /// Puts per second.
    pub puts_per_second: f64,
    /// Half of the puts took no longer.
    pub p50: Duration,
    /// All puts but a hundredth took no longer.
    pub p99: Duration,
    /// Processor time of the three servers per put.
    pub cpu_per_put: Duration,
    /// Puts that failed.
    pub failed: usize,
    /// Median of a page write and its sync on the servers' disk, just before.
    pub sync: Duration,
}

/// Runs one load against `endpoints`, served by the processes `servers`.
///
/// # Errors
/// No connection can be made, or the servers' time cannot be read.
pub async fn measure(
    system: &'static str,
    round: usize,
    endpoints: &[String],
    servers: &[u32],
    load: PutLoad,
    sync: Duration,
) -> Result<PutFigures, Error> {
    let connections = connections(endpoints, load.clients).await?;
    let (measuring, stopped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let value = vec![b'v'; load.value_bytes];
    let clients: Vec<_> = (0..load.clients)
        .map(|number| PutClient {
            client: connections[number % connections.len()].clone(),
            prefix: format!("cmp/{round}/{}/{number}", load.clients),
            value: value.clone(),
            measuring: measuring.clone(),
            stopped: stopped.clone(),
        })
        .map(|client| tokio::spawn(client.run()))
        .collect();
    tokio::time::sleep(WARM_UP).await;
    let (began, cpu_before) = (Instant::now(), processor_seconds(servers)?);
    measuring.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(load.seconds)).await;
    measuring.store(false, Ordering::Relaxed);
    let (took, cpu_after) = (began.elapsed(), processor_seconds(servers)?);
    stopped.store(true, Ordering::Relaxed);
    let (mut latencies, mut failed) = (Vec::new(), 0);
    for client in clients {
        let (own, own_failed) = client.await.expect("a client never panics");
        latencies.extend(own);
        failed += own_failed;
    }
    latencies.sort_unstable();
    let puts = latencies.len();
    Ok(PutFigures {
        system,
        round,
        clients: load.clients,
        puts,
        puts_per_second: puts as f64 / took.as_secs_f64(),
        p50: quantile(&latencies, 0.5),
        p99: quantile(&latencies, 0.99),
        cpu_per_put: Duration::from_secs_f64((cpu_after - cpu_before) / puts.max(1) as f64),
        failed,
        sync,
    })
}

/// Puts the leader's endpoint first: a lone client speaks to the leader, in both systems.
///
/// # Errors
/// An endpoint does not tell its status.
pub async fn leader_first(endpoints: &mut [String]) -> Result<(), Error> {
    for at in 0..endpoints.len() {
        let status = connect(&endpoints[at]).await?.status().await?;
        if status.header().is_some_and(|header| header.member_id() == status.leader()) {
            endpoints.swap(0, at);
        }
    }
    Ok(())
}

/// Connections that spread over every endpoint.
async fn connections(endpoints: &[String], clients: usize) -> Result<Vec<Client>, Error> {
    let len = clients.min(CONNECTIONS_MAX);
    let mut connections = Vec::with_capacity(len);
    for endpoint in endpoints.iter().cycle().take(len) {
        connections.push(connect(endpoint).await?);
    }
    Ok(connections)
}

/// One client of a load.
struct PutClient {
    client: Client,
    prefix: String,
    value: Vec<u8>,
    measuring: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
}

impl PutClient {
    /// Puts until stopped; returns the measured latencies, and how many measured puts failed.
    async fn run(mut self) -> (Vec<Duration>, usize) {
        let (mut latencies, mut failed, mut sequence) = (Vec::new(), 0, 0_u64);
        while !self.stopped.load(Ordering::Relaxed) {
            let key = format!("{}/{sequence}", self.prefix);
            sequence += 1;
            let began = Instant::now();
            let outcome = self.client.put(key, self.value.clone(), None).await;
            let is_measured = self.measuring.load(Ordering::Relaxed);
            match outcome {
                Ok(_) if is_measured => latencies.push(began.elapsed()),
                Ok(_) => {}
                Err(_) => {
                    failed += usize::from(is_measured);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        (latencies, failed)
    }
}

/// The value below which the share `q` of `sorted` lies.
fn quantile(sorted: &[Duration], q: f64) -> Duration {
    let at = (sorted.len() as f64 * q) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// Processor seconds of `processes` so far, together.
fn processor_seconds(processes: &[u32]) -> Result<f64, Error> {
    let mut ticks = 0;
    for process in processes {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat");
        ticks += processor_ticks(&stat).ok_or_else(malformed)?;
    }
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// Fields 14 and 15; the second field may hold spaces, but ends with the last parenthesis.
fn processor_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

/// The median duration of overwriting one page of a file in `dir` and syncing its data.
///
/// # Errors
/// The file cannot be written.
pub fn sync_median(dir: &Path) -> io::Result<Duration> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(dir.join("sync-probe"))?;
    let mut took = Vec::new();
    for _ in 0..65 {
        let began = Instant::now();
        file.write_all_at(&[0x5a; 4_096], 0)?;
        file.sync_data()?;
        took.push(began.elapsed());
    }
    took.sort();
    Ok(took[took.len() / 2])
}

impl PutFigures {
    /// The table's head.
    pub fn header() -> String {
        format!(
            "{:<9} {:>5} {:>7} {:>9} {:>9} {:>9} {:>10} {:>6} {:>8}",
            "system",
            "round",
            "clients",
            "puts/s",
            "p50 ms",
            "p99 ms",
            "CPU/put",
            "failed",
            "sync ms"
        )
    }

    /// The table's line for these figures.
    pub fn line(&self) -> String {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        format!(
            "{:<9} {:>5} {:>7} {:>9.0} {:>9.2} {:>9.2} {:>8.1}µs {:>6} {:>8.2}",
            self.system,
            self.round,
            self.clients,
            self.puts_per_second,
            ms(self.p50),
            ms(self.p99),
            self.cpu_per_put.as_secs_f64() * 1e6,
            self.failed,
            ms(self.sync)
        )
    }

    /// The same as one JSON object; its names and numbers need no escapes.
    pub fn json(&self) -> String {
        let us = |duration: Duration| duration.as_micros();
        format!(
            "{{\"system\":\"{}\",\"round\":{},\"clients\":{},\"puts\":{},\"puts_per_second\":{:.1},\
             \"p50_us\":{},\"p99_us\":{},\"cpu_ns_per_put\":{},\"failed\":{},\"sync_us\":{}}}",
            self.system,
            self.round,
            self.clients,
            self.puts,
            self.puts_per_second,
            us(self.p50),
            us(self.p99),
            self.cpu_per_put.as_nanos(),
            self.failed,
            us(self.sync)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_and_of_none() {
        let ms = Duration::from_millis;
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
        assert_eq!(quantile(&[ms(7)], 0.99), ms(7));
        let hundred: Vec<_> = (0..100).map(ms).collect();
        assert_eq!((quantile(&hundred, 0.5), quantile(&hundred, 0.99)), (ms(50), ms(99)));
    }

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a) b 1) S 1 7 7 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 4 0 99 1 2";
        assert_eq!(processor_ticks(stat), Some(42));
        assert_eq!(processor_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn lines_fit_under_the_head() {
        let figures = PutFigures {
            system: "polyraft",
            round: 1,
            clients: 1_000,
            puts: 10,
            puts_per_second: 10_457.0,
            p50: Duration::from_millis(85),
            p99: Duration::from_millis(120),
            cpu_per_put: Duration::from_micros(145),
            failed: 0,
            sync: Duration::from_micros(120),
        };
        let (header, line) = (PutFigures::header(), figures.line());
        assert_eq!(header.chars().count(), line.chars().count(), "\n{header}\n{line}");
        assert!(figures.json().contains("\"cpu_ns_per_put\":145000,"), "{}", figures.json());
    }
}
