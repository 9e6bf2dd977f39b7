//! One process of another system, to be killed and started again with the same command line.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::node_process::ProcessError;

/// A process, running or not; killed when dropped.
pub struct Member {
    binary: PathBuf,
    arguments: Vec<String>,
    output: PathBuf,
    child: Option<Child>,
}

impl Member {
    /// What is run by [`Member::start`]; what it prints is appended to the file `output`.
    pub fn new(binary: PathBuf, arguments: Vec<String>, output: PathBuf) -> Self {
        Self { binary, arguments, output, child: None }
    }

    /// Starts the process.
    ///
    /// # Errors
    /// The system refuses.
    pub fn start(&mut self) -> Result<(), ProcessError> {
        let io = |doing| move |source| ProcessError::Io { doing, source };
        let output = File::options().create(true).append(true).open(&self.output);
        let output = output.map_err(io("opening a member's output"))?;
        let errors = output.try_clone().map_err(io("opening a member's output"))?;
        let mut command = Command::new(&self.binary);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(output).stderr(errors);
        self.child = Some(command.spawn().map_err(io("starting a member"))?);
        Ok(())
    }

    /// Ends the process with SIGKILL; it may have ended already.
    ///
    /// # Errors
    /// The system refuses.
    pub fn end(&mut self) -> Result<(), ProcessError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let io = |doing| move |source| ProcessError::Io { doing, source };
        child.kill().map_err(io("killing a member"))?;
        child.wait().map_err(io("waiting for a killed member")).map(drop)
    }

    /// The process's id, if it was started.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The end of what it printed, for a person.
    pub fn output(&self) -> String {
        let text = std::fs::read_to_string(&self.output).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("left behind: {error}");
        }
    }
}
