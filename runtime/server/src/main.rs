//! The `polyraft` binary.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use polyraft_server::commands::{Cli, LogFormat};
use tracing_subscriber::EnvFilter;

/// Proposals are many small buffers that one thread makes and another drops.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub(crate) fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(request_threads())
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(run()),
        Err(error) => {
            eprintln!("polyraft: no threads for requests: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Half of the cores serve requests, and leave the others to the node's own threads. On few cores a
/// thread more only wakes up to find that another has taken the request.
fn request_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

async fn run() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(cli.default_log_level()));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    match cli.run().await {
        Ok(code) => code,
        Err(error) => {
            if !error.is_output_closed() {
                eprintln!("{}", error.told());
            }
            error.exit_code()
        }
    }
}
