//! A crowd of 64 concurrent clients, each with its own session.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::task::JoinSet;

use crate::harness::{Backend, RawClient, Response, eventually, in_time};

pub(super) const CLIENTS: usize = 64;

/// The outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// A complete response from this backend.
    Backend(String),
    /// A response from Homing itself: status and error code.
    Own(u16, String),
    /// A response truncated in its body.
    Broken,
    /// No response: the connection closed, or could not be opened.
    None,
}

/// A request and its outcome.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Unique number of the request.
    pub(super) number: String,
    pub(super) method: &'static str,
    /// Backend of the session when the request was sent; empty before the first response.
    pub(super) place: String,
    pub(super) answer: Answer,
    /// Whether this was the last request on the connection: it closed, or the response says so.
    pub(super) last: bool,
}

/// One client.
pub(super) struct Visitor {
    address: SocketAddr,
    name: String,
    place: String,
    asked: usize,
    connection: Option<RawClient>,
}

impl Visitor {
    pub(super) fn new(address: SocketAddr, number: usize) -> Self {
        let (name, place) = (format!("visitor{number}"), String::new());
        Self { address, name, place, asked: 0, connection: None }
    }

    /// Sends a request, and records the backend of the session.
    pub(super) async fn ask(&mut self, method: &'static str) -> Asked {
        self.asked += 1;
        let (number, place) = (format!("{}.{}", self.name, self.asked), self.place.clone());
        let (answer, last) = self.exchange(method, &number).await;
        if let Answer::Backend(name) = &answer {
            name.clone_into(&mut self.place);
        }
        Asked { number, method, place, answer, last }
    }

    async fn exchange(&mut self, method: &str, number: &str) -> (Answer, bool) {
        let raw = match self.connection.take() {
            Some(raw) => Ok(raw),
            None => RawClient::try_connect(self.address).await,
        };
        let Ok(mut raw) = raw else { return (Answer::None, true) };
        let body = if method == "POST" { number } else { "" };
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: t\r\nCookie: SID={}\r\nX-Number: {number}\r\nContent-Length: {}\r\n\r\n{body}",
            self.name,
            body.len()
        );
        let request = if method == "GET" { request.replace("Content-Length: 0\r\n", "") } else { request };
        raw.try_send(request).await;
        let Some(head) = raw.try_head().await else { return (Answer::None, true) };
        let length = head.field("content-length").expect("a length").parse().expect("a number");
        let body = raw.at_most(length).await;
        let last = head.field("connection") == Some("close");
        let answer = read(&head, &body, number);
        if body.is_ok() && !last {
            self.connection = Some(raw);
        }
        (answer, last)
    }
}

/// Returns the outcome of the request with this number.
fn read(head: &Response, body: &Result<Vec<u8>, Vec<u8>>, number: &str) -> Answer {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (name, Ok(whole)) = (head.field("x-backend"), body) else {
        assert_eq!(head.field("x-number"), Some(number), "response to another request");
        return Answer::Broken;
    };
    if let Some(name) = name {
        assert_eq!(head.field("x-number"), Some(number), "response to another request");
        assert_eq!((head.status, text(whole)), (200, format!("hello from {name}\n{number}")));
        return Answer::Backend(name.to_owned());
    }
    let retry_after = head.field("retry-after").is_some();
    assert_eq!(retry_after, head.status == 503, "Retry-After without a 503, or a 503 without it");
    let code = text(whole).lines().nth(1).expect("an error code").to_owned();
    Answer::Own(head.status, code)
}

/// All clients.
pub(super) struct Crowd(Vec<Visitor>);

impl Crowd {
    pub(super) fn of(address: SocketAddr) -> Self {
        Self((0..CLIENTS).map(|number| Visitor::new(address, number)).collect())
    }

    /// Returns a crowd whose clients have each made this many requests and have a session.
    pub(super) async fn settled(address: SocketAddr, rounds: usize) -> Self {
        let mut crowd = Self::of(address);
        for _ in 0..rounds {
            for asked in crowd.ask("GET").await {
                assert!(matches!(asked.answer, Answer::Backend(_)), "{asked:?}");
            }
        }
        crowd
    }

    /// Sends one request from each client, all at once.
    pub(super) async fn ask(&mut self, method: &'static str) -> Vec<Asked> {
        let mut asking = JoinSet::new();
        for mut visitor in self.0.drain(..) {
            asking.spawn(async move { (visitor.ask(method).await, visitor) });
        }
        let mut all = Vec::new();
        while let Some(done) = asking.join_next().await {
            let (asked, visitor) = done.expect("a visitor");
            all.push(asked);
            self.0.push(visitor);
        }
        all
    }

    /// Asserts that each client gets a response from the backend of its session.
    pub(super) async fn assert_kept(&mut self, method: &'static str) {
        for asked in self.ask(method).await {
            assert_eq!(asked.answer, Answer::Backend(asked.place.clone()), "{asked:?}");
        }
    }

    /// Returns the number of sessions per backend.
    pub(super) fn places(&self) -> BTreeMap<String, usize> {
        let mut places = BTreeMap::new();
        for visitor in &self.0 {
            *places.entry(visitor.place.clone()).or_default() += 1;
        }
        places
    }
}

/// Requests sent by every client of a crowd, one after the other: GET, POST, GET, and so on. A client
/// ends at its first request without a response.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    clients: JoinSet<Vec<Asked>>,
}

impl Load {
    pub(super) fn start(crowd: Crowd) -> Self {
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut clients = JoinSet::new();
        for mut visitor in crowd.0 {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            clients.spawn(async move {
                let mut all = Vec::new();
                for method in ["GET", "POST", "GET"].iter().cycle() {
                    let asked = visitor.ask(method).await;
                    let ended = asked.answer == Answer::None;
                    all.push(asked);
                    served.fetch_add(1, Ordering::Relaxed);
                    if ended || stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
                all
            });
        }
        Self { stop, served, clients }
    }

    /// Waits until more than `count` further requests are over.
    pub(super) async fn continues(&self, count: usize) {
        let mark = self.served.load(Ordering::Relaxed);
        eventually("requests are served", async || self.served.load(Ordering::Relaxed) > mark + count).await;
    }

    /// Stops the load and returns all requests.
    pub(super) async fn stop(self) -> Vec<Asked> {
        self.stop.store(true, Ordering::Relaxed);
        self.ended().await
    }

    /// Waits until every client has ended, and returns all requests.
    pub(super) async fn ended(self) -> Vec<Asked> {
        in_time("the end of the load", self.clients.join_all()).await.into_iter().flatten().collect()
    }
}

/// Returns how often each request was delivered, over all backends, by its number.
pub(super) fn deliveries(backends: &[&Backend]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for seen in backends.iter().flat_map(|backend| backend.seen()) {
        *counts.entry(seen.field("x-number").unwrap_or_default().to_owned()).or_default() += 1;
    }
    counts
}
