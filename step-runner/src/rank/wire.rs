//! A connection between two runners of one attempt: lines of JSON, each with a MAC by the key that only they have.
//!
//! ```text
//! both      trainyard-gate 1 <nonce>
//! then      <HMAC-SHA256 of side, number, both nonces and the JSON> <JSON>
//! ```
//!
//! Nonces and numbers make every line good for one place in one connection. Nothing is secret: what is said is who is there and what is
//! to begin. Who has no key can hold a connection for [`FIRST_WORD`] and no longer.

use std::net::SocketAddr;
use std::time::Duration;

use ring::hmac;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::digest;

/// How long a peer may take to say who it is.
pub(super) const FIRST_WORD: Duration = Duration::from_secs(5);
/// What both say first.
const GREETING: &str = "trainyard-gate 1";
/// Bytes of a nonce.
const NONCE: usize = 16;
/// Bytes of the longest line of a peer that has not shown the key, and of a follower.
pub(super) const SHORT: usize = 4 << 10;
/// Bytes of the longest line of one that has: the addresses of all ranks, or a command.
pub(super) const LONG: usize = 1 << 20;

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the connection was closed")]
    Closed,
    #[error("a line of more than {0} bytes")]
    TooLong(usize),
    #[error("not a line of this protocol")]
    Garbled,
    #[error("a line that is not signed with this attempt's key")]
    Unsigned,
    #[error("nothing was said for {} s", FIRST_WORD.as_secs())]
    Silent,
}

/// One side of a connection.
pub(super) struct Wire {
    stream: TcpStream,
    key: hmac::Key,
    /// Both nonces, the server's first.
    nonces: Vec<u8>,
    server: bool,
    buffer: Vec<u8>,
    sent: u64,
    received: u64,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("peer", &self.stream.peer_addr().ok()).finish_non_exhaustive()
    }
}

impl Wire {
    /// Greets whoever has connected.
    pub(super) async fn accept(stream: TcpStream, key: &[u8]) -> Result<Self, WireError> {
        Self::greet(stream, key, true).await
    }

    /// Greets whom we have connected to.
    pub(super) async fn connect(stream: TcpStream, key: &[u8]) -> Result<Self, WireError> {
        Self::greet(stream, key, false).await
    }

    async fn greet(stream: TcpStream, key: &[u8], server: bool) -> Result<Self, WireError> {
        stream.set_nodelay(true)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let mut wire = Self { stream, key, nonces: Vec::new(), server, buffer: Vec::new(), sent: 0, received: 0 };
        let ours = nonce()?;
        let line = format!("{GREETING} {}\n", digest::hex(&ours));
        let exchange = async {
            wire.stream.write_all(line.as_bytes()).await?;
            let theirs = wire.line(SHORT).await?;
            let theirs =
                std::str::from_utf8(&theirs).ok().and_then(|line| line.strip_prefix(GREETING)?.strip_prefix(' '));
            theirs.and_then(digest::unhex).filter(|nonce| nonce.len() == NONCE).ok_or(WireError::Garbled)
        };
        let theirs = timeout(FIRST_WORD, exchange).await.map_err(|_| WireError::Silent)??;
        wire.nonces = if server { [ours, theirs].concat() } else { [theirs, ours].concat() };
        Ok(wire)
    }

    /// Whom we talk to.
    pub(super) fn peer(&self) -> Result<SocketAddr, WireError> {
        Ok(self.stream.peer_addr()?)
    }

    /// Our own address, as the peer sees it.
    pub(super) fn local(&self) -> Result<SocketAddr, WireError> {
        Ok(self.stream.local_addr()?)
    }

    /// Says one thing.
    pub(super) async fn say(&mut self, word: &impl Serialize) -> Result<(), WireError> {
        let json = serde_json::to_vec(word).map_err(|_| WireError::Garbled)?;
        let mac = hmac::sign(&self.key, &self.covered(self.server, self.sent, &json));
        self.sent += 1;
        let line = [digest::hex(mac.as_ref()).as_bytes(), b" ", &json, b"\n"].concat();
        Ok(self.stream.write_all(&line).await?)
    }

    /// Waits for one thing to be said, in at most `limit` bytes. May be dropped and called again.
    pub(super) async fn hear<T: DeserializeOwned>(&mut self, limit: usize) -> Result<T, WireError> {
        let line = self.line(limit).await?;
        let space = line.iter().position(|byte| *byte == b' ').ok_or(WireError::Garbled)?;
        let (mac, json) = (&line[..space], &line[space + 1..]);
        let mac = std::str::from_utf8(mac).ok().and_then(digest::unhex).ok_or(WireError::Garbled)?;
        hmac::verify(&self.key, &self.covered(!self.server, self.received, json), &mac)
            .map_err(|_| WireError::Unsigned)?;
        self.received += 1;
        serde_json::from_slice(json).map_err(|_| WireError::Garbled)
    }

    /// As [`Self::hear`], from a peer that has said nothing yet.
    pub(super) async fn hear_first<T: DeserializeOwned>(&mut self) -> Result<T, WireError> {
        timeout(FIRST_WORD, self.hear(SHORT)).await.map_err(|_| WireError::Silent)?
    }

    /// What a MAC is made over.
    fn covered(&self, by_server: bool, number: u64, json: &[u8]) -> Vec<u8> {
        let side: &[u8] = if by_server { b"server " } else { b"client " };
        [GREETING.as_bytes(), side, &number.to_be_bytes(), &self.nonces, json].concat()
    }

    async fn line(&mut self, limit: usize) -> Result<Vec<u8>, WireError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return if line.len() > limit { Err(WireError::TooLong(limit)) } else { Ok(line) };
            }
            if self.buffer.len() > limit {
                return Err(WireError::TooLong(limit));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(WireError::Closed);
            }
        }
    }
}

fn nonce() -> Result<Vec<u8>, WireError> {
    let mut bytes = vec![0; NONCE];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| std::io::Error::other("no random bytes"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), async { listener.accept().await });
        (client.unwrap(), server.unwrap().0)
    }

    async fn wires(client_key: &[u8]) -> (Wire, Wire) {
        let (client, server) = pair().await;
        let (client, server) = tokio::join!(Wire::connect(client, client_key), Wire::accept(server, b"key"));
        (client.unwrap(), server.unwrap())
    }

    #[tokio::test]
    async fn both_sides_hear_what_the_other_says_in_order() {
        let (mut client, mut server) = wires(b"key").await;
        client.say(&1).await.unwrap();
        client.say(&"two").await.unwrap();
        server.say(&3).await.unwrap();
        assert_eq!(server.hear::<u32>(SHORT).await.unwrap(), 1);
        assert_eq!(server.hear::<String>(SHORT).await.unwrap(), "two");
        assert_eq!(client.hear::<u32>(SHORT).await.unwrap(), 3);
        drop(server);
        assert!(matches!(client.hear::<u32>(SHORT).await, Err(WireError::Closed | WireError::Io(_))));
    }

    #[tokio::test]
    async fn another_key_is_heard_by_neither() {
        let (mut client, mut server) = wires(b"another").await;
        client.say(&1).await.unwrap();
        server.say(&1).await.unwrap();
        assert!(matches!(server.hear::<u32>(SHORT).await, Err(WireError::Unsigned)));
        assert!(matches!(client.hear::<u32>(SHORT).await, Err(WireError::Unsigned)));
    }

    #[tokio::test]
    async fn a_line_counts_once_in_its_place_in_its_connection() {
        // What one client says, recorded: its greeting and its first line.
        let (client, mut recorder) = pair().await;
        let mut record = Vec::new();
        let fixed = format!("{GREETING} {}\n", "00".repeat(NONCE));
        recorder.write_all(fixed.as_bytes()).await.unwrap();
        let mut client = Wire::connect(client, b"key").await.unwrap();
        client.say(&1).await.unwrap();
        drop(client);
        recorder.read_to_end(&mut record).await.unwrap();
        let end = record.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let (greeting, line) = record.split_at(end);

        // In another connection it is worth nothing, as the server's nonce is another one.
        let (mut replayer, server) = pair().await;
        replayer.write_all(&record).await.unwrap();
        let mut server = Wire::accept(server, b"key").await.unwrap();
        assert!(matches!(server.hear::<u32>(SHORT).await, Err(WireError::Unsigned)));

        // Nor twice in the same one.
        let (mut replayer, server) = pair().await;
        let accepting = tokio::spawn(async move {
            let mut wire = Wire::accept(server, b"key").await.unwrap();
            wire.nonces[..NONCE].fill(0);
            (wire.hear::<u32>(SHORT).await, wire.hear::<u32>(SHORT).await)
        });
        replayer.write_all(&[greeting, line, line].concat()).await.unwrap();
        let (first, second) = accepting.await.unwrap();
        assert!(matches!(first, Ok(1)) && matches!(second, Err(WireError::Unsigned)), "{first:?} {second:?}");
    }

    #[tokio::test]
    async fn what_a_server_said_is_not_believed_of_a_client() {
        let (client, server) = pair().await;
        let (client, server) = tokio::join!(Wire::connect(client, b"key"), Wire::accept(server, b"key"));
        let (client, mut server) = (client.unwrap(), server.unwrap());
        let mut mirror = Wire { server: true, ..client };
        mirror.say(&1).await.unwrap();
        assert!(matches!(server.hear::<u32>(SHORT).await, Err(WireError::Unsigned)));
    }

    #[tokio::test]
    async fn garbage_and_endless_lines_are_refused() {
        for (garbage, expected) in [
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "not a line"),
            (vec![0; SHORT * 2], "more than 4096 bytes"),
            (format!("{GREETING} zz\n").into_bytes(), "not a line"),
            (format!("{GREETING} 00\n").into_bytes(), "not a line"),
        ] {
            let (mut client, server) = pair().await;
            client.write_all(&garbage).await.unwrap();
            let error = Wire::accept(server, b"key").await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        let greeting = format!("{GREETING} {}\n", "00".repeat(NONCE));
        for garbage in ["nonsense", "\n", " {}\n", "zz {}\n", "00 1\n"] {
            let (mut client, server) = pair().await;
            client.write_all(format!("{greeting}{garbage}").as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            let mut server = Wire::accept(server, b"key").await.unwrap();
            assert!(server.hear_first::<u32>().await.is_err(), "{garbage:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_not_waited_for() {
        let (_client, server) = pair().await;
        assert!(matches!(Wire::accept(server, b"key").await, Err(WireError::Silent)));
    }
}
