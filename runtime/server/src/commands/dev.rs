//! `polyraft dev`: a whole cluster in one process.
//!
//! Node `i`, from 0, serves clients on `client-port + 100·i`, peers (QUIC) on the port after it, and
//! its admin interface on the one after that. Everything listens on the loopback interface alone.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use polyraft::{ClusterConfig, GroupId, GroupSpec, NodeConfig, NodeId, Profile, TlsPaths};

use super::CommandError;
use super::chaos_args::ChaosArgs;
use super::dev_data::{DEV_CLUSTER, DevData, DevShape};
use super::signals::StopSignals;
use crate::access::AdminAccessConfig;
use crate::access_token::AccessToken;
use crate::etcd::DEFAULT_KEYSPACE;
use crate::instance::{Instance, InstanceError, ServerConfig, install_metrics};
use crate::otlp::Otlp;
use crate::report::{GroupReport, NodeReport};

/// Ports between one node and the next.
const PORTS_PER_NODE: u32 = 100;
/// Between two looks at the nodes while the cluster forms.
const FORMATION_POLL: Duration = Duration::from_millis(25);

/// Arguments of `polyraft dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: u64,
    /// Keyspaces: `default`, then `ks-01`, `ks-02` and so on.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    keyspaces: u64,
    /// Where the cluster keeps its certificates and data.
    #[arg(long, default_value = "./polyraft-data")]
    data_dir: PathBuf,
    /// The first node's etcd port.
    #[arg(long, default_value_t = 2379, value_parser = clap::value_parser!(u16).range(1..))]
    client_port: u16,
    #[command(flatten)]
    chaos: ChaosArgs,
}

/// The addresses of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    node: NodeId,
    client: SocketAddr,
    quic: SocketAddr,
    admin: SocketAddr,
}

pub(super) async fn run(args: DevArgs) -> Result<(), CommandError> {
    let mut signals = StopSignals::new()?;
    let ports = ports(args.nodes, args.client_port)?;
    let shape = DevShape { nodes: args.nodes, keyspaces: args.keyspaces };
    let data = DevData::open(&args.data_dir, shape)?;
    let token = args.chaos.token()?;
    let otlp = Otlp::from_env()?;
    let instances = start_all(&ports, &data, args.keyspaces, token, otlp.as_ref()).await?;
    let formed = tokio::select! {
        () = formation(&instances) => true,
        () = signals.next() => false,
    };
    if formed {
        print!("{}", banner(&ports, &args));
        signals.next().await;
    }
    eprintln!("stopping; Ctrl-C again forces it");
    signals.force_from_now_on();
    stop_all(instances).await;
    if let Some(otlp) = otlp {
        otlp.stop().await;
    }
    Ok(())
}

fn ports(nodes: u64, client_port: u16) -> Result<Vec<Ports>, CommandError> {
    (0..nodes)
        .map(|i| {
            let node = i + 1;
            let first = u32::from(client_port) + PORTS_PER_NODE * i as u32;
            let at = |offset: u32| {
                let port = first + offset;
                u16::try_from(port)
                    .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
                    .map_err(|_| CommandError::Port { node, port })
            };
            Ok(Ports { node: NodeId::new(node), client: at(0)?, quic: at(1)?, admin: at(2)? })
        })
        .collect()
}

/// `default`, `ks-01`, `ks-02`, …
fn keyspace_name(i: u64) -> String {
    if i == 0 { DEFAULT_KEYSPACE.to_owned() } else { format!("ks-{i:02}") }
}

async fn start_all(
    ports: &[Ports],
    data: &DevData,
    keyspaces: u64,
    chaos_token: Option<AccessToken>,
    otlp: Option<&Otlp>,
) -> Result<Vec<Instance>, CommandError> {
    let metrics = install_metrics()?;
    let client_urls: BTreeMap<_, _> =
        ports.iter().map(|p| (p.node.to_string(), format!("http://{}", p.client))).collect();
    let mut instances = Vec::with_capacity(ports.len());
    for own in ports {
        let server = ServerConfig {
            client_listen: own.client,
            admin_listen: own.admin,
            client_urls: client_urls.clone(),
            admin_access: AdminAccessConfig::default(),
        };
        let started = match node_config(ports, own, data, keyspaces) {
            Ok(config) => {
                let (metrics, token) = (metrics.clone(), chaos_token.clone());
                Instance::start(config, server, metrics, token, otlp).await
            }
            Err(error) => Err(error),
        };
        match started {
            Ok(instance) => instances.push(instance),
            Err(error) => {
                stop_all(instances).await;
                return Err(error.into());
            }
        }
    }
    Ok(instances)
}

fn node_config(
    ports: &[Ports],
    own: &Ports,
    data: &DevData,
    keyspaces: u64,
) -> Result<NodeConfig, InstanceError> {
    let mut cluster = ClusterConfig::builder(DEV_CLUSTER).profile(Profile::Dev);
    for peer in ports {
        cluster = cluster.node(peer.node, peer.quic.to_string());
    }
    for i in 0..keyspaces {
        cluster = cluster.group(GroupSpec::new(GroupId::new(i + 1), keyspace_name(i)));
    }
    Ok(NodeConfig::builder()
        .cluster(cluster)
        .node_id(own.node)
        .data_dir(data.node(own.node))
        .listen(own.quic)
        .tls(TlsPaths::in_dir(&data.certificates(), own.node))
        .build()?)
}

/// Nodes stop together: one that stops alone would only move its leaders to the next to stop.
async fn stop_all(instances: Vec<Instance>) {
    let mut stopping: tokio::task::JoinSet<()> =
        instances.into_iter().map(Instance::stop).collect();
    while stopping.join_next().await.is_some() {}
}

/// Resolves when every group is ready on every node; shows how far it is on a terminal.
async fn formation(instances: &[Instance]) {
    let expected: usize = instances.iter().map(Instance::groups_expected).sum();
    let bar = progress_bar(expected as u64);
    loop {
        let ready = instances.iter().map(ready_groups).sum::<usize>();
        bar.set_position(ready as u64);
        if ready >= expected {
            bar.finish_and_clear();
            return;
        }
        tokio::time::sleep(FORMATION_POLL).await;
    }
}

fn ready_groups(instance: &Instance) -> usize {
    let report = NodeReport::from(instance.node().status());
    report.groups.iter().filter(|group| GroupReport::unready(group).is_none()).count()
}

fn progress_bar(replicas: u64) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("forming {bar:30} {pos}/{len} replicas {elapsed}")
        .expect("the template is a constant that parses");
    ProgressBar::with_draw_target(Some(replicas), target).with_style(style)
}

fn banner(ports: &[Ports], args: &DevArgs) -> String {
    let mut text = format!(
        "\npolyraft dev: {} nodes, {} keyspaces, data in {}\n\n",
        args.nodes,
        args.keyspaces,
        args.data_dir.display()
    );
    for p in ports {
        let _ = writeln!(
            text,
            "  node {}   etcd http://{}   admin http://{}   quic {}/udp",
            p.node, p.client, p.admin, p.quic
        );
    }
    let all: Vec<_> = ports.iter().map(|p| p.client.to_string()).collect();
    let (first, last) = (&ports[0], &ports[ports.len() - 1]);
    let _ = write!(
        text,
        "
  try   export ETCDCTL_API=3
        etcdctl --endpoints {first} put hello world
        etcdctl --endpoints {last} get hello
        etcdctl --endpoints {all} endpoint status -w table
        curl http://{admin}/readyz
        a browser at http://{admin}/ for the status page
        polyraft status --admin {admin}

  Clients choose a keyspace by the gRPC metadata `polyraft-keyspace`; these use `default`.
  Ctrl-C stops the cluster; starting again continues it.

",
        first = first.client,
        last = last.client,
        all = all.join(","),
        admin = first.admin,
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_three_ports_of_its_own() {
        let ports = ports(3, 2379).unwrap();
        let numbers: Vec<_> =
            ports.iter().map(|p| (p.client.port(), p.quic.port(), p.admin.port())).collect();
        assert_eq!(numbers, [(2379, 2380, 2381), (2479, 2480, 2481), (2579, 2580, 2581)]);
    }

    #[test]
    fn ports_past_the_last_are_refused() {
        assert!(ports(1, 65533).is_ok());
        let error = ports(1, 65534).unwrap_err().to_string();
        assert!(error.contains("node 1") && error.contains("65536"), "{error}");
        assert!(ports(3, 65500).is_err());
    }

    #[test]
    fn sixteen_keyspaces_end_with_ks_15() {
        let names: Vec<_> = (0..16).map(keyspace_name).collect();
        assert_eq!((names[0].as_str(), names[1].as_str()), ("default", "ks-01"));
        assert_eq!(names[15], "ks-15");
    }

    #[test]
    fn the_banner_fits_a_screen_and_names_every_node() {
        let args = DevArgs {
            nodes: 3,
            keyspaces: 16,
            data_dir: "./polyraft-data".into(),
            client_port: 2379,
            chaos: ChaosArgs::default(),
        };
        let text = banner(&ports(3, 2379).unwrap(), &args);
        assert!(text.lines().count() <= 24, "{text}");
        for address in
            ["127.0.0.1:2379", "127.0.0.1:2481", "127.0.0.1:2580", "http://127.0.0.1:2381/ for"]
        {
            assert!(text.contains(address), "{text}");
        }
    }
}
