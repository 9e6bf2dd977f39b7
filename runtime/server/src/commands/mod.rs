//! The command line.

mod admin_args;
mod bench;
mod bench_cluster;
mod bench_load;
pub mod bench_probe;
mod bench_report;
mod bench_scenario;
mod certs;
mod chaos;
mod chaos_args;
mod dev;
mod dev_data;
mod groups;
mod man;
mod node;
mod signals;
mod status;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::admin_client::AdminError;
use crate::instance::InstanceError;

/// Thousands of etcd v3 keyspaces on one small cluster.
#[derive(Debug, Parser)]
#[command(name = "polyraft", version)]
pub struct Cli {
    /// How to write the log, which goes to the standard error stream.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Ways to write the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object per line.
    Json,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster in this process, for development.
    Dev(dev::DevArgs),
    /// Run one node of a cluster.
    Node(node::NodeArgs),
    /// Make a cluster's certificates.
    Certs(certs::CertsArgs),
    /// Measure the embedding API: how fast do three nodes take proposals on this machine?
    Bench(bench::BenchArgs),
    /// Put a cluster under load and faults, and judge what it promised.
    Chaos(chaos::ChaosArgs),
    /// Show a node and its groups.
    Status(status::StatusArgs),
    /// Show the groups of a node that matter first: the busiest, or the most behind.
    Groups(groups::GroupsArgs),
    /// Print what makes a shell complete this program's arguments.
    Completions(man::CompletionsArgs),
    /// Print this program's page for `man`.
    Man(man::ManArgs),
}

/// Why a command failed: [`Self::told`], [`Self::exit_code`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// A node did not start.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// Certificates could not be made or read.
    #[error(transparent)]
    Certificates(#[from] polyraft::certificates::CertificateError),
    /// A token cannot be used.
    #[error(transparent)]
    Token(#[from] crate::access_token::TokenError),
    /// The development cluster's data does not fit.
    #[error(transparent)]
    DevData(#[from] dev_data::DevDataError),
    /// A port is out of range.
    #[error("node {node} would need port {port}; the highest is 65535: use a lower --client-port")]
    Port {
        /// The node.
        node: u64,
        /// The port.
        port: u32,
    },
    /// A node could not be asked.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// A node's answer cannot be read.
    #[error("the answer of {address} is not a status")]
    Answer {
        /// The address asked.
        address: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A benchmark could not be run.
    #[error(transparent)]
    Bench(#[from] bench::BenchError),
    /// A scenario has no verdict.
    #[error(transparent)]
    Chaos(#[from] chaos::ChaosCommandError),
    /// The service manager cannot be told anything.
    #[error(transparent)]
    Notify(#[from] crate::systemd::NotifyError),
    /// Traces cannot be exported as the environment asks.
    #[error(transparent)]
    Otlp(#[from] crate::otlp::OtlpError),
    /// What was asked for cannot be written.
    #[error("cannot write the output")]
    Output(#[source] std::io::Error),
    /// Signals cannot be received.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
}

impl CommandError {
    /// The error for a person: with its causes, outermost first, and what to do about it, if there is
    /// something.
    pub fn told(&self) -> String {
        let mut text = format!("polyraft: {self}");
        let mut cause = self.source();
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        match self {
            Self::Admin(error) => match error.advice() {
                Some(advice) => text + "\n  " + advice,
                None => text,
            },
            _ => text,
        }
    }

    /// Whether whoever read the output has gone, as `head` does when it has enough.
    pub fn is_output_closed(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
    }

    /// What the process ends with: 1, or 2 where 1 would be a verdict.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Chaos(_) => ExitCode::from(chaos::NO_VERDICT),
            _ => ExitCode::FAILURE,
        }
    }
}

impl Cli {
    /// Runs the command to its end; returns what the process is to end with.
    ///
    /// # Errors
    /// Whatever made it fail.
    pub async fn run(self) -> Result<ExitCode, CommandError> {
        match self.command {
            Command::Dev(args) => dev::run(args).await?,
            Command::Node(args) => node::run(args).await?,
            Command::Certs(args) => certs::run(args)?,
            Command::Bench(args) => bench::run(args).await?,
            Command::Chaos(args) => return chaos::run(args).await,
            Command::Status(args) => status::run(args).await?,
            Command::Groups(args) => groups::run(args).await?,
            Command::Completions(args) => man::completions(args)?,
            Command::Man(args) => man::man(args)?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The log level of a command when `RUST_LOG` says nothing.
    pub fn default_log_level(&self) -> &'static str {
        match self.command {
            Command::Node(_) => "info",
            _ => "warn",
        }
    }
}
