//! As much of NATS's client protocol as a ledger needs: requests one at a time, and one stream's
//! messages from the first to the last.
//! Source: docs.nats.io, "Client Protocol" and "JetStream wire API Reference".

use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// How long a server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"1\",\"protocol\":1}\r\n\
                       SUB answer.* 1\r\nSUB messages 2\r\n";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NatsError {
    /// The connection cannot be made, or is gone.
    #[error("no connection to a NATS server")]
    Io(#[from] std::io::Error),
    /// No answer in time.
    #[error("no answer within {TIMEOUT:?}")]
    TimedOut,
    /// The server's words are not of the protocol.
    #[error("the server's answer is none of the protocol")]
    Malformed,
    /// The stream has no leader, or not all of its replicas.
    #[error("the stream did not become whole")]
    NoStream,
}

/// One connection to one server.
pub struct NatsConnection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    inbox: String,
    requests: u64,
}

/// One message from the server.
struct Message {
    subject: String,
    /// Where an acknowledgement would go: JetStream numbers the message there.
    reply: Option<String>,
    payload: Vec<u8>,
}

impl NatsConnection {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn connect(address: &str) -> Result<Self, NatsError> {
        within(async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            // Subjects are the whole cluster's, and two servers may see the same local port.
            let (own, theirs) = (stream.local_addr()?.port(), stream.peer_addr()?.port());
            let inbox = format!("ledger-{own}-{theirs}");
            let (reader, mut writer) = stream.into_split();
            let mut reader = BufReader::new(reader);
            let mut info = String::new();
            reader.read_line(&mut info).await?;
            if !info.starts_with("INFO ") {
                return Err(NatsError::Malformed);
            }
            let connect = CONNECT.replace("SUB ", &format!("SUB {inbox}."));
            writer.write_all(connect.as_bytes()).await?;
            Ok(Self { reader, writer, inbox, requests: 0 })
        })
        .await
    }

    /// Sends `body` to `subject`, and returns the first answer.
    ///
    /// # Errors
    /// None in time.
    pub async fn request(&mut self, subject: &str, body: &[u8]) -> Result<Vec<u8>, NatsError> {
        self.requests += 1;
        let reply = format!("{}.answer.{}", self.inbox, self.requests);
        within(async {
            let head = format!("PUB {subject} {reply} {}\r\n", body.len());
            self.writer.write_all(&[head.as_bytes(), body, b"\r\n"].concat()).await?;
            loop {
                let message = self.next().await?;
                if message.subject == reply {
                    return Ok(message.payload);
                }
            }
        })
        .await
    }

    /// Every message of `stream`, with its sequence number, in order. It must not be empty.
    ///
    /// # Errors
    /// The server stops before the last one.
    pub async fn consume(&mut self, stream: &str) -> Result<Vec<(i64, Vec<u8>)>, NatsError> {
        let messages = format!("{}.messages", self.inbox);
        let body = format!(
            "{{\"stream_name\":\"{stream}\",\"config\":{{\"deliver_subject\":\"{messages}\",\
             \"ack_policy\":\"none\",\"deliver_policy\":\"all\",\"replay_policy\":\"instant\",\
             \"mem_storage\":true,\"num_replicas\":1}}}}"
        );
        let reply = format!("{}.answer.consumer", self.inbox);
        let subject = format!("$JS.API.CONSUMER.CREATE.{stream}");
        let request = format!("PUB {subject} {reply} {}\r\n{body}\r\n", body.len());
        within(async { Ok(self.writer.write_all(request.as_bytes()).await?) }).await?;
        let mut found = Vec::new();
        loop {
            let message = within(self.next()).await?;
            let Some(numbers) = message.reply.as_deref().and_then(numbers) else { continue };
            found.push((numbers.sequence, message.payload));
            if numbers.pending == 0 {
                return Ok(found);
            }
        }
    }

    async fn next(&mut self) -> Result<Message, NatsError> {
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            let words: Vec<_> = line.split_whitespace().collect();
            let (subject, reply, bytes) = match words[..] {
                ["MSG", subject, _, bytes] => (subject, None, bytes),
                ["MSG", subject, _, reply, bytes] => (subject, Some(reply), bytes),
                ["PING"] => {
                    self.writer.write_all(b"PONG\r\n").await?;
                    continue;
                }
                ["PONG" | "+OK"] | ["INFO", ..] => continue,
                _ => return Err(NatsError::Malformed),
            };
            let bytes: usize = bytes.parse().map_err(|_| NatsError::Malformed)?;
            let mut payload = vec![0; bytes + 2];
            self.reader.read_exact(&mut payload).await?;
            payload.truncate(bytes);
            let (subject, reply) = (subject.to_owned(), reply.map(str::to_owned));
            return Ok(Message { subject, reply, payload });
        }
    }
}

/// What JetStream says about a message that it delivers.
#[derive(Debug, PartialEq, Eq)]
struct Numbers {
    sequence: i64,
    pending: u64,
}

/// `$JS.ACK.stream.consumer.deliveries.sequence.delivered.time.pending`.
fn numbers(reply: &str) -> Option<Numbers> {
    let parts: Vec<_> = reply.split('.').collect();
    match parts[..] {
        ["$JS", "ACK", _, _, _, sequence, _, _, pending] => {
            Some(Numbers { sequence: sequence.parse().ok()?, pending: pending.parse().ok()? })
        }
        _ => None,
    }
}

async fn within<T>(work: impl Future<Output = Result<T, NatsError>>) -> Result<T, NatsError> {
    tokio::time::timeout(TIMEOUT, work).await.unwrap_or(Err(NatsError::TimedOut))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivered_message_tells_its_number_and_how_many_follow() {
        let reply = "$JS.ACK.LEDGER.eph.1.17.3.1700000000000000000.5";
        assert_eq!(numbers(reply), Some(Numbers { sequence: 17, pending: 5 }));
        assert_eq!(numbers("ledger-1.answer.2"), None);
    }
}
