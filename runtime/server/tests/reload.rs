//! What a running `polyraft node` takes up at SIGHUP: certificates and tokens.
//!
//! ```text
//! polyraft certs rotate ─files, renamed into place→ node ←SIGHUP─ this test ─/status, put→ node
//! ```
//!
//! The node is alone and looks at its certificates by itself once an hour only, so that what changes,
//! changes because of the signal.

use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use polyraft_server::access_token::AccessToken;
use polyraft_server::admin_client;
use polyraft_server::chaos::endpoint::{KeyspaceEndpoint, connection};
use polyraft_server::chaos::nodes::NodeAddresses;
use polyraft_server::proto::etcdserverpb::PutRequest;
use polyraft_server::report::{CertificatesReport, NodeReport};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
const OLD_TOKEN: &str = "the-token-that-the-node-starts-with";
const NEW_TOKEN: &str = "the-token-that-it-is-given-afterwards";

/// A node's process, its files, and what it was last seen to have.
struct Node {
    process: Child,
    dir: TempDir,
    addresses: NodeAddresses,
    /// The token that it knows.
    token: &'static str,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Node {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let authority = dir.path().join("authority");
        certs(&["init", "--cluster", "demo"], &authority);
        certs(&["issue", "--node", "1"], &authority);
        for file in ["ca.pem", "node-1.pem", "node-1.key"] {
            std::fs::copy(authority.join(file), dir.path().join(file)).expect("it was issued");
        }
        let addresses = NodeAddresses { node: 1, client: free_address(), admin: free_address() };
        replace(&dir.path().join("read.token"), OLD_TOKEN.as_bytes());
        std::fs::write(dir.path().join("node.toml"), configuration(dir.path(), &addresses))
            .expect("there is room");
        let process = Command::new(env!("CARGO_BIN_EXE_polyraft"))
            .args(["node", "--config"])
            .arg(dir.path().join("node.toml"))
            .spawn()
            .expect("it starts");
        Self { process, dir, addresses, token: OLD_TOKEN }
    }

    /// Puts what `certs rotate` has issued in the place of what the node has.
    fn bring_certificate(&self) {
        for file in ["node-1.key", "node-1.pem"] {
            let issued = std::fs::read(self.dir.path().join("authority").join(file));
            replace(&self.dir.path().join(file), &issued.expect("it was issued"));
        }
    }

    async fn report(&self, token: &str) -> Result<NodeReport, Box<dyn Error>> {
        let (admin, token) = (self.addresses.admin.to_string(), AccessToken::new(token)?);
        let body = admin_client::get_as(&admin, "/status", Some(&token)).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    async fn certificates(&self) -> CertificatesReport {
        let report = self.report(self.token).await.expect("the token is in force");
        report.certificates.expect("a node of this version tells")
    }

    /// Sends the signal, waits until it was acted upon, and returns how many attempts at the files came
    /// into force and were refused. Whatever of `tokens` is right is the node's from then on.
    async fn hang_up(&mut self, tokens: [&'static str; 2]) -> (u64, u64) {
        let attempts = |seen: &CertificatesReport| seen.reloads + seen.reloads_failed;
        let before = attempts(&self.certificates().await);
        kill_process(Pid::from_child(&self.process), Signal::HUP).expect("it runs");
        let until = Instant::now() + DEADLINE;
        loop {
            for token in tokens {
                let Ok(report) = self.report(token).await else { continue };
                let seen = report.certificates.expect("a node of this version tells");
                // Tokens come first: with the attempt, all is done.
                if attempts(&seen) > before {
                    self.token = token;
                    assert!(self.process.try_wait().expect("a child").is_none(), "it ended");
                    return (seen.reloads, seen.reloads_failed);
                }
            }
            assert!(Instant::now() < until, "SIGHUP did nothing");
            tokio::time::sleep(POLL).await;
        }
    }
}

fn certs(args: &[&str], dir: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_polyraft"));
    let output = command.arg("certs").args(args).arg("--dir").arg(dir).output().expect("it runs");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Writes a file beside `path` and renames it into place.
fn replace(path: &Path, content: &[u8]) {
    let new = path.with_extension("new");
    let mut options = std::fs::File::options();
    let mut file = options.create_new(true).write(true).mode(0o600).open(&new).expect("its own");
    std::io::Write::write_all(&mut file, content).expect("there is room");
    std::fs::rename(new, path).expect("the same directory");
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound")
}

fn configuration(dir: &Path, NodeAddresses { client, admin, .. }: &NodeAddresses) -> String {
    let dir = dir.display();
    format!(
        "node_id = 1\ndata_dir = \"{dir}/data\"\nlisten = \"127.0.0.1:0\"\n\
         [tls]\nca = \"{dir}/ca.pem\"\ncert = \"{dir}/node-1.pem\"\nkey = \"{dir}/node-1.key\"\n\
         reload_interval = \"1h\"\n\
         [cluster]\nname = \"demo\"\nnodes = [{{ id = 1, address = \"127.0.0.1:1\" }}]\n\
         [[cluster.groups]]\nid = 1\nname = \"default\"\n\
         [server]\nclient_listen = \"{client}\"\nadmin_listen = \"{admin}\"\n\
         [server.admin_access]\nread_token_file = \"{dir}/read.token\"\n"
    )
}

/// Waits until the node takes writes.
async fn serves(node: &Node) -> KeyspaceEndpoint {
    let mut endpoint = KeyspaceEndpoint::new(1, &connection(&node.addresses), "default");
    let until = Instant::now() + DEADLINE;
    while let Err(status) = endpoint.put(put(0), DEADLINE).await {
        assert!(Instant::now() < until, "{status}");
        tokio::time::sleep(POLL).await;
    }
    endpoint
}

fn put(number: u64) -> PutRequest {
    let value = number.to_string().into();
    PutRequest { key: b"key".as_slice().into(), value, ..PutRequest::default() }
}

/// Writes one after the other until told to stop, each tried once; returns how many there were.
async fn write(mut endpoint: KeyspaceEndpoint, stop: Arc<AtomicBool>) -> u64 {
    let mut written = 0;
    while !stop.load(Relaxed) {
        let done = endpoint.put(put(written), DEADLINE).await;
        done.unwrap_or_else(|status| panic!("write {written}: {status}"));
        written += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    written
}

/// Goal: new certificates and tokens come into force at SIGHUP, without a restart and without a failed
/// request; what cannot be used changes nothing. Method: replace the one, the other, and each by
/// nonsense, under writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_has_new_files_used_and_nonsense_refused() {
    let mut node = Node::start();
    let stop = Arc::new(AtomicBool::new(false));
    let writes = tokio::spawn(write(serves(&node).await, stop.clone()));
    let both = [OLD_TOKEN, NEW_TOKEN];

    let first = node.certificates().await;
    certs(&["rotate", "--node", "1"], &node.dir.path().join("authority"));
    node.bring_certificate();
    assert_eq!(node.certificates().await, first, "nobody has told the node");
    assert_eq!(node.hang_up(both).await, (1, 0));
    let second = node.certificates().await;
    assert_ne!(second.leaf.serial, first.leaf.serial, "the new certificate is in force");
    assert_eq!(second.leaf.subject, first.leaf.subject);

    let token_file = node.dir.path().join("read.token");
    replace(&token_file, NEW_TOKEN.as_bytes());
    assert!(node.report(NEW_TOKEN).await.is_err(), "nobody has told the node");
    node.hang_up(both).await;
    assert_eq!(node.token, NEW_TOKEN);
    let refused = node.report(OLD_TOKEN).await.expect_err("it was replaced").to_string();
    assert!(refused.contains("401"), "{refused}");

    replace(&token_file, b"short");
    replace(&node.dir.path().join("node-1.pem"), b"no certificate");
    assert_eq!(node.hang_up(both).await, (2, 1));
    assert_eq!(node.token, NEW_TOKEN, "what cannot be used changes nothing");
    let third = node.certificates().await;
    assert_eq!(third.leaf, second.leaf, "the old one stays in force");
    assert!(third.last_error.is_some_and(|why| why.contains("node-1.pem")), "it says why");

    replace(&token_file, OLD_TOKEN.as_bytes());
    std::fs::set_permissions(&token_file, PermissionsExt::from_mode(0o644)).expect("its own");
    node.bring_certificate();
    assert_eq!(node.hang_up(both).await, (3, 1), "each is judged by itself");
    assert_eq!(node.token, NEW_TOKEN, "a token that everybody can read is none");
    stop.store(true, Relaxed);
    assert!(writes.await.expect("no write failed") > 0, "there were writes");
}
