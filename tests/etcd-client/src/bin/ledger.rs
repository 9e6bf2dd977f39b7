//! `ledger put-load` writes to a cluster and records what it acknowledged; `ledger verify` checks
//! that it is all still there, once.
//!
//! ```text
//! ledger put-load --endpoints a,b,c --seconds N --clients K --ledger FILE
//! ledger verify   --endpoints a,b,c --ledger FILE
//! ```

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use polyraft_etcd_client_tests::arguments::Arguments;
use polyraft_etcd_client_tests::{ledger, load, verify};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ledger: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything is as it should be.
async fn run() -> Result<bool, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let known = ["endpoints", "seconds", "clients", "ledger"];
    let arguments = Arguments::parse(arguments, &known)?;
    let endpoints = arguments.list("endpoints")?;
    let path: PathBuf = arguments.require("ledger")?;
    match command.as_str() {
        "put-load" => {
            let seconds = arguments.get_or("seconds", 10)?;
            put_load(&endpoints, seconds, arguments.get_or("clients", 16)?, path).await
        }
        "verify" => {
            let verdict = verify::verify(&ledger::read(&path)?, &endpoints).await?;
            println!("{verdict}");
            Ok(verdict.violations.is_empty())
        }
        _ => Err("usage: ledger put-load|verify --endpoints a,b,c --ledger FILE …".into()),
    }
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
