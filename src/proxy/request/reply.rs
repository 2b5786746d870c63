//! A response's head: what it means, what is learned from it, and what the
//! client is told.

use tokio::time::Instant;

use super::error::ProxyError;
use super::exchange::Exchange;
use super::head::{self, AffinityReport, ClientFraming, ResponseEdits};
use crate::affinity::cookie;
use crate::h1::{self, Body, BodyLimits, FieldSlots, Framing, Parsed, ResponseHead, Version};
use crate::model::snapshot::Observation;
use crate::proxy::wire::buffer::Buffer;

/// Interim responses taken before the final one; more is abuse.
const MAX_INTERIM: u32 = 16;

/// What is known once the response's head is there.
pub(crate) struct Reply {
    /// Will the backend's connection serve again?
    pub backend_persistent: bool,
    /// Will the client's?
    pub client_persistent: bool,
    /// Is it a 101: a tunnel begins?
    pub upgraded: bool,
    /// The body as it comes from the backend.
    pub body: Body,
    /// How it goes to the client.
    pub framing: ClientFraming,
}

impl Exchange<'_, '_, '_> {
    /// Reads one head out of `buffer`; `None` and 0: more is needed.
    pub(crate) fn parse_head(&mut self, buffer: &Buffer) -> Result<(Option<Reply>, usize), ProxyError> {
        let Some(facts) = &self.request.facts else { return Err(ProxyError::ClientGone) };
        let limits = self.request.view.head_limits;
        let mut slots = FieldSlots::new();
        match h1::parse_response(buffer.filled(), &mut self.scanned, &limits, facts.method.like(), &mut slots)
        {
            Ok(Parsed::Partial) => Ok((None, 0)),
            Ok(Parsed::Complete { head, len }) => {
                self.scanned = 0;
                if (100..200).contains(&head.status) && head.status != 101 {
                    self.interim += 1;
                    if self.interim > MAX_INTERIM {
                        return Err(ProxyError::TooManyInterim);
                    }
                    if facts.version == Version::Http11 {
                        head::write_interim(&mut self.out, &head);
                    }
                    return Ok((None, len));
                }
                Ok((Some(self.reply_to(&head)?), len))
            }
            Err(error) => Err(ProxyError::ResponseHead(error)),
        }
    }

    /// The final head: what it means and what the client is told.
    fn reply_to(&mut self, head: &ResponseHead<'_>) -> Result<Reply, ProxyError> {
        let request = &mut *self.request;
        let Some(facts) = &request.facts else { return Err(ProxyError::ClientGone) };
        let worker = request.worker;
        let upgraded = head.status == 101;
        // What is still to come of the request would be lost, or taken for the tunnel's.
        if upgraded && !(facts.upgrade && self.upload.is_complete()) {
            return Err(ProxyError::UnaskedUpgrade);
        }
        let framing = match (head.framing, facts.version) {
            (Framing::UntilClose, Version::Http11) => ClientFraming::Chunked,
            (Framing::UntilClose | Framing::Chunked, Version::Http10) => ClientFraming::UntilClose,
            _ => ClientFraming::Same,
        };
        let body = match (head.framing, facts.version) {
            (Framing::Chunked, Version::Http10) => {
                Body::new(Framing::Chunked, BodyLimits::default()).with_data_only()
            }
            (framing, _) => Body::new(framing, BodyLimits::default()),
        };
        // What a backend that answers early leaves of the request cannot be told
        // from the next one: the client is to know that there will be none.
        let client_persistent = facts.persistent
            && framing != ClientFraming::UntilClose
            && self.upload.is_complete()
            && !worker.draining();
        let now = worker.now();
        let mut set_cookie = None;
        if let Some(session) = request.session() {
            session.learn(self.upstream, self.verdict.member, head, now);
            let cacheable = || cookie::is_publicly_cacheable(facts.method.like(), head.status, head);
            set_cookie = session.cookie_to_set(self.upstream, self.verdict, facts.secure, cacheable, now);
        }
        let affinity = &self.upstream.state.config.affinity;
        let edits = ResponseEdits {
            persistent: client_persistent,
            version: facts.version,
            framing,
            forwarding: &request.view.snapshot.config.forwarding,
            report: affinity.report.then(|| AffinityReport {
                outcome: self.verdict.outcome,
                reason: self.verdict.reason,
                backend: self.upstream.id(self.verdict.member).as_str(),
            }),
            set_cookie: set_cookie.as_ref().map(|(value, _)| value.as_bytes()),
            make_private: set_cookie.as_ref().is_some_and(|(_, private)| *private),
            upgrade: if upgraded { head.upgrade } else { None },
        };
        head::write_response(&mut self.out, head, &edits);

        request.tally.status = head.status;
        request.tally.first_byte = Some(Instant::now());
        let live = self.upstream.pools[usize::from(self.verdict.member)].live();
        if live.recovered() {
            worker.report(self.upstream.report(self.verdict.member, Observation::Recovered));
        }
        if head.status >= 500 && self.upstream.counts_server_errors() {
            worker.report(self.upstream.report(self.verdict.member, Observation::ServerError));
        }
        Ok(Reply {
            backend_persistent: head.persistent() && !upgraded,
            client_persistent,
            upgraded,
            body,
            framing,
        })
    }
}
