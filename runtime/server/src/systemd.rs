//! systemd: the service manager is told that the node serves, that it stops, and that it still lives.
//!
//! ```text
//! start → READY=1 → every few seconds: STATUS=…, WATCHDOG=1 if the threads answer → STOPPING=1
//! ```
//!
//! Promise: `WATCHDOG=1` says that every thread which must never block has answered within half of the
//! watchdog's time, the timer's included, and that requests are served; so a node that hangs is
//! restarted. A slow disk, a lost quorum and a failed store are no hangs: a restart heals none of them.
//! Without `NOTIFY_SOCKET` nothing is sent.
//!
//! Not here: what the manager does about it (`deploy/systemd/polyraft.service`).
//!
//! Source: sd_notify(3), sd_watchdog_enabled(3).

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use polyraft::Node;
use tokio::time::MissedTickBehavior;

use crate::instance::Instance;
use crate::report::readiness;

/// Between two statuses, at most; a watchdog may ask for more.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// Why the service manager cannot be told anything.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotifyError {
    /// The address is of a kind that is not spoken here.
    #[error("NOTIFY_SOCKET={address:?}: expected a path that begins with / or a name with @")]
    Address {
        /// What was given.
        address: OsString,
    },
    /// Nobody listens there.
    #[error("NOTIFY_SOCKET={address:?} cannot be reached")]
    Unreachable {
        /// What was given.
        address: OsString,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The watchdog's time is not a number.
    #[error("WATCHDOG_USEC={value:?}: expected microseconds, 1 or more")]
    Watchdog {
        /// What was given.
        value: OsString,
    },
}

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the process's environment says.
    ///
    /// # Errors
    /// See [`NotifyError`]; better now than at the end of the manager's patience.
    pub fn from_env() -> Result<Self, NotifyError> {
        Self::from_vars(|name| std::env::var_os(name))
    }

    fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Result<Self, NotifyError> {
        let Some(address) = var("NOTIFY_SOCKET") else {
            return Ok(Self { socket: None, watchdog: None });
        };
        let connected = || {
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&socket_address(&address)?)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        if !matches!(address.as_bytes().first(), Some(b'/' | b'@')) {
            return Err(NotifyError::Address { address });
        }
        let socket = connected()
            .map_err(|source| NotifyError::Unreachable { address: address.clone(), source })?;
        // Set for another process, it is inherited by accident.
        let is_ours = var("WATCHDOG_PID").is_none_or(|pid| pid == *std::process::id().to_string());
        let watchdog = var("WATCHDOG_USEC").filter(|_| is_ours).map(microseconds).transpose()?;
        Ok(Self { socket: Some(socket), watchdog })
    }

    /// The node serves: from here on it is told how the node does, until this is dropped.
    pub async fn tell_while_serving(&self, instance: &Instance) -> Infallible {
        self.send("READY=1");
        let interval = self.watchdog.map_or(STATUS_INTERVAL, |w| STATUS_INTERVAL.min(w / 2));
        let mut interval = tokio::time::interval(interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let silent_for = instance.node().silent_for();
            let status = status(instance.node(), instance.groups_expected());
            self.send(&beat(self.watchdog, silent_for, &status));
        }
    }

    /// The node is about to stop.
    pub fn tell_stopping(&self) {
        self.send("STOPPING=1\nSTATUS=handing leaderships over, finishing requests");
    }

    fn send(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(message.as_bytes()) {
            tracing::warn!(%error, message, "the service manager was not told");
        }
    }
}

/// One message of a node whose slowest thread last answered so long ago.
fn beat(watchdog: Option<Duration>, silent_for: Duration, status: &str) -> String {
    let patience = watchdog.unwrap_or(Duration::MAX) / 2;
    if silent_for >= patience {
        tracing::error!(?silent_for, "a thread does not answer: the watchdog is not fed");
        return format!("STATUS=a thread has not answered for {} ms", silent_for.as_millis());
    }
    let alive = if watchdog.is_some() { "WATCHDOG=1\n" } else { "" };
    format!("{alive}STATUS={status}")
}

/// One line for `systemctl status`.
fn status(node: &Node, groups_expected: usize) -> String {
    let status = node.status();
    let connected = status.peers.iter().filter(|peer| peer.connected).count();
    let (peers, groups) = (status.peers.len(), status.groups.len());
    let ready = match readiness(&status.into(), groups_expected) {
        Ok(()) => "ready".to_owned(),
        Err(reasons) => format!("not ready ({}), first: {}", reasons.len(), reasons[0]),
    };
    // A line break would begin another assignment.
    format!("{ready}; {groups} groups, {connected} of {peers} peers connected").replace('\n', " ")
}

fn socket_address(address: &OsStr) -> std::io::Result<SocketAddr> {
    match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(address),
    }
}

fn microseconds(value: OsString) -> Result<Duration, NotifyError> {
    let parsed = value.to_str().and_then(|text| text.parse().ok()).filter(|us| *us > 0);
    parsed.map(Duration::from_micros).ok_or(NotifyError::Watchdog { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A notifier as these variables make it.
    fn notifier(vars: &[(&str, &str)]) -> Result<Notifier, NotifyError> {
        Notifier::from_vars(|name| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    /// Goal: both kinds of addresses are reached. Method: a socket of each kind, and what it hears.
    #[test]
    fn sockets_with_a_path_and_with_an_abstract_name_are_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("@polyraft-notify-{}", std::process::id());
        for address in [path.to_str().unwrap(), &name] {
            let heard =
                UnixDatagram::bind_addr(&socket_address(OsStr::new(address)).unwrap()).unwrap();
            notifier(&[("NOTIFY_SOCKET", address)]).unwrap().tell_stopping();
            let mut message = [0; 256];
            let n = heard.recv(&mut message).unwrap();
            assert!(message[..n].starts_with(b"STOPPING=1\n"), "{address}");
        }
    }

    #[test]
    fn without_a_manager_nothing_is_sent_and_nothing_fails() {
        let alone = notifier(&[("WATCHDOG_USEC", "nonsense")]).unwrap();
        assert!(alone.socket.is_none() && alone.watchdog.is_none());
        alone.tell_stopping();
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name() {
        let refused = |vars: &[(&str, &str)]| notifier(vars).unwrap_err().to_string();
        assert!(refused(&[("NOTIFY_SOCKET", "vsock:2:1234")]).contains("vsock:2:1234"));
        assert!(refused(&[("NOTIFY_SOCKET", "/no/such/socket")]).contains("/no/such/socket"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _heard = UnixDatagram::bind(&path).unwrap();
        let path = path.to_str().unwrap();
        for usec in ["0", "-1", "soon"] {
            let error = refused(&[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", usec)]);
            assert!(error.contains(&format!("WATCHDOG_USEC={usec:?}")), "{error}");
        }
        let own = std::process::id().to_string();
        for (pid, watchdog) in [("1", None), (own.as_str(), Some(Duration::from_secs(3)))] {
            let vars =
                [("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", pid)];
            assert_eq!(notifier(&vars).unwrap().watchdog, watchdog, "pid {pid}");
        }
    }

    #[test]
    fn a_watchdog_is_fed_only_while_the_threads_answer() {
        let watchdog = Some(Duration::from_secs(10));
        let just = Duration::from_millis(4_999);
        assert_eq!(beat(watchdog, just, "ready"), "WATCHDOG=1\nSTATUS=ready");
        let silent = beat(watchdog, Duration::from_secs(5), "ready");
        assert_eq!(silent, "STATUS=a thread has not answered for 5000 ms");
        assert_eq!(beat(None, Duration::from_secs(60), "ready"), "STATUS=ready");
    }
}
