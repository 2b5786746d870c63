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
use crate::model::line::Place;
use crate::proxy::in_use::ExchangeGuard;
use crate::proxy::view::{UpstreamView, View};
use crate::proxy::worker::Worker;

/// A request while it is served.
pub(crate) struct Request<'w> {
    pub(crate) worker: &'w Rc<Worker>,
    pub(crate) view: Rc<View>,
    /// Facts from the head, once it was read.
    pub(crate) facts: Option<RequestFacts>,
    /// The index of the route, once found.
    pub(crate) route: Option<usize>,
    pub(crate) session: Option<Session>,
    /// Keeps the session in use during an exchange.
    pub(crate) in_use: Option<ExchangeGuard>,
    /// The latest pick.
    pub(crate) verdict: Option<Verdict>,
    /// The members not to try again.
    pub(crate) tried: Tried,
    /// The end of the hold, once the request waits for its session's backend.
    pub(crate) hold_until: Option<Instant>,
    /// The end of the wait in the line, once the request has waited there.
    pub(crate) queue_until: Option<Instant>,
    /// A place that the request got in the line.
    pub(crate) place: Option<Place>,
    /// Whether the next attempt must use a new connection.
    pub(crate) fresh_connection: bool,
    /// Failed attempts that count as retries: those that took time or were sent.
    pub(crate) retries: u32,
    /// The client, once the head was read.
    pub(crate) origin: Option<Rc<Origin>>,
    /// Whether the request was counted and logged.
    pub(crate) recorded: bool,
    pub(crate) tally: Tally,
}

/// A request's numbers for the metrics and the access log.
#[derive(Debug)]
pub(crate) struct Tally {
    /// When the request head was complete.
    pub started: Instant,
    /// When the last attempt began.
    pub attempted: Option<Instant>,
    /// When the response head was complete.
    pub first_byte: Option<Instant>,
    /// The time spent connecting to backends.
    pub connect: Duration,
    /// The attempts made.
    pub attempts: u32,
    /// The status sent to the client; 0 until one is sent.
    pub status: u16,
    /// Bytes received from the client: head and body.
    pub bytes_in: u64,
    /// Bytes sent to the client.
    pub bytes_out: u64,
    /// Whether the request became a tunnel.
    pub tunnel: bool,
}

impl Tally {
    /// Returns whether the response has not begun, or the request is younger than a second. Who
    /// ends an event stream later has not made a backend work for nothing.
    pub(crate) fn is_early(&self) -> bool {
        self.first_byte.is_none() || self.started.elapsed() < Duration::from_secs(1)
    }
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
            in_use: None,
            verdict: None,
            tried: Tried::default(),
            hold_until: None,
            queue_until: None,
            place: None,
            fresh_connection: false,
            retries: 0,
            origin: None,
            recorded: false,
            tally: Tally {
                started: Instant::now(),
                attempted: None,
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

    /// Forgets the route, the session and the members tried, to plan with the current view. Indices
    /// into the old view are not valid in the new one.
    pub(crate) fn start_over(&mut self) {
        self.tried = Tried::default();
        (self.route, self.verdict, self.session) = (None, None, None);
        self.view = self.worker.view();
    }

    /// Returns the route's upstream, once the route is known.
    pub(crate) fn upstream(&self) -> Option<&UpstreamView> {
        self.route.map(|route| self.view.upstream_of(route))
    }

    /// Returns the client's address, as seen through trusted proxies.
    pub(crate) fn client_ip(&self, client: &Client) -> IpAddr {
        self.facts.as_ref().map_or(client.origin.peer, |facts| facts.client_ip)
    }

    /// Removes the head from the client's buffer. The body, or the next request, follows it there.
    pub(crate) fn pass_head(&mut self, client: &mut Client) {
        let Some(facts) = self.facts.as_mut() else { return };
        let head = std::mem::take(&mut facts.head_len);
        if let Some(held) = client.held.as_mut() {
            held.consume(head);
        }
    }
}
