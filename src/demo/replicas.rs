//! Copies sessions to the instance that Homing announces as their successor.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Names the secret that instances of one demo share. Clients do not know it, so they cannot
/// write sessions.
pub(super) const SECRET: &str = "x-demo-secret";
/// Time allowed for a copy. The visitor waits for it, so that a kill right after the response loses
/// nothing.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Maximum size of an answer in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// The demo that an instance belongs to.
#[derive(Debug, Clone)]
pub struct Stage {
    /// The address that shows the cluster and knows the instances.
    pub address: SocketAddr,
    /// What instances show each other.
    pub secret: String,
}

/// The other instances.
#[derive(Debug)]
pub(super) struct Replicas {
    stage: Option<Stage>,
    /// Addresses by id, as far as they are known.
    known: Mutex<AHashMap<String, SocketAddr>>,
}

impl Replicas {
    pub(super) fn new(stage: Option<Stage>) -> Self {
        Self { stage, known: Mutex::default() }
    }

    /// Returns the address that shows the cluster.
    pub(super) fn stage(&self) -> Option<SocketAddr> {
        self.stage.as_ref().map(|stage| stage.address)
    }

    /// Returns whether a request comes from another instance.
    pub(super) fn trusts(&self, secret: Option<&str>) -> bool {
        self.stage.as_ref().is_some_and(|stage| secret == Some(&stage.secret))
    }

    /// Copies a session to the instance `successor`; 0 visits end it there. Returns whether it has
    /// the copy.
    pub(super) async fn copy(&self, from: &str, successor: &str, session: &str, visits: u64) -> bool {
        let Some(stage) = &self.stage else { return false };
        let copy = async {
            let known = self.known.lock().get(successor).copied();
            let address = match known {
                Some(address) => address,
                None => self.ask(stage, successor).await?,
            };
            let secret = &stage.secret;
            let request = format!(
                "PUT /replica/{session}?visits={visits}&from={from} HTTP/1.1\r\nHost: demo\r\n{SECRET}: {secret}\r\n\
                 Content-Length: 0\r\nConnection: close\r\n\r\n"
            );
            let answer = exchange(address, &request).await?;
            Ok::<_, io::Error>(answer.starts_with("HTTP/1.1 204 "))
        };
        let copied = tokio::time::timeout(TIMEOUT, copy).await;
        let copied = copied.is_ok_and(|copied| copied.unwrap_or(false));
        if !copied {
            // It may have moved.
            self.known.lock().remove(successor);
        }
        copied
    }

    /// Asks for the addresses of all instances. Returns that of `id`.
    async fn ask(&self, stage: &Stage, id: &str) -> io::Result<SocketAddr> {
        let request = format!("GET /peers HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", stage.address);
        let answer = exchange(stage.address, &request).await?;
        let mut known = self.known.lock();
        let peers = answer.lines().filter_map(|line| line.strip_prefix("peer ")?.rsplit_once(' '));
        known.extend(peers.filter_map(|(id, address)| Some((id.to_owned(), address.parse().ok()?))));
        known.get(id).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

async fn exchange(address: SocketAddr, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    String::from_utf8(answer).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
