//! The keys of an upstream.

use std::time::Duration;

use super::affinity::AFFINITY_TABLE;
use super::tls::UPSTREAM_TLS_TABLE;
use super::{Flag, Free, Int, Key, Optional, Table, Text, Time, UPSTREAM_TIMEOUTS, Word};
use crate::affinity::{AdminState, Health, Weight};
use crate::model::{Protocol, ProxyVersion};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const MILLISECOND: Duration = Duration::from_millis(1);

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// `[upstream.NAME]`.
pub(in crate::config) static UPSTREAM: Table = Table {
    path: "upstream.NAME",
    doc: "A group of backends that serve the same sessions.",
    keys: &[
        &BACKENDS,
        &BACKEND_KEY,
        &AFFINITY,
        &HEALTH_CHECK,
        &PASSIVE,
        &SLOW_START,
        &INITIAL_HEALTH,
        &POOL,
        &RETRY,
        &TIMEOUTS_OF_UPSTREAM,
        &SEND_PROXY,
        &UPSTREAM_TLS,
        &PROTOCOL,
    ],
};
pub(in crate::config) static BACKENDS: Free = Free {
    name: "backends",
    shape: "list of \"host:port\" or \"unix:/path\"",
    absent: "required, unless there are `[[upstream.NAME.backend]]`",
    doc: "The short form: addresses only. The address is the identity.",
    table: None,
};
pub(in crate::config) static BACKEND_KEY: Free = Free {
    name: "backend",
    shape: "array of tables",
    absent: "required, unless there is `backends`",
    doc: "The long form.",
    table: Some(&BACKEND),
};
pub(in crate::config) static AFFINITY: Free = Free {
    name: "affinity",
    shape: "\"hash_ip\", \"none\" or a table",
    absent: "\"hash_ip\"",
    doc: "How sessions are tied to backends. `\"hash_ip\"` is short for `{ key = [\"ip\"], remember = \
          \"table\" }`; with `\"none\"` requests are only load-balanced.",
    table: Some(&AFFINITY_TABLE),
};
pub(in crate::config) static HEALTH_CHECK: Free = Free {
    name: "health_check",
    shape: "table or false",
    absent: "a TCP connection every 2s",
    doc: "Active checks; `false`: none.",
    table: Some(&HEALTH_CHECK_TABLE),
};
pub(in crate::config) static PASSIVE: Free = Free {
    name: "passive",
    shape: "table or false",
    absent: "the defaults below",
    doc: "What real requests say of a backend; `false`: nothing.",
    table: Some(&PASSIVE_TABLE),
};
pub(in crate::config) static SLOW_START: Key<Time> = Key {
    name: "slow_start",
    rule: Time { least: Duration::ZERO, most: seconds(HOUR) },
    default: Duration::ZERO,
    doc: "A backend that joins or comes back gets its share of new sessions over this time; `\"0s\"`: at once.",
};
pub(in crate::config) static INITIAL_HEALTH: Key<Word<Health>> = Key {
    name: "initial_health",
    rule: Word(&[("up", Health::Up), ("down", Health::Down)]),
    default: Health::Up,
    doc: "What a backend is taken for before its first check.",
};
pub(in crate::config) static POOL: Free = Free {
    name: "pool",
    shape: "table",
    absent: "the defaults below",
    doc: "Idle connections to backends.",
    table: Some(&POOL_TABLE),
};
pub(in crate::config) static RETRY: Free = Free {
    name: "retry",
    shape: "table",
    absent: "the defaults below",
    doc: "Second attempts.",
    table: Some(&RETRY_TABLE),
};
pub(in crate::config) static TIMEOUTS_OF_UPSTREAM: Free = Free {
    name: "timeouts",
    shape: "table",
    absent: "those of `[timeouts]`",
    doc: "Timeouts of this upstream.",
    table: Some(&UPSTREAM_TIMEOUTS),
};

pub(in crate::config) static SEND_PROXY: Key<Word<Option<ProxyVersion>>> = Key {
    name: "proxy_protocol",
    rule: Word(&[("off", None), ("v1", Some(ProxyVersion::V1)), ("v2", Some(ProxyVersion::V2))]),
    default: None,
    doc: "Connections to backends begin with a PROXY header of this version, which says who the client is. \
          They are not shared between clients then.",
};
pub(in crate::config) static UPSTREAM_TLS: Free = Free {
    name: "tls",
    shape: "true or a table",
    absent: "plain HTTP",
    doc: "TLS to the backends; `true`: with the defaults below.",
    table: Some(&UPSTREAM_TLS_TABLE),
};

pub(in crate::config) static PROTOCOL: Key<Word<Protocol>> = Key {
    name: "protocol",
    rule: Word(&[("h1", Protocol::H1), ("h2", Protocol::H2), ("h2c", Protocol::H2c)]),
    default: Protocol::H1,
    doc: "What the backends speak: HTTP/1.1, HTTP/2 over TLS (needs `tls`), or HTTP/2 without TLS.",
};

/// `[[upstream.NAME.backend]]`.
pub(in crate::config) static BACKEND: Table = Table {
    path: "upstream.NAME.backend",
    doc: "One server.",
    keys: &[&ID, &ADDRESS, &WEIGHT, &STATE, &MAX_CONNECTIONS],
};
pub(in crate::config) static ID: Optional<Text> = Optional {
    name: "id",
    rule: Text("1 to 64 characters out of A-Z a-z 0-9 . _ - : [ ] /"),
    absent: "the address as written",
    doc: "Its identity on the ring, in cookies and in the table: keep it when the address changes and \
          sessions stay.",
};
pub(in crate::config) static ADDRESS: Free = Free {
    name: "address",
    shape: "\"host:port\" or \"unix:/path\"",
    absent: "required",
    doc: "Where it listens. A host name is resolved at each connection attempt; a path is that of a Unix \
          domain socket.",
    table: None,
};
pub(in crate::config) static WEIGHT: Key<Int<u16>> = Key {
    name: "weight",
    rule: Int { least: 1, most: Weight::MAX },
    default: 1,
    doc: "Its share of new sessions, relative to the others.",
};
pub(in crate::config) static STATE: Key<Word<AdminState>> = Key {
    name: "state",
    rule: Word(&[("ready", AdminState::Ready), ("drain", AdminState::Drain), ("maint", AdminState::Maint)]),
    default: AdminState::Ready,
    doc: "`drain` keeps its sessions and gets no new ones, `maint` serves nothing.",
};
pub(in crate::config) static MAX_CONNECTIONS: Optional<Int<u32>> = Optional {
    name: "max_connections",
    rule: Int { least: 1, most: 1_000_000 },
    absent: "any number",
    doc: "Requests at a time for it, over all workers; over HTTP/1.1 each has a connection of its own.",
};

/// `[upstream.NAME.health_check]`.
static HEALTH_CHECK_TABLE: Table = Table {
    path: "upstream.NAME.health_check",
    doc: "Active checks. With a `path` an HTTP request, else a TCP connection.",
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
    absent: "a TCP connection is tried",
    doc: "Path and query asked for.",
};
pub(in crate::config) static TCP: Optional<Flag> = Optional {
    name: "tcp",
    rule: Flag,
    absent: "true without `path`",
    doc: "Says in so many words that a TCP connection is enough.",
};
pub(in crate::config) static METHOD: Optional<Word<&'static str>> = Optional {
    name: "method",
    rule: Word(&[("GET", "GET"), ("HEAD", "HEAD"), ("OPTIONS", "OPTIONS")]),
    absent: "\"GET\"",
    doc: "The method.",
};
pub(in crate::config) static CHECK_HOST: Optional<Text> = Optional {
    name: "host",
    rule: Text("host name"),
    absent: "the backend's address",
    doc: "The field Host.",
};
const CHECK_BOUNDS: Time = Time { least: Duration::from_millis(10), most: seconds(HOUR) };
pub(in crate::config) static INTERVAL: Key<Time> = Key {
    name: "interval",
    rule: CHECK_BOUNDS,
    default: seconds(2),
    doc: "Time between two checks of a backend.",
};
pub(in crate::config) static FAST_INTERVAL: Optional<Time> = Optional {
    name: "fast_interval",
    rule: CHECK_BOUNDS,
    absent: "500ms, or `interval` if that is shorter",
    doc: "The same while a backend is between up and down.",
};
pub(in crate::config) static CHECK_TIMEOUT: Key<Time> = Key {
    name: "timeout",
    rule: Time { least: MILLISECOND, most: seconds(10 * MINUTE) },
    default: seconds(1),
    doc: "A check without an answer for this long has failed.",
};
pub(in crate::config) static RISE: Key<Int<u32>> = Key {
    name: "rise",
    rule: Int { least: 1, most: 100 },
    default: 2,
    doc: "Successes in a row that bring a backend up.",
};
pub(in crate::config) static FALL: Key<Int<u32>> = Key {
    name: "fall",
    rule: Int { least: 1, most: 100 },
    default: 3,
    doc: "Failures in a row that take it down.",
};
pub(in crate::config) static EXPECT_STATUS: Free = Free {
    name: "expect_status",
    shape: "\"200-399\", 200, or a list of these",
    absent: "\"200-399\"",
    doc: "Statuses that mean up.",
    table: None,
};
pub(in crate::config) static DRAIN_STATUS: Free = Free {
    name: "drain_status",
    shape: "status or list of statuses",
    absent: "[]",
    doc: "Statuses by which a backend asks to be drained: it keeps its sessions and gets no new ones.",
    table: None,
};

/// `[upstream.NAME.passive]`.
static PASSIVE_TABLE: Table = Table {
    path: "upstream.NAME.passive",
    doc: "A backend that real requests find failing is taken out for a while.",
    keys: &[&MAX_FAILS, &MAX_5XX, &WINDOW, &PENALTY, &MAX_PENALTY],
};
pub(in crate::config) static MAX_FAILS: Key<Int<u32>> = Key {
    name: "max_fails",
    rule: Int { least: 1, most: 1000 },
    default: 5,
    doc: "Failures in a row (no connection, broken off) that take it out; those of one session, once \
          connected, count once: it may be what it asks for that fails.",
};
pub(in crate::config) static MAX_5XX: Optional<Int<u32>> = Optional {
    name: "max_5xx",
    rule: Int { least: 1, most: 1_000_000 },
    absent: "5xx is the application's business",
    doc: "Responses with a status of 500 or more within `window` that take it out.",
};
pub(in crate::config) static WINDOW: Key<Time> = Key {
    name: "window",
    rule: Time { least: Duration::from_millis(100), most: seconds(HOUR) },
    default: seconds(10),
    doc: "The time in which `max_5xx` counts.",
};
pub(in crate::config) static PENALTY: Key<Time> = Key {
    name: "penalty",
    rule: Time { least: MILLISECOND, most: seconds(HOUR) },
    default: seconds(15),
    doc: "How long it is out the first time; doubled each time.",
};
pub(in crate::config) static MAX_PENALTY: Optional<Time> = Optional {
    name: "max_penalty",
    rule: Time { least: MILLISECOND, most: seconds(DAY) },
    absent: "\"5m\", or `penalty` if that is longer",
    doc: "The longest it is out.",
};

/// `[upstream.NAME.pool]`.
static POOL_TABLE: Table = Table {
    path: "upstream.NAME.pool",
    doc: "Idle connections, per worker and backend.",
    keys: &[&MAX_IDLE_CONNECTIONS, &IDLE_TIMEOUT],
};
pub(in crate::config) static MAX_IDLE_CONNECTIONS: Key<Int<usize>> = Key {
    name: "max_idle",
    rule: Int { least: 0, most: 65_536 },
    default: 256,
    doc: "Idle connections kept per worker and backend; 0: none.",
};
pub(in crate::config) static IDLE_TIMEOUT: Key<Time> = Key {
    name: "idle_timeout",
    rule: Time { least: MILLISECOND, most: seconds(DAY) },
    default: seconds(60),
    doc: "An idle connection is closed after this; less than the backend's own keep-alive.",
};

/// `[upstream.NAME.retry]`.
static RETRY_TABLE: Table = Table {
    path: "upstream.NAME.retry",
    doc: "What surely has had no effect is tried at the session's successor; what may be done twice, at the same backend first. Walking past backends that refuse is not counted.",
    keys: &[&ATTEMPTS, &BUDGET, &MIN_PER_SECOND, &RETRY_AFTER],
};
pub(in crate::config) static ATTEMPTS: Key<Int<u32>> = Key {
    name: "attempts",
    rule: Int { least: 1, most: 16 },
    default: 3,
    doc: "Attempts for one request, the first included.",
};
pub(in crate::config) static BUDGET: Free = Free {
    name: "budget",
    shape: "\"0%\" to \"100%\"",
    absent: "\"20%\"",
    doc: "Retries allowed, as a share of requests: a failing upstream is not beaten with retries.",
    table: None,
};
pub(in crate::config) static MIN_PER_SECOND: Key<Int<u32>> = Key {
    name: "min_per_second",
    rule: Int { least: 0, most: 1_000_000 },
    default: 10,
    doc: "Retries a second allowed whatever the budget says.",
};
pub(in crate::config) static RETRY_AFTER: Key<Time> = Key {
    name: "retry_after",
    rule: Time { least: seconds(1), most: seconds(HOUR) },
    default: seconds(1),
    doc: "Retry-After on a 503, rounded up to seconds.",
};
