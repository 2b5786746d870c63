//! A configuration in which nothing can be wrong any more.

mod address;
mod listener;
mod protocol;
mod route;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use self::address::{Address, Bind};
pub use self::listener::{Listener, ProxyProtocol, ProxyVersion};
pub use self::protocol::Protocol;
pub use self::route::{HostPattern, Route};
use crate::affinity::client_ip::ClientIpPolicy;
use crate::affinity::cookie::CookieConfig;
use crate::affinity::key::KeySource;
use crate::affinity::pick::Failover;
use crate::affinity::{AdminState, BackendId, Health, Seed, Weight};
use crate::tls;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[server]`.
    pub server: Server,
    /// `[client_ip]`.
    pub client_ip: ClientIpPolicy,
    /// `[timeouts]`.
    pub timeouts: Timeouts,
    /// `[limits]`.
    pub limits: Limits,
    /// `[forwarding]`.
    pub forwarding: Forwarding,
    /// `[access_log]`.
    pub access_log: AccessLog,
    /// `[[listener]]`, at least one.
    pub listeners: Vec<Listener>,
    /// `[[route]]`, most specific first; with one upstream and no route in
    /// the file, the one route to it.
    pub routes: Vec<Route>,
    /// `[upstream.NAME]`, sorted by name, at least one.
    pub upstreams: Vec<Arc<Upstream>>,
}

/// `[server]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Worker threads (`"auto"`: one per core).
    pub workers: NonZeroUsize,
    /// How long SIGTERM waits for what is in flight.
    pub shutdown_grace: Duration,
    /// Where metrics and state are served; `None`: nowhere.
    pub admin: Option<SocketAddr>,
    /// Is a request cancelled at its backend when the client goes away?
    pub cancel_on_client_close: bool,
}

/// `[timeouts]`. An upstream may have its own for what concerns backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first byte of a request head to its last (408).
    pub request_head: Duration,
    /// A kept-alive client connection without a request.
    pub keep_alive: Duration,
    /// From a client's connection to the end of its PROXY header.
    pub proxy_protocol: Duration,
    /// From a client's connection to the end of its TLS handshake.
    pub tls_handshake: Duration,
    /// The defaults for all upstreams.
    pub upstream: UpstreamTimeouts,
}

/// `[upstream.NAME.timeouts]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    /// One connection attempt (then the next backend, at last 504).
    pub connect: Duration,
    /// From the end of the request to the response's head (504).
    pub response_head: Duration,
    /// Between two pieces of a body, either way.
    pub body_idle: Duration,
    /// Bytes a second that a client must move of a body, on average; `None`: any.
    pub min_body_rate: Option<u64>,
    /// How long a client may be waited for before that counts.
    pub body_rate_window: Duration,
    /// A tunnel (WebSocket) without a byte, either way.
    pub tunnel_idle: Duration,
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head, request or response (431, 502).
    pub head_bytes: usize,
    /// Fields in a head (431, 502); at most 256.
    pub fields: usize,
    /// Bytes of the request target (414).
    pub uri_bytes: usize,
    /// Bytes of a request body (413); `None`: any.
    pub body_bytes: Option<u64>,
    /// Client connections over all listeners and workers; more wait unaccepted or are closed.
    pub connections: usize,
    /// Streams of one HTTP/2 connection at a time.
    pub streams: u32,
    /// Bytes of a request body that an HTTP/2 client may send ahead, per stream;
    /// four times as many per connection.
    pub stream_window: u32,
    /// As many from one address, or one /64 (503); `None`: any.
    pub connections_per_client: Option<u32>,
    /// TLS handshakes in progress, per worker.
    pub handshakes: usize,
}

/// `[forwarding]`: what backends are told of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    /// X-Forwarded-For, -Proto and -Host.
    pub x_forwarded: bool,
    /// Forwarded (RFC 7239).
    pub forwarded: bool,
    /// The pseudonym in Via; `None`: no Via.
    pub via: Option<String>,
    /// Are fields with `_` in their names passed on?
    pub underscores: bool,
}

/// `[access_log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLog {
    /// `off`, `json` or `text`.
    pub format: LogFormat,
    /// Where lines go.
    pub output: LogOutput,
    /// Lines that may wait to be written; more are dropped and counted.
    pub queue: usize,
}

/// Shape of an access log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// No log.
    Off,
    /// One JSON object a line.
    Json,
    /// `key=value` pairs.
    Text,
}

/// Where access log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to, reopened on SIGHUP.
    File(PathBuf),
}

/// `[upstream.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Its name.
    pub name: Arc<str>,
    /// Its backends, sorted by id, at least one.
    pub backends: Vec<Backend>,
    /// How sessions are tied to backends.
    pub affinity: Affinity,
    /// Active checks; `None`: none.
    pub health_check: Option<HealthCheck>,
    /// Passive checks; `None`: none.
    pub passive: Option<PassiveCheck>,
    /// A backend that joins or comes back gets its share of new sessions over
    /// this time; zero: at once.
    pub slow_start: Duration,
    /// What backends are taken for before the first check.
    pub initial_health: Health,
    /// Idle connections to its backends.
    pub pool: Pool,
    /// Retries.
    pub retry: Retry,
    /// Its timeouts.
    pub timeouts: UpstreamTimeouts,
    /// Are backends told of clients by the PROXY protocol?
    pub proxy_protocol: Option<ProxyVersion>,
    /// TLS to its backends; `None`: plain HTTP.
    pub tls: Option<Arc<tls::Client>>,
    /// What they speak.
    pub protocol: Protocol,
}

/// One backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its identity; the address as written where no `id` is given.
    pub id: BackendId,
    /// Where it listens.
    pub address: Address,
    /// Its share of the ring.
    pub weight: Weight,
    /// The state it starts in.
    pub admin: AdminState,
    /// Requests in flight to it at most, over all workers (503 for existing sessions, new
    /// ones go elsewhere); `None`: any.
    pub max_connections: Option<u32>,
}

/// `[upstream.NAME.affinity]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Affinity {
    /// Where the key is looked for, in order; empty: new sessions are only
    /// load-balanced, and remembered in a cookie or not at all.
    pub key: Vec<KeySource>,
    /// Where bindings are kept.
    pub remember: Remember,
    /// What happens when a session's backend cannot serve it.
    pub failover: Failover,
    /// How long a request waits for its session's backend before failing over.
    pub hold: Duration,
    /// Are X-Affinity-Backend and X-Affinity-Successor sent to the backend?
    pub announce: bool,
    /// Is X-Affinity-Outcome sent to the client?
    pub report: bool,
    /// The ring's points per unit of weight.
    pub vnodes: u32,
    /// Bounded load for new sessions, in per cent of the mean; `None`: no cap.
    pub balance_percent: Option<u32>,
    /// The ring's seed; 0 where no `seed_file` is given.
    pub seed: Seed,
}

/// Where bindings are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remember {
    /// Nowhere: the ring alone.
    None,
    /// In the proxy.
    Table(TableConfig),
    /// Sealed, at the client.
    Cookie(CookieConfig),
}

/// `affinity.table`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableConfig {
    /// Bindings kept at most; the longest idle goes first.
    pub max_entries: usize,
    /// An idle binding is forgotten after this.
    pub ttl: Duration,
    /// Saved here at shutdown, loaded at start.
    pub file: Option<PathBuf>,
}

/// `[upstream.NAME.health_check]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is tried.
    pub probe: Probe,
    /// Time between two checks of a backend.
    pub interval: Duration,
    /// Time between two checks while in doubt (between up and down); at most `interval`.
    pub fast_interval: Duration,
    /// A check without answer for this long has failed.
    pub timeout: Duration,
    /// Successes in a row that bring a backend up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
}

/// What an active check tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A TCP connection.
    Tcp,
    /// An HTTP request.
    Http {
        /// Its method.
        method: String,
        /// Its path and query.
        path: String,
        /// Its Host; `None`: the backend's address.
        host: Option<String>,
        /// Statuses that mean up, inclusive ranges.
        expect_status: Vec<(u16, u16)>,
        /// Statuses that mean: up, but drain me.
        drain_status: Vec<u16>,
    },
}

/// `[upstream.NAME.passive]`: what real requests say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassiveCheck {
    /// Failed connections or exchanges in a row that eject.
    pub max_fails: u32,
    /// 5xx responses within `window` that eject; `None`: they do not.
    pub max_5xx: Option<u32>,
    /// The time in which `max_5xx` counts.
    pub window: Duration,
    /// How long the first ejection lasts; doubled each time.
    pub penalty: Duration,
    /// The longest ejection.
    pub max_penalty: Duration,
}

/// `[upstream.NAME.pool]`, per worker and backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Idle connections kept.
    pub max_idle: usize,
    /// An idle connection is closed after this.
    pub idle_timeout: Duration,
}

/// `[upstream.NAME.retry]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Attempts for one request, the first included.
    pub attempts: u32,
    /// Retries allowed, in per cent of requests.
    pub budget_percent: u32,
    /// Retries per second allowed whatever the budget says.
    pub min_per_second: u32,
    /// Value of Retry-After on a 503, rounded up to seconds.
    pub retry_after: Duration,
}
