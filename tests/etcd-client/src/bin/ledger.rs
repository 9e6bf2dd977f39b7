//! `ledger put-load` writes to a cluster and records what it acknowledged; `ledger verify` checks
//! that it is all still there, once. `ledger compare` puts the same load on etcd and on polyraft in
//! turn; `ledger keyspaces` writes to every keyspace of a cluster.
//!
//! ```text
//! ledger put-load  --endpoints a,b,c --seconds N --clients K --ledger FILE
//! ledger verify    --endpoints a,b,c --ledger FILE
//! ledger compare   --binary PATH/polyraft --etcd PATH/etcd [--clients 1,64,1000] [--rounds N]
//!                  [--seconds N] [--value-bytes N] [--dir DIR] [--out FILE]
//! ledger keyspaces --endpoints a,b,c --count N --within-ms N
//! ```

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use polyraft_etcd_client_tests::arguments::Arguments;
use polyraft_etcd_client_tests::comparison::{self, PutFigures, PutLoad};
use polyraft_etcd_client_tests::etcd_process::EtcdCluster;
use polyraft_etcd_client_tests::node_process::{Cluster, wait_until_serving};
use polyraft_etcd_client_tests::outcome;
use polyraft_etcd_client_tests::{keyspaces, ledger, load, verify};

#[tokio::main]
async fn main() -> ExitCode {
    outcome::exit_code("ledger", run().await)
}

/// Whether everything is as it should be.
async fn run() -> Result<bool, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let known: &[&str] = match command.as_str() {
        "put-load" => &["endpoints", "seconds", "clients", "ledger"],
        "verify" => &["endpoints", "ledger"],
        "compare" => {
            &["binary", "etcd", "clients", "rounds", "seconds", "value-bytes", "dir", "out"]
        }
        "keyspaces" => &["endpoints", "count", "within-ms"],
        _ => return Err("usage: ledger put-load|verify|compare|keyspaces --name value …".into()),
    };
    let arguments = Arguments::parse(arguments, known)?;
    match command.as_str() {
        "put-load" => {
            let seconds = arguments.get_or("seconds", 10)?;
            let clients = arguments.get_or("clients", 16)?;
            let (endpoints, path) = (arguments.list("endpoints")?, arguments.require("ledger")?);
            put_load(&endpoints, seconds, clients, path).await
        }
        "verify" => {
            let path: PathBuf = arguments.require("ledger")?;
            let endpoints = arguments.list("endpoints")?;
            let verdict = verify::verify(&ledger::read(&path)?, &endpoints).await?;
            println!("{verdict}");
            Ok(verdict.violations.is_empty())
        }
        "compare" => compare(&arguments).await,
        _ => visit_keyspaces(&arguments).await,
    }
}

/// Puts the same loads on both systems in turn; prints and keeps the figures.
async fn compare(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    let dir = std::path::absolute(arguments.get_or("dir", scratch.path().to_path_buf())?)?;
    std::fs::create_dir_all(&dir)?;
    let clients = arguments.get_or("clients", "1,64,1000".to_owned())?;
    let clients: Vec<usize> = clients.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let seconds = arguments.get_or("seconds", 5)?;
    let value_bytes = arguments.get_or("value-bytes", 128)?;
    let binary = std::path::absolute(arguments.require::<PathBuf>("binary")?)?;
    let mut etcd = EtcdCluster::prepare(&arguments.require::<PathBuf>("etcd")?, &dir)?;
    etcd.start()?;
    let mut polyraft = Cluster::prepare(&binary, &dir, &[1])?;
    (0..3).try_for_each(|at| polyraft.start(at))?;
    let mut systems = [
        ("etcd", etcd.endpoints().to_vec(), etcd.process_ids()),
        ("polyraft", polyraft.endpoints().to_vec(), polyraft.process_ids()),
    ];
    for (_, endpoints, _) in &mut systems {
        for endpoint in endpoints.iter() {
            wait_until_serving(endpoint).await?;
        }
        comparison::leader_first(endpoints).await?;
    }
    println!("{}", PutFigures::header());
    let mut all = Vec::new();
    for round in 1..=arguments.get_or("rounds", 3)? {
        for clients in &clients {
            let load = PutLoad { clients: *clients, seconds, value_bytes };
            for (system, endpoints, servers) in &systems {
                let sync = comparison::sync_median(&dir)?;
                let figures =
                    comparison::measure(system, round, endpoints, servers, load, sync).await?;
                println!("{}", figures.line());
                all.push(figures.json());
            }
        }
    }
    if let Ok(out) = arguments.require::<PathBuf>("out") {
        std::fs::write(out, format!("[\n{}\n]\n", all.join(",\n")))?;
    }
    Ok(true)
}

/// Writes to every keyspace of a running cluster, and says how long the slowest took.
async fn visit_keyspaces(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let (endpoints, count) = (arguments.list("endpoints")?, arguments.require("count")?);
    let within = Duration::from_millis(arguments.require("within-ms")?);
    let took = keyspaces::visit(&endpoints, count, within).await?;
    println!("keyspaces: {count} of {count} took a put and gave it back, after {took:?}");
    Ok(true)
}

/// Runs a load; one that had nothing acknowledged proved nothing.
async fn put_load(
    endpoints: &[String],
    seconds: u64,
    clients: usize,
    path: PathBuf,
) -> Result<bool, Box<dyn Error>> {
    let load = load::Load::open(&path)?;
    let running = load::start(&load, clients, endpoints);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    load::finish(&load, running).await?;
    println!(
        "load: {} acknowledged, {} unknown, {} connections refused",
        load.acknowledged(),
        load.unknown(),
        load.refused()
    );
    Ok(load.acknowledged() > 0)
}
