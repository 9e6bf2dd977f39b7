//! Golden interaction traces: commands in, what the replicas did out, compared with a file.
//!
//! ```text
//! # why this trace is here
//! propose n1 a            ← commands, one per line
//! persist n1
//! ----
//! n1 proposed #1 "a"      ← what happened, in the pipeline's words
//! n1 persisted 3
//!                         ← an empty line ends the block
//! ```
//!
//! `UPDATE_TRACES=1` rewrites what stands below each `----`; the diff is then reviewed like code.
//! Source: the idea of etcd/raft's interaction tests.

mod cluster;
mod command;
mod describe;

use std::fmt::Write as _;

pub use cluster::TracedCluster;
pub(crate) use describe::envelope as describe_sent;

/// One block of a trace: comments, commands, and what they print.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    comments: Vec<String>,
    commands: Vec<String>,
}

/// Runs the commands of a trace and returns the whole file as it should be.
///
/// # Errors
/// The line that is no command, and why.
pub fn replay(text: &str) -> Result<String, TraceError> {
    let mut cluster = TracedCluster::default();
    let mut out = String::new();
    for block in parse(text) {
        for comment in &block.comments {
            out.push_str(comment);
            out.push('\n');
        }
        if block.commands.is_empty() {
            out.push('\n');
            continue;
        }
        for command in &block.commands {
            out.push_str(command);
            out.push('\n');
            cluster.run(command)?;
        }
        out.push_str("----\n");
        for line in cluster.take_lines() {
            writeln!(out, "{line}").expect("a string takes every line");
        }
        out.push('\n');
    }
    Ok(format!("{}\n", out.trim_end()))
}

/// A line that cannot be carried out.
#[derive(Debug, thiserror::Error)]
#[error("`{command}`: {why}")]
pub struct TraceError {
    /// The line.
    pub command: String,
    /// Why not.
    pub why: String,
}

fn parse(text: &str) -> Vec<Block> {
    text.split("\n\n").filter(|block| !block.trim().is_empty()).map(parse_block).collect()
}

fn parse_block(text: &str) -> Block {
    let lines = text.lines().take_while(|line| *line != "----").filter(|line| !line.is_empty());
    let (comments, commands) = lines.map(str::to_owned).partition(|line| line.starts_with('#'));
    Block { comments, commands }
}
