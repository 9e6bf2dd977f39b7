//! What the binary tells a service manager.
//!
//! ```text
//! polyraft node ─$NOTIFY_SOCKET→ this test's socket        this test ─HTTP→ its admin interface
//! ```
//!
//! The manager is a socket of the test's. The node is one of two, and the other never starts: it serves
//! and has no quorum.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use polyraft::NodeId;
use polyraft::certificates::{CertificateAuthority, Validity};
use tempfile::TempDir;

/// A node that is fed to the watchdog twice within this is alive.
const WATCHDOG: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(60);
const TOKEN: &str = "a-token-that-only-this-test-knows";

/// A running node and what it tells.
struct Service {
    node: Child,
    manager: UnixDatagram,
    admin: String,
    client: String,
    _dir: TempDir,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}

impl Service {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (admin, client) = (free_address(), free_address());
        let config = write_node(dir.path(), &admin, &client);
        let socket = dir.path().join("notify");
        let manager = UnixDatagram::bind(&socket).expect("a free path");
        manager.set_read_timeout(Some(DEADLINE)).expect("a timeout above zero");
        let node = Command::new(env!("CARGO_BIN_EXE_polyraft"))
            .args(["node", "--chaos", "--chaos-token-file"])
            .arg(dir.path().join("token"))
            .arg("--config")
            .arg(config)
            .env("NOTIFY_SOCKET", &socket)
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
            .spawn()
            .expect("it starts");
        Self { node, manager, admin, client, _dir: dir }
    }

    /// The next message.
    fn told(&self) -> String {
        let mut message = [0; 1024];
        let n = self.manager.recv(&mut message).expect("the node tells something in time");
        String::from_utf8(message[..n].to_vec()).expect("text")
    }

    /// Waits for `n` messages in a row that `are` as wanted; returns the last.
    fn told_in_a_row(&self, n: usize, are: impl Fn(&str) -> bool) -> String {
        let (mut last, mut row) = (String::new(), 0);
        while row < n {
            last = self.told();
            row = if are(&last) { row + 1 } else { 0 };
        }
        last
    }

    /// The body of the admin interface's answer, which must be a success.
    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut admin = TcpStream::connect(&self.admin).expect("it listens");
        write!(
            admin,
            "{method} {path} HTTP/1.0\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("it reads");
        let mut answer = String::new();
        admin.read_to_string(&mut answer).expect("it answers with text");
        assert!(answer.starts_with("HTTP/1.0 200"), "{method} {path}: {answer}");
        answer
    }
}

/// An address that is free now.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0")
        .expect("a free port")
        .local_addr()
        .expect("it is bound")
        .to_string()
}

/// The files of node 1 of two; returns its configuration's path.
fn write_node(dir: &Path, admin: &str, client: &str) -> std::path::PathBuf {
    let authority =
        CertificateAuthority::create("demo", Validity::default()).expect("an authority");
    authority.save(dir).expect("an empty directory");
    authority.issue(NodeId::new(1)).expect("a good id").save(dir).expect("an empty directory");
    std::fs::write(dir.join("token"), TOKEN).expect("an empty directory");
    std::fs::set_permissions(dir.join("token"), Permissions::from_mode(0o600))
        .expect("its own file");
    let at = dir.display();
    let text = format!(
        "node_id = 1\ndata_dir = \"{at}/data\"\nlisten = \"127.0.0.1:0\"\n\
         [tls]\nca = \"{at}/ca.pem\"\ncert = \"{at}/node-1.pem\"\nkey = \"{at}/node-1.key\"\n\
         [cluster]\nname = \"demo\"\n\
         nodes = [{{ id = 1, address = \"127.0.0.1:1\" }}, {{ id = 2, address = \"127.0.0.1:2\" }}]\n\
         [[cluster.groups]]\nid = 1\nname = \"default\"\n\
         [server]\nclient_listen = \"{client}\"\nadmin_listen = \"{admin}\"\n"
    );
    std::fs::write(dir.join("node.toml"), text).expect("an empty directory");
    dir.join("node.toml")
}

/// Goal: a manager hears that the node serves although it has no quorum; that it lives, as long as its
/// threads answer and not longer; and that it stops. Method: nothing answers while the actor that asks
/// them is made to wait.
#[test]
fn a_manager_hears_of_the_start_of_every_hang_and_of_the_stop() {
    let mut service = Service::start();
    assert_eq!(service.told(), "READY=1", "the first message");
    TcpStream::connect(&service.client).expect("clients are served");
    service.ask("GET", "/livez", "");
    let alive = service.told_in_a_row(2, |m| m.starts_with("WATCHDOG=1\n"));
    assert!(alive.contains("STATUS=not ready (1), first: default: no leader; 1 groups"), "{alive}");

    service.ask("POST", "/chaos/faults", r#"{"kind":"stall_actor","actor":"watchdog","for":"1h"}"#);
    // One may still be fed from an answer of before; what follows is not.
    let silent = service.told_in_a_row(3, |m| !m.contains("WATCHDOG=1"));
    assert!(silent.starts_with("STATUS=a thread has not answered for "), "{silent}");
    service.ask("DELETE", "/chaos/faults", "");
    service.told_in_a_row(2, |m| m.starts_with("WATCHDOG=1\n"));

    let pid = rustix::process::Pid::from_child(&service.node);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    service.told_in_a_row(1, |m| m.starts_with("STOPPING=1\n"));
    assert!(service.node.wait().unwrap().success(), "a stop that was asked for is no failure");
}

/// Goal: a wrong address is an error at once, not a start that the manager waits for in vain.
#[test]
fn a_manager_that_cannot_be_told_ends_the_start() {
    let output = Command::new(env!("CARGO_BIN_EXE_polyraft"))
        .args(["node", "--config", "/no/such/file"])
        .env("NOTIFY_SOCKET", "vsock:2:1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("NOTIFY_SOCKET=\"vsock:2:1\""), "{text}");
}
