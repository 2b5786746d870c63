//! How a request ends: what the client is told if nobody told it anything,
//! and what is counted and logged.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::error::{self, Answer, ProxyError};
use super::facts::{Facts, LogText, Method};
use super::head::AffinityReport;
use super::pipeline::Request;
use crate::h1::{Framing, Version};
use crate::proxy::client::connection::{After, Client, Origin};
use crate::telemetry::Record;

impl Request<'_> {
    /// Answers the client if nobody did, and counts.
    pub(crate) async fn finish(mut self, client: &mut Client, result: Result<After, ProxyError>) -> After {
        client.deadline.clear();
        let result = if client.stream.has_refused_tunnel() { Err(self.refused_tunnel()) } else { result };
        let refused = self.readable_line(client);
        let (after, error) = match result {
            Ok(after) => (after, None),
            Err(error) => {
                let after = self.answer(client, &error).await;
                (after, Some(error.code()))
            }
        };
        self.record(&client.origin, error, refused.as_ref());
        after
    }

    /// The client was told already.
    fn refused_tunnel(&mut self) -> ProxyError {
        let error = ProxyError::NoUpgrade;
        (self.tally.status, self.tally.tunnel) = (error.status(), false);
        error
    }

    async fn answer(&mut self, client: &mut Client, error: &ProxyError) -> After {
        if self.tally.status != 0 {
            // The response has begun: all that can be done is not to end it well.
            return After::Abort;
        }
        self.tally.status = error.status();
        if matches!(error, ProxyError::ClientGone | ProxyError::ClientStalled | ProxyError::ClientTooSlow) {
            return After::Abort;
        }
        let facts = self.facts.as_ref();
        // What follows on the connection is known only if the request had no body,
        // and a client of HTTP/1.0 would have to be told that it goes on.
        let reusable = |f: &Facts| f.persistent && f.framing == Framing::None && f.version == Version::Http11;
        let persistent = facts.is_some_and(reusable)
            && matches!(error.status(), 301 | 308 | 404 | 502 | 503 | 504)
            && !self.worker.draining();
        let head_only = facts.is_some_and(|f| f.method == Method::Head);
        if persistent {
            self.pass_head(client);
        }
        let retry_after = (error.status() == 503).then(|| {
            let upstream = self.upstream.map(|i| &self.view.upstreams[i].state.config);
            upstream.map_or(Duration::from_secs(1), |config| config.retry.retry_after)
        });
        let view = Rc::clone(&self.view);
        let upstream = self.upstream.map(|index| &view.upstreams[index]);
        let report = upstream.filter(|upstream| upstream.state.config.affinity.report).zip(self.verdict);
        let report = report.map(|(upstream, verdict)| AffinityReport {
            outcome: verdict.outcome,
            reason: verdict.reason,
            backend: upstream.id(verdict.member).as_str(),
        });
        let mut out = self.worker.buffers.take_output();
        let location = error.location();
        let answer = Answer {
            retry_after,
            location,
            report,
            head_only,
            persistent,
            ..Answer::new(error.status(), error.code())
        };
        error::write_response(&mut out, &answer);
        let sent = client.send(&out, self.view.snapshot.config.timeouts.upstream.body_idle).await;
        self.tally.bytes_out += out.len() as u64;
        self.worker.buffers.put_output(out);
        match (sent, persistent) {
            (Ok(()), true) => After::Next,
            (Ok(()), false) => After::Linger,
            (Err(_), _) => After::Abort,
        }
    }

    /// The client's address, through trusted proxies.
    pub(crate) fn client_ip(&self, client: &Client) -> IpAddr {
        self.facts.as_ref().map_or(client.origin.peer, |facts| facts.client_ip)
    }

    /// What the log says of a head that was refused, as far as it can be read.
    fn readable_line(&self, client: &Client) -> Option<LogText> {
        if self.facts.is_some() || !self.worker.log.enabled() {
            return None;
        }
        client.held.as_ref().and_then(|held| LogText::of_bytes(held.filled()))
    }

    fn record(&mut self, origin: &Origin, error: Option<&'static str>, refused: Option<&LogText>) {
        self.recorded = true;
        let tally = &self.tally;
        let text = self.facts.as_ref().and_then(|f| f.text.as_deref()).or(refused);
        let upstream = self.upstream.map(|index| &self.view.upstreams[index]);
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
            outcome: self.verdict.map(|v| v.outcome),
            reason: self.verdict.and_then(|v| v.reason),
            attempts: tally.attempts,
            duration: tally.started.elapsed(),
            first_byte: tally.first_byte.map(|at| at.duration_since(tally.started)),
            connect: tally.connect,
            bytes_in: tally.bytes_in,
            bytes_out: tally.bytes_out,
            tunnel: tally.tunnel,
        };
        match upstream {
            Some(upstream) => self.worker.metrics.record_in(&upstream.metrics, &record),
            None => self.worker.metrics.record(&record),
        }
        if self.worker.log.enabled() {
            self.worker.log.log(&record);
        }
    }
}

impl Drop for Request<'_> {
    /// Cut off at the end of the grace period, it is counted and logged all the same.
    fn drop(&mut self) {
        if let (false, Some(origin)) = (self.recorded, self.origin.take()) {
            self.record(&origin, Some("shutdown"), None);
        }
    }
}
