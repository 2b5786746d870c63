//! Requests that Homing answers itself, before it looks for a backend.

use super::answer::Redirect;
use super::client::Client;
use super::error::ProxyError;
use super::hops;
use super::state::Request;
use crate::h1::{self, Edit, FieldKind, RequestHead, Version};

/// An answer of Homing's own to a request that is in order.
pub(crate) enum OwnAnswer {
    /// A redirect to https.
    Redirect(Redirect),
    /// OPTIONS that may go no further.
    Options,
    /// TRACE that may go no further: what arrived.
    Trace(Vec<u8>),
}

impl Request<'_> {
    /// Returns Homing's own answer, if the request goes to no backend.
    ///
    /// # Errors
    /// The request is refused.
    pub(crate) fn own_answer(
        &self,
        head: &RequestHead<'_>,
        client: &Client,
    ) -> Result<Option<OwnAnswer>, ProxyError> {
        if let Some(redirect) = self.redirect(head, client) {
            return Ok(Some(OwnAnswer::Redirect(redirect)));
        }
        if hops::is_loop(head) {
            return Err(ProxyError::Loop);
        }
        if head.method == "TRACE" && !self.view.snapshot.config.forwarding.trace {
            return Err(ProxyError::TraceNotAllowed);
        }
        Ok(match (hops::left(head), head.method) {
            (Some(0), "TRACE") => Some(OwnAnswer::Trace(traced(head))),
            (Some(0), _) => Some(OwnAnswer::Options),
            _ => None,
        })
    }

    /// Returns the redirect to https, if the listener redirects and the request came without TLS.
    fn redirect(&self, head: &RequestHead<'_>, client: &Client) -> Option<Redirect> {
        let port = client.origin.redirect_https?;
        // An HTTP/1.0 request without a Host cannot be redirected.
        let plain = self.facts.as_ref().is_some_and(|facts| !facts.secure) && !head.host.is_empty();
        plain.then(|| Redirect::to_https(head.method, head.host, port, head.target.path_and_query()))
    }
}

/// Returns a request as it arrived, without its secrets (RFC 9110 §9.3.8).
fn traced(head: &RequestHead<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let version = if head.version == Version::Http10 { "HTTP/1.0" } else { "HTTP/1.1" };
    for word in [head.method, " ", head.target.path_and_query(), " ", version, "\r\n"] {
        out.extend_from_slice(word.as_bytes());
    }
    h1::copy_fields(&mut out, &head.fields, |field| match field.kind {
        FieldKind::Cookie | FieldKind::Authorization | FieldKind::ProxyAuthorization => Edit::Drop,
        _ => Edit::Keep,
    });
    h1::end_head(&mut out);
    out
}
