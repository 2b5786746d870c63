//! Homing's own responses: errors, refusals and redirects.

use std::time::{Duration, SystemTime};

use super::head::{self, AffinityReport};
use crate::h1;
use crate::model::router::without_port;

/// The methods in Allow: what a backend may understand. TRACE is refused, or an operator knows.
const ALLOWED: &[u8] = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// A redirect to https (`redirect_https`).
#[derive(Debug)]
pub(crate) struct Redirect {
    /// 301 or 308.
    pub status: u16,
    /// The absolute URL.
    pub location: String,
}

impl Redirect {
    /// Redirects to the same URL with https, on this port.
    pub(crate) fn to_https(method: &str, host: &str, port: u16, path_and_query: &str) -> Self {
        let host = without_port(host);
        let path = if path_and_query.starts_with('/') { path_and_query } else { "/" };
        let location = match port {
            443 => format!("https://{host}{path}"),
            port => format!("https://{host}:{port}{path}"),
        };
        // Clients may turn other methods into GET after a 301.
        let status = if matches!(method, "GET" | "HEAD") { 301 } else { 308 };
        Self { status, location }
    }
}

/// A response of Homing's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer<'a> {
    /// The status.
    pub status: u16,
    /// The error code, such as `no_route`.
    pub code: &'a str,
    /// The value of Retry-After.
    pub retry_after: Option<Duration>,
    /// The value of Location.
    pub location: Option<&'a str>,
    /// The type and bytes of the body, instead of status and code.
    pub content: Option<(&'a str, &'a [u8])>,
    /// The value of X-Affinity-Outcome, if enabled.
    pub report: Option<AffinityReport<'a>>,
    /// Whether to leave out the body (HEAD).
    pub head_only: bool,
    /// Whether the connection stays open.
    pub persistent: bool,
}

impl<'a> Answer<'a> {
    /// Creates a response with a body, after which the connection is closed.
    pub(crate) fn new(status: u16, code: &'a str) -> Self {
        Self {
            status,
            code,
            retry_after: None,
            location: None,
            content: None,
            report: None,
            head_only: false,
            persistent: false,
        }
    }
}

/// Appends the response to `out`.
pub(crate) fn write_answer(out: &mut Vec<u8>, answer: &Answer<'_>) {
    let Answer { status, code, retry_after, location, content, report, head_only, persistent } = *answer;
    let reason = reason_phrase(status);
    let text = format!("{status} {reason}\n{code}\n");
    let (kind, body) = content.unwrap_or(("text/plain; charset=utf-8", text.as_bytes()));
    h1::write_status_line(out, status, reason.as_bytes());
    h1::write_field(out, "Date", httpdate::fmt_http_date(SystemTime::now()).as_bytes());
    h1::write_field(out, "Content-Type", kind.as_bytes());
    h1::write_field(out, "Content-Length", body.len().to_string().as_bytes());
    h1::write_field(out, "Cache-Control", b"no-store");
    if let Some(wait) = retry_after {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        h1::write_field(out, "Retry-After", seconds.max(1).to_string().as_bytes());
    }
    if let Some(location) = location {
        h1::write_field(out, "Location", location.as_bytes());
    }
    if matches!(status, 200 | 405) {
        h1::write_field(out, "Allow", ALLOWED);
    }
    if let Some(report) = &report {
        head::write_report(out, report);
    }
    if !persistent {
        h1::write_field(out, "Connection", b"close");
    }
    h1::end_head(out);
    if !head_only {
        out.extend_from_slice(body);
    }
}

/// Returns the reason phrase of a status.
fn reason_phrase(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Error")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirect_keeps_host_path_and_query_and_sets_the_port() {
        let location = |host, port, path| Redirect::to_https("GET", host, port, path).location;
        assert_eq!(location("a.example:8080", 443, "/x?y"), "https://a.example/x?y");
        assert_eq!(location("[::1]:80", 8443, "/"), "https://[::1]:8443/");
        assert_eq!(location("[::1]", 443, "*"), "https://[::1]/");
    }

    #[test]
    fn only_get_and_head_get_a_301() {
        let status = |method| Redirect::to_https(method, "a", 443, "/").status;
        assert_eq!((status("GET"), status("HEAD"), status("POST")), (301, 301, 308));
    }
}
