//! The keys of `[timeouts]` and `[upstream.NAME.timeouts]`.

use std::time::Duration;

use super::{Key, Optional, OrOff, Rule, Size, Table, Time};
use crate::config::units::{DAY, HOUR, MINUTE};

/// `[timeouts]`.
pub(in crate::config) static TIMEOUTS: Table = Table {
    path: "timeouts",
    doc: "Timeouts. Those for backends can be overridden per upstream.",
    keys: &[
        &REQUEST_HEAD,
        &KEEP_ALIVE,
        &PROXY_HEADER,
        &TLS_HANDSHAKE,
        &CONNECT,
        &RESPONSE_HEAD,
        &BODY_IDLE,
        &MIN_BODY_RATE,
        &BODY_RATE_WINDOW,
        &TUNNEL_IDLE,
    ],
};
const MILLISECOND: Duration = Duration::from_millis(1);
const CONNECT_BOUNDS: Time = Time { least: MILLISECOND, most: Duration::from_secs(10 * MINUTE) };
const WAIT_BOUNDS: Time = Time { least: MILLISECOND, most: Duration::from_secs(DAY) };
const TUNNEL_BOUNDS: Time = Time { least: MILLISECOND, most: Duration::from_secs(30 * DAY) };
pub(in crate::config) static REQUEST_HEAD: Key<Time> = Key {
    name: "request_head",
    rule: WAIT_BOUNDS,
    default: Duration::from_secs(10),
    doc: "Time allowed to receive the request line and headers, from the first byte. The client gets 408 after \
          this.",
};
pub(in crate::config) static KEEP_ALIVE: Key<Time> = Key {
    name: "keep_alive",
    rule: WAIT_BOUNDS,
    default: Duration::from_secs(60),
    doc: "Idle client connections are closed after this.",
};
pub(in crate::config) static PROXY_HEADER: Key<Time> = Key {
    name: "proxy_protocol",
    rule: WAIT_BOUNDS,
    default: Duration::from_secs(5),
    doc: "Time allowed for a new connection to send its PROXY header. The connection is closed after this.",
};
pub(in crate::config) static TLS_HANDSHAKE: Key<Time> = Key {
    name: "tls_handshake",
    rule: WAIT_BOUNDS,
    default: Duration::from_secs(10),
    doc: "Time allowed for a new connection to complete its TLS handshake. The connection is closed after this.",
};
pub(in crate::config) static CONNECT: Key<Time> = Key {
    name: "connect",
    rule: CONNECT_BOUNDS,
    default: Duration::from_secs(3),
    doc: "Time allowed to connect to a backend. The next backend is tried after this; if none is left, the \
          client gets 504.",
};
pub(in crate::config) static RESPONSE_HEAD: Key<Time> = Key {
    name: "response_head",
    rule: WAIT_BOUNDS,
    default: Duration::from_secs(60),
    doc: "Time allowed for a backend to start its response, from the end of the request. The client gets 504 after \
          this.",
};
pub(in crate::config) static BODY_IDLE: Key<Time> = Key {
    name: "body_idle",
    rule: WAIT_BOUNDS,
    default: Duration::from_secs(30),
    doc: "Maximum time between two reads or writes of a request or response body.",
};
const RATE_BOUNDS: OrOff<Size> = OrOff(Size { least: 1, most: 1 << 40 });
const WINDOW_BOUNDS: Time = Time { least: MILLISECOND, most: Duration::from_secs(HOUR) };
pub(in crate::config) static MIN_BODY_RATE: Key<OrOff<Size>> = Key {
    name: "min_body_rate",
    rule: RATE_BOUNDS,
    default: Some(240),
    doc: "Minimum average rate, in bytes per second, at which a client must send a request body (otherwise 408) \
          or read a response body (otherwise the response is aborted). Only time spent waiting for the client \
          counts, so slow backends do not matter.",
};
pub(in crate::config) static BODY_RATE_WINDOW: Key<Time> = Key {
    name: "body_rate_window",
    rule: WINDOW_BOUNDS,
    default: Duration::from_secs(30),
    doc: "Time spent waiting for a client before `min_body_rate` applies. Clients faster than the rate build up \
          credit for pauses, up to four times this.",
};
pub(in crate::config) static TUNNEL_IDLE: Key<Time> = Key {
    name: "tunnel_idle",
    rule: TUNNEL_BOUNDS,
    default: Duration::from_secs(HOUR),
    doc: "Tunnels (WebSocket) without traffic in either direction are closed after this.",
};

/// `[upstream.NAME.timeouts]`, with the bounds of `[timeouts]`.
pub(in crate::config) static UPSTREAM_TIMEOUTS: Table = Table {
    path: "upstream.NAME.timeouts",
    doc: "Timeouts of this upstream, overriding `[timeouts]`.",
    keys: &[
        &UPSTREAM_CONNECT,
        &UPSTREAM_RESPONSE_HEAD,
        &UPSTREAM_BODY_IDLE,
        &UPSTREAM_MIN_BODY_RATE,
        &UPSTREAM_BODY_RATE_WINDOW,
        &UPSTREAM_TUNNEL_IDLE,
    ],
};
const INHERITED: &str = "from `[timeouts]`";
const fn inherited<R: Rule>(name: &'static str, rule: R) -> Optional<R> {
    Optional { name, rule, absent: INHERITED, doc: "See `[timeouts]`." }
}
pub(in crate::config) static UPSTREAM_CONNECT: Optional<Time> = inherited("connect", CONNECT_BOUNDS);
pub(in crate::config) static UPSTREAM_RESPONSE_HEAD: Optional<Time> = inherited("response_head", WAIT_BOUNDS);
pub(in crate::config) static UPSTREAM_BODY_IDLE: Optional<Time> = inherited("body_idle", WAIT_BOUNDS);
pub(in crate::config) static UPSTREAM_MIN_BODY_RATE: Optional<OrOff<Size>> =
    inherited("min_body_rate", RATE_BOUNDS);
pub(in crate::config) static UPSTREAM_BODY_RATE_WINDOW: Optional<Time> =
    inherited("body_rate_window", WINDOW_BOUNDS);
pub(in crate::config) static UPSTREAM_TUNNEL_IDLE: Optional<Time> = inherited("tunnel_idle", TUNNEL_BOUNDS);
