//! A UDP proxy that loses what it is told to, by direction.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use tokio::net::UdpSocket;
use tokio::runtime::Handle;

/// Stands before one server; each client gets a socket of its own towards it.
pub struct UdpProxy {
    pub address: SocketAddr,
    pub state: Arc<Loss>,
}

#[derive(Default)]
pub struct Loss {
    /// Lose what goes to the server.
    pub to_server: AtomicBool,
    /// Lose what comes from the server.
    pub from_server: AtomicBool,
    /// Datagrams lost so far: the proof that the fault happened.
    pub lost: AtomicU64,
}

impl Loss {
    pub fn set(&self, to_server: bool, from_server: bool) {
        self.to_server.store(to_server, SeqCst);
        self.from_server.store(from_server, SeqCst);
    }

    fn passes(&self, direction: &AtomicBool) -> bool {
        let lost = direction.load(SeqCst);
        self.lost.fetch_add(u64::from(lost), SeqCst);
        !lost
    }
}

impl UdpProxy {
    pub fn start(server: SocketAddr, handle: &Handle) -> Self {
        let front = Arc::new(handle.block_on(UdpSocket::bind("127.0.0.1:0")).unwrap());
        let state = Arc::new(Loss::default());
        let address = front.local_addr().unwrap();
        handle.spawn(forward(front, server, state.clone()));
        Self { address, state }
    }
}

async fn forward(front: Arc<UdpSocket>, server: SocketAddr, loss: Arc<Loss>) {
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut datagram = vec![0; 65_536];
    loop {
        let Ok((len, client)) = front.recv_from(&mut datagram).await else { continue };
        if let std::collections::hash_map::Entry::Vacant(entry) = clients.entry(client) {
            let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
            back.connect(server).await.unwrap();
            tokio::spawn(backward(back.clone(), front.clone(), client, loss.clone()));
            entry.insert(back);
        }
        if loss.passes(&loss.to_server) {
            let _ = clients[&client].send(&datagram[..len]).await;
        }
    }
}

async fn backward(
    back: Arc<UdpSocket>,
    front: Arc<UdpSocket>,
    client: SocketAddr,
    loss: Arc<Loss>,
) {
    let mut datagram = vec![0; 65_536];
    loop {
        let Ok(len) = back.recv(&mut datagram).await else { continue };
        if loss.passes(&loss.from_server) {
            let _ = front.send_to(&datagram[..len], client).await;
        }
    }
}
