//! Goal: what replicas do, step by step, is what was reviewed.
//!
//! Method: replay every file of `testdata`; see `polyraft_tests::trace`. Rewrite them with
//! `UPDATE_TRACES=1 cargo test -p polyraft-tests --test traces`, and review the diff.

use std::path::{Path, PathBuf};

use polyraft_tests::trace;

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let entries = std::fs::read_dir(folder).expect("testdata is beside this crate's manifest");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    files
}

/// The first line that differs, with what was expected and found.
fn difference(expected: &str, found: &str) -> String {
    let pairs = expected.lines().zip(found.lines()).enumerate();
    let first = pairs.into_iter().find(|(_, (expected, found))| expected != found);
    match first {
        Some((at, (expected, found))) => {
            format!("line {}:\n  expected: {expected}\n  found:    {found}", at + 1)
        }
        None => "one is longer than the other".into(),
    }
}

#[test]
fn every_trace_replays() {
    let files = files();
    assert!(files.len() >= 25, "{} traces", files.len());
    let update = std::env::var_os("UPDATE_TRACES").is_some();
    let mut wrong = Vec::new();
    for path in files {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("readable");
        // A panic of the core is this trace's failure and no other's; its message is printed above.
        match std::panic::catch_unwind(|| trace::replay(&text)) {
            Ok(Ok(found)) if update => std::fs::write(&path, found).expect("writable"),
            Ok(Ok(found)) if found == text => {}
            Ok(Ok(found)) => wrong.push(format!("{name}, {}", difference(&text, &found))),
            Ok(Err(error)) => wrong.push(format!("{name}: {error}")),
            Err(_) => wrong.push(format!("{name}: panicked")),
        }
    }
    assert!(wrong.is_empty(), "{} trace(s) differ:\n{}", wrong.len(), wrong.join("\n"));
}
