//! One request, from its head to the last byte of its response. Read this first.
//!
//! ```text
//! receive ─ read and parse the head (400, 408, 414, 431, 501, 505)
//!   └ plan ─ route (404) → body limit (413) → key → session → pick (503) → head for the backend
//!        └ hold ─ wait for the session's backend, then plan again
//!        └ attempt ─ permit (503) → connection (502, 504) → bind → exchange (502, 504)
//!             └ next on the walk, if that is safe
//! finish ─ what the client is told if nothing was, metrics, access log
//! ```

use std::rc::Rc;
use std::task::Poll;

use tokio::time::Instant;

use super::answer::Redirect;
use super::binding::{self, Session};
use super::client::{After, Client};
use super::error::ProxyError;
use super::exchange::{self, Attempt};
use super::facts::RequestFacts;
use super::finish::Served;
use super::head;
use super::state::Request;
use crate::affinity::key;
use crate::affinity::pick::{self, Decision, Outcome, Query, Verdict};
use crate::h1::{self, FieldSlots, Framing, Parsed, RequestHead};
use crate::model::snapshot::Memory;
use crate::proxy::backend::lease::Usage;
use crate::proxy::view::UpstreamView;
use crate::proxy::wire::buffer::Size;
use crate::proxy::worker::Worker;

/// What to do with the request next.
enum Plan {
    /// Homing answers it itself.
    Redirect(Redirect),
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
    LostRace,
}

/// Serves one request of a client whose first bytes are there or coming.
pub(crate) async fn serve(worker: &Rc<Worker>, client: &mut Client) -> After {
    let mut request = Request::new(worker);
    let result = request.run(client).await;
    request.finish(client, result).await
}

impl Request<'_> {
    async fn run(&mut self, client: &mut Client) -> Result<Served, ProxyError> {
        let mut plan = self.receive(client).await?;
        loop {
            let failed = match plan {
                Plan::Redirect(redirect) => return Ok(Served::Redirected(redirect)),
                Plan::Send(out) => match self.attempt(client, out).await {
                    Ok(Attempted::Answered(after)) => return Ok(Served::Forwarded(after)),
                    Ok(Attempted::LostRace) => {
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
            let retry = self.may_retry(&failed);
            // What is sent again to the same backend is judged by what comes of that.
            if !(retry && matches!(failed, ProxyError::BackendClosed { .. })) {
                self.observe_failure(&failed);
            }
            if !retry {
                return Err(failed);
            }
            plan = match self.replan(client) {
                // Nobody is left: what the last one did says more than that, unless it
                // was a connection that closed, and all that followed is that it went away.
                Err(ProxyError::Unavailable(_))
                    if !self.never_fails_over() && !matches!(failed, ProxyError::BackendClosed { .. }) =>
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
        let mut waits = false;
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
            if !waits {
                waits = true;
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
        self.try_plan(client).unwrap_or(Err(ProxyError::ClientGone))
    }

    /// Plans, if the head that is in hand is complete.
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

    /// Decides where the request goes and writes the head it goes there with.
    fn plan(&mut self, head: &RequestHead<'_>, len: usize, client: &Client) -> Result<Plan, ProxyError> {
        let view = Rc::clone(&self.view);
        let config = &view.snapshot.config;
        let first = self.facts.is_none();
        if first {
            self.tally.started = Instant::now();
            self.tally.bytes_in = len as u64;
            self.origin = Some(Rc::clone(&client.origin));
            self.facts = Some(RequestFacts::new(head, len, client, config, self.worker.log().enabled()));
        }

        if let Some(facts) = &mut self.facts {
            // It is in hand again, if it was passed on with a body.
            facts.head_len = len;
        }
        if client.origin.secure.as_ref().is_some_and(|secure| !secure.allows_host(head.host)) {
            return Err(ProxyError::Misdirected);
        }
        if let Some(redirect) = self.redirect(head, client) {
            return Ok(Plan::Redirect(redirect));
        }
        // `OPTIONS *` asks the server as a whole: it goes where its root does.
        let path = match head.target.path_and_query() {
            "*" => "/",
            path => path,
        };
        let route = view.router.find(head.host, path).ok_or(ProxyError::NoRoute)?;
        self.route = Some(route);
        let upstream = view.upstream_of(route);
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

    /// The redirect to https, if the listener asks for it and the request came without TLS.
    fn redirect(&self, head: &RequestHead<'_>, client: &Client) -> Option<Redirect> {
        let port = client.origin.redirect_https?;
        // An HTTP/1.0 client that names no host cannot be redirected.
        let plain = self.facts.as_ref().is_some_and(|facts| !facts.secure) && !head.host.is_empty();
        plain.then(|| Redirect::to_https(head.method, head.host, port, head.target.path_and_query()))
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
        let (Some(route), Some(verdict)) = (self.route, self.verdict) else {
            return Err(ProxyError::Unavailable(None));
        };
        let view = Rc::clone(&self.view);
        let upstream = view.upstream_of(route);
        let permit = upstream.pools[usize::from(verdict.member)].acquire().ok_or(ProxyError::Saturated)?;
        self.tally.attempts += 1;

        let pool = Rc::clone(permit.pool());
        // A session is not given to an heir who may be gone as well: it is asked first.
        let moves = verdict.rebind && verdict.outcome == Outcome::Moved;
        let client_ip = self.client_ip(client);
        let announced = pool.announces_clients().then(|| Box::new(client.origin.announced_as(client_ip)));
        let idle = if self.fresh_connection || moves { None } else { pool.take_idle(announced.as_deref()) };
        let backend = if let Some(stream) = idle {
            stream
        } else {
            let began = Instant::now();
            let connected =
                self.worker.connect(&pool, upstream.state.config.timeouts.connect, announced).await;
            self.tally.connect += began.elapsed();
            connected?
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
            return Ok(Attempted::LostRace);
        }
        let attempt = Attempt { upstream, verdict, permit, backend, out };
        exchange::run(self, client, attempt).await.map(Attempted::Answered)
    }
}
