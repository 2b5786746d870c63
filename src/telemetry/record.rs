//! One request, as metrics and the access log see it.

use std::net::IpAddr;
use std::time::Duration;

use crate::affinity::pick::{Outcome, Reason};
use crate::model::snapshot::UpstreamState;

/// Everything that is told of one request, borrowed from where it is.
#[derive(Debug)]
pub struct Record<'a> {
    /// The client (through trusted proxies).
    pub client: IpAddr,
    /// Method, `-` where the head could not be read.
    pub method: &'a str,
    /// Host, lower case or as received.
    pub host: &'a str,
    /// Path without the query (queries carry secrets; they are not logged).
    pub path: &'a str,
    /// `HTTP/1.1`, `HTTP/1.0`, `HTTP/2`.
    pub version: &'static str,
    /// Status sent; 499 where the client was gone before.
    pub status: u16,
    /// Why Homing itself answered or broke off, e.g. `connect_timeout`; `None`
    /// where the response is the backend's, whole.
    pub error: Option<&'static str>,
    /// The upstream, where a route was found.
    pub upstream: Option<&'a UpstreamState>,
    /// The member that answered, or was tried last.
    pub member: Option<u16>,
    /// Index into the upstream's key sources.
    pub key_source: Option<usize>,
    /// Affinity outcome, where a pick was made.
    pub outcome: Option<Outcome>,
    /// And why.
    pub reason: Option<Reason>,
    /// Backends tried, 0 where none was.
    pub attempts: u32,
    /// From the head's last byte to the response's last byte.
    pub duration: Duration,
    /// From the head's last byte to the response head's first byte.
    pub first_byte: Option<Duration>,
    /// Time spent connecting; zero where a pooled connection served.
    pub connect: Duration,
    /// Bytes read from the client for this request.
    pub bytes_in: u64,
    /// Bytes written to the client for it.
    pub bytes_out: u64,
    /// Was it a tunnel (an upgraded connection)?
    pub tunnel: bool,
}
