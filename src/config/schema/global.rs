//! The keys of all tables except `[upstream.NAME]`.

use std::time::Duration;

use super::timeouts::TIMEOUTS;
use super::tls::LISTENER_TLS_TABLE;
use super::{Flag, Free, Int, Key, Mode, Optional, OrOff, Size, Table, Text, Time, UPSTREAM, Word};
use crate::affinity::client_ip::ForwardSource;
use crate::config::units::DAY;
use crate::model::{LogFormat, ProxyProtocol};

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
    doc: "Settings of the process.",
    keys: &[&WORKERS, &SHUTDOWN_GRACE, &STREAM_GRACE, &RESOLVE_EVERY, &ADMIN, &ON_CLIENT_CLOSE],
};
pub(in crate::config) const WORKER_BOUNDS: Int<usize> = Int { least: 1, most: 1024 };
pub(in crate::config) static WORKERS: Free = Free {
    name: "workers",
    shape: "\"auto\" or an integer, 1 to 1024",
    absent: "\"auto\"",
    doc: "Number of worker threads. `\"auto\"` starts one per core.",
    table: None,
};
pub(in crate::config) static SHUTDOWN_GRACE: Key<Time> = Key {
    name: "shutdown_grace",
    rule: Time { least: Duration::ZERO, most: Duration::from_secs(DAY) },
    default: Duration::from_secs(30),
    doc: "How long a graceful shutdown waits for requests in flight before it closes their connections. Also how \
          long a tunnel stays open after a reload has removed its route or backend.",
};
pub(in crate::config) static RESOLVE_EVERY: Key<Time> = Key {
    name: "resolve_every",
    rule: Time { least: Duration::from_millis(100), most: Duration::from_secs(DAY) },
    default: Duration::from_secs(2),
    doc: "How often the host names of backends are resolved again. Connections to an address that a name no longer \
          has are closed when they become idle.",
};
pub(in crate::config) static STREAM_GRACE: Key<Time> = Key {
    name: "stream_grace",
    rule: Time { least: Duration::ZERO, most: Duration::from_secs(DAY) },
    default: Duration::from_secs(2),
    doc: "How long a graceful shutdown waits for tunnels (WebSocket) and event streams, which may never end. \
          Tunnels get a Close frame one second before. Capped at `shutdown_grace`.",
};
pub(in crate::config) static ADMIN: Free = Free {
    name: "admin",
    shape: "IP address and port, or \"off\"",
    absent: "\"off\"",
    doc: "Address of the admin listener: metrics, status and the admin API. It has no authentication, so keep it \
          on loopback.",
    table: None,
};
pub(in crate::config) static ON_CLIENT_CLOSE: Key<Word<bool>> = Key {
    name: "on_client_close",
    rule: Word(&[("cancel", true), ("finish", false)]),
    default: true,
    doc: "Whether to cancel or finish a request at the backend when its client is gone: it has reset its \
          connection or stream, or takes no more bytes. A client that has only ended its sending side still \
          gets its response.",
};

/// `[client_ip]`.
static CLIENT_IP: Table = Table {
    path: "client_ip",
    doc: "How to find the client's address behind other proxies.",
    keys: &[&TRUSTED, &FROM, &MASK],
};
pub(in crate::config) static TRUSTED: Free = Free {
    name: "trusted",
    shape: "array of IP addresses and networks",
    absent: "[]",
    doc: "Proxies that are trusted to report the client's address.",
    table: None,
};
pub(in crate::config) static FROM: Free = Free {
    name: "from",
    shape: "array of \"forwarded\", \"x-forwarded-for\"",
    absent: "[\"x-forwarded-for\"]",
    doc: "Headers to read the client's address from. The first one present is used. List only headers that every \
          trusted proxy sets or removes; clients can forge all others.",
    table: None,
};
pub(in crate::config) const FROM_WORDS: Word<ForwardSource> =
    Word(&[("forwarded", ForwardSource::Forwarded), ("x-forwarded-for", ForwardSource::XForwardedFor)]);
pub(in crate::config) static MASK: Free = table("mask", &MASK_TABLE);
static MASK_TABLE: Table = Table {
    path: "client_ip.mask",
    doc: "How many bits of the address the `ip` key uses.",
    keys: &[&MASK_V4, &MASK_V6],
};
pub(in crate::config) static MASK_V4: Key<Int<u8>> =
    Key { name: "v4", rule: Int { least: 8, most: 32 }, default: 32, doc: "Bits of an IPv4 address." };
pub(in crate::config) static MASK_V6: Key<Int<u8>> = Key {
    name: "v6",
    rule: Int { least: 16, most: 128 },
    default: 64,
    doc: "Bits of an IPv6 address. A household or host usually has its own /64.",
};

/// `[limits]`.
static LIMITS: Table = Table {
    path: "limits",
    doc: "Limits on requests and connections.",
    keys: &[
        &HEAD_BYTES,
        &FIELDS,
        &URI_BYTES,
        &BODY_BYTES,
        &CONNECTIONS,
        &CONNECTIONS_PER_CLIENT,
        &HANDSHAKES,
        &STREAMS,
        &STREAMS_PER_CLIENT,
        &STREAM_WINDOW,
        &MEMORY,
    ],
};
pub(in crate::config) static HEAD_BYTES: Key<Size> = Key {
    name: "head_bytes",
    rule: Size { least: 1 << 10, most: 1 << 20 },
    default: 32 << 10,
    doc: "Maximum size of the request line and headers (otherwise 431), and of the status line and headers of a \
          response (otherwise 502).",
};
pub(in crate::config) static FIELDS: Key<Int<usize>> = Key {
    name: "fields",
    rule: Int { least: 8, most: 256 },
    default: 100,
    doc: "Maximum number of headers in a request (otherwise 431) or response (otherwise 502).",
};
pub(in crate::config) static URI_BYTES: Key<Size> = Key {
    name: "uri_bytes",
    rule: Size { least: 64, most: 1 << 20 },
    default: 8 << 10,
    doc: "Maximum length of the request target (otherwise 414). Capped at `head_bytes`.",
};
pub(in crate::config) const BODY_BOUNDS: Size = Size { least: 0, most: 1 << 50 };
pub(in crate::config) static BODY_BYTES: Free = Free {
    name: "body_bytes",
    shape: "size or \"none\"",
    absent: "\"none\"",
    doc: "Maximum size of a request body (otherwise 413). `\"none\"` means unlimited.",
    table: None,
};
pub(in crate::config) static CONNECTIONS: Key<Int<usize>> = Key {
    name: "connections",
    rule: Int { least: 1, most: 4_000_000 },
    default: 16_384,
    doc: "Maximum concurrent client connections, across all listeners and workers. A further one replaces the \
          longest idle connection of the client with the most idle ones. If none is idle, it is answered with \
          503 and closed.",
};
pub(in crate::config) static CONNECTIONS_PER_CLIENT: Key<OrOff<Int<u32>>> = Key {
    name: "connections_per_client",
    rule: OrOff(Int { least: 1, most: 4_000_000 }),
    default: Some(1024),
    doc: "Maximum concurrent connections from one IP address (IPv6: from one /64), across all listeners and \
          workers. Further ones are answered with 503 and closed. Peers in `client_ip.trusted` are exempt.",
};
pub(in crate::config) static HANDSHAKES: Key<Int<usize>> = Key {
    name: "handshakes",
    rule: Int { least: 1, most: 1_000_000 },
    default: 512,
    doc: "Maximum concurrent TLS handshakes per worker, from a complete ClientHello on. At the limit, a new \
          handshake replaces one of the client address that has the most, or one of an address with as many \
          that has taken longer than a second. If there is none, the new connection is closed.",
};
pub(in crate::config) static STREAMS: Key<Int<u32>> = Key {
    name: "streams",
    rule: Int { least: 1, most: 10_000 },
    default: 128,
    doc: "Maximum concurrent requests on an HTTP/2 client connection.",
};
pub(in crate::config) static STREAMS_PER_CLIENT: Key<OrOff<Int<u32>>> = Key {
    name: "streams_per_client",
    rule: OrOff(Int { least: 1, most: 4_000_000 }),
    default: Some(2048),
    doc: "Maximum concurrent HTTP/2 requests from one IP address (IPv6: from one /64), over all its connections. \
          Further ones are refused (REFUSED_STREAM). Peers in `client_ip.trusted` are exempt.",
};
pub(in crate::config) const MEMORY_BOUNDS: Size = Size { least: 16 << 20, most: 1 << 50 };
pub(in crate::config) static MEMORY: Free = Free {
    name: "memory",
    shape: "\"auto\" or a size, 16MiB to 1PiB",
    absent: "\"auto\"",
    doc: "Memory that connections and requests may hold while they wait, across all workers. Beyond it, the \
          waits of the client that holds the most are cut short (503, or the response is aborted). `\"auto\"` is \
          a quarter of the machine's memory, or of the container's.",
    table: None,
};
pub(in crate::config) static STREAM_WINDOW: Key<Size> = Key {
    name: "stream_window",
    rule: Size { least: 16 << 10, most: 256 << 20 },
    default: 256 << 10,
    doc: "HTTP/2 flow-control window of a request: how much of a body a client may send before the backend has \
          taken it. The window of a connection is four times as large.",
};

/// `[forwarding]`.
static FORWARDING: Table = Table {
    path: "forwarding",
    doc: "What is forwarded to backends, and the headers that tell them about the client.",
    keys: &[&X_FORWARDED, &FORWARDED, &VIA, &UNDERSCORES, &TRACE],
};
pub(in crate::config) static X_FORWARDED: Key<Flag> =
    Key { name: "x_forwarded", rule: Flag, default: true, doc: "Send X-Forwarded-For, -Proto and -Host." };
pub(in crate::config) static FORWARDED: Key<Flag> =
    Key { name: "forwarded", rule: Flag, default: false, doc: "Send Forwarded (RFC 7239)." };
pub(in crate::config) static VIA: Free = Free {
    name: "via",
    shape: "name or \"off\"",
    absent: "\"homing\"",
    doc: "The name to send in the Via header. To backends, a number that identifies this process follows it, which \
          detects request loops (508). `\"off\"` sends no Via header.",
    table: None,
};

pub(in crate::config) static UNDERSCORES: Key<Word<bool>> = Key {
    name: "underscores",
    rule: Word(&[("drop", false), ("keep", true)]),
    default: false,
    doc: "Whether to drop or keep request headers with `_` in their names. CGI and WSGI applications cannot tell \
          `X_User` from `X-User`, so clients could forge headers that only a proxy may set.",
};

pub(in crate::config) static TRACE: Key<Flag> = Key {
    name: "trace",
    rule: Flag,
    default: false,
    doc: "Whether to forward TRACE, whose response repeats the request with its cookies and credentials \
          (otherwise 405).",
};

/// `[access_log]`.
static ACCESS_LOG: Table = Table {
    path: "access_log",
    doc: "The access log: one line per request.",
    keys: &[&FORMAT, &OUTPUT, &QUEUE],
};
pub(in crate::config) static FORMAT: Key<Word<LogFormat>> = Key {
    name: "format",
    rule: Word(&[("off", LogFormat::Off), ("json", LogFormat::Json), ("text", LogFormat::Text)]),
    default: LogFormat::Off,
    doc: "Format of a log line.",
};
pub(in crate::config) static OUTPUT: Optional<Text> = Optional {
    name: "output",
    rule: Text("\"stdout\", \"stderr\" or a path"),
    absent: "\"stdout\"",
    doc: "Where to write the log. Files are appended to, and reopened on SIGHUP and SIGUSR1.",
};
pub(in crate::config) static QUEUE: Key<Int<usize>> = Key {
    name: "queue",
    rule: Int { least: 1, most: 1 << 20 },
    default: 8192,
    doc: "Maximum number of lines that each worker buffers. Further lines are dropped and counted; requests never \
          wait for the log.",
};

/// `[[listener]]`.
pub(in crate::config) static LISTENER: Table = Table {
    path: "listener",
    doc: "An address that clients connect to. At least one listener is required.",
    keys: &[&BIND, &MODE, &PROXY_PROTOCOL, &HTTP2, &LISTENER_TLS, &REDIRECT_HTTPS],
};
pub(in crate::config) static BIND: Free = Free {
    name: "bind",
    shape: "IP address and port, or \"unix:/path\"",
    absent: "required",
    doc: "Address to listen on. Use `0.0.0.0` or `[::]` for all interfaces, and port 0 for any free port. Clients \
          of a Unix domain socket are treated as 127.0.0.1.",
    table: None,
};
pub(in crate::config) static MODE: Key<Mode> = Key {
    name: "mode",
    rule: Mode,
    default: 0o660,
    doc: "Permission bits of a Unix domain socket's file. They control who may connect.",
};
pub(in crate::config) static PROXY_PROTOCOL: Key<Word<ProxyProtocol>> = Key {
    name: "proxy_protocol",
    rule: Word(&[
        ("off", ProxyProtocol::Off),
        ("optional", ProxyProtocol::Optional),
        ("required", ProxyProtocol::Required),
    ]),
    default: ProxyProtocol::Off,
    doc: "Whether connections from `client_ip.trusted` may (`optional`) or must (`required`) start with a PROXY \
          header, version 1 or 2. With `\"required\"`, connections from all other peers are closed.",
};
pub(in crate::config) static HTTP2: Key<Flag> = Key {
    name: "http2",
    rule: Flag,
    default: true,
    doc: "Whether to offer HTTP/2, by ALPN with TLS and by prior knowledge without.",
};
pub(in crate::config) static LISTENER_TLS: Free = Free {
    name: "tls",
    shape: "table",
    absent: "plain HTTP",
    doc: "TLS for clients of this listener.",
    table: Some(&LISTENER_TLS_TABLE),
};
pub(in crate::config) static REDIRECT_HTTPS: Free = Free {
    name: "redirect_https",
    shape: "true or a port, 1 to 65535",
    absent: "no redirect",
    doc: "Redirect requests to https on port 443 or on this port (301 for GET and HEAD, 308 otherwise), unless a \
          trusted proxy reports that they came over https.",
    table: None,
};

/// `[[route]]`.
pub(in crate::config) static ROUTE: Table = Table {
    path: "route",
    doc: "Maps requests to upstreams. The most specific route wins, regardless of order: an exact host, then a \
          wildcard, then no host; then the longest path. With a single upstream, routes are optional: all \
          requests go there.",
    keys: &[&HOST, &PATH, &TO_UPSTREAM],
};
pub(in crate::config) static HOST: Optional<Text> = Optional {
    name: "host",
    rule: Text("host name, or \"*.example.com\" for all subdomains"),
    absent: "any host",
    doc: "Host of the request, without port.",
};
pub(in crate::config) static PATH: Optional<Text> = Optional {
    name: "path",
    rule: Text("path"),
    absent: "\"/\"",
    doc: "Path prefix, in whole segments: `/app` matches `/app` and `/app/x`, but not `/apple`.",
};
pub(in crate::config) static TO_UPSTREAM: Optional<Text> =
    Optional { name: "upstream", rule: Text("name"), absent: "required", doc: "Name of the upstream." };
