//! The keys of an upstream.

use std::time::Duration;

use super::affinity::AFFINITY_TABLE;
use super::tls::UPSTREAM_TLS_TABLE;
use super::{Flag, Free, Int, Key, Optional, Table, Text, Time, UPSTREAM_TIMEOUTS, Word};
use crate::affinity::{AdminState, Health, Weight};
use crate::config::units::{DAY, HOUR, MINUTE};
use crate::model::{Protocol, ProxyVersion};

const MILLISECOND: Duration = Duration::from_millis(1);

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// `[upstream.NAME]`.
pub(in crate::config) static UPSTREAM: Table = Table {
    path: "upstream.NAME",
    doc: "A group of backends with a shared affinity policy.",
    keys: &[
        &BACKENDS,
        &BACKEND_KEY,
        &AFFINITY,
        &HEALTH_CHECK,
        &PASSIVE,
        &SLOW_START,
        &INITIAL_HEALTH,
        &POOL,
        &UPSTREAM_QUEUE,
        &RETRY,
        &TIMEOUTS_OF_UPSTREAM,
        &SEND_PROXY,
        &UPSTREAM_TLS,
        &PROTOCOL,
    ],
};
pub(in crate::config) static BACKENDS: Free = Free {
    name: "backends",
    shape: "array of \"host:port\" or \"unix:/path\"",
    absent: "required, unless `[[upstream.NAME.backend]]` is used",
    doc: "Backend addresses (short form). Each backend's id is its address.",
    table: None,
};
pub(in crate::config) static BACKEND_KEY: Free = Free {
    name: "backend",
    shape: "array of tables",
    absent: "required, unless `backends` is used",
    doc: "Backends with their own settings (long form).",
    table: Some(&BACKEND),
};
pub(in crate::config) static AFFINITY: Free = Free {
    name: "affinity",
    shape: "\"hash_ip\", \"none\" or a table",
    absent: "\"hash_ip\"",
    doc: "How sessions are bound to backends. `\"hash_ip\"` is short for `{ key = [\"ip\"], remember = \
          \"table\" }`. With `\"none\"`, requests are load-balanced without affinity.",
    table: Some(&AFFINITY_TABLE),
};
pub(in crate::config) static HEALTH_CHECK: Free = Free {
    name: "health_check",
    shape: "table or false",
    absent: "TCP connect every 2s",
    doc: "Active health checks. `false` disables them.",
    table: Some(&HEALTH_CHECK_TABLE),
};
pub(in crate::config) static PASSIVE: Free = Free {
    name: "passive",
    shape: "table or false",
    absent: "the defaults below",
    doc: "What failed requests do. `false`: nothing.",
    table: Some(&PASSIVE_TABLE),
};
pub(in crate::config) static SLOW_START: Key<Time> = Key {
    name: "slow_start",
    rule: Time { least: Duration::ZERO, most: seconds(HOUR) },
    default: Duration::ZERO,
    doc: "Time over which a new or recovered backend ramps up to its full share of new sessions. `\"0s\"` \
          disables slow start.",
};
pub(in crate::config) static INITIAL_HEALTH: Key<Word<Health>> = Key {
    name: "initial_health",
    rule: Word(&[("up", Health::Up), ("down", Health::Down)]),
    default: Health::Up,
    doc: "Health of a backend before its first check.",
};
pub(in crate::config) static POOL: Free = Free {
    name: "pool",
    shape: "table",
    absent: "the defaults below",
    doc: "Keep-alive connections to backends.",
    table: Some(&POOL_TABLE),
};
pub(in crate::config) static UPSTREAM_QUEUE: Free = Free {
    name: "queue",
    shape: "table",
    absent: "the defaults below",
    doc: "Requests that wait because a backend is at its `max_connections`.",
    table: Some(&QUEUE_TABLE),
};
pub(in crate::config) static RETRY: Free = Free {
    name: "retry",
    shape: "table",
    absent: "the defaults below",
    doc: "Retries.",
    table: Some(&RETRY_TABLE),
};
pub(in crate::config) static TIMEOUTS_OF_UPSTREAM: Free = Free {
    name: "timeouts",
    shape: "table",
    absent: "`[timeouts]`",
    doc: "Timeouts of this upstream.",
    table: Some(&UPSTREAM_TIMEOUTS),
};

pub(in crate::config) static SEND_PROXY: Key<Word<Option<ProxyVersion>>> = Key {
    name: "proxy_protocol",
    rule: Word(&[("off", None), ("v1", Some(ProxyVersion::V1)), ("v2", Some(ProxyVersion::V2))]),
    default: None,
    doc: "Send a PROXY header of this version with the client's address on every backend connection. Clients \
          then do not share backend connections.",
};
pub(in crate::config) static UPSTREAM_TLS: Free = Free {
    name: "tls",
    shape: "true or a table",
    absent: "plain HTTP",
    doc: "TLS to backends. `true` uses the defaults below.",
    table: Some(&UPSTREAM_TLS_TABLE),
};

pub(in crate::config) static PROTOCOL: Key<Word<Protocol>> = Key {
    name: "protocol",
    rule: Word(&[("h1", Protocol::H1), ("h2", Protocol::H2), ("h2c", Protocol::H2c)]),
    default: Protocol::H1,
    doc: "Protocol of the backends: HTTP/1.1, HTTP/2 over TLS (requires `tls`), or HTTP/2 without TLS.",
};

/// `[[upstream.NAME.backend]]`.
pub(in crate::config) static BACKEND: Table = Table {
    path: "upstream.NAME.backend",
    doc: "A backend server.",
    keys: &[&ID, &ADDRESS, &WEIGHT, &STATE, &MAX_CONNECTIONS],
};
pub(in crate::config) static ID: Optional<Text> = Optional {
    name: "id",
    rule: Text("1 to 64 characters from A-Z a-z 0-9 . _ - : [ ] /"),
    absent: "the address as written",
    doc: "Identity of the backend on the ring, in cookies and in the table. Sessions stay with the id when the \
          address changes.",
};
pub(in crate::config) static ADDRESS: Free = Free {
    name: "address",
    shape: "\"host:port\" or \"unix:/path\"",
    absent: "required",
    doc: "Address of the backend: host and port, or a Unix domain socket. Host names are resolved \
          again every `server.resolve_every`.",
    table: None,
};
pub(in crate::config) static WEIGHT: Key<Int<u16>> = Key {
    name: "weight",
    rule: Int { least: 1, most: Weight::MAX },
    default: 1,
    doc: "Share of new sessions, relative to the other backends.",
};
pub(in crate::config) static STATE: Key<Word<AdminState>> = Key {
    name: "state",
    rule: Word(&[("ready", AdminState::Ready), ("drain", AdminState::Drain), ("maint", AdminState::Maint)]),
    default: AdminState::Ready,
    doc: "Admin state. A backend in `drain` keeps its sessions but gets no new ones. A backend in `maint` gets \
          no requests.",
};
pub(in crate::config) static MAX_CONNECTIONS: Optional<Int<u32>> = Optional {
    name: "max_connections",
    rule: Int { least: 1, most: 1_000_000 },
    absent: "unlimited",
    doc: "Maximum concurrent requests to this backend, across all workers. With HTTP/1.1, each request uses its \
          own connection. At the limit, requests wait as `queue` says.",
};

/// `[upstream.NAME.health_check]`.
static HEALTH_CHECK_TABLE: Table = Table {
    path: "upstream.NAME.health_check",
    doc: "Active health checks: an HTTP request if `path` is set, otherwise a TCP connect.",
    keys: &[
        &CHECK_PATH,
        &TCP,
        &METHOD,
        &CHECK_HOST,
        &INTERVAL,
        &FAST_INTERVAL,
        &CHECK_TIMEOUT,
        &RISE,
        &FALL,
        &EXPECT_STATUS,
        &DRAIN_STATUS,
    ],
};
pub(in crate::config) static CHECK_PATH: Optional<Text> = Optional {
    name: "path",
    rule: Text("path"),
    absent: "TCP check",
    doc: "Path and query of the HTTP request.",
};
pub(in crate::config) static TCP: Optional<Flag> = Optional {
    name: "tcp",
    rule: Flag,
    absent: "true without `path`",
    doc: "Use a TCP check. This is the default without `path`.",
};
pub(in crate::config) static METHOD: Optional<Word<&'static str>> = Optional {
    name: "method",
    rule: Word(&[("GET", "GET"), ("HEAD", "HEAD"), ("OPTIONS", "OPTIONS")]),
    absent: "\"GET\"",
    doc: "Method of the HTTP request.",
};
pub(in crate::config) static CHECK_HOST: Optional<Text> = Optional {
    name: "host",
    rule: Text("host name"),
    absent: "the backend's address",
    doc: "Host header of the HTTP request.",
};
const CHECK_BOUNDS: Time = Time { least: Duration::from_millis(10), most: seconds(HOUR) };
pub(in crate::config) static INTERVAL: Key<Time> = Key {
    name: "interval",
    rule: CHECK_BOUNDS,
    default: seconds(2),
    doc: "Time between two checks of the same backend.",
};
pub(in crate::config) static FAST_INTERVAL: Optional<Time> = Optional {
    name: "fast_interval",
    rule: CHECK_BOUNDS,
    absent: "500ms, or `interval` if that is shorter",
    doc: "Interval while a backend is changing between up and down.",
};
pub(in crate::config) static CHECK_TIMEOUT: Key<Time> = Key {
    name: "timeout",
    rule: Time { least: MILLISECOND, most: seconds(10 * MINUTE) },
    default: seconds(1),
    doc: "A check fails if it takes longer than this.",
};
pub(in crate::config) static RISE: Key<Int<u32>> = Key {
    name: "rise",
    rule: Int { least: 1, most: 100 },
    default: 2,
    doc: "Consecutive successful checks before a backend is up.",
};
pub(in crate::config) static FALL: Key<Int<u32>> = Key {
    name: "fall",
    rule: Int { least: 1, most: 100 },
    default: 3,
    doc: "Consecutive failed checks before a backend is down.",
};
pub(in crate::config) static EXPECT_STATUS: Free = Free {
    name: "expect_status",
    shape: "status, range such as \"200-399\", or an array of these",
    absent: "\"200-399\"",
    doc: "Response statuses that count as success.",
    table: None,
};
pub(in crate::config) static DRAIN_STATUS: Free = Free {
    name: "drain_status",
    shape: "status or array of statuses",
    absent: "[]",
    doc: "Response statuses that tell Homing to drain the backend: it keeps its sessions but gets no new \
          ones.",
    table: None,
};

/// `[upstream.NAME.passive]`.
static PASSIVE_TABLE: Table = Table {
    path: "upstream.NAME.passive",
    doc: "What failed requests do. A backend at which requests fail is shunned for a while: it keeps its sessions \
          and gets no new ones. Only health checks take it down, and where they do not ask the application (TCP \
          checks, or none), a whole `window` in which it answers nobody. Failures of one client (an IPv4 address or \
          an IPv6 /64) count once.",
    keys: &[&MAX_FAILS, &MAX_5XX, &WINDOW, &PENALTY, &MAX_PENALTY],
};
pub(in crate::config) static MAX_FAILS: Key<Int<u32>> = Key {
    name: "max_fails",
    rule: Int { least: 1, most: 1000 },
    default: 5,
    doc: "Clients whose requests fail (failed connects, no response, aborted responses) without an answer to \
          anybody in between before a backend is shunned.",
};
pub(in crate::config) static MAX_5XX: Optional<Int<u32>> = Optional {
    name: "max_5xx",
    rule: Int { least: 1, most: 1_000_000 },
    absent: "5xx responses are not counted",
    doc: "Clients that get a response with status 500 or higher within `window` before a backend is shunned.",
};
pub(in crate::config) static WINDOW: Key<Time> = Key {
    name: "window",
    rule: Time { least: Duration::from_millis(100), most: seconds(HOUR) },
    default: seconds(10),
    doc: "Time window of `max_5xx`. Without HTTP checks, also the time after which a backend that answers nobody is \
          down: `max_fails` clients must have failed, two at least if there are TCP checks.",
};
pub(in crate::config) static PENALTY: Key<Time> = Key {
    name: "penalty",
    rule: Time { least: MILLISECOND, most: seconds(HOUR) },
    default: seconds(15),
    doc: "How long a backend is shunned, or down because it answers nobody, the first time. It doubles with each \
          further time. A shunned backend that passes `rise` health checks gets new sessions at once.",
};
pub(in crate::config) static MAX_PENALTY: Optional<Time> = Optional {
    name: "max_penalty",
    rule: Time { least: MILLISECOND, most: seconds(DAY) },
    absent: "\"5m\", or `penalty` if that is longer",
    doc: "Maximum penalty.",
};

/// `[upstream.NAME.pool]`.
static POOL_TABLE: Table = Table {
    path: "upstream.NAME.pool",
    doc: "Idle keep-alive connections, per worker and backend.",
    keys: &[&MAX_IDLE_CONNECTIONS, &IDLE_TIMEOUT],
};
pub(in crate::config) static MAX_IDLE_CONNECTIONS: Key<Int<usize>> = Key {
    name: "max_idle",
    rule: Int { least: 0, most: 65_536 },
    default: 256,
    doc: "Maximum idle connections per worker and backend. 0 disables keep-alive.",
};
pub(in crate::config) static IDLE_TIMEOUT: Key<Time> = Key {
    name: "idle_timeout",
    rule: Time { least: MILLISECOND, most: seconds(DAY) },
    default: seconds(60),
    doc: "Idle connections are closed after this. Must be shorter than the backend's keep-alive timeout.",
};

/// `[upstream.NAME.queue]`.
static QUEUE_TABLE: Table = Table {
    path: "upstream.NAME.queue",
    doc: "The line at backends that are at their `max_connections`. A request of an existing session waits for \
          its backend, a new session for any backend. Existing sessions go first, and among them the client \
          that holds the fewest places.",
    keys: &[&QUEUE_MAX, &QUEUE_TIMEOUT],
};
pub(in crate::config) static QUEUE_MAX: Key<Int<usize>> = Key {
    name: "max",
    rule: Int { least: 0, most: 65_536 },
    default: 1024,
    doc: "Maximum waiting requests, across all workers. In a full line, the client with the most waiting requests \
          loses one (503). 0 disables the line.",
};
pub(in crate::config) static QUEUE_TIMEOUT: Key<Time> = Key {
    name: "timeout",
    rule: Time { least: MILLISECOND, most: seconds(HOUR) },
    default: seconds(10),
    doc: "How long a request may wait (otherwise 503).",
};

/// `[upstream.NAME.retry]`.
static RETRY_TABLE: Table = Table {
    path: "upstream.NAME.retry",
    doc: "Requests that the backend did not process are retried at the session's successor. Idempotent requests \
          are retried at the same backend first; those of new sessions go on along the walk if it does not \
          answer. Skipping backends that refuse connections does not count as \
          a retry.",
    keys: &[&ATTEMPTS, &BUDGET, &MIN_PER_SECOND, &RETRY_AFTER],
};
pub(in crate::config) static ATTEMPTS: Key<Int<u32>> = Key {
    name: "attempts",
    rule: Int { least: 1, most: 16 },
    default: 3,
    doc: "Maximum attempts per request, including the first.",
};
pub(in crate::config) static BUDGET: Free = Free {
    name: "budget",
    shape: "\"0%\" to \"100%\"",
    absent: "\"20%\"",
    doc: "Maximum retries, as a percentage of requests. Protects a failing upstream from retry storms.",
    table: None,
};
pub(in crate::config) static MIN_PER_SECOND: Key<Int<u32>> = Key {
    name: "min_per_second",
    rule: Int { least: 0, most: 1_000_000 },
    default: 10,
    doc: "Retries per second that are always allowed, regardless of the budget.",
};
pub(in crate::config) static RETRY_AFTER: Key<Time> = Key {
    name: "retry_after",
    rule: Time { least: seconds(1), most: seconds(HOUR) },
    default: seconds(1),
    doc: "Retry-After header of 503 responses, rounded up to seconds.",
};
