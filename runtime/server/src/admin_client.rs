//! A client of the admin interface: one request over HTTP/1.0, the whole of what `polyraft status`,
//! `polyraft groups` and `polyraft chaos` need.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::access_token::AccessToken;

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
    /// Something else listens there.
    #[error("{address} does not speak HTTP")]
    NotHttp {
        /// The address asked.
        address: String,
    },
    /// It answered with something other than success.
    #[error("{address} answered {status:?}")]
    Status {
        /// The address asked.
        address: String,
        /// The status line, and what the node says.
        status: String,
    },
}

impl AdminError {
    /// Whether the node says that the same may succeed in a moment.
    pub fn is_passing(&self) -> bool {
        self.code() == Some("503")
    }

    /// What a person can do about it, if that can be told.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { source, .. } if source.kind() == ErrorKind::ConnectionRefused => {
                Some(
                    "nothing listens there: does the node run, and is this its server.admin_listen? \
                 Name another with --admin HOST:PORT",
                )
            }
            Self::Unreachable { .. } => {
                Some("give the address of a node's server.admin_listen with --admin HOST:PORT")
            }
            Self::TimedOut { .. } => {
                Some("the node may stand still, or a firewall drops what is sent to it")
            }
            Self::NotHttp { .. } => Some(
                "the etcd API has an address of its own: give that of server.admin_listen with \
                 --admin HOST:PORT",
            ),
            Self::Status { .. } => match self.code()? {
                "401" => {
                    Some("give the file of a token that the node knows with --token-file FILE")
                }
                "403" => Some("give the file of another role's token with --token-file FILE"),
                "404" => Some("the node may be of another version: compare polyraft --version"),
                _ => None,
            },
        }
    }

    fn code(&self) -> Option<&str> {
        match self {
            Self::Status { status, .. } => status.split(' ').nth(1),
            _ => None,
        }
    }
}

/// A request by somebody who may more than look.
#[derive(Debug, Clone, Copy)]
pub struct Authorized<'r> {
    /// `GET`, `POST` or `DELETE`.
    pub method: &'static str,
    /// The path.
    pub path: &'r str,
    /// What proves that the sender may.
    pub token: &'r str,
    /// JSON, or nothing.
    pub body: &'r str,
}

/// Gets `path` from the admin interface at `address` (`host:port`), as whoever may look.
///
/// # Errors
/// It cannot be reached, does not answer within 5 s, or answers with anything but success.
pub async fn get(address: &str, path: &str) -> Result<Vec<u8>, AdminError> {
    get_as(address, path, None).await
}

/// As [`get`], on behalf of the bearer of `token`, if there is one.
///
/// # Errors
/// As for [`get`].
pub async fn get_as(
    address: &str,
    path: &str,
    token: Option<&AccessToken>,
) -> Result<Vec<u8>, AdminError> {
    let shown = token.map(|token| format!("Authorization: Bearer {}\r\n", token.as_str()));
    let shown = shown.unwrap_or_default();
    ask(address, format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n{shown}\r\n")).await
}

/// Sends `request` to the admin interface at `address`; returns the answer's body.
///
/// # Errors
/// As for [`get`].
pub async fn send(address: &str, request: Authorized<'_>) -> Result<Vec<u8>, AdminError> {
    let Authorized { method, path, token, body } = request;
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    ask(address, head + body).await
}

async fn ask(address: &str, request: String) -> Result<Vec<u8>, AdminError> {
    let response = tokio::time::timeout(TIMEOUT, exchange(address, &request))
        .await
        .map_err(|_| AdminError::TimedOut { address: address.to_owned() })?
        .map_err(|source| AdminError::Unreachable { address: address.to_owned(), source })?;
    if !response.starts_with(b"HTTP/") {
        return Err(AdminError::NotHttp { address: address.to_owned() });
    }
    body_of(&response)
        .map(<[u8]>::to_vec)
        .map_err(|status| AdminError::Status { address: address.to_owned(), status })
}

// HTTP/1.0: the server neither chunks nor keeps the connection.
async fn exchange(address: &str, request: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    stream.take(RESPONSE_BYTES_MAX).read_to_end(&mut response).await?;
    Ok(response)
}

/// The body of a successful response, or the status line of another and why.
fn body_of(response: &[u8]) -> Result<&[u8], String> {
    let head_len = response.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let head = String::from_utf8_lossy(&response[..head_len.unwrap_or(response.len())]);
    let status = head.lines().next().unwrap_or_default();
    match head_len {
        Some(len) if status.split(' ').nth(1).is_some_and(|code| code.starts_with('2')) => {
            Ok(&response[len + 4..])
        }
        // Why, if the node says so, is worth more than the number alone.
        Some(len) if response.len() > len + 4 => {
            let why = String::from_utf8_lossy(&response[len + 4..]);
            Err(format!("{status}: {}", why.trim()))
        }
        _ => Err(status.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_successes_are_found() {
        assert_eq!(body_of(b"HTTP/1.0 200 OK\r\na: b\r\n\r\n{}").unwrap(), b"{}");
        assert_eq!(body_of(b"HTTP/1.0 204 Gone\r\n\r\n").unwrap(), b"");
        assert_eq!(body_of(b"HTTP/1.1 503 No\r\n\r\nx\n").unwrap_err(), "HTTP/1.1 503 No: x");
        assert_eq!(body_of(b"HTTP/1.0 200 OK\r\n").unwrap_err(), "HTTP/1.0 200 OK");
        assert_eq!(body_of(b"").unwrap_err(), "");
    }

    #[test]
    fn only_503_passes() {
        let refused = |status: &str| {
            let (address, status) = (String::new(), status.to_owned());
            AdminError::Status { address, status }.is_passing()
        };
        assert!(refused("HTTP/1.0 503 Service Unavailable: try again"));
        assert!(!refused("HTTP/1.0 400 Bad Request: 503 is no node"));
    }

    #[tokio::test]
    async fn an_absent_node_is_named() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = get(&address, "/status").await.unwrap_err();
        assert!(error.to_string().contains(&address), "{error}");
        assert!(error.advice().unwrap().contains("does the node run"), "{error}");
    }

    #[test]
    fn what_can_be_done_about_it_is_said() {
        let answered = |status: &str| {
            let (address, status) = (String::new(), status.to_owned());
            AdminError::Status { address, status }.advice()
        };
        assert!(
            answered("HTTP/1.0 401 Unauthorized: this needs").unwrap().contains("--token-file")
        );
        assert!(answered("HTTP/1.0 403 Forbidden").unwrap().contains("another role"));
        assert!(answered("HTTP/1.0 404 Not Found").unwrap().contains("version"));
        assert_eq!(answered("HTTP/1.0 400 Bad Request: top"), None);
        let other = AdminError::NotHttp { address: String::new() };
        assert!(other.advice().unwrap().contains("server.admin_listen"));
    }
}
