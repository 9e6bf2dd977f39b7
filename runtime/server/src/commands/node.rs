//! `polyraft node`: one node, as configured.

use std::path::PathBuf;

use clap::Args;
use polyraft::NodeConfig;

use super::CommandError;
use super::chaos_args::ChaosArgs;
use super::signals::{ReloadSignals, StopSignals};
use crate::instance::{Instance, InstanceError, ServerConfig, install_metrics};
use crate::otlp::Otlp;
use crate::systemd::Notifier;

/// Arguments of `polyraft node`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// The node's TOML file; POLYRAFT_… environment variables override it.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    chaos: ChaosArgs,
}

pub(super) async fn run(args: NodeArgs) -> Result<(), CommandError> {
    let (mut signals, reloads) = (StopSignals::new()?, ReloadSignals::new()?);
    let notifier = Notifier::from_env()?;
    let config = NodeConfig::from_toml_file(&args.config).map_err(InstanceError::from)?;
    let server: ServerConfig = config.server_section().map_err(InstanceError::from)?;
    let token = args.chaos.token()?;
    let otlp = Otlp::from_env()?;
    let instance =
        Instance::start(config, server, install_metrics()?, token, otlp.as_ref()).await?;
    reloads.reload(&instance);
    tracing::info!(
        node = instance.node().id().get(),
        cluster = instance.node().cluster(),
        keyspaces = instance.groups_expected(),
        clients = %instance.client_address(),
        admin = %instance.admin_address(),
        "serving"
    );
    tokio::select! {
        () = signals.next() => {}
        never = notifier.tell_while_serving(&instance) => match never {},
    }
    notifier.tell_stopping();
    tracing::info!("stopping; once more forces it");
    signals.force_from_now_on();
    instance.stop().await;
    if let Some(otlp) = otlp {
        otlp.stop().await;
    }
    tracing::info!("stopped");
    Ok(())
}
