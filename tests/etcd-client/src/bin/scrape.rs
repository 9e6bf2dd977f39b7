//! Scrapes the nodes of clusters with few and with many keyspaces, under load and while a disk stands
//! still (OB-1, OB-2).
//!
//! ```text
//! scrape --binary PATH/polyraft [--groups 10,1000] [--scrapes N] [--limit-ms T] [--dir DIR]
//! cluster, traffic → N scrapes per node → disk of one stands still → N scrapes of it → promtool
//! ```
//!
//! Fails unless each node has as many series with few keyspaces as with many, and at most 3,000; no scrape
//! takes longer than the limit (100 ms); and `promtool check metrics` finds nothing.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use polyraft_etcd_client_tests::arguments::Arguments;
use polyraft_etcd_client_tests::stage::{Layout, Stage};
use polyraft_etcd_client_tests::table::table;
use polyraft_etcd_client_tests::traffic::Amount;
use polyraft_etcd_client_tests::{admin, outcome};
use tokio::io::AsyncWriteExt;

const SERIES_MAX: usize = 3_000;
const PROMTOOL: &str = "/usr/bin/promtool";
/// As often as a scrape is taken: nobody scrapes more often than every second.
const SCRAPE_PAUSE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(120);
/// Traffic before the first scrape that counts, so that everything has happened once.
const WARM_UP: Duration = Duration::from_secs(10);
const STALL: &str = r#"{"kind":"disk","store":"both","stall":true}"#;

#[tokio::main]
async fn main() -> ExitCode {
    outcome::exit_code("scrape", run().await)
}

/// Whether every promise held.
async fn run() -> Result<bool, Box<dyn Error>> {
    let known = ["binary", "groups", "scrapes", "limit-ms", "dir"];
    let arguments = Arguments::parse(std::env::args().skip(1), &known)?;
    let binary = std::path::absolute(arguments.require::<PathBuf>("binary")?)?;
    let limit = Duration::from_millis(arguments.get_or("limit-ms", 100)?);
    let scrapes = arguments.get_or("scrapes", 25_usize)?;
    let scratch = tempfile::tempdir()?;
    let dir = std::path::absolute(arguments.get_or("dir", scratch.path().to_path_buf())?)?;
    let (mut rows, mut sizes) = (Vec::new(), Vec::new());
    let mut is_good = true;
    for groups in arguments.get_or("groups", "10,1000".to_owned())?.split(',') {
        let dir = dir.join(groups);
        for node in measure(&binary, dir, groups.parse()?, scrapes).await? {
            is_good &= node.is_good(limit);
            rows.push(node.cells(groups));
            sizes.push(node.series);
        }
    }
    let head = ["keyspaces", "node", "series", "load p50/max ms", "stalled p50/max ms", "promtool"];
    print!("{}", table(&head, &rows));
    let differing = differences(&sizes);
    for series in &differing {
        println!("not everywhere: {series}");
    }
    Ok(is_good && differing.is_empty())
}

/// One node's scrapes.
struct Measured {
    node: usize,
    series: BTreeSet<String>,
    under_load: Vec<Duration>,
    while_stalled: Vec<Duration>,
    complaints: String,
}

impl Measured {
    fn is_good(&self, limit: Duration) -> bool {
        let mut all = self.under_load.iter().chain(&self.while_stalled);
        all.all(|took| *took <= limit)
            && self.series.len() <= SERIES_MAX
            && self.complaints.is_empty()
    }

    fn cells(&self, groups: &str) -> Vec<String> {
        let complaints = if self.complaints.is_empty() { "clean" } else { &self.complaints };
        vec![
            groups.to_owned(),
            self.node.to_string(),
            self.series.len().to_string(),
            spread(&self.under_load),
            spread(&self.while_stalled),
            complaints.trim_end().to_owned(),
        ]
    }
}

async fn measure(
    binary: &Path,
    dir: PathBuf,
    groups: u64,
    scrapes: usize,
) -> Result<Vec<Measured>, Box<dyn Error>> {
    let (keyspaces, began) = (usize::try_from(groups)?, Instant::now());
    let pause = Duration::from_millis(5);
    let traffic = Amount { keyspaces, clients: 16, pause, value_bytes: 128 };
    let layout = Layout { name: "scrape", keyspaces: groups, profile: "dev", tables: "", traffic };
    let stage = Stage::start(binary, dir, layout).await?;
    outcome::wait("every keyspace has a leader", PATIENCE, async || {
        let known = admin::keyspaces(stage.cluster.admin(0)).await.unwrap_or_default();
        known.len() == keyspaces && known.iter().all(|keyspace| keyspace.leader.is_some())
    })
    .await?;
    println!("{groups} keyspaces are led, {:.0} s after the start", began.elapsed().as_secs_f64());
    tokio::time::sleep(WARM_UP).await;
    let mut nodes = Vec::new();
    for at in 0..3 {
        let address = stage.cluster.admin(at);
        let before = stage.answered();
        let under_load = scrape(address, scrapes).await?;
        if stage.answered() == before {
            return Err("there was no load while it was scraped".into());
        }
        stage.inject(at, STALL).await?;
        let while_stalled = scrape(address, scrapes).await?;
        let text = admin::metrics(address).await?;
        stage.end_faults(at).await?;
        if !text.lines().any(|line| line == "polyraft_faults_in_force 1") {
            return Err("the disk's stall was not in force while it was scraped".into());
        }
        let complaints = promtool(&text).await?;
        nodes.push(Measured {
            node: at + 1,
            series: series(&text),
            under_load,
            while_stalled,
            complaints,
        });
    }
    Ok(nodes)
}

async fn scrape(address: &str, times: usize) -> Result<Vec<Duration>, admin::AdminError> {
    let mut took = Vec::new();
    for _ in 0..times {
        let began = Instant::now();
        admin::metrics(address).await?;
        took.push(began.elapsed());
        tokio::time::sleep(SCRAPE_PAUSE).await;
    }
    Ok(took)
}

/// What `promtool check metrics` has to say; nothing, if all is well.
async fn promtool(text: &str) -> Result<String, Box<dyn Error>> {
    let mut command = tokio::process::Command::new(PROMTOOL);
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().ok_or("promtool has no input")?;
    input.write_all(text.as_bytes()).await?;
    drop(input);
    let output = child.wait_with_output().await?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok(if output.status.success() { said } else { format!("{}: {said}", output.status) })
}

/// The series of a scrape: what stands before the values.
fn series(text: &str) -> BTreeSet<String> {
    let values = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    values.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

/// Series that some nodes have and others lack, but for the numbers of nodes in labels.
fn differences(sizes: &[BTreeSet<String>]) -> BTreeSet<String> {
    let all: BTreeSet<_> = sizes.iter().flatten().map(|series| without_peer(series)).collect();
    let has = |node: &BTreeSet<String>, wanted: &String| {
        node.iter().any(|series| without_peer(series) == *wanted)
    };
    all.into_iter().filter(|wanted| !sizes.iter().all(|node| has(node, wanted))).collect()
}

/// A series with `peer="2"` replaced by `peer="N"`: a node has none of itself.
fn without_peer(series: &str) -> String {
    let Some((before, value)) = series.split_once("peer=\"") else { return series.to_owned() };
    let after = value.split_once('"').map_or("", |(_, after)| after);
    format!("{before}peer=\"N\"{after}")
}

fn spread(took: &[Duration]) -> String {
    let mut sorted = took.to_vec();
    sorted.sort();
    let ms = |at: usize| sorted.get(at).map_or(f64::NAN, |d| d.as_secs_f64() * 1_000.0);
    format!("{:.1} / {:.1}", ms(sorted.len() / 2), ms(sorted.len().saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_told_apart_by_name_and_labels_but_not_by_peer() {
        let text = "# HELP a b\na{peer=\"2\",x=\"y z\"} 1\nb 2\n\n";
        assert_eq!(series(text), ["a{peer=\"2\",x=\"y z\"}".to_owned(), "b".to_owned()].into());
        let other = series("a{peer=\"1\",x=\"y z\"} 5\nb 1\nc 1\n");
        assert_eq!(differences(&[series(text), other]), ["c".to_owned()].into());
    }

    #[test]
    fn a_spread_is_median_and_maximum() {
        let took: Vec<_> = [3, 1, 20].map(Duration::from_millis).into();
        assert_eq!(spread(&took), "3.0 / 20.0");
    }
}
