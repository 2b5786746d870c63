//! The state of a request while it is served.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::binding::Session;
use super::client::Client;
use super::facts::RequestFacts;
use super::origin::Origin;
use crate::affinity::pick::{Tried, Verdict};
use crate::proxy::view::{UpstreamView, View};
use crate::proxy::worker::Worker;

/// A request that is being served.
pub(crate) struct Request<'w> {
    pub(crate) worker: &'w Rc<Worker>,
    pub(crate) view: Rc<View>,
    /// What the head said; there once it was read.
    pub(crate) facts: Option<RequestFacts>,
    /// Index of the route, once found.
    pub(crate) route: Option<usize>,
    pub(crate) session: Option<Session>,
    /// The latest pick.
    pub(crate) verdict: Option<Verdict>,
    pub(crate) tried: Tried,
    /// Until when the session's backend is waited for, once it was found missing.
    pub(crate) hold_until: Option<Instant>,
    /// Is the next attempt to use a new connection?
    pub(crate) fresh_connection: bool,
    /// Attempts that cost time or were sent, and failed.
    pub(crate) retries: u32,
    /// Whose it is, once it is one.
    pub(crate) origin: Option<Rc<Origin>>,
    /// Has it been counted?
    pub(crate) recorded: bool,
    pub(crate) tally: Tally,
}

/// What is counted of a request.
#[derive(Debug)]
pub(crate) struct Tally {
    /// When its head was complete.
    pub started: Instant,
    /// When its response's head was.
    pub first_byte: Option<Instant>,
    /// Time spent connecting.
    pub connect: Duration,
    /// Backends tried.
    pub attempts: u32,
    /// The status sent to the client; 0 before.
    pub status: u16,
    /// Bytes of its head and body.
    pub bytes_in: u64,
    /// Bytes sent to the client.
    pub bytes_out: u64,
    /// Was it a tunnel?
    pub tunnel: bool,
}

impl<'w> Request<'w> {
    pub(crate) fn new(worker: &'w Rc<Worker>) -> Self {
        let view = worker.view();
        Self {
            worker,
            view,
            facts: None,
            route: None,
            session: None,
            verdict: None,
            tried: Tried::default(),
            hold_until: None,
            fresh_connection: false,
            retries: 0,
            origin: None,
            recorded: false,
            tally: Tally {
                started: Instant::now(),
                first_byte: None,
                connect: Duration::ZERO,
                attempts: 0,
                status: 0,
                bytes_in: 0,
                bytes_out: 0,
                tunnel: false,
            },
        }
    }

    /// The upstream that the route leads to.
    pub(crate) fn upstream(&self) -> Option<&UpstreamView> {
        self.route.map(|route| self.view.upstream_of(route))
    }

    /// The client's address, through trusted proxies.
    pub(crate) fn client_ip(&self, client: &Client) -> IpAddr {
        self.facts.as_ref().map_or(client.origin.peer, |facts| facts.client_ip)
    }

    /// The head is done with: what follows it in the client's buffer is its
    /// body, or the next request.
    pub(crate) fn pass_head(&mut self, client: &mut Client) {
        let Some(facts) = self.facts.as_mut() else { return };
        let head = std::mem::take(&mut facts.head_len);
        if let Some(held) = client.held.as_mut() {
            held.consume(head);
        }
    }
}
