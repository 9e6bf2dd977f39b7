//! Clients of named keyspaces: a keyspace is picked by metadata, which `etcd-client` adds to requests
//! through a channel of one's own.

use std::time::{Duration, Instant};

use etcd_client::{Channel, Client, Error};
use tonic::body::Body;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Endpoint;
use tower::util::{BoxCloneSyncService, MapErr, MapRequest};

/// The metadata that names a keyspace.
const KEYSPACE_METADATA: &str = "polyraft-keyspace";
/// What is put into every keyspace, behind the keyspace's name.
const KEY: &str = "visited";
/// Pause before a keyspace is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Why not every keyspace works.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyspaceError {
    /// An endpoint cannot be reached.
    #[error("cannot connect to {address}")]
    Connect {
        /// The endpoint.
        address: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// A keyspace served nothing in time.
    #[error("keyspace {name} took no put within {within:?}: {last}")]
    Unserved {
        /// The keyspace.
        name: String,
        /// The time that it had.
        within: Duration,
        /// The last attempt's error.
        last: String,
    },
    /// A keyspace gave back what another was given.
    #[error("keyspace {name} returned {found:?}, not its own name")]
    Mixed {
        /// The keyspace.
        name: String,
        /// What it held.
        found: Vec<String>,
    },
}

/// `default`, `ks-01`, `ks-02`, …: the keyspaces of `polyraft dev`.
pub fn name(number: usize) -> String {
    if number == 0 { "default".to_owned() } else { format!("ks-{number:02}") }
}

/// A client of one keyspace over a connection that many may share.
pub(crate) async fn client(
    connection: tonic::transport::Channel,
    name: &str,
) -> Result<Client, Error> {
    let keyspace = AsciiMetadataValue::try_from(name).expect("keyspaces have ASCII names");
    let named = MapRequest::new(connection, move |mut request: http::Request<Body>| {
        let value = keyspace.as_encoded_bytes();
        let value = http::HeaderValue::from_bytes(value).expect("metadata are headers");
        request.headers_mut().insert(KEYSPACE_METADATA, value);
        request
    });
    let named = MapErr::new(named, tower::BoxError::from);
    Client::from_channel(Channel::Custom(BoxCloneSyncService::new(named)), None).await
}

/// Puts into each of `count` keyspaces its own name, all at once, then reads them all back; returns
/// when the last was done.
///
/// # Errors
/// One was not served `within` the time, or holds what it should not.
///
/// # Panics
/// Without endpoints.
pub async fn visit(
    endpoints: &[String],
    count: usize,
    within: Duration,
) -> Result<Duration, KeyspaceError> {
    assert!(!endpoints.is_empty(), "at least one endpoint is needed");
    let (mut connections, began) = (Vec::new(), Instant::now());
    for address in endpoints {
        let refused = |source| KeyspaceError::Connect { address: address.clone(), source };
        let endpoint = Endpoint::from_shared(address.clone()).map_err(refused)?;
        connections.push(endpoint.connect().await.map_err(refused)?);
    }
    let puts: Vec<_> = (0..count)
        .map(|number| {
            let connection = connections[number % connections.len()].clone();
            tokio::spawn(put_own_name(connection, name(number), began, within))
        })
        .collect();
    for put in puts {
        put.await.expect("a visit never panics")?;
    }
    let took = began.elapsed();
    for number in 0..count {
        // Through another node than the put.
        let connection = connections[(number + 1) % connections.len()].clone();
        expect_own_name(connection, name(number), within).await?;
    }
    Ok(took)
}

async fn put_own_name(
    connection: tonic::transport::Channel,
    name: String,
    began: Instant,
    within: Duration,
) -> Result<(), KeyspaceError> {
    let unserved = |error: Error| unserved(&name, within, &error);
    let mut client = client(connection, &name).await.map_err(unserved)?;
    loop {
        match client.put(KEY, name.clone(), None).await {
            Ok(_) => return Ok(()),
            Err(_) if began.elapsed() < within => tokio::time::sleep(RETRY_PAUSE).await,
            Err(error) => return Err(unserved(error)),
        }
    }
}

async fn expect_own_name(
    connection: tonic::transport::Channel,
    name: String,
    within: Duration,
) -> Result<(), KeyspaceError> {
    let unserved = |error: Error| unserved(&name, within, &error);
    let mut client = client(connection, &name).await.map_err(unserved)?;
    let response = client.get(KEY, None).await.map_err(unserved)?;
    let found: Vec<_> = response
        .kvs()
        .iter()
        .map(|pair| String::from_utf8_lossy(pair.value()).into_owned())
        .collect();
    if found == [name.as_str()] { Ok(()) } else { Err(KeyspaceError::Mixed { name, found }) }
}

fn unserved(name: &str, within: Duration, last: &Error) -> KeyspaceError {
    KeyspaceError::Unserved { name: name.to_owned(), within, last: last.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_development_cluster() {
        let names: Vec<_> = [0, 1, 15, 255].map(name).into();
        assert_eq!(names, ["default", "ks-01", "ks-15", "ks-255"]);
    }
}
