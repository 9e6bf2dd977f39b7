//! What the binary writes to its log, in a build without traces.
#![cfg(not(feature = "otlp"))]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Goal: `--log-format json` makes each line an object, and who asks a build without traces for them is
/// told. Method: the first line of a process that is asked.
#[test]
fn lines_are_objects_and_missing_traces_are_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_polyraft"))
        .args(["dev", "--log-format", "json", "--keyspaces", "1", "--client-port", "31379"])
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:4317")
        .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
        .env_remove("RUST_LOG")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut first = String::new();
    let read = BufReader::new(process.stderr.take().expect("asked for")).read_line(&mut first);
    process.kill().and_then(|()| process.wait()).expect("it is ours");
    read.expect("text");
    let line: serde_json::Value = serde_json::from_str(&first).expect(&first);
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["variable"], "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
    assert_eq!(line["message"], "traces are not exported: built without the feature `otlp`");
}
