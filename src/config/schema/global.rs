//! The keys outside of upstreams.

use std::time::Duration;

use super::tls::LISTENER_TLS_TABLE;
use super::{Flag, Free, Int, Key, Mode, Optional, OrOff, Rule, Size, Table, Text, Time, UPSTREAM, Word};
use crate::affinity::client_ip::ForwardSource;
use crate::model::{LogFormat, ProxyProtocol};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The whole file.
pub(in crate::config) static FILE: Table = Table {
    path: "",
    doc: "",
    keys: &[
        &SERVER_KEY,
        &CLIENT_IP_KEY,
        &TIMEOUTS_KEY,
        &LIMITS_KEY,
        &FORWARDING_KEY,
        &ACCESS_LOG_KEY,
        &LISTENER_KEY,
        &ROUTE_KEY,
        &UPSTREAM_KEY,
    ],
};

const fn table(name: &'static str, table: &'static Table) -> Free {
    Free { name, shape: "table", absent: "", doc: "", table: Some(table) }
}

pub(in crate::config) static SERVER_KEY: Free = table("server", &SERVER);
pub(in crate::config) static CLIENT_IP_KEY: Free = table("client_ip", &CLIENT_IP);
pub(in crate::config) static TIMEOUTS_KEY: Free = table("timeouts", &TIMEOUTS);
pub(in crate::config) static LIMITS_KEY: Free = table("limits", &LIMITS);
pub(in crate::config) static FORWARDING_KEY: Free = table("forwarding", &FORWARDING);
pub(in crate::config) static ACCESS_LOG_KEY: Free = table("access_log", &ACCESS_LOG);
pub(in crate::config) static LISTENER_KEY: Free = table("listener", &LISTENER);
pub(in crate::config) static ROUTE_KEY: Free = table("route", &ROUTE);
pub(in crate::config) static UPSTREAM_KEY: Free = table("upstream", &UPSTREAM);

/// `[server]`.
static SERVER: Table = Table {
    path: "server",
    doc: "The process.",
    keys: &[&WORKERS, &SHUTDOWN_GRACE, &ADMIN, &ON_CLIENT_CLOSE],
};
pub(in crate::config) const WORKER_BOUNDS: Int<usize> = Int { least: 1, most: 1024 };
pub(in crate::config) static WORKERS: Free = Free {
    name: "workers",
    shape: "\"auto\" or a number, 1 to 1024",
    absent: "\"auto\"",
    doc: "Worker threads; `\"auto\"`: one per core.",
    table: None,
};
pub(in crate::config) static SHUTDOWN_GRACE: Key<Time> = Key {
    name: "shutdown_grace",
    rule: Time { least: Duration::ZERO, most: Duration::from_secs(DAY) },
    default: Duration::from_secs(30),
    doc: "How long SIGTERM waits for requests in flight before it cuts them off; also how long a tunnel may go on whose route or backend a reload has removed.",
};
pub(in crate::config) static ADMIN: Free = Free {
    name: "admin",
    shape: "IP address and port, or \"off\"",
    absent: "\"off\"",
    doc: "Where metrics, state and the admin API are served. There is no password: keep it on loopback.",
    table: None,
};
pub(in crate::config) static ON_CLIENT_CLOSE: Key<Word<bool>> = Key {
    name: "on_client_close",
    rule: Word(&[("cancel", true), ("finish", false)]),
    default: true,
    doc: "What becomes of a request at its backend when the client goes away: broken off or finished.",
};

/// `[client_ip]`.
static CLIENT_IP: Table = Table {
    path: "client_ip",
    doc: "Whose address counts where Homing stands behind other proxies.",
    keys: &[&TRUSTED, &FROM, &MASK],
};
pub(in crate::config) static TRUSTED: Free = Free {
    name: "trusted",
    shape: "list of IP addresses and networks",
    absent: "[]",
    doc: "Peers whose word about the client's address is believed.",
    table: None,
};
pub(in crate::config) static FROM: Free = Free {
    name: "from",
    shape: "list of \"forwarded\", \"x-forwarded-for\"",
    absent: "[\"x-forwarded-for\"]",
    doc: "The fields it is read from, in order; the first that is present counts. Name only fields that \
          every trusted proxy sets or removes: any other is the client's to forge.",
    table: None,
};
pub(in crate::config) const FROM_WORDS: Word<ForwardSource> =
    Word(&[("forwarded", ForwardSource::Forwarded), ("x-forwarded-for", ForwardSource::XForwardedFor)]);
pub(in crate::config) static MASK: Free = table("mask", &MASK_TABLE);
static MASK_TABLE: Table = Table {
    path: "client_ip.mask",
    doc: "How many bits of an address identify a client, where the key is `ip`.",
    keys: &[&MASK_V4, &MASK_V6],
};
pub(in crate::config) static MASK_V4: Key<Int<u8>> =
    Key { name: "v4", rule: Int { least: 8, most: 32 }, default: 32, doc: "Bits of an IPv4 address." };
pub(in crate::config) static MASK_V6: Key<Int<u8>> = Key {
    name: "v6",
    rule: Int { least: 16, most: 128 },
    default: 64,
    doc: "Bits of an IPv6 address; a household or host usually has a /64 to itself.",
};

/// `[timeouts]`.
static TIMEOUTS: Table = Table {
    path: "timeouts",
    doc: "How long is waited. What concerns backends can be set per upstream.",
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
    doc: "From the first byte of a request's head to its last; then 408.",
};
pub(in crate::config) static KEEP_ALIVE: Key<Time> = Key {
    name: "keep_alive",
    rule: WAIT_BOUNDS,
    default: Duration::from_secs(60),
    doc: "A client's connection without a request is closed after this.",
};
pub(in crate::config) static PROXY_HEADER: Key<Time> = Key {
    name: "proxy_protocol",
    rule: WAIT_BOUNDS,
    default: Duration::from_secs(5),
    doc: "From a client's connection to the end of its PROXY header, where there is to be one; then it is closed.",
};
pub(in crate::config) static TLS_HANDSHAKE: Key<Time> = Key {
    name: "tls_handshake",
    rule: WAIT_BOUNDS,
    default: Duration::from_secs(10),
    doc: "From a client's connection to the end of its TLS handshake; then it is closed.",
};
pub(in crate::config) static CONNECT: Key<Time> = Key {
    name: "connect",
    rule: CONNECT_BOUNDS,
    default: Duration::from_secs(3),
    doc: "One attempt to connect to a backend; then the next backend, at last 504.",
};
pub(in crate::config) static RESPONSE_HEAD: Key<Time> = Key {
    name: "response_head",
    rule: WAIT_BOUNDS,
    default: Duration::from_secs(60),
    doc: "From the end of the request to the head of the response; then 504.",
};
pub(in crate::config) static BODY_IDLE: Key<Time> = Key {
    name: "body_idle",
    rule: WAIT_BOUNDS,
    default: Duration::from_secs(30),
    doc: "Between two pieces of a body, either way.",
};
const RATE_BOUNDS: OrOff<Size> = OrOff(Size { least: 1, most: 1 << 40 });
const WINDOW_BOUNDS: Time = Time { least: MILLISECOND, most: Duration::from_secs(HOUR) };
pub(in crate::config) static MIN_BODY_RATE: Key<OrOff<Size>> = Key {
    name: "min_body_rate",
    rule: RATE_BOUNDS,
    default: Some(240),
    doc: "Bytes a second that a client must send of a request's body (else 408), or take of a response's \
          (else it is broken off), on average. Only the time counts in which it is the client that is waited \
          for: backends may be as slow as they like.",
};
pub(in crate::config) static BODY_RATE_WINDOW: Key<Time> = Key {
    name: "body_rate_window",
    rule: WINDOW_BOUNDS,
    default: Duration::from_secs(30),
    doc: "How long a client may be waited for before `min_body_rate` counts; what it has moved faster than \
          that pays for pauses, up to four times as long.",
};
pub(in crate::config) static TUNNEL_IDLE: Key<Time> = Key {
    name: "tunnel_idle",
    rule: TUNNEL_BOUNDS,
    default: Duration::from_secs(HOUR),
    doc: "A tunnel (WebSocket) without a byte, either way.",
};

/// `[upstream.NAME.timeouts]`: the same bounds, the defaults of `[timeouts]`.
pub(in crate::config) static UPSTREAM_TIMEOUTS: Table = Table {
    path: "upstream.NAME.timeouts",
    doc: "Timeouts of this upstream.",
    keys: &[
        &UPSTREAM_CONNECT,
        &UPSTREAM_RESPONSE_HEAD,
        &UPSTREAM_BODY_IDLE,
        &UPSTREAM_MIN_BODY_RATE,
        &UPSTREAM_BODY_RATE_WINDOW,
        &UPSTREAM_TUNNEL_IDLE,
    ],
};
const INHERITED: &str = "as in `[timeouts]`";
const fn inherited<R: Rule>(name: &'static str, rule: R) -> Optional<R> {
    Optional { name, rule, absent: INHERITED, doc: "As in `[timeouts]`, for this upstream." }
}
pub(in crate::config) static UPSTREAM_CONNECT: Optional<Time> = inherited("connect", CONNECT_BOUNDS);
pub(in crate::config) static UPSTREAM_RESPONSE_HEAD: Optional<Time> = inherited("response_head", WAIT_BOUNDS);
pub(in crate::config) static UPSTREAM_BODY_IDLE: Optional<Time> = inherited("body_idle", WAIT_BOUNDS);
pub(in crate::config) static UPSTREAM_MIN_BODY_RATE: Optional<OrOff<Size>> =
    inherited("min_body_rate", RATE_BOUNDS);
pub(in crate::config) static UPSTREAM_BODY_RATE_WINDOW: Optional<Time> =
    inherited("body_rate_window", WINDOW_BOUNDS);
pub(in crate::config) static UPSTREAM_TUNNEL_IDLE: Optional<Time> = inherited("tunnel_idle", TUNNEL_BOUNDS);

/// `[limits]`.
static LIMITS: Table = Table {
    path: "limits",
    doc: "How much is accepted.",
    keys: &[
        &HEAD_BYTES,
        &FIELDS,
        &URI_BYTES,
        &BODY_BYTES,
        &CONNECTIONS,
        &CONNECTIONS_PER_CLIENT,
        &HANDSHAKES,
        &STREAMS,
        &STREAM_WINDOW,
    ],
};
pub(in crate::config) static HEAD_BYTES: Key<Size> = Key {
    name: "head_bytes",
    rule: Size { least: 1 << 10, most: 1 << 20 },
    default: 16 << 10,
    doc: "A head, request (else 431) or response (else 502).",
};
pub(in crate::config) static FIELDS: Key<Int<usize>> = Key {
    name: "fields",
    rule: Int { least: 8, most: 256 },
    default: 100,
    doc: "Fields in a head, request (else 431) or response (else 502).",
};
pub(in crate::config) static URI_BYTES: Key<Size> = Key {
    name: "uri_bytes",
    rule: Size { least: 64, most: 1 << 20 },
    default: 8 << 10,
    doc: "The request target (else 414); never more than `head_bytes`.",
};
pub(in crate::config) const BODY_BOUNDS: Size = Size { least: 0, most: 1 << 50 };
pub(in crate::config) static BODY_BYTES: Free = Free {
    name: "body_bytes",
    shape: "size or \"none\"",
    absent: "\"none\"",
    doc: "The body of a request (else 413); `\"none\"`: any.",
    table: None,
};
pub(in crate::config) static CONNECTIONS: Key<Int<usize>> = Key {
    name: "connections",
    rule: Int { least: 1, most: 4_000_000 },
    default: 16_384,
    doc: "Client connections at a time, over all listeners and workers; more are answered 503 and closed.",
};
pub(in crate::config) static CONNECTIONS_PER_CLIENT: Key<OrOff<Int<u32>>> = Key {
    name: "connections_per_client",
    rule: OrOff(Int { least: 1, most: 4_000_000 }),
    default: Some(1024),
    doc: "Connections at a time from one address (IPv6: from one /64), over all listeners and workers; more are \
          answered 503 and closed. Peers in `client_ip.trusted` are exempt.",
};
pub(in crate::config) static HANDSHAKES: Key<Int<usize>> = Key {
    name: "handshakes",
    rule: Int { least: 1, most: 1_000_000 },
    default: 512,
    doc: "TLS handshakes in progress at a time, per worker; one that has taken over a second makes room, else \
          what comes on top is closed.",
};
pub(in crate::config) static STREAMS: Key<Int<u32>> = Key {
    name: "streams",
    rule: Int { least: 1, most: 10_000 },
    default: 128,
    doc: "Requests at a time on one HTTP/2 connection.",
};
pub(in crate::config) static STREAM_WINDOW: Key<Size> = Key {
    name: "stream_window",
    rule: Size { least: 16 << 10, most: 256 << 20 },
    default: 256 << 10,
    doc: "What an HTTP/2 client may send of a body before the backend has taken it; four times as much on \
          one connection.",
};

/// `[forwarding]`.
static FORWARDING: Table = Table {
    path: "forwarding",
    doc: "What backends are told of the client.",
    keys: &[&X_FORWARDED, &FORWARDED, &VIA, &UNDERSCORES],
};
pub(in crate::config) static X_FORWARDED: Key<Flag> =
    Key { name: "x_forwarded", rule: Flag, default: true, doc: "Send X-Forwarded-For, -Proto and -Host." };
pub(in crate::config) static FORWARDED: Key<Flag> =
    Key { name: "forwarded", rule: Flag, default: false, doc: "Send Forwarded (RFC 7239)." };
pub(in crate::config) static VIA: Free = Free {
    name: "via",
    shape: "pseudonym or \"off\"",
    absent: "\"homing\"",
    doc: "The name in Via, which also breaks loops; `\"off\"`: no Via.",
    table: None,
};

pub(in crate::config) static UNDERSCORES: Key<Word<bool>> = Key {
    name: "underscores",
    rule: Word(&[("drop", false), ("keep", true)]),
    default: false,
    doc: "What becomes of requests' fields with `_` in their names. Applications behind CGI or WSGI cannot tell \
          `X_User` from `X-User`: a client could forge what only another proxy may say.",
};

/// `[access_log]`.
static ACCESS_LOG: Table =
    Table { path: "access_log", doc: "One line per request.", keys: &[&FORMAT, &OUTPUT, &QUEUE] };
pub(in crate::config) static FORMAT: Key<Word<LogFormat>> = Key {
    name: "format",
    rule: Word(&[("off", LogFormat::Off), ("json", LogFormat::Json), ("text", LogFormat::Text)]),
    default: LogFormat::Off,
    doc: "The shape of a line.",
};
pub(in crate::config) static OUTPUT: Optional<Text> = Optional {
    name: "output",
    rule: Text("\"stdout\", \"stderr\" or a path"),
    absent: "\"stdout\"",
    doc: "Where lines go. A file is appended to, and opened anew on SIGHUP.",
};
pub(in crate::config) static QUEUE: Key<Int<usize>> = Key {
    name: "queue",
    rule: Int { least: 1, most: 1 << 20 },
    default: 8192,
    doc: "Lines that may wait to be written; more are dropped and counted, requests never wait.",
};

/// `[[listener]]`.
pub(in crate::config) static LISTENER: Table = Table {
    path: "listener",
    doc: "Where clients connect. At least one.",
    keys: &[&BIND, &MODE, &PROXY_PROTOCOL, &HTTP2, &LISTENER_TLS, &REDIRECT_HTTPS],
};
pub(in crate::config) static BIND: Free = Free {
    name: "bind",
    shape: "IP address and port, or \"unix:/path\"",
    absent: "required",
    doc: "The address; `0.0.0.0` or `[::]` for all of the machine's, port 0 for any free one. Or a Unix \
          domain socket; who connects to it counts as 127.0.0.1.",
    table: None,
};
pub(in crate::config) static MODE: Key<Mode> = Key {
    name: "mode",
    rule: Mode,
    default: 0o660,
    doc: "Who may connect to a Unix domain socket: the permission bits of its file.",
};
pub(in crate::config) static PROXY_PROTOCOL: Key<Word<ProxyProtocol>> = Key {
    name: "proxy_protocol",
    rule: Word(&[
        ("off", ProxyProtocol::Off),
        ("optional", ProxyProtocol::Optional),
        ("required", ProxyProtocol::Required),
    ]),
    default: ProxyProtocol::Off,
    doc: "Connections of peers in `client_ip.trusted` begin with a PROXY header (version 1 or 2), or may. With \
          `\"required\"`, connections of others are closed.",
};
pub(in crate::config) static HTTP2: Key<Flag> = Key {
    name: "http2",
    rule: Flag,
    default: true,
    doc: "Speak HTTP/2 too, with clients that choose it (ALPN; without TLS by prior knowledge).",
};
pub(in crate::config) static LISTENER_TLS: Free = Free {
    name: "tls",
    shape: "table",
    absent: "plain HTTP",
    doc: "TLS on this listener.",
    table: Some(&LISTENER_TLS_TABLE),
};
pub(in crate::config) static REDIRECT_HTTPS: Free = Free {
    name: "redirect_https",
    shape: "true or a port, 1 to 65535",
    absent: "requests are served",
    doc: "Requests are answered with a redirect to https, on port 443 or this one (301 for GET and HEAD, 308 \
          for others), except where a trusted proxy says that they came over https.",
    table: None,
};

/// `[[route]]`.
pub(in crate::config) static ROUTE: Table = Table {
    path: "route",
    doc: "Which requests go to which upstream; the most specific route counts, whatever their order: an \
          exact host before a wildcard before none, then the longer path. With one upstream and no \
          route, everything goes there.",
    keys: &[&HOST, &PATH, &TO_UPSTREAM],
};
pub(in crate::config) static HOST: Optional<Text> = Optional {
    name: "host",
    rule: Text("host name, or \"*.example.com\" for all below it"),
    absent: "every host",
    doc: "The host asked for, without port.",
};
pub(in crate::config) static PATH: Optional<Text> = Optional {
    name: "path",
    rule: Text("path"),
    absent: "\"/\"",
    doc: "The beginning of the path, up to a segment's end: `/app` takes `/app` and `/app/x`, not `/apple`.",
};
pub(in crate::config) static TO_UPSTREAM: Optional<Text> =
    Optional { name: "upstream", rule: Text("name"), absent: "required", doc: "The upstream." };
