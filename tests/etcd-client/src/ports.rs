//! Ports for processes that die and come back.
//!
//! They lie below the range that systems take the near ends of connections from: a port that its process
//! left by dying must still be free when it comes back.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::dice::Dice;
use crate::node_process::{ProcessError, io};

const PORTS: Range<u16> = 20_000..32_000;
const ATTEMPTS: u32 = 1_000;

/// What this process has given away.
static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A TCP port of 127.0.0.1 that nobody uses at the moment, and that is returned once.
pub(crate) fn free_tcp_port() -> Result<u16, ProcessError> {
    free_port(|address| TcpListener::bind(address).map(drop)).map_err(io("finding a TCP port"))
}

/// The same for UDP.
pub(crate) fn free_udp_port() -> Result<u16, ProcessError> {
    free_port(|address| UdpSocket::bind(address).map(drop)).map_err(io("finding a UDP port"))
}

fn free_port(bind: impl Fn(SocketAddrV4) -> std::io::Result<()>) -> std::io::Result<u16> {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let mut dice = Dice::new(u64::from(std::process::id()) << 32 ^ u64::from(now.subsec_nanos()));
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..ATTEMPTS {
        let port = PORTS.start + dice.roll(PORTS.len() as u64) as u16;
        if !taken.contains(&port) && bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).is_ok() {
            taken.insert(port);
            return Ok(port);
        }
    }
    Err(std::io::ErrorKind::AddrInUse.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let ports: BTreeSet<_> = (0..200).filter_map(|_| free_tcp_port().ok()).collect();
        assert_eq!(ports.len(), 200);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }
}
