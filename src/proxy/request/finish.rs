//! The end of a request: sends Homing's own response if no backend answered, then counts and logs
//! the request.

use std::rc::Rc;
use std::time::Duration;

use super::answer::{Answer, Redirect, write_answer};
use super::client::{After, Client};
use super::error::ProxyError;
use super::facts::{LogText, Method, RequestFacts};
use super::head::AffinityReport;
use super::origin::Origin;
use super::own_answer::OwnAnswer;
use super::state::Request;
use crate::affinity::BackendId;
use crate::affinity::pick::Outcome;
use crate::h1::{Framing, HeadError, Version};
use crate::proxy::view::UpstreamView;
use crate::proxy::wire::stream::Refusal;
use crate::telemetry::Record;

/// How a request was served without an error.
pub(crate) enum Served {
    /// A backend answered.
    Forwarded(After),
    /// Homing answers itself.
    Answered(OwnAnswer),
}

impl Request<'_> {
    /// Answers the client if no backend did, and counts and logs the request.
    pub(crate) async fn finish(mut self, client: &mut Client, result: Result<Served, ProxyError>) -> After {
        client.deadline.clear();
        client.deadline.charge(client.held_bytes());
        let result = client.stream.refusal().map_or(result, |refusal| Err(self.refused(refusal)));
        let refused = self.readable_line(client);
        let (after, error) = match result {
            Ok(Served::Forwarded(after)) => (after, None),
            Ok(Served::Answered(OwnAnswer::Redirect(Redirect { status, location }))) => {
                let answer = Answer { location: Some(&location), ..Answer::new(status, "use_https") };
                (self.answer(client, answer).await, Some("use_https"))
            }
            Ok(Served::Answered(OwnAnswer::Options)) => {
                let answer = Answer { content: Some(("text/plain", b"")), ..Answer::new(200, "options") };
                (self.answer(client, answer).await, None)
            }
            Ok(Served::Answered(OwnAnswer::Trace(traced))) => {
                let answer = Answer { content: Some(("message/http", &traced)), ..Answer::new(200, "trace") };
                (self.answer(client, answer).await, None)
            }
            Err(error) => {
                let after = match error {
                    // There is no client to answer.
                    ProxyError::ClientGone | ProxyError::ClientStalled | ProxyError::ClientTooSlow
                        if self.tally.status == 0 =>
                    {
                        self.tally.status = error.status();
                        After::Abort
                    }
                    _ => self.answer(client, Answer::new(error.status(), error.code())).await,
                };
                (after, Some(error.code()))
            }
        };
        self.record(&client.origin, error, refused.as_ref());
        after
    }

    /// Returns the error of a response that the bridge has refused and answered already.
    fn refused(&mut self, refusal: Refusal) -> ProxyError {
        let error = match refusal {
            Refusal::NoTunnel => ProxyError::NoUpgrade,
            Refusal::LargeHead => ProxyError::ResponseHeadTooLarge(HeadError::HeadTooLarge),
        };
        (self.tally.status, self.tally.tunnel) = (error.status(), false);
        error
    }

    /// Sends Homing's own response, unless another response has begun.
    async fn answer(&mut self, client: &mut Client, answer: Answer<'_>) -> After {
        let status = answer.status;
        if self.tally.status != 0 {
            // Makes the truncation visible to the client.
            return After::Abort;
        }
        self.tally.status = status;
        let facts = self.facts.as_ref();
        // After a request with a body, unread bytes of it may follow on the connection. An HTTP/1.0
        // client expects the connection to close.
        let reusable =
            |f: &RequestFacts| f.persistent && f.framing == Framing::None && f.version == Version::Http11;
        let persistent = facts.is_some_and(reusable)
            && matches!(status, 200 | 301 | 308 | 404 | 502 | 503 | 504)
            && !self.worker.draining();
        let head_only = facts.is_some_and(|f| f.method == Method::Head);
        if persistent {
            self.pass_head(client);
        }
        let retry_after = (status == 503).then(|| {
            let upstream = self.upstream();
            upstream.map_or(Duration::from_secs(1), |upstream| upstream.state.config.retry.retry_after)
        });
        let view = Rc::clone(&self.view);
        let upstream = self.route.map(|route| view.upstream_of(route));
        let report = upstream.filter(|upstream| upstream.state.config.affinity.report).zip(self.verdict);
        let report = report.map(|(upstream, verdict)| AffinityReport {
            outcome: verdict.outcome,
            reason: verdict.reason,
            backend: upstream.id(verdict.member).as_str(),
        });
        let mut out = self.worker.buffers.take_output();
        let answer = Answer { retry_after, report, head_only, persistent, ..answer };
        write_answer(&mut out, &answer);
        let sent = client.send(&out, self.view.snapshot.config.timeouts.upstream.body_idle).await;
        self.tally.bytes_out += out.len() as u64;
        self.worker.buffers.put_output(out);
        match (sent, persistent) {
            (Ok(()), true) => After::Next,
            (Ok(()), false) => After::Linger,
            (Err(_), _) => After::Abort,
        }
    }

    /// Returns the request line of a head that was rejected, as far as it is readable.
    fn readable_line(&self, client: &Client) -> Option<LogText> {
        if self.facts.is_some() || !self.worker.log().enabled() {
            return None;
        }
        client.held.as_ref().and_then(|held| LogText::of_bytes(held.filled()))
    }

    /// Returns the backend that a moved request's session comes from, if it is known.
    fn moved_from<'a>(&'a self, upstream: &'a UpstreamView) -> Option<&'a BackendId> {
        let moved = self.verdict.is_some_and(|verdict| verdict.outcome == Outcome::Moved);
        self.session.as_ref().filter(|_| moved && self.worker.log().enabled())?.backend(upstream)
    }

    /// Counts and logs the request. `refused` is the request line of a rejected head.
    fn record(&mut self, origin: &Origin, error: Option<&'static str>, refused: Option<&LogText>) {
        self.recorded = true;
        let tally = &self.tally;
        let text = self.facts.as_ref().and_then(|f| f.text.as_deref()).or(refused);
        let upstream = self.upstream();
        let record = Record {
            client: self.facts.as_ref().map_or(origin.peer, |facts| facts.client_ip),
            method: text.map_or("-", |t| &t.method),
            host: text.map_or("-", |t| &t.host),
            path: text.map_or("-", |t| &t.path),
            version: match &self.facts {
                _ if origin.http2 => "HTTP/2",
                Some(facts) => facts.version.as_str(),
                None => "-",
            },
            status: tally.status,
            error,
            upstream: upstream.map(|u| &*u.state),
            member: self.verdict.map(|v| v.member),
            key_source: self.session.as_ref().and_then(|s| s.source),
            layer: self.session.as_ref().and_then(|s| s.layer),
            key: self.session.as_ref().and_then(|s| s.key),
            from: upstream.and_then(|upstream| self.moved_from(upstream)),
            outcome: self.verdict.map(|v| v.outcome),
            reason: self.verdict.and_then(|v| v.reason),
            attempts: tally.attempts,
            duration: tally.started.elapsed(),
            first_byte: tally.first_byte.map(|at| at.duration_since(tally.started)),
            backend_latency: tally
                .first_byte
                .zip(tally.attempted)
                .map(|(at, attempted)| at.saturating_duration_since(attempted)),
            connect: tally.connect,
            bytes_in: tally.bytes_in,
            bytes_out: tally.bytes_out,
            tunnel: tally.tunnel,
        };
        match upstream {
            Some(upstream) => {
                self.worker.metrics().record_in(&upstream.metrics, &record);
                if let Some(cell) =
                    self.verdict.and_then(|v| upstream.backend_metrics.get(usize::from(v.member)))
                {
                    cell.record(&record);
                }
            }
            None => self.worker.metrics().record(&record),
        }
        if self.worker.log().enabled() {
            self.worker.log().log(&record);
        }
    }
}

impl Drop for Request<'_> {
    /// Counts and logs a request that was cut off at the end of the grace period.
    fn drop(&mut self) {
        if let (false, Some(origin)) = (self.recorded, self.origin.take()) {
            self.record(&origin, Some("shutdown"), None);
        }
    }
}
