//! The record of a request for metrics and the access log.

use std::net::IpAddr;
use std::time::Duration;

use crate::affinity::pick::{Outcome, Reason};
use crate::affinity::recall::Layer;
use crate::affinity::{BackendId, KeyHash};
use crate::model::snapshot::UpstreamState;

/// The data of a finished request. It borrows from the request.
#[derive(Debug)]
pub struct Record<'a> {
    /// The client's address, as resolved through trusted proxies.
    pub client: IpAddr,
    /// Method; `-` if the head could not be read.
    pub method: &'a str,
    /// Host, in lower case or as received.
    pub host: &'a str,
    /// Path without the query. Queries are not logged because they can contain secrets.
    pub path: &'a str,
    /// `HTTP/1.1`, `HTTP/1.0` or `HTTP/2`.
    pub version: &'static str,
    /// Status sent; 499 if the client disconnected first.
    pub status: u16,
    /// Why Homing itself answered or aborted the response, e.g. `connect_timeout`; `None` if the backend
    /// sent the complete response.
    pub error: Option<&'static str>,
    /// The upstream, if a route matched.
    pub upstream: Option<&'a UpstreamState>,
    /// The member that answered or was tried last.
    pub member: Option<u16>,
    /// Index into the upstream's key sources.
    pub key_source: Option<usize>,
    /// The layer of memory that knew the session, if one did.
    pub layer: Option<Layer>,
    /// Hash of the session's key.
    pub key: Option<KeyHash>,
    /// For a move, the backend that the session comes from, if it is known.
    pub from: Option<&'a BackendId>,
    /// Affinity outcome, if a backend was picked.
    pub outcome: Option<Outcome>,
    /// Reason of the outcome.
    pub reason: Option<Reason>,
    /// Number of attempts.
    pub attempts: u32,
    /// From the last byte of the request head to the last byte of the response.
    pub duration: Duration,
    /// From the last byte of the request head to the first byte of the response head.
    pub first_byte: Option<Duration>,
    /// From the start of the last attempt to the first byte of its response head.
    pub backend_latency: Option<Duration>,
    /// Time spent connecting; zero for a pooled connection.
    pub connect: Duration,
    /// Bytes read from the client for this request.
    pub bytes_in: u64,
    /// Bytes written to the client for this request.
    pub bytes_out: u64,
    /// Whether it became a tunnel (an upgraded connection).
    pub tunnel: bool,
}
