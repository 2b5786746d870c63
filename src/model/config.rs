//! The validated configuration.

mod address;
mod listener;
mod protocol;
mod remember;
mod route;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use self::address::{Address, Bind};
pub use self::listener::{Listener, ProxyProtocol, ProxyVersion};
pub use self::protocol::Protocol;
pub use self::remember::{Remember, TableConfig};
pub use self::route::{HostPattern, Route};
use crate::affinity::client_ip::ClientIpPolicy;
use crate::affinity::key::KeySource;
use crate::affinity::pick::Failover;
use crate::affinity::{AdminState, BackendId, Health, Seed, Weight};
use crate::tls::ClientSettings;

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
    /// `[[route]]`, most specific first. If the file has one upstream and no route, this holds one
    /// route to it.
    pub routes: Vec<Route>,
    /// `[upstream.NAME]`, sorted by name, at least one.
    pub upstreams: Vec<Arc<Upstream>>,
}

impl Config {
    /// Identifies a listener across reloads: its address, and how many listeners before it have the
    /// same one. Only addresses with port 0 can occur more than once.
    pub fn listener_id(&self, index: usize) -> ListenerId {
        let bind = self.listeners[index].bind.clone();
        let nth = self.listeners[..index].iter().filter(|before| before.bind == bind).count();
        ListenerId { bind, nth }
    }

    /// Returns the index of the listener with this id.
    pub fn listener_with_id(&self, id: &ListenerId) -> Option<usize> {
        let same = self.listeners.iter().enumerate().filter(|(_, listener)| listener.bind == id.bind);
        same.map(|(index, _)| index).nth(id.nth)
    }
}

/// Identifies a listener across reloads. See [`Config::listener_id`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerId {
    /// The configured address.
    pub bind: Bind,
    /// How many listeners before it have the same address.
    pub nth: usize,
}

/// `[server]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Worker threads (`"auto"`: one per core).
    pub workers: NonZeroUsize,
    /// How long a graceful shutdown (SIGTERM) waits for requests in flight.
    pub shutdown_grace: Duration,
    /// How often the host names of backends are resolved again.
    pub resolve_every: Duration,
    /// How long a graceful shutdown waits for tunnels and event streams.
    pub stream_grace: Duration,
    /// Address of the admin listener; `None`: no admin listener.
    pub admin: Option<SocketAddr>,
    /// Whether to cancel a request at its backend when the client disconnects.
    pub cancel_on_client_close: bool,
}

/// `[timeouts]`. Upstreams can override the ones that concern backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first to the last byte of a request head (408).
    pub request_head: Duration,
    /// Idle time of a keep-alive client connection.
    pub keep_alive: Duration,
    /// Time allowed for a new connection to send its PROXY header.
    pub proxy_protocol: Duration,
    /// Time allowed for a new connection to complete its TLS handshake.
    pub tls_handshake: Duration,
    /// The defaults for all upstreams.
    pub upstream: UpstreamTimeouts,
}

/// `[upstream.NAME.timeouts]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    /// One connection attempt. The next backend is tried after this; the last failure is a 504.
    pub connect: Duration,
    /// From the end of the request to the response head (504).
    pub response_head: Duration,
    /// Between two pieces of a body, in either direction.
    pub body_idle: Duration,
    /// Minimum average rate at which a client must send or receive a body, in bytes per second;
    /// `None`: no minimum.
    pub min_body_rate: Option<u64>,
    /// How long a client may stall before the minimum rate applies.
    pub body_rate_window: Duration,
    /// Idle time of a tunnel (WebSocket): no bytes in either direction.
    pub tunnel_idle: Duration,
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Maximum size of a request or response head in bytes (431, 502).
    pub head_bytes: usize,
    /// Maximum number of headers (431, 502); at most 256.
    pub fields: usize,
    /// Maximum length of the request target in bytes (414).
    pub uri_bytes: usize,
    /// Maximum size of a request body in bytes (413); `None`: no limit.
    pub body_bytes: Option<u64>,
    /// Maximum number of client connections over all listeners and workers. Further connections get
    /// 503 and are closed (over TLS: closed).
    pub connections: usize,
    /// Maximum number of concurrent streams per HTTP/2 connection.
    pub streams: u32,
    /// Flow-control window of an HTTP/2 stream in bytes. A connection's window is four times as large.
    pub stream_window: u32,
    /// Maximum number of client connections per IPv4 address or IPv6 /64 (503); `None`: no limit.
    pub connections_per_client: Option<u32>,
    /// Maximum number of concurrent TLS handshakes per worker.
    pub handshakes: usize,
    /// Maximum number of concurrent HTTP/2 requests per client, counted as
    /// [`Self::connections_per_client`]; `None`: no limit.
    pub streams_per_client: Option<u32>,
    /// Memory that waiting connections and requests may hold, in bytes; `None`: a quarter of the
    /// machine's.
    pub memory: Option<u64>,
}

/// `[forwarding]`: what Homing tells backends about the client.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the flags are independent")]
pub struct Forwarding {
    /// Whether to send X-Forwarded-For, -Proto and -Host.
    pub x_forwarded: bool,
    /// Whether to send Forwarded (RFC 7239).
    pub forwarded: bool,
    /// Pseudonym in Via; `None`: no Via.
    pub via: Option<String>,
    /// Whether to forward headers with `_` in their names.
    pub underscores: bool,
    /// Whether to forward TRACE.
    pub trace: bool,
}

/// `[access_log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLog {
    /// `off`, `json` or `text`.
    pub format: LogFormat,
    /// Destination of the lines.
    pub output: LogOutput,
    /// Maximum number of queued lines. Further lines are dropped and counted.
    pub queue: usize,
}

/// The format of access log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// No log.
    Off,
    /// One JSON object per line.
    Json,
    /// `key=value` pairs.
    Text,
}

/// The destination of the access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, opened for appending and reopened on SIGHUP and SIGUSR1.
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
    /// Active health checks; `None`: off.
    pub health_check: Option<HealthCheck>,
    /// Passive health checks; `None`: off.
    pub passive: Option<PassiveCheck>,
    /// Time over which a backend that joins or recovers ramps up to its share of new sessions; zero: no
    /// slow start.
    pub slow_start: Duration,
    /// Health of a backend before its first check.
    pub initial_health: Health,
    /// Pool of idle connections to its backends.
    pub pool: Pool,
    /// Requests that wait for a place at a backend.
    pub queue: Queue,
    /// Retries.
    pub retry: Retry,
    /// Its timeouts.
    pub timeouts: UpstreamTimeouts,
    /// Version of the PROXY header to send to its backends; `None`: no PROXY header.
    pub proxy_protocol: Option<ProxyVersion>,
    /// TLS to its backends; `None`: plain HTTP.
    pub tls: Option<ClientSettings>,
    /// Protocol that its backends speak.
    pub protocol: Protocol,
}

/// One backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its identity; defaults to the address as written.
    pub id: BackendId,
    /// Its address.
    pub address: Address,
    /// Its share of the ring.
    pub weight: Weight,
    /// Its configured admin state.
    pub admin: AdminState,
    /// Maximum number of requests in flight over all workers; `None`: no limit. At the limit, existing
    /// sessions wait in the upstream's queue and new sessions go to another backend.
    pub max_connections: Option<u32>,
}

/// `[upstream.NAME.affinity]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Affinity {
    /// Key sources in order of precedence. If empty, new sessions are load-balanced and can only be
    /// remembered in a cookie.
    pub key: Vec<KeySource>,
    /// Where bindings are kept.
    pub remember: Remember,
    /// What happens when a session's backend cannot serve it.
    pub failover: Failover,
    /// How long a request waits for its session's backend before failing over.
    pub hold: Duration,
    /// Whether to send X-Affinity-Backend and X-Affinity-Successor to the backend.
    pub announce: bool,
    /// Whether to send X-Affinity-Outcome to the client.
    pub report: bool,
    /// Ring points per unit of weight.
    pub vnodes: u32,
    /// Load cap for new sessions as a percentage of the mean load; `None`: no cap.
    pub balance_percent: Option<u32>,
    /// Seed of the ring; 0 without a `seed_file`.
    pub seed: Seed,
}

/// `[upstream.NAME.health_check]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The probe to run.
    pub probe: Probe,
    /// Time between two checks of a backend.
    pub interval: Duration,
    /// Time between two checks while a backend is changing between up and down; at most `interval`.
    pub fast_interval: Duration,
    /// Time after which an unanswered check fails.
    pub timeout: Duration,
    /// Consecutive successes that bring a backend up.
    pub rise: u32,
    /// Consecutive failures that take a backend down.
    pub fall: u32,
}

/// The probe of an active health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Opens a TCP connection.
    Tcp,
    /// Sends an HTTP request.
    Http {
        /// Request method.
        method: String,
        /// Request path and query.
        path: String,
        /// Host header; `None`: the backend's address.
        host: Option<String>,
        /// Inclusive ranges of statuses that mean up.
        expect_status: Vec<(u16, u16)>,
        /// Statuses that mean up and draining.
        drain_status: Vec<u16>,
    },
}

/// `[upstream.NAME.passive]`: health checks by the outcomes of real requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassiveCheck {
    /// Clients with failed requests, without an answer in between, that make the proxy shun a backend.
    pub max_fails: u32,
    /// Clients with 5xx responses within `window` that make the proxy shun a backend; `None`: 5xx
    /// responses never do.
    pub max_5xx: Option<u32>,
    /// Sliding window for `max_5xx`, and how long a backend that no HTTP check asks may answer nobody.
    pub window: Duration,
    /// First penalty. Each further one lasts twice as long.
    pub penalty: Duration,
    /// Maximum penalty.
    pub max_penalty: Duration,
}

/// `[upstream.NAME.pool]`, per worker and backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Maximum number of idle connections.
    pub max_idle: usize,
    /// Time after which an idle connection is closed.
    pub idle_timeout: Duration,
}

/// `[upstream.NAME.queue]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Maximum number of waiting requests; 0: none waits.
    pub max: usize,
    /// Time that a request may wait.
    pub timeout: Duration,
}

/// `[upstream.NAME.retry]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Maximum number of attempts per request, including the first.
    pub attempts: u32,
    /// Retry budget as a percentage of requests.
    pub budget_percent: u32,
    /// Retries per second that are allowed regardless of the budget.
    pub min_per_second: u32,
    /// Value of Retry-After on a 503, rounded up to whole seconds.
    pub retry_after: Duration,
}
