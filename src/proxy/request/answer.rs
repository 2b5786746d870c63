//! Responses that Homing makes itself: errors, refusals and redirects.

use std::time::{Duration, SystemTime};

use super::head::{self, AffinityReport};
use crate::h1;
use crate::model::router::without_port;

/// A redirect to https, which `redirect_https` asks for.
#[derive(Debug)]
pub(crate) struct Redirect {
    /// 301 or 308.
    pub status: u16,
    /// The whole URL.
    pub location: String,
}

impl Redirect {
    /// To the same URL with https, on this port.
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
    /// Its status.
    pub status: u16,
    /// One word that says why.
    pub code: &'a str,
    /// When another try is worth it.
    pub retry_after: Option<Duration>,
    /// Where else to ask.
    pub location: Option<&'a str>,
    /// X-Affinity-Outcome, where it was asked for.
    pub report: Option<AffinityReport<'a>>,
    /// Is it without its body?
    pub head_only: bool,
    /// Does the connection go on?
    pub persistent: bool,
}

impl<'a> Answer<'a> {
    /// The last one on its connection.
    pub(crate) fn new(status: u16, code: &'a str) -> Self {
        Self {
            status,
            code,
            retry_after: None,
            location: None,
            report: None,
            head_only: false,
            persistent: false,
        }
    }
}

/// Appends the response that tells the client.
pub(crate) fn write_answer(out: &mut Vec<u8>, answer: &Answer<'_>) {
    let Answer { status, code, retry_after, location, report, head_only, persistent } = *answer;
    let reason = reason_phrase(status);
    let body = format!("{status} {reason}\n{code}\n");
    h1::write_status_line(out, status, reason.as_bytes());
    h1::write_field(out, "date", httpdate::fmt_http_date(SystemTime::now()).as_bytes());
    h1::write_field(out, "content-type", b"text/plain; charset=utf-8");
    h1::write_field(out, "content-length", body.len().to_string().as_bytes());
    h1::write_field(out, "cache-control", b"no-store");
    if let Some(wait) = retry_after {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        h1::write_field(out, "retry-after", seconds.max(1).to_string().as_bytes());
    }
    if let Some(location) = location {
        h1::write_field(out, "location", location.as_bytes());
    }
    if let Some(report) = &report {
        head::write_report(out, report);
    }
    if !persistent {
        h1::write_field(out, "connection", b"close");
    }
    h1::end_head(out);
    if !head_only {
        out.extend_from_slice(body.as_bytes());
    }
}

/// The phrase of a status that Homing itself answers with.
fn reason_phrase(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Error")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_keeps_host_path_and_query_and_changes_the_port() {
        let location = |host, port, path| Redirect::to_https("GET", host, port, path).location;
        assert_eq!(location("a.example:8080", 443, "/x?y"), "https://a.example/x?y");
        assert_eq!(location("[::1]:80", 8443, "/"), "https://[::1]:8443/");
        assert_eq!(location("[::1]", 443, "*"), "https://[::1]/");
    }

    #[test]
    fn only_get_and_head_are_redirected_with_301() {
        let status = |method| Redirect::to_https(method, "a", 443, "/").status;
        assert_eq!((status("GET"), status("HEAD"), status("POST")), (301, 301, 308));
    }
}
