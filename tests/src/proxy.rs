//! A UDP proxy in front of one node, for one peer, that goes silent or loses some when told to.
//!
//! ```text
//! peer ─→ [LinkProxy] ─→ node        cut: both directions are swallowed, and nobody is told
//!                                    loss: so many of each thousand are, in either direction
//! ```

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use polyraft_core::split_mix;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Largest datagram that a node sends.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// A switch that any number of proxies obey.
#[derive(Debug, Default)]
pub struct Cut {
    is_cut: AtomicBool,
    loss_per_mille: AtomicU64,
    dice: AtomicU64,
    passed: AtomicU64,
    swallowed: AtomicU64,
}

impl Cut {
    /// Swallows everything from now on, or lets everything through.
    pub fn set(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::SeqCst);
    }

    /// Loses so many datagrams of each thousand from now on, at random.
    pub fn lose(&self, per_mille: u64) {
        self.loss_per_mille.store(per_mille, Ordering::SeqCst);
    }

    /// Datagrams let through so far.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }

    /// Datagrams swallowed so far: the proof that the fault took effect (CH-4).
    pub fn swallowed(&self) -> u64 {
        self.swallowed.load(Ordering::SeqCst)
    }

    fn passes(&self) -> bool {
        let is_lost = self.is_cut.load(Ordering::SeqCst) || self.is_unlucky();
        let counter = if is_lost { &self.swallowed } else { &self.passed };
        counter.fetch_add(1, Ordering::SeqCst);
        !is_lost
    }

    fn is_unlucky(&self) -> bool {
        let loss = self.loss_per_mille.load(Ordering::SeqCst);
        loss > 0 && {
            let state = self.dice.fetch_add(split_mix::STEP, Ordering::SeqCst);
            split_mix::mix(state) % 1_000 < loss
        }
    }
}

/// One proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct LinkProxy {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl LinkProxy {
    /// Forwards between a socket of its own and `server`, as long as `cut` lets it.
    ///
    /// # Errors
    /// No socket can be bound.
    pub async fn start(server: SocketAddr, cut: Arc<Cut>) -> io::Result<Self> {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
        let address = front.local_addr()?;
        Ok(Self { address, task: tokio::spawn(forward(front, server, cut)) })
    }

    /// Where the peer finds the node.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for LinkProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Replies of one client's datagrams; ends with the proxy.
struct Client {
    back: Arc<UdpSocket>,
    task: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(front: Arc<UdpSocket>, server: SocketAddr, cut: Arc<Cut>) {
    let mut clients: HashMap<SocketAddr, Client> = HashMap::new();
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((len, from)) = front.recv_from(&mut datagram).await else { continue };
        let client = match clients.entry(from) {
            Entry::Occupied(client) => client.into_mut(),
            Entry::Vacant(place) => {
                let Ok(back) = connect(server).await else { continue };
                let (front, cut) = (front.clone(), Arc::clone(&cut));
                let task = tokio::spawn(backward(back.clone(), front, from, cut));
                place.insert(Client { back, task })
            }
        };
        if cut.passes() {
            // A datagram that cannot be sent is lost, as datagrams are.
            let _ = client.back.send(&datagram[..len]).await;
        }
    }
}

async fn connect(server: SocketAddr) -> io::Result<Arc<UdpSocket>> {
    let back = UdpSocket::bind("127.0.0.1:0").await?;
    back.connect(server).await?;
    Ok(Arc::new(back))
}

async fn backward(back: Arc<UdpSocket>, front: Arc<UdpSocket>, to: SocketAddr, cut: Arc<Cut>) {
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        // An error says that the server is not listening right now: it may be back.
        let Ok(len) = back.recv(&mut datagram).await else {
            tokio::task::yield_now().await;
            continue;
        };
        if cut.passes() {
            let _ = front.send_to(&datagram[..len], to).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_of_each_thousand_are_lost_and_counted() {
        let cut = Cut::default();
        assert!((0..1_000).all(|_| cut.passes()));
        cut.lose(100);
        let passed = (0..10_000).filter(|_| cut.passes()).count() as u64;
        assert!((8_800..9_200).contains(&passed), "{passed} of 10,000");
        assert_eq!((cut.passed(), cut.swallowed()), (1_000 + passed, 10_000 - passed));
        cut.lose(0);
        cut.set(true);
        assert!(!cut.passes(), "a cut is a cut without any loss");
    }
}
