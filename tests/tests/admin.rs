//! Goal: the admin interface tells the truth about a node that has no quorum, and does nothing for
//! anybody who may not ask for it; every attempt leaves a line.
//!
//! Method: real nodes and their admin interface over HTTP. Three nodes of which two are stopped; one
//! node with a token for each role and an audit file.

use std::future::pending;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use polyraft_server::access::{Access, AccessRole, AdminAccessConfig};
use polyraft_server::admin::Admin;
use polyraft_server::event_log::EventLog;
use polyraft_server::group_ranking::RankedGroups;
use polyraft_server::report::NodeReport;
use polyraft_server::summary::SummarySource;
use polyraft_tests::cluster::{Cluster, DEADLINE, Shape, insist, wait_for};
use polyraft_tests::machines::add;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

static METRICS: LazyLock<PrometheusHandle> =
    LazyLock::new(|| PrometheusBuilder::new().build_recorder().handle());

/// The admin interface of node 1 of a cluster.
async fn serve(cluster: &Cluster, access: Access) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let (node, metrics) = (cluster.node(1).clone(), METRICS.clone());
    let summary = SummarySource::new(EventLog::new(1));
    let admin = Admin { node, metrics, groups_expected: 2, access, summary };
    tokio::spawn(admin.serve(listener, pending()));
    address
}

/// One request, on behalf of the bearer of `token`; its status and its body.
async fn ask(address: &str, request: &str, token: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let head = format!("{request} HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).expect("a status line");
    (status.parse().expect("a number"), body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_quorum_lives_and_is_not_ready() {
    let mut cluster = Cluster::start(Shape::new(3, 2)).await;
    let address = serve(&cluster, Access::default()).await;
    cluster.wait_for_leaders().await;
    wait_for(DEADLINE, "node 1 to be ready", async || {
        let (status, body) = ask(&address, "GET /readyz", "").await;
        (status == 200).then(|| assert_eq!(body, "ok\n"))
    })
    .await;
    cluster.stop(2).await;
    cluster.stop(3).await;
    wait_for(DEADLINE, "node 1 to know of no leader", async || {
        // Whatever the groups do meanwhile, nobody is to kill the process for it (OB-6).
        assert_eq!(ask(&address, "GET /livez", "").await, (200, "ok\n".to_owned()));
        let (status, body) = ask(&address, "GET /readyz", "").await;
        (status == 503 && body == "g1: no leader\ng2: no leader\n").then_some(())
    })
    .await;
    // Nothing that looks waits for a quorum either.
    let (status, body) = ask(&address, "GET /status", "").await;
    let report: NodeReport = serde_json::from_str(&body).expect("a status");
    assert_eq!((status, report.groups.len()), (200, 2));
    assert_eq!(ask(&address, "GET /groups", "").await.0, 200);
    cluster.start_node(2).await;
    cluster.wait_for_leaders().await;
    wait_for(DEADLINE, "node 1 to be ready again", async || {
        (ask(&address, "GET /readyz", "").await.0 == 200).then_some(())
    })
    .await;
    cluster.stop_all().await;
}

fn token(role: AccessRole) -> String {
    role.as_str().repeat(8)
}

/// A token for each role, and an audit file, in `dir`.
fn access(dir: &Path) -> Access {
    let file = |role: AccessRole| {
        let path = dir.join(role.as_str());
        let mut options = std::fs::File::options();
        let mut file = options.create_new(true).write(true).mode(0o600).open(&path).expect("new");
        file.write_all(token(role).as_bytes()).expect("there is room");
        Some(path)
    };
    let config = AdminAccessConfig {
        read_token_file: file(AccessRole::Read),
        operate_token_file: file(AccessRole::Operate),
        destroy_token_file: file(AccessRole::Destroy),
        audit_file: Some(dir.join("audit.jsonl")),
    };
    Access::load(&config, "0.0.0.0:2381".parse().expect("valid"), None).expect("valid")
}

/// What each kind of caller is answered: without a token, reader, operator, destroyer.
const ANSWERS: [(&str, [u16; 4]); 10] = [
    ("GET /livez", [200; 4]),
    ("GET /readyz", [200; 4]),
    ("GET /status", [401, 200, 200, 200]),
    ("GET /metrics", [401, 200, 200, 200]),
    ("GET /groups", [401, 200, 200, 200]),
    ("GET /groups?top=0", [401, 400, 400, 400]),
    ("POST /certificates/reload", [401, 403, 200, 200]),
    ("GET /chaos/faults", [401, 403, 403, 200]),
    ("DELETE /chaos/faults", [401, 403, 403, 200]),
    ("POST /nothing", [404; 4]),
];

/// Lines of the audit file, without what differs from run to run.
fn audited(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join("audit.jsonl")).expect("it was made");
    let line = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let fields = line.as_object_mut().expect("an object");
        let time = fields.remove("time").expect("a time");
        assert!(time.as_str().is_some_and(|time| time.ends_with('Z')), "{time}");
        let peer = fields.remove("peer").expect("a peer");
        assert!(peer.as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{peer}");
        let field = |name: &str| line[name].to_string().replace('"', "");
        ["role", "method", "path", "status", "outcome"].map(field).join(" ")
    };
    text.lines().map(line).collect()
}

async fn roles_decide(address: &str, dir: &Path) {
    let tokens = AccessRole::ALL.map(token);
    let mut expected = Vec::new();
    for (request, answers) in ANSWERS {
        let (method, path) = request.split_once(' ').expect("a method and a path");
        let path = path.split('?').next().expect("a split has a first part");
        for (role, status) in ["null", "read", "operate", "destroy"].iter().zip(answers) {
            let shown = AccessRole::ALL.iter().position(|known| known.as_str() == *role);
            let shown = shown.map_or("nobody's", |at| &tokens[at]);
            let answer = ask(address, request, shown).await;
            assert_eq!(answer.0, status, "{role}: {request}: {}", answer.1);
            let outcome = match status {
                401 | 403 => "refused",
                404 => "failed",
                _ => "done",
            };
            if method != "GET" || outcome == "refused" {
                expected.push(format!("{role} {method} {path} {status} {outcome}"));
            }
        }
    }
    assert_eq!(audited(dir), expected, "as written on the left, as asked on the right");
}

/// The group that takes the writes is the hottest, once there were two looks at it.
async fn the_hottest_is_found(cluster: &Cluster, address: &str) {
    let path = "GET /groups?top=1&by=hottest";
    let group = cluster.group(1, 2);
    let writes = tokio::spawn(async move {
        loop {
            insist(&group, add("busy")).await;
        }
    });
    let reader = token(AccessRole::Read);
    let ranked = wait_for(DEADLINE, "group 2 to be the hottest", async || {
        let (_, body) = ask(address, path, &reader).await;
        let ranked: RankedGroups = serde_json::from_str(&body).expect("a ranking");
        tokio::time::sleep(Duration::from_millis(20)).await;
        (ranked.groups[0].entries_per_second > 0.0).then_some(ranked)
    })
    .await;
    writes.abort();
    assert_eq!((ranked.groups_total, ranked.groups.len()), (2, 1));
    assert_eq!(ranked.groups[0].group.name, "g2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_is_let_as_far_as_it_goes_and_leaves_its_lines() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut cluster = Cluster::start(Shape::new(1, 2).with_chaos()).await;
    cluster.wait_for_leaders().await;
    let address = serve(&cluster, access(dir.path())).await;
    wait_for(DEADLINE, "the node to be ready", async || {
        (ask(&address, "GET /readyz", "").await.0 == 200).then_some(())
    })
    .await;
    roles_decide(&address, dir.path()).await;
    the_hottest_is_found(&cluster, &address).await;
    cluster.stop_all().await;
}
