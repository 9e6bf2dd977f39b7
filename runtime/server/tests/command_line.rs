//! Goal: the binary is a good neighbour on a command line. Method: it is run.

use std::process::{Command, Stdio};

/// What `polyraft man` says on its standard error if its output goes to `stdout`.
fn complaint(stdout: impl Into<Stdio>) -> String {
    let mut polyraft = Command::new(env!("CARGO_BIN_EXE_polyraft"));
    let output = polyraft.arg("man").stdout(stdout).output().expect("it starts");
    assert!(!output.status.success());
    String::from_utf8(output.stderr).expect("it speaks UTF-8")
}

#[test]
fn a_reader_that_has_enough_is_no_error_to_tell_of_and_a_full_disk_is() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    assert_eq!(complaint(writer), "");
    let full = std::fs::File::create("/dev/full").expect("Linux has one");
    let complaint = complaint(full);
    assert!(complaint.contains("cannot write the output"), "{complaint}");
}
