//! Measures requirement rows: `rows list`, `rows ROW…|all [--seconds N] [--out FILE]`.
//!
//! Prints a table per row and exits with failure if a row does not pass. A sync probe before and
//! after says what the disk was like meanwhile.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use polyraft_server::commands::bench_probe::sync_median;
use polyraft_tests::rows::probe::stolen;
use polyraft_tests::rows::report::Report;
use polyraft_tests::rows::{Plan, ROWS, Row};
use serde_json::{Value, json};

const USAGE: &str = "rows list | rows ROW...|all [--seconds N] [--out FILE]";
const SECONDS_DEFAULT: u64 = 10;

struct Arguments {
    rows: Vec<&'static Row>,
    seconds: u64,
    out: Option<String>,
}

fn arguments() -> Result<Arguments, String> {
    let mut parsed = Arguments { rows: Vec::new(), seconds: SECONDS_DEFAULT, out: None };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || given.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--seconds" => {
                let text = value()?;
                parsed.seconds = text.parse().map_err(|_| format!("{text} is no number"))?;
            }
            "--out" => parsed.out = Some(value()?),
            "all" => parsed.rows = ROWS.iter().collect(),
            id => {
                let row = ROWS.iter().find(|row| row.id == id);
                parsed.rows.push(row.ok_or(format!("{id} is no row; try `rows list`"))?);
            }
        }
    }
    if parsed.rows.is_empty() { Err(USAGE.to_owned()) } else { Ok(parsed) }
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("list") {
        ROWS.iter().for_each(|row| println!("{:<6} {}", row.id, row.asked));
        return ExitCode::SUCCESS;
    }
    let outcome = arguments().and_then(|given| measure_all(&given).map_err(|e| e.to_string()));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn measure_all(given: &Arguments) -> io::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("rows-load")
        .enable_all()
        .build()?;
    let (mut measured, mut passes) = (Vec::new(), true);
    for row in &given.rows {
        println!("{} {}", row.id, row.asked);
        let dir = tempfile::tempdir()?;
        let (before, began, stolen_before) = (sync_median(dir.path())?, Instant::now(), stolen());
        let plan = Plan { time: Duration::from_secs(given.seconds) };
        let report = runtime.block_on((row.run)(plan));
        let stolen = stolen().saturating_sub(stolen_before);
        let sync = [before, sync_median(dir.path())?];
        report.print();
        println!("  sync before {:?}, after {:?}; taken by the host {stolen:?}", sync[0], sync[1]);
        let verdict = if report.passes() { "PASS" } else { "FAIL" };
        println!("{} {verdict} after {:.0} s\n", row.id, began.elapsed().as_secs_f64());
        passes &= report.passes();
        measured.push(json_of(row, given.seconds, &report, (sync, stolen)));
    }
    if let Some(out) = &given.out {
        std::fs::write(out, serde_json::to_vec(&measured).expect("it is JSON"))?;
    }
    Ok(passes)
}

fn json_of(
    row: &Row,
    seconds: u64,
    report: &Report,
    (sync, stolen): ([Duration; 2], Duration),
) -> Value {
    let mut value = report.json();
    value["row"] = json!(row.id);
    value["asked"] = json!(row.asked);
    value["seconds"] = json!(seconds);
    value["sync_us"] = json!(sync.map(|sync| sync.as_micros() as u64));
    value["stolen_ms"] = json!(stolen.as_millis() as u64);
    value
}
