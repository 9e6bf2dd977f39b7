//! A client of the admin interface: one GET over HTTP/1.0, the whole of what `polyraft status` needs.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(5);
/// More than 10,000 groups take.
const RESPONSE_BYTES_MAX: u64 = 64 << 20;

/// Why a node's admin interface gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// It cannot be reached.
    #[error("cannot reach {address}")]
    Unreachable {
        /// The address tried.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It did not answer in time.
    #[error("no answer from {address} within {TIMEOUT:?}")]
    TimedOut {
        /// The address asked.
        address: String,
    },
    /// It answered with something other than success.
    #[error("{address} answered {status:?}")]
    Status {
        /// The address asked.
        address: String,
        /// The status line.
        status: String,
    },
}

/// Gets `path` from the admin interface at `address` (`host:port`).
///
/// # Errors
/// It cannot be reached, does not answer within 5 s, or answers with anything but 200.
pub async fn get(address: &str, path: &str) -> Result<Vec<u8>, AdminError> {
    let response = tokio::time::timeout(TIMEOUT, exchange(address, path))
        .await
        .map_err(|_| AdminError::TimedOut { address: address.to_owned() })?
        .map_err(|source| AdminError::Unreachable { address: address.to_owned(), source })?;
    body_of(&response)
        .map(<[u8]>::to_vec)
        .map_err(|status| AdminError::Status { address: address.to_owned(), status })
}

async fn exchange(address: &str, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    // HTTP/1.0: the server neither chunks nor keeps the connection.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    stream.take(RESPONSE_BYTES_MAX).read_to_end(&mut response).await?;
    Ok(response)
}

/// The body of a successful response, or the status line of another.
fn body_of(response: &[u8]) -> Result<&[u8], String> {
    let head_len = response.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let head = String::from_utf8_lossy(&response[..head_len.unwrap_or(response.len())]);
    let status = head.lines().next().unwrap_or_default();
    match head_len {
        Some(len) if status.split(' ').nth(1) == Some("200") => Ok(&response[len + 4..]),
        _ => Err(status.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_successes_are_found() {
        assert_eq!(body_of(b"HTTP/1.0 200 OK\r\na: b\r\n\r\n{}").unwrap(), b"{}");
        assert_eq!(body_of(b"HTTP/1.1 503 No\r\n\r\nx").unwrap_err(), "HTTP/1.1 503 No");
        assert_eq!(body_of(b"HTTP/1.0 200 OK\r\n").unwrap_err(), "HTTP/1.0 200 OK");
        assert_eq!(body_of(b"").unwrap_err(), "");
    }

    #[tokio::test]
    async fn an_absent_node_is_named() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = get(&address, "/status").await.unwrap_err();
        assert!(error.to_string().contains(&address), "{error}");
    }
}
