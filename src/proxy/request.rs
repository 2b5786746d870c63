//! One request, from its head to the last byte of its response. Read this first.
//!
//! ```text
//! receive ─ read and parse the head (400, 408, 414, 431, 501, 505)
//!   └ plan ─ route (404) → body limit (413) → key → session → pick (503) → head for the backend
//!        └ hold ─ wait for the session's backend, then plan again
//!        └ attempt ─ place (503) → connection (502, 504) → bind → exchange (502, 504)
//!             └ next on the walk, if that is safe
//! finish ─ what the client is told if nothing was, metrics, access log
//! ```

use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::binding::{self, Session};
use super::buffer::Size;
use super::connection::{After, Client, Origin};
use super::error::ProxyError;
use super::exchange::{self, Attempt};
use super::facts::Facts;
use super::handshake;
use super::head;
use super::pool::Usage;
use super::view::{UpstreamView, View};
use super::worker::Worker;
use crate::affinity::key;
use crate::affinity::pick::{self, Decision, Outcome, Query, Tried, Verdict};
use crate::h1::{self, FieldSlots, Framing, Parsed, RequestHead};
use crate::model::snapshot::Memory;

/// A request that is being served.
pub(super) struct Request<'w> {
    pub(super) worker: &'w Rc<Worker>,
    pub(super) view: Rc<View>,
    /// What the head said; there once it was read.
    pub(super) facts: Option<Facts>,
    /// Index of the upstream, once routed.
    pub(super) upstream: Option<usize>,
    pub(super) session: Option<Session>,
    /// The latest pick.
    pub(super) verdict: Option<Verdict>,
    pub(super) tried: Tried,
    /// Until when the session's backend is waited for, once it was found missing.
    pub(super) hold_until: Option<Instant>,
    /// Is the next attempt to use a new connection?
    pub(super) fresh: bool,
    /// Attempts that cost time or were sent, and failed.
    pub(super) retries: u32,
    /// Whose it is, once it is one.
    pub(super) origin: Option<Rc<Origin>>,
    /// Has it been counted?
    pub(super) recorded: bool,
    pub(super) tally: Tally,
}

/// What is counted of a request.
#[derive(Debug)]
pub(super) struct Tally {
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

/// What is to be done next.
enum Plan {
    /// Send this head to the picked member.
    Send(Vec<u8>),
    /// Wait for this member.
    Hold(u16),
}

/// What came of an attempt.
enum Attempted {
    /// The client has its response.
    Answered(After),
    /// Nothing was sent: another request of the session was bound first, and is to be followed.
    Outrun,
}

/// Serves one request of a client whose first bytes are there or coming.
pub(super) async fn serve(worker: &Rc<Worker>, client: &mut Client) -> After {
    let mut request = Request::new(worker);
    let result = request.run(client).await;
    request.finish(client, result).await
}

impl<'w> Request<'w> {
    fn new(worker: &'w Rc<Worker>) -> Self {
        let view = worker.view();
        Self {
            worker,
            view,
            facts: None,
            upstream: None,
            session: None,
            verdict: None,
            tried: Tried::default(),
            hold_until: None,
            fresh: false,
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

    async fn run(&mut self, client: &mut Client) -> Result<After, ProxyError> {
        let mut plan = self.receive(client).await?;
        loop {
            let failed = match plan {
                Plan::Send(out) => match self.attempt(client, out).await {
                    Ok(Attempted::Answered(after)) => return Ok(after),
                    Ok(Attempted::Outrun) => {
                        self.session = None;
                        plan = self.replan(client)?;
                        continue;
                    }
                    Err(error) => error,
                },
                Plan::Hold(member) => {
                    self.hold(member, client).await?;
                    plan = self.replan(client)?;
                    continue;
                }
            };
            let goes_on = self.may_go_on(&failed);
            // What is sent again to the same backend is judged by what comes of that.
            if !(goes_on && matches!(failed, ProxyError::BackendClosed { .. })) {
                self.observe_failure(&failed);
            }
            if !goes_on {
                return Err(failed);
            }
            plan = match self.replan(client) {
                // Nobody is left: what the last one did says more than that, unless it
                // was a connection that closed, and all that followed is that it went away.
                Err(ProxyError::Unavailable(_))
                    if !self.waits_for_its_backend()
                        && !matches!(failed, ProxyError::BackendClosed { .. }) =>
                {
                    return Err(failed);
                }
                next => next?,
            };
        }
    }

    /// Reads until the head is complete, then plans.
    async fn receive(&mut self, client: &mut Client) -> Result<Plan, ProxyError> {
        let view = Rc::clone(&self.view);
        let mut waiting = false;
        let worker = self.worker;
        std::future::poll_fn(|cx| {
            loop {
                if let Some(planned) = self.plan_from_held(client) {
                    return Poll::Ready(planned);
                }
                match worker.buffers.poll_fill(&mut client.held, Size::Small, &mut client.stream, cx) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(Err(ProxyError::ClientGone)),
                    Poll::Pending => break,
                }
            }
            if !waiting {
                waiting = true;
                client.deadline.set(view.snapshot.config.timeouts.request_head);
            }
            if client.deadline.expired(cx) {
                return Poll::Ready(Err(ProxyError::RequestHeadTimeout));
            }
            Poll::Pending
        })
        .await
    }

    /// Plans again, from the head that is still in hand.
    fn replan(&mut self, client: &mut Client) -> Result<Plan, ProxyError> {
        client.scanned = 0;
        self.plan_from_held(client).unwrap_or(Err(ProxyError::ClientGone))
    }

    /// Plans, if the head that is in hand is complete.
    fn plan_from_held(&mut self, client: &mut Client) -> Option<Result<Plan, ProxyError>> {
        let held = client.held.take()?;
        let planned = {
            let mut slots = FieldSlots::new();
            match h1::parse_request(held.filled(), &mut client.scanned, &self.view.head_limits, &mut slots) {
                Ok(Parsed::Complete { head, len }) => Some(self.plan(&head, len, client)),
                Ok(Parsed::Partial) => None,
                Err(error) => Some(Err(ProxyError::RequestHead(error))),
            }
        };
        client.held = Some(held);
        planned
    }

    /// Decides where the request goes and writes the head it goes there with.
    fn plan(&mut self, head: &RequestHead<'_>, len: usize, client: &Client) -> Result<Plan, ProxyError> {
        let view = Rc::clone(&self.view);
        let config = &view.snapshot.config;
        let first = self.facts.is_none();
        if first {
            self.tally.started = Instant::now();
            self.tally.bytes_in = len as u64;
            self.origin = Some(Rc::clone(&client.origin));
            self.facts = Some(Facts::new(head, len, client, config, self.worker.log.enabled()));
        }

        if let Some(facts) = &mut self.facts {
            // It is in hand again, if it was passed on with a body.
            facts.head_len = len;
        }
        self.check_way(head, client)?;
        // `OPTIONS *` asks the server as a whole: it goes where its root does.
        let path = match head.target.path_and_query() {
            "*" => "/",
            path => path,
        };
        let index = view.routes.find(head.host, path).ok_or(ProxyError::NoRoute)?;
        self.upstream = Some(index);
        let upstream = &view.upstreams[index];
        if upstream.state.config.protocol.is_http2() && self.facts.as_ref().is_some_and(|f| f.upgrade) {
            return Err(ProxyError::NoTunnel);
        }
        if matches!((head.framing, config.limits.body_bytes), (Framing::Length(n), Some(max)) if n > max) {
            return Err(ProxyError::RequestBodyTooLarge);
        }

        if self.session.is_none() {
            let affinity = &upstream.state.config.affinity;
            let asker = key::ClientIdentity {
                ip: self.facts.as_ref().map_or(client.origin.peer, |facts| facts.client_ip),
                certificate: client.origin.secure.as_ref().and_then(|secure| secure.certificate_name()),
            };
            let found = key::find_key(&affinity.key, affinity.seed, config.client_ip.mask, head, asker);
            self.session = Some(Session::recall(upstream, found, head, self.worker.now()));
        }
        if first {
            upstream.budget.deposit();
        }
        match self.pick(upstream)? {
            Decision::Send(verdict) => {
                self.verdict = Some(verdict);
                Ok(Plan::Send(self.write_head(head, client, upstream, verdict)))
            }
            Decision::Hold(member) => Ok(Plan::Hold(member)),
            Decision::Unavailable(reason) => Err(ProxyError::Unavailable(reason)),
        }
    }

    /// Did the request come as it should: over TLS, to the host of the handshake?
    fn check_way(&self, head: &RequestHead<'_>, client: &Client) -> Result<(), ProxyError> {
        if client.origin.secure.as_ref().is_some_and(|secure| !secure.may_ask_for(head.host)) {
            return Err(ProxyError::Misdirected);
        }
        match client.origin.redirect_https {
            // A client of HTTP/1.0 that names no host cannot be sent anywhere.
            Some(port) if !head.host.is_empty() && self.facts.as_ref().is_some_and(|facts| !facts.secure) => {
                // 301 lets clients turn other methods into GET.
                let status = if matches!(head.method, "GET" | "HEAD") { 301 } else { 308 };
                let location = handshake::https_location(head.host, port, head.target.path_and_query());
                Err(ProxyError::UseHttps { status, location })
            }
            _ => Ok(()),
        }
    }

    fn pick(&self, upstream: &UpstreamView) -> Result<Decision, ProxyError> {
        let Some(session) = &self.session else { return Err(ProxyError::Unavailable(None)) };
        let query = Query {
            key: session.key,
            binding: session.binding,
            tried: &self.tried,
            may_hold: self.may_hold(upstream, session),
            random: self.worker.random(),
        };
        let mut decision = pick::pick(&upstream.state.cluster, upstream.policy, upstream, &query);
        // Without a key, a sealed cookie makes a session of the visit all the same.
        if let (Memory::Cookie(_), Decision::Send(verdict)) = (&upstream.state.memory, &mut decision)
            && verdict.outcome == Outcome::Unkeyed
        {
            verdict.outcome = Outcome::New;
        }
        Ok(decision)
    }

    fn write_head(
        &self,
        head: &RequestHead<'_>,
        client: &Client,
        upstream: &UpstreamView,
        verdict: Verdict,
    ) -> Vec<u8> {
        let config = &self.view.snapshot.config;
        let key = self.session.as_ref().and_then(|s| s.key);
        let announce = upstream.state.config.affinity.announce.then(|| {
            let successor = key
                .and_then(|key| pick::successor(&upstream.state.cluster, key, verdict.member))
                .map(|next| upstream.id(next).as_str());
            (upstream.id(verdict.member).as_str(), successor)
        });
        let edits = head::RequestEdits {
            peer: client.origin.peer,
            trusted: config.client_ip.trusts(client.origin.peer),
            default_host: upstream.pools[usize::from(verdict.member)].authority(),
            forwarding: &config.forwarding,
            scheme: client.scheme(),
            version: if client.origin.http2 { "2" } else { head::via_version(head.version) },
            certificate: client.origin.secure.as_ref().and_then(|secure| secure.certificate()),
            own_cookie: binding::own_cookie(upstream),
            announce,
            upgrade: self.facts.as_ref().is_some_and(|facts| facts.upgrade),
        };
        let mut out = self.worker.buffers.take_output();
        head::write_request(&mut out, head, &edits);
        out
    }

    /// One attempt at the picked member.
    async fn attempt(&mut self, client: &mut Client, out: Vec<u8>) -> Result<Attempted, ProxyError> {
        let (Some(index), Some(verdict)) = (self.upstream, self.verdict) else {
            return Err(ProxyError::Unavailable(None));
        };
        let view = Rc::clone(&self.view);
        let upstream = &view.upstreams[index];
        let place = upstream.pools[usize::from(verdict.member)].begin().ok_or(ProxyError::Saturated)?;
        self.tally.attempts += 1;

        let pool = Rc::clone(place.pool());
        // A session is not given to an heir who may be gone as well: it is asked first.
        let moves = verdict.rebind && verdict.outcome == Outcome::Moved;
        let announced = pool.announcement(client, self.client_ip(client));
        let idle = if self.fresh || moves { None } else { pool.take_idle(announced.as_deref()) };
        let backend = if let Some(stream) = idle {
            stream
        } else {
            let began = Instant::now();
            let connected =
                self.worker.connect(&pool, upstream.state.config.timeouts.connect, announced).await;
            self.tally.connect += began.elapsed();
            connected.map_err(ProxyError::of_connecting)?
        };
        match backend.usage() {
            Usage::First => upstream.metrics.connection_opened(),
            Usage::Early | Usage::Again => upstream.metrics.connection_reused(),
        }
        let agreed = self
            .session
            .as_ref()
            .is_none_or(|session| session.bind(upstream, verdict, &self.tried, self.worker.now()));
        if !agreed {
            pool.keep(backend, self.worker.coarse_now());
            self.tally.attempts -= 1;
            return Ok(Attempted::Outrun);
        }
        let attempt = Attempt { upstream, verdict, place, backend, out };
        exchange::run(self, client, attempt).await.map(Attempted::Answered)
    }

    /// The head is done with: what follows it in the client's buffer is its
    /// body, or the next request.
    pub(super) fn pass_head(&mut self, client: &mut Client) {
        let Some(facts) = self.facts.as_mut() else { return };
        let head = std::mem::take(&mut facts.head_len);
        if let Some(held) = client.held.as_mut() {
            held.consume(head);
        }
    }

    /// The session, once recalled.
    pub(super) fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }
}
