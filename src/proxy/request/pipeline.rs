//! The path of a request, from its first byte to the access log. Read this first.
//!
//! ```text
//! serve
//!  ├ run
//!  │  ├ receive ─ read and parse the request head (400, 408, 414, 431, 501, 505), then plan
//!  │  ├ plan ─ host (421) → own answer (redirect, 405, 508) → route (404) → check (413)
//!  │  │         → session → pick (503) → head for the backend
//!  │  ├ hold ─ wait for the session's backend, then plan again
//!  │  ├ queue ─ wait for a place at a full backend (503), then plan again
//!  │  ├ attempt ─ permit → connection (502, 503, 504) → bind → exchange (502, 504)
//!  │  └ replan_after ─ after a failure: plan again if a retry is safe
//!  └ finish ─ the error response if no backend answered, metrics, access log
//! ```
//!
//! The request head stays in the client's buffer until a backend answers or the body is sent. Each
//! plan parses it again and writes the head for its backend from it.

use std::rc::Rc;
use std::task::Poll;

use tokio::time::Instant;

use super::binding::{self, Session};
use super::client::{After, Asked, Client};
use super::error::ProxyError;
use super::exchange::{self, Attempt};
use super::facts::RequestFacts;
use super::failed::Retry;
use super::finish::Served;
use super::head;
use super::own_answer::OwnAnswer;
use super::queue::{LoadsFor, QueueFor};
use super::state::Request;
use crate::affinity::key;
use crate::affinity::pick::{self, Decision, Outcome, Query, Reason, Verdict};
use crate::h1::{self, FieldSlots, Framing, Parsed, RequestHead};
use crate::proxy::backend::asker::Asker;
use crate::proxy::backend::lease::Usage;
use crate::proxy::connection_counts::client_key;
use crate::proxy::view::{UpstreamView, View};
use crate::proxy::wire::buffer::Size;
use crate::proxy::worker::Worker;

/// What to do with the request next.
enum Plan {
    /// Answer it here.
    Answer(OwnAnswer),
    /// Send this head to the picked member.
    Send(Vec<u8>),
    /// Wait for this member.
    Hold(u16),
    /// Wait in the line.
    Queue(QueueFor),
}

/// The result of an attempt that did not fail.
enum Attempted {
    /// The client has its response.
    Answered(After),
    /// Nothing was sent: another request of the session bound it to another backend first.
    LostRace,
    /// Nothing was sent: the backend has no free place.
    Full(QueueFor),
}

/// Serves one request. The client's first bytes may not have arrived yet.
pub(crate) async fn serve(worker: &Rc<Worker>, client: &mut Client) -> After {
    let mut request = Request::new(worker);
    let result = request.run(client).await;
    request.finish(client, result).await
}

impl Request<'_> {
    /// Follows one plan after another until the client has its response.
    async fn run(&mut self, client: &mut Client) -> Result<Served, ProxyError> {
        let mut plan = self.receive(client).await?;
        loop {
            plan = match plan {
                Plan::Answer(answer) => return Ok(Served::Answered(answer)),
                Plan::Hold(member) => {
                    self.hold(member, client).await?;
                    self.replan(client)?
                }
                Plan::Queue(what) => match self.queue(what, client).await {
                    Ok(()) => self.replan(client)?,
                    Err(failure) => self.replan_after(failure, client)?,
                },
                Plan::Send(head) => match self.attempt(client, head).await {
                    Ok(Attempted::Answered(after)) => return Ok(Served::Forwarded(after)),
                    Ok(Attempted::LostRace) => {
                        // Finds the other request's binding.
                        self.session = None;
                        self.replan(client)?
                    }
                    Ok(Attempted::Full(what)) => Plan::Queue(what),
                    Err(failure) => self.replan_after(failure, client)?,
                },
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
                if let Some(planned) = self.try_plan(client) {
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

    /// Plans if the head in the client's buffer is complete.
    fn try_plan(&mut self, client: &mut Client) -> Option<Result<Plan, ProxyError>> {
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

    /// Decides where the request goes, and writes the head to send there.
    fn plan(&mut self, head: &RequestHead<'_>, len: usize, client: &Client) -> Result<Plan, ProxyError> {
        let view = Rc::clone(&self.view);
        let first = self.facts.is_none();
        self.note_facts(head, len, client);
        if client.origin.secure.as_ref().is_some_and(|secure| !secure.allows_host(head.host)) {
            return Err(ProxyError::Misdirected);
        }
        if let Some(answer) = self.own_answer(head, client)? {
            return Ok(Plan::Answer(answer));
        }
        let upstream = self.find_upstream(head, &view)?;
        self.check_request(head)?;
        if self.session.is_none() {
            self.session = Some(self.recall_session(head, client, upstream));
        }
        if first {
            upstream.budget.deposit();
        }
        match self.pick(client, upstream)? {
            Decision::Send(verdict) => {
                self.verdict = Some(verdict);
                Ok(Plan::Send(self.write_head(head, client, upstream, verdict)))
            }
            Decision::Hold(member) => Ok(Plan::Hold(member)),
            Decision::Unavailable(Some(Reason::Capacity)) if self.may_queue(upstream) => {
                Ok(Plan::Queue(QueueFor::Any))
            }
            Decision::Unavailable(reason) => Err(ProxyError::Unavailable(reason)),
        }
    }

    /// Notes what the rest of the request needs to know of its head.
    fn note_facts(&mut self, head: &RequestHead<'_>, len: usize, client: &Client) {
        if let Some(facts) = &mut self.facts {
            // A head that was passed on with its body is back in the buffer.
            facts.head_len = len;
            return;
        }
        let config = &self.view.snapshot.config;
        self.tally.started = Instant::now();
        self.tally.bytes_in = len as u64;
        self.origin = Some(Rc::clone(&client.origin));
        let facts = RequestFacts::new(head, len, client, config, self.worker.log().enabled());
        if facts.client_ip != client.origin.peer {
            client.deadline.belongs_to(client_key(facts.client_ip));
        }
        self.facts = Some(facts);
    }

    /// Finds the route and returns its upstream.
    fn find_upstream<'v>(
        &mut self,
        head: &RequestHead<'_>,
        view: &'v View,
    ) -> Result<&'v UpstreamView, ProxyError> {
        // `OPTIONS *` is about the server as a whole. It takes the route of `/`.
        let path = match head.target.path_and_query() {
            "*" => "/",
            path => path,
        };
        let route = view.router.find(head.host, path).ok_or(ProxyError::NoRoute)?;
        self.route = Some(route);
        Ok(view.upstream_of(route))
    }

    /// Rejects bodies that are too large, and new tunnels while Homing closes them.
    fn check_request(&self, head: &RequestHead<'_>) -> Result<(), ProxyError> {
        if self.worker.closing() && self.facts.as_ref().is_some_and(|facts| facts.upgrade) {
            return Err(ProxyError::Stopping);
        }
        match (head.framing, self.view.snapshot.config.limits.body_bytes) {
            (Framing::Length(len), Some(max)) if len > max => Err(ProxyError::RequestBodyTooLarge),
            _ => Ok(()),
        }
    }

    /// Finds the request's key and its session's binding.
    fn recall_session(&self, head: &RequestHead<'_>, client: &Client, upstream: &UpstreamView) -> Session {
        let affinity = &upstream.state.config.affinity;
        let identity = key::ClientIdentity {
            ip: self.client_ip(client),
            certificate: client.origin.secure.as_ref().and_then(|secure| secure.certificate_name()),
        };
        let (mask, now) = (self.view.snapshot.config.client_ip.mask, self.worker.now());
        let context = key::KeyContext { seed: affinity.seed, mask, table: binding::table(upstream), now };
        let found = key::find_key(&affinity.key, context, head, identity);
        let client = mask.apply(identity.ip);
        Session::recall(upstream, found, head, client, self.worker.in_use.recent(), now)
    }

    /// Picks a member of the upstream.
    fn pick(&self, client: &Client, upstream: &UpstreamView) -> Result<Decision, ProxyError> {
        let Some(session) = &self.session else { return Err(ProxyError::Unavailable(None)) };
        let query = Query {
            key: session.key,
            binding: session.binding,
            tried: &self.tried,
            may_hold: self.may_hold(upstream, session),
            random: self.worker.random(),
        };
        let loads = LoadsFor { upstream, place: self.place.as_ref() };
        let own = if session.key.is_none() { self.to_own_backend(client, upstream) } else { None };
        let mut decision = own.map_or_else(
            || pick::pick(&upstream.state.cluster, upstream.policy, &loads, &query),
            Decision::Send,
        );
        if let Decision::Send(verdict) = &mut decision {
            verdict.outcome = session.outcome(upstream, verdict.outcome);
        }
        Ok(decision)
    }

    /// Writes the head for the picked member.
    fn write_head(
        &self,
        head: &RequestHead<'_>,
        client: &Client,
        upstream: &UpstreamView,
        verdict: Verdict,
    ) -> Vec<u8> {
        let config = &self.view.snapshot.config;
        let key = self.session.as_ref().and_then(|session| session.key);
        let edits = head::RequestEdits {
            peer: client.origin.peer,
            trusted: config.client_ip.trusts(client.origin.peer),
            default_host: upstream.pools[usize::from(verdict.member)].authority(),
            forwarding: &config.forwarding,
            scheme: client.scheme(),
            version: if client.origin.http2 { "2" } else { head::via_version(head.version) },
            certificate: client.origin.secure.as_ref().and_then(|secure| secure.certificate()),
            own_cookies: self.session.as_ref().and_then(|session| session.own_cookies(upstream)),
            announce: binding::announce(upstream, key, verdict.member),
            upgrade: self.facts.as_ref().is_some_and(|facts| facts.upgrade),
        };
        let mut out = self.worker.buffers.take_output();
        head::write_request(&mut out, head, &edits);
        out
    }

    /// Sends the request to the picked member and brings the response back.
    async fn attempt(&mut self, client: &mut Client, head: Vec<u8>) -> Result<Attempted, ProxyError> {
        let (Some(route), Some(verdict)) = (self.route, self.verdict) else {
            return Err(ProxyError::Unavailable(None));
        };
        let view = Rc::clone(&self.view);
        let upstream = view.upstream_of(route);
        let pool = Rc::clone(&upstream.pools[usize::from(verdict.member)]);
        let client_ip = self.client_ip(client);
        let Some(permit) = pool.acquire(&upstream.state.line, client_ip, self.place.take()) else {
            if self.may_queue(upstream) {
                return Ok(Attempted::Full(QueueFor::of(verdict.outcome, verdict.member)));
            }
            return Err(ProxyError::Saturated);
        };
        self.tally.attempts += 1;
        self.tally.attempted = Some(Instant::now());

        // The heir may be down too. A new connection shows that before the session is bound to it.
        let moves = verdict.rebind && verdict.outcome == Outcome::Moved;
        let upload = self.facts.as_ref().is_some_and(|facts| facts.framing != Framing::None);
        let asker = Asker::new(client_ip, upload);
        let fresh = self.fresh_connection || moves;
        let open = if fresh { None } else { self.take_open(client, &pool, asker) };
        let backend = if let Some(stream) = open {
            stream
        } else {
            let client_ip = self.client_ip(client);
            let announced = pool.announces_clients().then(|| Box::new(client.origin.announced_as(client_ip)));
            let started = Instant::now();
            let connected =
                self.worker.connect(&pool, asker, upstream.state.config.timeouts.connect, announced).await;
            self.tally.connect += started.elapsed();
            connected?
        };
        match backend.usage() {
            Usage::First => upstream.metrics.connection_opened(),
            Usage::Early | Usage::Again => upstream.metrics.connection_reused(),
        }
        let (session, now) = (self.session.as_mut(), self.worker.now());
        if session.is_some_and(|session| !session.bind(upstream, verdict, &self.tried, now)) {
            self.keep_open(client, &pool, backend);
            self.tally.attempts -= 1;
            return Ok(Attempted::LostRace);
        }
        let names = self.session.as_ref().and_then(|session| session.in_use(upstream));
        self.in_use = names.map(|names| self.worker.in_use.begin(&view, route, names, now));
        let attempt = Attempt { upstream, verdict, permit, backend, out: head };
        let outcome = exchange::run(self, client, attempt).await;
        self.in_use = None;
        client.asked = match &outcome {
            Ok(_) => Asked::Answered,
            Err(error) if error.is_clients_doing() && self.tally.is_early() => Asked::Abandoned,
            Err(_) => Asked::Nobody,
        };
        outcome.map(Attempted::Answered)
    }

    /// Plans again after a failed attempt. Returns the failure if it is final.
    fn replan_after(&mut self, failure: ProxyError, client: &mut Client) -> Result<Plan, ProxyError> {
        self.count_failure(&failure);
        let retry = self.may_retry(&failure);
        let closed = matches!(failure, ProxyError::BackendClosed { .. });
        // The same backend gets another attempt after it closed a connection. The result of that
        // one counts.
        if retry != Retry::Again {
            self.observe_failure(&failure);
        }
        if retry == Retry::No {
            return Err(failure);
        }
        let was_new = retry == Retry::Elsewhere && failure.is_refused_answer();
        match self.replan(client) {
            // No backend is left. The last failure says more than that, unless it was only a
            // closed connection and the backend has gone away since.
            Err(ProxyError::Unavailable(_)) if was_new => Err(failure),
            Err(ProxyError::Unavailable(_)) if !closed && !self.never_fails_over() => Err(failure),
            next => next,
        }
    }

    /// Plans again with the head that is still in the client's buffer.
    fn replan(&mut self, client: &mut Client) -> Result<Plan, ProxyError> {
        client.scanned = 0;
        self.try_plan(client).unwrap_or(Err(ProxyError::ClientGone))
    }
}
