//! One connection to one endpoint at a time, moving on to the next when it fails.

use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error};

/// How long one request may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The endpoints of a cluster, and a connection to one of them.
pub struct Endpoints {
    addresses: Vec<String>,
    at: usize,
    client: Option<Client>,
}

impl Endpoints {
    /// Starts at the `start`-th of `addresses`, so that many clients spread over all of them.
    ///
    /// # Panics
    /// Without addresses.
    pub fn new(addresses: &[String], start: usize) -> Self {
        assert!(!addresses.is_empty(), "at least one endpoint is needed");
        Self { addresses: addresses.to_vec(), at: start % addresses.len(), client: None }
    }

    /// The endpoint in use.
    pub fn address(&self) -> &str {
        &self.addresses[self.at]
    }

    /// A connection to the endpoint in use.
    ///
    /// # Errors
    /// It cannot be made; nothing was sent.
    pub async fn client(&mut self) -> Result<&mut Client, Error> {
        if self.client.is_none() {
            self.client = Some(connect(self.address()).await?);
        }
        Ok(self.client.as_mut().expect("it was just made"))
    }

    /// Moves on to the next endpoint.
    pub fn fail_over(&mut self) {
        self.client = None;
        self.at = (self.at + 1) % self.addresses.len();
    }
}

/// Connects to one endpoint.
///
/// # Errors
/// The address is malformed or nobody answers.
pub async fn connect(address: &str) -> Result<Client, Error> {
    let options =
        ConnectOptions::new().with_timeout(REQUEST_TIMEOUT).with_connect_timeout(CONNECT_TIMEOUT);
    Client::connect([address], Some(options)).await
}
