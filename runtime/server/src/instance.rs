//! One running node: the runtime, its etcd API and its admin interface.
//!
//! ```text
//! start: bind both listeners → start the runtime → serve        stop: refuse → drain → stop
//! ```
//!
//! Promise: a port that is taken is found before the runtime starts. `stop` returns when no request
//! is in progress and the runtime has stopped.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;

use metrics_exporter_prometheus::{BuildError, PrometheusHandle};
use polyraft::{ConfigErrors, Node, NodeConfig, NodeId, StartError};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;

use crate::access::{Access, AccessError, AdminAccessConfig};
use crate::access_token::AccessToken;
use crate::admin::Admin;
use crate::etcd::{self, Keyspaces};
use crate::event_log::EventLog;
use crate::event_watch;
use crate::mvcc::Keyspace;
use crate::otlp::Otlp;
pub use crate::recorder::install_metrics;
use crate::summary::SummarySource;

/// The `[server]` table of a node's configuration.
#[derive(Debug, Clone, Deserialize)]
pub struct ServerConfig {
    /// Where the etcd API listens. Plaintext: keep it on a trusted network. Default
    /// `127.0.0.1:2379`, etcd's own.
    #[serde(default = "default_client_listen")]
    pub client_listen: SocketAddr,
    /// Where the admin interface listens. Not on the loopback interface, `admin_access` must say who may
    /// look. Default `127.0.0.1:2381`.
    #[serde(default = "default_admin_listen")]
    pub admin_listen: SocketAddr,
    /// Node id → URL of its etcd API, as clients are told in member lists. Default: none are told.
    #[serde(default)]
    pub client_urls: BTreeMap<String, String>,
    /// Who may do what on the admin interface. Default: on the loopback interface whoever reaches it
    /// may look, and nobody may do more.
    #[serde(default)]
    pub admin_access: AdminAccessConfig,
}

fn default_client_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 2379))
}

fn default_admin_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 2381))
}

/// Why a node does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstanceError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// A key of `client_urls` is not a node id.
    #[error("server.client_urls: {key:?} is not a node id")]
    ClientUrl {
        /// The key.
        key: String,
    },
    /// Nobody can say who may use the admin interface.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// An address cannot be bound.
    #[error("cannot listen on {address} for the {what}")]
    Listen {
        /// What was to be served there.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The process's metrics recorder could not be installed.
    #[error("cannot install the metrics recorder")]
    Metrics(#[from] BuildError),
    /// The runtime did not start.
    #[error("the node did not start")]
    Start(#[from] StartError),
}

/// A node that serves.
pub struct Instance {
    node: Node,
    client_address: SocketAddr,
    admin_address: SocketAddr,
    groups_expected: usize,
    access: Access,
    stopping: watch::Sender<bool>,
    services: JoinSet<()>,
}

impl Instance {
    /// Starts a node and serves it. With a token, its bearer can inject faults into the node, as can
    /// whoever has the destroy role. With an exporter, requests and their proposals are traced.
    ///
    /// # Errors
    /// A token or an address cannot be used, or the runtime does not start. Nothing is left running.
    pub async fn start(
        config: NodeConfig,
        server: ServerConfig,
        metrics: PrometheusHandle,
        chaos_token: Option<AccessToken>,
        otlp: Option<&Otlp>,
    ) -> Result<Self, InstanceError> {
        let client_urls = client_urls(&server)?;
        let has_chaos = chaos_token.is_some();
        let access = Access::load(&server.admin_access, server.admin_listen, chaos_token)?;
        let client = listen("etcd API", server.client_listen).await?;
        let admin = listen("admin interface", server.admin_listen).await?;
        let (node_id, groups) = (config.node_id(), config.cluster().groups());
        let groups_expected = groups
            .iter()
            .filter(|group| group.nodes().is_empty() || group.nodes().contains(&node_id))
            .count();
        let config = if has_chaos { config.with_chaos() } else { config };
        let config = match otlp {
            Some(otlp) => config.with_trace_sink(otlp.sink()),
            None => config,
        };
        let node = Node::start(config, |_| Box::new(Keyspace::default())).await?;
        let (stopping, _) = watch::channel(false);
        let mut instance = Self {
            node: node.clone(),
            client_address: client.1,
            admin_address: admin.1,
            groups_expected,
            access: access.clone(),
            stopping,
            services: JoinSet::new(),
        };
        let keyspaces = Keyspaces::new(node.clone(), client_urls);
        instance.serve_clients(client.0, etcd::routes(keyspaces, otlp));
        let summary = instance.watch_events();
        let served = Admin { node, metrics, groups_expected, access, summary };
        instance.serve_admin(admin.0, served);
        Ok(instance)
    }

    /// The runtime.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Where the etcd API is served.
    pub fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// Where the admin interface is served.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Groups that this node is configured to have.
    pub fn groups_expected(&self) -> usize {
        self.groups_expected
    }

    /// Who may do what on the admin interface.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Refuses new connections, finishes requests in progress, stops the runtime.
    pub async fn stop(mut self) {
        self.stopping.send_replace(true);
        while self.services.join_next().await.is_some() {}
        self.node.stop().await;
    }

    fn serve_clients(&mut self, listener: TcpListener, routes: Routes) {
        // The builder's own `tcp_nodelay` is for listeners that it binds itself. Without it an answer
        // in two writes waits 40 ms for the client's delayed acknowledgement of the first.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = tonic::transport::Server::builder()
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, self.stopped());
        self.services.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the etcd API stopped");
            }
        });
    }

    fn serve_admin(&mut self, listener: TcpListener, admin: Admin) {
        let server = admin.serve(listener, self.stopped());
        self.services.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the admin interface stopped");
            }
        });
    }

    /// Notes the node's events from now on.
    fn watch_events(&mut self) -> SummarySource {
        let events = EventLog::new(self.node.id().get());
        let (node, log, stopped) = (self.node.clone(), events.clone(), self.stopped());
        self.services.spawn(event_watch::run(node, log, stopped));
        SummarySource::new(events)
    }

    /// Resolves when the instance is told to stop, or dropped.
    fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stopping = self.stopping.subscribe();
        async move {
            let _ = stopping.wait_for(|stop| *stop).await;
        }
    }
}

fn client_urls(server: &ServerConfig) -> Result<BTreeMap<NodeId, String>, InstanceError> {
    server
        .client_urls
        .iter()
        .map(|(key, url)| match key.parse::<u64>() {
            Ok(id) if id > 0 => Ok((NodeId::new(id), url.clone())),
            _ => Err(InstanceError::ClientUrl { key: key.clone() }),
        })
        .collect()
}

async fn listen(
    what: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), InstanceError> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|source| InstanceError::Listen { what, address, source })
}
