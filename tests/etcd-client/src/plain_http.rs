//! One request over plain HTTP, and its answer.
//!
//! ```text
//! send: connect → head, body → everything until the server closes → status, body
//! ```
//!
//! HTTP/1.0, so that no server chunks or keeps the connection. Not here: what is asked, and of whom.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an exchange may take: a process that stands still accepts, and never answers.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(20);

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `GET`, `POST`, `DELETE`.
    pub method: &'a str,
    /// The path, with its query.
    pub path: &'a str,
    /// The bearer's token, if the server wants one.
    pub token: Option<&'a str>,
    /// The body's type and content; empty for none.
    pub body: (&'a str, &'a str),
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code; 0 if there was none.
    pub status: u16,
    /// Everything behind the head.
    pub body: String,
}

impl<'a> Request<'a> {
    /// A plain `GET`.
    pub fn get(path: &'a str) -> Self {
        Self { method: "GET", path, token: None, body: ("", "") }
    }

    fn text(&self) -> String {
        let Self { method, path, token, body: (kind, content) } = self;
        let token = token.map_or_else(String::new, |t| format!("Authorization: Bearer {t}\r\n"));
        let kind = match *kind {
            "" => String::new(),
            kind => format!("Content-Type: {kind}\r\n"),
        };
        let length = content.len();
        format!(
            "{method} {path} HTTP/1.0\r\n{token}{kind}Content-Length: {length}\r\n\r\n{content}"
        )
    }
}

/// Asks the server at `address`, which is `host:port`.
///
/// # Errors
/// It cannot be reached, or does not answer in time.
pub async fn send(address: &str, request: Request<'_>) -> std::io::Result<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.text().as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(parse(&text))
    };
    match tokio::time::timeout(EXCHANGE_TIMEOUT, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}

fn parse(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Answer { status, body: body.to_owned() }
}

/// Fields of a form, as a body of `application/x-www-form-urlencoded`.
pub fn form(fields: &[(&str, &str)]) -> String {
    let pairs = fields.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// A text as a part of a URL: everything but unreserved characters is escaped (RFC 3986, 2.3).
pub fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_are_as_the_protocol_has_them() {
        let request =
            Request { method: "POST", path: "/x", token: Some("t"), body: ("text/plain", "ab") };
        assert_eq!(
            request.text(),
            "POST /x HTTP/1.0\r\nAuthorization: Bearer t\r\nContent-Type: text/plain\r\n\
             Content-Length: 2\r\n\r\nab"
        );
        let answer = parse("HTTP/1.0 503 Busy\r\nA: b\r\n\r\nlater");
        assert_eq!(answer, Answer { status: 503, body: "later".to_owned() });
        assert_eq!(parse("").status, 0);
    }

    #[test]
    fn what_means_something_in_a_url_is_escaped() {
        assert_eq!(
            form(&[("query", "a{b=\"c d\"}"), ("n", "1")]),
            "query=a%7Bb%3D%22c%20d%22%7D&n=1"
        );
    }
}
