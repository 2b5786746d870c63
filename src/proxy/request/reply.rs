//! Reads response heads: decides how the response is framed, updates the session, and writes the
//! head for the client.

use std::net::IpAddr;

use tokio::time::Instant;

use super::error::ProxyError;
use super::head::{self, AffinityReport, ClientFraming, ResponseEdits};
use super::state::Request;
use crate::affinity::cookie;
use crate::affinity::pick::Verdict;
use crate::affinity::{KeyHash, Timestamp};
use crate::h1::{self, Body, BodyLimits, FieldSlots, Framing, HeadError, Parsed, ResponseHead, Version};
use crate::model::client_net::ClientNet;
use crate::model::snapshot::Observation;
use crate::proxy::view::UpstreamView;
use crate::proxy::wire::buffer::Buffer;

/// The most interim responses accepted before the final one.
const MAX_INTERIM: u32 = 16;

/// What the final response head decides.
#[expect(clippy::struct_excessive_bools, reason = "the flags are independent")]
pub(crate) struct Reply {
    /// Whether the backend connection can be reused.
    pub backend_persistent: bool,
    /// Whether the backend connection belongs to the client from now on, because one of them
    /// authenticates it.
    pub owns_backend: bool,
    /// Whether the client connection stays open.
    pub client_persistent: bool,
    /// Whether a tunnel begins (101).
    pub upgraded: bool,
    /// Whether the body may never end.
    pub endless: bool,
    /// The body from the backend.
    pub body: Body,
    /// The framing of the body sent to the client.
    pub framing: ClientFraming,
}

/// Reads the heads of a response: interim ones, then the final one.
#[derive(Debug, Default)]
pub(crate) struct ReplyReader {
    /// Heads to send to the client.
    pub out: Vec<u8>,
    /// Interim responses so far.
    pub interim: u32,
    /// Bytes already searched for the end of the head.
    scanned: usize,
}

impl ReplyReader {
    /// Creates a reader that writes the heads for the client to `out`.
    pub(crate) fn new(out: Vec<u8>) -> Self {
        Self { out, ..Self::default() }
    }

    /// Reads one head from `buffer`. Returns the number of bytes used, and the reply if it was the
    /// final head. 0 bytes: the head is not complete yet.
    ///
    /// # Errors
    /// The head is invalid or unexpected. Nothing was written for the client.
    pub(crate) fn read(
        &mut self,
        buffer: &Buffer,
        request: &mut Request<'_>,
        upstream: &UpstreamView,
        verdict: Verdict,
        uploaded: bool,
    ) -> Result<(Option<Reply>, usize), ProxyError> {
        let Some(facts) = &request.facts else { return Err(ProxyError::ClientGone) };
        let limits = request.view.head_limits;
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
                let reply = self.reply_to(&head, request, upstream, verdict, uploaded)?;
                Ok((Some(reply), len))
            }
            Err(error @ (HeadError::HeadTooLarge | HeadError::TooManyFields)) => {
                let pool = &upstream.pools[usize::from(verdict.member)];
                pool.warn_of_large_head(error, buffer.filled().len(), &limits);
                Err(ProxyError::ResponseHeadTooLarge(error))
            }
            Err(error) => Err(ProxyError::ResponseHead(error)),
        }
    }

    /// Handles the final head and writes the head for the client.
    fn reply_to(
        &mut self,
        head: &ResponseHead<'_>,
        request: &mut Request<'_>,
        upstream: &UpstreamView,
        verdict: Verdict,
        uploaded: bool,
    ) -> Result<Reply, ProxyError> {
        let Some(facts) = &request.facts else { return Err(ProxyError::ClientGone) };
        let worker = request.worker;
        let upgraded = head.status == 101;
        // The rest of the request body would be lost, or taken for bytes of the tunnel.
        let websocket = head.upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"));
        if upgraded && !(facts.upgrade && websocket && uploaded) {
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
        // After an early response, the rest of the request body could be taken for the next
        // request. The client must learn from this response that the connection closes.
        let client_persistent =
            facts.persistent && framing != ClientFraming::UntilClose && uploaded && !worker.draining();
        let now = worker.now();
        let affinity = &upstream.state.config.affinity;
        let mut set_cookie = None;
        if let Some(session) = &mut request.session {
            session.answered(upstream, verdict, now);
            let lesson = session.learn(upstream, verdict.member, head, now);
            if let Some(address) = session.placed_by_address(upstream, verdict, lesson) {
                count_by_address(upstream, address, facts.client_ip, now);
            }
            let cacheable = || cookie::is_publicly_cacheable(facts.method.like(), head.status, head);
            set_cookie = session.set_cookie(upstream, verdict, lesson, facts.secure, cacheable, now);
            if let Some(in_use) = &request.in_use {
                in_use.add(lesson.minted(), set_cookie.as_ref().and_then(|cookie| cookie.in_use));
            }
        }
        let edits = ResponseEdits {
            persistent: client_persistent,
            version: facts.version,
            framing,
            forwarding: &request.view.snapshot.config.forwarding,
            report: affinity.report.then(|| AffinityReport {
                outcome: verdict.outcome,
                reason: verdict.reason,
                backend: upstream.id(verdict.member).as_str(),
            }),
            set_cookies: set_cookie.as_ref().map_or(&[], |cookie| &cookie.values),
            make_private: set_cookie.as_ref().is_some_and(|cookie| cookie.private),
            upgrade: if upgraded { head.upgrade } else { None },
        };
        head::write_response(&mut self.out, head, &edits);

        request.tally.status = head.status;
        request.tally.first_byte = Some(Instant::now());
        let live = upstream.pools[usize::from(verdict.member)].live();
        if live.recovered() && !worker.report(upstream.report(verdict.member, Observation::Recovered)) {
            // The next success must report it, or the backend would seem to answer nobody.
            live.failed();
        }
        if head.status >= 500 && upstream.counts_server_errors() {
            let client = ClientNet::of(facts.client_ip);
            worker.report(upstream.report(verdict.member, Observation::ServerError(client)));
        }
        Ok(Reply {
            backend_persistent: head.persistent() && !upgraded,
            // HTTP/2 has no authentication of connections.
            owns_backend: (facts.connection_auth || head.connection_auth)
                && !upstream.state.config.protocol.is_http2(),
            client_persistent,
            upgraded,
            endless: is_endless(head),
            body,
            framing,
        })
    }
}

/// Counts a new session that was placed by the client's address. Tells the operator if most are.
fn count_by_address(upstream: &UpstreamView, address: KeyHash, client: IpAddr, now: Timestamp) {
    let Some(share) = upstream.state.memory.crowd.count(address, now) else { return };
    upstream.metrics.placed_by_address(share);
    if share.notice {
        tracing::warn!(
            upstream = &*upstream.state.config.name,
            %client,
            share = format!("{} of {}", share.largest, share.largest + share.others),
            "one address brings most new sessions, and all go to one backend; remove \"ip\" from the key, or add \
             the proxy at this address to client_ip.trusted"
        );
    }
}

/// Returns whether the body of a response may never end: event streams, and pictures that replace
/// each other.
fn is_endless(head: &ResponseHead<'_>) -> bool {
    if !matches!(head.framing, Framing::Chunked | Framing::UntilClose) {
        return false;
    }
    let field = head.fields.iter().find(|field| field.name.eq_ignore_ascii_case("content-type"));
    field.is_some_and(|field| {
        let media_type = field.value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        media_type.eq_ignore_ascii_case(b"text/event-stream")
            || media_type.eq_ignore_ascii_case(b"multipart/x-mixed-replace")
    })
}
