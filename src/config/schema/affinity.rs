//! The keys of an upstream's affinity.

use std::time::Duration;

use super::{Flag, Free, Int, Key, Optional, Table, Text, Time, Word};
use crate::affinity::cookie::{OnCacheable, SameSite, SecureAttribute};
use crate::affinity::pick::Failover;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// `[upstream.NAME.affinity]`.
pub(super) static AFFINITY_TABLE: Table = Table {
    path: "upstream.NAME.affinity",
    doc: "How sessions are tied to backends.",
    keys: &[&KEY, &REMEMBER, &FAILOVER, &HOLD, &ANNOUNCE, &REPORT, &RING, &TABLE, &COOKIE],
};
pub(in crate::config) static KEY: Free = Free {
    name: "key",
    shape: "list of \"ip\", \"client_cert\", \"cookie:NAME\", \"header:NAME\", \"query:NAME\", \"path_param:NAME\"",
    absent: "[\"ip\"]",
    doc: "What identifies a session's requests: the first of these that is present. `[]`: nothing, \
          new sessions are load-balanced (and remembered only in a cookie).",
    table: None,
};
/// The words of `remember`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum RememberWord {
    None,
    Table,
    Cookie,
}
pub(in crate::config) static REMEMBER: Key<Word<RememberWord>> = Key {
    name: "remember",
    rule: Word(&[
        ("none", RememberWord::None),
        ("table", RememberWord::Table),
        ("cookie", RememberWord::Cookie),
    ]),
    default: RememberWord::Table,
    doc: "Where it is remembered which backend a session belongs to: nowhere (the hash alone decides), \
          in the proxy, or sealed in a cookie at the client.",
};
pub(in crate::config) static FAILOVER: Optional<Word<Failover>> = Optional {
    name: "failover",
    rule: Word(&[("sticky", Failover::Sticky), ("temporary", Failover::Temporary), ("none", Failover::None)]),
    absent: "\"sticky\"; with `remember = \"none\"` \"temporary\"",
    doc: "When a session's backend cannot serve it: move to the next and stay, move and return, or 503 \
          until it is back.",
};
pub(in crate::config) static HOLD: Key<Time> = Key {
    name: "hold",
    rule: Time { least: Duration::ZERO, most: seconds(5 * MINUTE) },
    default: Duration::ZERO,
    doc: "How long a request waits for its session's backend to come back before it fails over; `\"0s\"`: \
          not at all.",
};
pub(in crate::config) static ANNOUNCE: Key<Flag> = Key {
    name: "announce",
    rule: Flag,
    default: false,
    doc: "Tell the backend its id and the session's successor (X-Affinity-Backend, X-Affinity-Successor), \
          so that it can replicate the session there.",
};
pub(in crate::config) static REPORT: Key<Flag> = Key {
    name: "report",
    rule: Flag,
    default: false,
    doc: "Tell the client the outcome (X-Affinity-Outcome).",
};
pub(in crate::config) static RING: Free = Free {
    name: "ring",
    shape: "table",
    absent: "the defaults below",
    doc: "The hash ring.",
    table: Some(&RING_TABLE),
};
pub(in crate::config) static TABLE: Free = Free {
    name: "table",
    shape: "table",
    absent: "the defaults below",
    doc: "The table, where `remember = \"table\"`.",
    table: Some(&TABLE_TABLE),
};
pub(in crate::config) static COOKIE: Free = Free {
    name: "cookie",
    shape: "table",
    absent: "the defaults below",
    doc: "The cookie, where `remember = \"cookie\"`.",
    table: Some(&COOKIE_TABLE),
};

/// `ring`.
static RING_TABLE: Table = Table {
    path: "upstream.NAME.affinity.ring",
    doc: "The hash ring: proxies with the same backends, weights and ring agree on every session.",
    keys: &[&VNODES, &BALANCE_FACTOR, &SEED_FILE],
};
pub(in crate::config) static VNODES: Key<Int<u32>> = Key {
    name: "vnodes",
    rule: Int { least: 1, most: 65_536 },
    default: 1024,
    doc: "Points per unit of weight: more spread sessions more evenly. An upstream has at most 16777216 points.",
};
pub(in crate::config) static BALANCE_FACTOR: Free = Free {
    name: "balance_factor",
    shape: "number, 1.01 to 10",
    absent: "no cap",
    doc: "Bounded load: a new session passes over a backend with more than this many times the mean of \
          the requests in flight. 1.25 is a good value.",
    table: None,
};
pub(in crate::config) static SEED_FILE: Optional<Text> = Optional {
    name: "seed_file",
    rule: Text("path"),
    absent: "a seed that everybody knows",
    doc: "A file with a secret: who does not know it cannot choose keys that crowd one backend. The same \
          on every proxy of a fleet.",
};

/// `table`.
static TABLE_TABLE: Table = Table {
    path: "upstream.NAME.affinity.table",
    doc: "Where `remember = \"table\"`.",
    keys: &[&MAX_ENTRIES, &TTL, &FILE_OF_TABLE],
};
pub(in crate::config) static MAX_ENTRIES: Key<Int<usize>> = Key {
    name: "max_entries",
    rule: Int { least: 1, most: 100_000_000 },
    default: 1_000_000,
    doc: "Sessions remembered at most; the longest idle is forgotten first.",
};
pub(in crate::config) static TTL: Key<Time> = Key {
    name: "ttl",
    rule: Time { least: seconds(1), most: seconds(30 * DAY) },
    default: seconds(30 * MINUTE),
    doc: "A session without requests is forgotten after this.",
};
pub(in crate::config) static FILE_OF_TABLE: Optional<Text> = Optional {
    name: "file",
    rule: Text("path"),
    absent: "not saved",
    doc: "The table is saved here at shutdown and loaded at start.",
};

/// `cookie`.
static COOKIE_TABLE: Table = Table {
    path: "upstream.NAME.affinity.cookie",
    doc: "Where `remember = \"cookie\"`.",
    keys: &[
        &COOKIE_NAME,
        &KEYS_FILE,
        &MAX_AGE,
        &MAX_IDLE,
        &COOKIE_PATH,
        &DOMAIN,
        &SECURE,
        &SAME_SITE,
        &HTTP_ONLY,
        &PARTITIONED,
        &ON_CACHEABLE,
    ],
};
pub(in crate::config) static COOKIE_NAME: Optional<Text> = Optional {
    name: "name",
    rule: Text("cookie name"),
    absent: "\"homing\"",
    doc: "Its name; `__Host-homing` is best where `secure = \"always\"` is possible.",
};
pub(in crate::config) static KEYS_FILE: Optional<Text> = Optional {
    name: "keys_file",
    rule: Text("path"),
    absent: "a random key until restart",
    doc: "Keys, one a line, 64 hex digits or base64 of 32 bytes: the first seals, all open. The same on \
          every proxy of a fleet.",
};
pub(in crate::config) static MAX_AGE: Key<Time> = Key {
    name: "max_age",
    rule: Time { least: seconds(1), most: seconds(400 * DAY) },
    default: seconds(8 * HOUR),
    doc: "A session's binding ends this long after it began.",
};
pub(in crate::config) static MAX_IDLE: Key<Time> = Key {
    name: "max_idle",
    rule: Time { least: seconds(1), most: seconds(400 * DAY) },
    default: seconds(30 * MINUTE),
    doc: "It ends after this long without a request.",
};
pub(in crate::config) static COOKIE_PATH: Optional<Text> =
    Optional { name: "path", rule: Text("path"), absent: "\"/\"", doc: "The attribute Path." };
pub(in crate::config) static DOMAIN: Optional<Text> = Optional {
    name: "domain",
    rule: Text("host name"),
    absent: "the host asked for",
    doc: "The attribute Domain.",
};
pub(in crate::config) static SECURE: Key<Word<SecureAttribute>> = Key {
    name: "secure",
    rule: Word(&[
        ("auto", SecureAttribute::Auto),
        ("always", SecureAttribute::Always),
        ("never", SecureAttribute::Never),
    ]),
    default: SecureAttribute::Auto,
    doc: "The attribute Secure; `auto`: where the client came over TLS, as a trusted proxy says.",
};
pub(in crate::config) static SAME_SITE: Key<Word<SameSite>> = Key {
    name: "same_site",
    rule: Word(&[("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)]),
    default: SameSite::Lax,
    doc: "The attribute SameSite; `none` needs `secure = \"always\"`.",
};
pub(in crate::config) static HTTP_ONLY: Key<Flag> =
    Key { name: "http_only", rule: Flag, default: true, doc: "The attribute HttpOnly." };
pub(in crate::config) static PARTITIONED: Key<Flag> = Key {
    name: "partitioned",
    rule: Flag,
    default: false,
    doc: "The attribute Partitioned (CHIPS); needs `secure = \"always\"`.",
};
pub(in crate::config) static ON_CACHEABLE: Key<Word<OnCacheable>> = Key {
    name: "on_cacheable",
    rule: Word(&[("skip", OnCacheable::Skip), ("private", OnCacheable::Private), ("set", OnCacheable::Set)]),
    default: OnCacheable::Skip,
    doc: "On a response that shared caches may keep: do not set the cookie, set it and add Cache-Control: \
          private, or just set it.",
};
