//! Traces, from a client's call to the spans that a collector gets.
//!
//! ```text
//! client ─traceparent→ follower ─Forward→ leader        both ─OTLP→ this test's collector
//! ```
//!
//! The cluster is `polyraft dev`, a process of its own, configured by OpenTelemetry's variables alone. The
//! collector reads OTLP by its field numbers and shares no code with the exporter.
//! Source: opentelemetry-proto, `trace.proto` and `trace_service.proto`.

use std::io::{BufRead, BufReader, Lines};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use polyraft_server::proto::etcdserverpb::kv_client::KvClient;
use polyraft_server::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use polyraft_server::proto::etcdserverpb::{PutRequest, StatusRequest};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tonic::codegen::{BoxFuture, http};
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, UnaryService};
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

const DEADLINE: Duration = Duration::from_secs(60);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT_SPAN: &str = "00f067aa0ba902b7";
const STAGES: [&str; 5] = ["proposed", "submitted", "persisted", "committed", "applied"];
/// `SPAN_KIND_SERVER`.
const SERVER: i32 = 2;

/// What of OTLP is looked at.
mod proto {
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    pub struct ExportRequest {
        #[prost(message, repeated, tag = "1")]
        pub resource_spans: Vec<ResourceSpans>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct ExportResponse {}

    #[derive(Clone, PartialEq, Message)]
    pub struct ResourceSpans {
        #[prost(message, optional, tag = "1")]
        pub resource: Option<Resource>,
        #[prost(message, repeated, tag = "2")]
        pub scope_spans: Vec<ScopeSpans>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Resource {
        #[prost(message, repeated, tag = "1")]
        pub attributes: Vec<KeyValue>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct ScopeSpans {
        #[prost(message, repeated, tag = "2")]
        pub spans: Vec<Span>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Span {
        #[prost(bytes = "vec", tag = "1")]
        pub trace_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub span_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "4")]
        pub parent_span_id: Vec<u8>,
        #[prost(string, tag = "5")]
        pub name: String,
        #[prost(int32, tag = "6")]
        pub kind: i32,
        #[prost(fixed64, tag = "7")]
        pub start_ns: u64,
        #[prost(fixed64, tag = "8")]
        pub end_ns: u64,
        #[prost(message, repeated, tag = "9")]
        pub attributes: Vec<KeyValue>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct KeyValue {
        #[prost(string, tag = "1")]
        pub key: String,
        #[prost(message, optional, tag = "2")]
        pub value: Option<AnyValue>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct AnyValue {
        #[prost(string, optional, tag = "1")]
        pub text: Option<String>,
        #[prost(int64, optional, tag = "3")]
        pub number: Option<i64>,
    }
}

use proto::{ExportRequest, ExportResponse, KeyValue, Span};

impl Span {
    fn number(&self, key: &str) -> Option<i64> {
        find(&self.attributes, key)?.number
    }

    fn text(&self, key: &str) -> Option<String> {
        find(&self.attributes, key)?.text
    }
}

fn find(attributes: &[KeyValue], key: &str) -> Option<proto::AnyValue> {
    attributes.iter().find(|attribute| attribute.key == key)?.value.clone()
}

/// Keeps every span that it is sent, and the names of the services that sent them.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    services: Arc<Mutex<Vec<Option<String>>>>,
}

impl UnaryService<ExportRequest> for Collector {
    type Response = ExportResponse;
    type Future = BoxFuture<Response<ExportResponse>, Status>;

    fn call(&mut self, request: Request<ExportRequest>) -> Self::Future {
        for sent in request.into_inner().resource_spans {
            let resource = sent.resource.unwrap_or_default();
            let name = find(&resource.attributes, "service.name").and_then(|name| name.text);
            self.services.lock().expect("no panic").push(name);
            let spans = sent.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.spans.lock().expect("no panic").extend(spans);
        }
        Box::pin(async { Ok(Response::new(ExportResponse {})) })
    }
}

impl Collector {
    /// Listens until the test's runtime ends.
    async fn listen(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let collector = self.clone();
        let export = move |request: http::Request<axum::body::Body>| {
            let collector = collector.clone();
            async move { Grpc::new(ProstCodec::default()).unary(collector, request).await }
        };
        let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        let router = axum::Router::new().route(path, axum::routing::post(export));
        let server = tonic::transport::Server::builder().add_routes(Routes::from(router));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        address
    }

    fn spans(&self) -> Vec<Span> {
        self.spans.lock().expect("no panic").clone()
    }

    /// The spans once `are` there.
    async fn spans_when(&self, are: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let until = Instant::now() + DEADLINE;
        loop {
            let spans = self.spans();
            if are(&spans) {
                return spans;
            }
            assert!(Instant::now() < until, "never came: {spans:#?}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A development cluster of three nodes with one keyspace.
struct Cluster {
    process: Child,
    client_port: u16,
    _dir: TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Cluster {
    /// A cluster that exports to `collector` every so often, which is written as OpenTelemetry wants it.
    fn start(collector: SocketAddr, every_ms: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let client_port = free_ports();
        let process = Command::new(env!("CARGO_BIN_EXE_polyraft"))
            .args(["dev", "--keyspaces", "1", "--client-port", &client_port.to_string()])
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{collector}"))
            .env("OTEL_BSP_SCHEDULE_DELAY", every_ms)
            .env("OTEL_SERVICE_NAME", "traced")
            .env_remove("OTEL_TRACES_SAMPLER")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        Self { process, client_port, _dir: dir }
    }

    /// The log, line by line.
    fn log(&mut self) -> Lines<BufReader<ChildStderr>> {
        BufReader::new(self.process.stderr.take().expect("asked for once")).lines()
    }

    /// Stops it as an operator would.
    fn stop(&mut self) {
        let pid = Pid::from_child(&self.process);
        rustix::process::kill_process(pid, Signal::TERM).expect("it runs");
        assert!(self.process.wait().expect("it is ours").success());
    }

    /// Where node 1, 2 or 3 serves clients.
    fn address(&self, node: u16) -> String {
        format!("http://127.0.0.1:{}", self.client_port + 100 * (node - 1))
    }

    async fn kv(&self, node: u16) -> KvClient<tonic::transport::Channel> {
        KvClient::connect(self.address(node)).await.expect("it serves")
    }

    /// The leader's node, once every node says that it is it.
    async fn leader(&self) -> u16 {
        let until = Instant::now() + DEADLINE;
        loop {
            let mut said = Vec::new();
            for node in 1..=3 {
                said.push(leader_by(self.address(node)).await);
            }
            if let [Some(leader), ..] = said[..]
                && said.iter().all(|said| *said == Some(leader))
            {
                return leader;
            }
            assert!(Instant::now() < until, "no leader: {said:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn leader_by(address: String) -> Option<u16> {
    let mut client = MaintenanceClient::connect(address).await.ok()?;
    let status = client.status(untraced(StatusRequest::default())).await.ok()?;
    u16::try_from(status.into_inner().leader).ok().filter(|leader| *leader != 0)
}

/// The first of the ports that a development cluster takes, all of them free a moment ago, and below
/// those that the system gives to clients.
fn free_ports() -> u16 {
    let is_free = |port: u16| {
        let address = ("127.0.0.1", port);
        TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
    };
    for _ in 0..1_000 {
        let first = rand::random_range(10_000..30_000);
        let mut ports = (0..3).flat_map(|node| (0..3).map(move |at| first + 100 * node + at));
        if ports.all(is_free) {
            return first;
        }
    }
    panic!("no free ports");
}

/// A request of a client whose span is sampled or not, as `flags` say.
fn traced<T>(message: T, flags: &str) -> Request<T> {
    let parent = format!("00-{TRACE}-{CLIENT_SPAN}-{flags}").parse().expect("text");
    let mut metadata = MetadataMap::new();
    metadata.insert("traceparent", parent);
    Request::from_parts(metadata, Default::default(), message)
}

fn untraced<T>(message: T) -> Request<T> {
    traced(message, "00")
}

fn put(key: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: "v".into(), ..PutRequest::default() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Goal: one trace from the client's call to the state machine, across two nodes. Method: a put to a
/// follower as the child of a sampled span; one of an unsampled client before it leaves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_to_a_follower_is_one_trace() {
    let collector = Collector::default();
    let cluster = Cluster::start(collector.listen().await, "100");
    let leader = cluster.leader().await;
    let follower = leader % 3 + 1;
    let mut kv = cluster.kv(follower).await;
    kv.put(untraced(put("unsampled"))).await.expect("it has a leader");
    kv.put(traced(put("sampled"), "01")).await.expect("it has a leader");
    let spans = collector.spans_when(|spans| spans.len() > STAGES.len()).await;
    assert_eq!(spans.len(), 1 + STAGES.len(), "nothing of unsampled requests: {spans:#?}");
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE), "{spans:#?}");
    let name = Some("traced".to_owned());
    assert!(collector.services.lock().unwrap().iter().all(|service| *service == name));

    let request = spans.iter().find(|span| span.kind == SERVER).expect("a request");
    assert_eq!(hex(&request.parent_span_id), CLIENT_SPAN);
    assert_eq!(request.name, "etcdserverpb.KV/Put");
    assert_eq!(request.number("polyraft.node"), Some(i64::from(follower)));
    assert_eq!(request.number("rpc.grpc.status_code"), Some(0));
    assert_eq!(request.text("rpc.system").as_deref(), Some("grpc"));
    assert_eq!(request.text("polyraft.keyspace").as_deref(), Some("default"));
    check_stages(request, &spans, leader);
}

/// The stages below the request: all five, of the leader's, in order and within it.
fn check_stages(request: &Span, spans: &[Span], leader: u16) {
    let stages = STAGES.map(|stage| {
        let mut named = spans.iter().filter(|span| span.name == stage);
        let span = named.next().unwrap_or_else(|| panic!("no {stage}: {spans:#?}"));
        assert_eq!(named.next(), None, "{stage} twice");
        span
    });
    let index = stages[0].number("polyraft.index").expect("it was applied");
    for span in stages {
        assert_eq!(span.parent_span_id, request.span_id, "{span:?}");
        assert_eq!(span.number("polyraft.node"), Some(i64::from(leader)), "{span:?}");
        assert_eq!(span.number("polyraft.group"), Some(1), "{span:?}");
        assert_eq!(span.number("polyraft.index"), Some(index), "{span:?}");
        assert!(span.start_ns <= span.end_ns, "{span:?}");
    }
    for pair in stages.windows(2) {
        assert!(pair[0].end_ns <= pair[1].start_ns, "they overlap: {pair:?}");
    }
    let [proposed, submitted, persisted, committed, applied] = stages;
    for (before, after) in [(proposed, submitted), (persisted, committed), (committed, applied)] {
        assert_eq!(before.end_ns, after.start_ns, "a moment that both share");
    }
    // One clock of the machine; a trace's times are reckoned back from one reading of it.
    const GRANULARITY_NS: u64 = 1_000_000;
    assert!(request.start_ns <= proposed.start_ns + GRANULARITY_NS, "{request:?} {proposed:?}");
    assert!(applied.end_ns <= request.end_ns + GRANULARITY_NS, "{request:?} {applied:?}");
}

/// Goal: a client without a trace gets one, reads have no stages, and a stop sends what is queued.
/// Method: a put and a bad get without `traceparent`, at the leader; nothing is sent before the stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_parent_begins_a_trace() {
    let collector = Collector::default();
    let mut cluster = Cluster::start(collector.listen().await, "3600000");
    let leader = cluster.leader().await;
    let mut kv = cluster.kv(leader).await;
    kv.put(Request::new(put("a"))).await.expect("it leads");
    kv.range(Request::new(Default::default())).await.expect_err("a range has a key");
    assert_eq!(collector.spans(), []);
    cluster.stop();
    let spans = collector.spans();
    let roots: Vec<_> = spans.iter().filter(|span| span.parent_span_id.is_empty()).collect();
    let mut names: Vec<_> = roots.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["etcdserverpb.KV/Put", "etcdserverpb.KV/Range"]);
    assert_ne!(roots[0].trace_id, roots[1].trace_id);
    let put = roots.iter().find(|span| span.name.ends_with("Put")).expect("named above");
    let of_put = |span: &&Span| span.trace_id == put.trace_id;
    assert_eq!(spans.iter().filter(of_put).count(), 1 + STAGES.len());
    check_stages(put, &spans, leader);
    let range = roots.iter().find(|span| span.name.ends_with("Range")).expect("named above");
    const INVALID_ARGUMENT: i64 = 3;
    assert_eq!(range.number("rpc.grpc.status_code"), Some(INVALID_ARGUMENT));
}

/// Goal: a collector that is not there costs no request, and one line in the log. Method: sampled puts
/// towards a port that nobody listens on, before and after the line.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_requests_are_served() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut cluster = Cluster::start(nobody, "1");
    let mut log = cluster.log().map(|line| line.expect("text"));
    let leader = cluster.leader().await;
    let mut kv = cluster.kv(leader).await;
    kv.put(traced(put("first"), "01")).await.expect("it leads");
    let is_told = |line: &String| line.contains("traces cannot be exported");
    let waiting = tokio::task::spawn_blocking(move || (log.find(is_told), log));
    let (told, log) = waiting.await.expect("no panic");
    assert!(told.is_some(), "it ended");
    for n in 0..500 {
        kv.put(traced(put(&n.to_string()), "01")).await.expect("it leads");
    }
    cluster.stop();
    let again: Vec<_> = log.filter(is_told).collect();
    assert_eq!(again, Vec::<String>::new());
}

/// Goal: nonsense in the environment ends the start with the variable, its value and the rule. Method: a
/// process for each.
#[test]
fn nonsense_in_the_environment_is_an_error() {
    for (variable, value, rule) in [
        ("OTEL_TRACES_SAMPLER", "sometimes", "must be always_on"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "must be grpc"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let ended = Command::new(env!("CARGO_BIN_EXE_polyraft"))
            .args(["dev", "--client-port", &free_ports().to_string(), "--data-dir"])
            .arg(dir.path().join("data"))
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
            .env(variable, value)
            .output()
            .expect("it starts");
        let said = String::from_utf8(ended.stderr).expect("text");
        assert!(!ended.status.success(), "{said}");
        assert!(said.contains(&format!("{variable} = {value:?}: {rule}")), "{said}");
    }
}
