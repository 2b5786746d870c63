//! The keys of `affinity`.

use std::time::Duration;

use super::{Flag, Free, Int, Key, LayerList, LayerWords, Optional, OrOff, Table, Text, Time, Word};
use crate::affinity::cookie::{OnCacheable, SameSite, SecureAttribute};
use crate::affinity::pick::Failover;
use crate::config::units::{DAY, MINUTE};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// `[upstream.NAME.affinity]`.
pub(super) static AFFINITY_TABLE: Table = Table {
    path: "upstream.NAME.affinity",
    doc: "How sessions are bound to backends.",
    keys: &[&KEY, &REMEMBER, &FAILOVER, &HOLD, &ANNOUNCE, &REPORT, &RING, &TABLE, &COOKIE],
};
pub(in crate::config) static KEY: Free = Free {
    name: "key",
    shape: "array of \"ip\", \"client_cert\", \"cookie:NAME\", \"header:NAME\", \"query:NAME\", \"path_param:NAME\"",
    absent: "[\"ip\"], or [] if `remember` includes \"cookie\"",
    doc: "Where to find the session key of a request. The first source present in the request is used. With \
          `[]`, requests have no key: new sessions are load-balanced, and only a cookie can keep them.",
    table: None,
};
pub(in crate::config) static REMEMBER: Key<LayerList> = Key {
    name: "remember",
    rule: LayerList,
    default: LayerWords { table: true, cookie: false, cookie_first: false },
    doc: "Where bindings of sessions to backends are kept: nowhere (the hash decides), in a table in the proxy, \
          or in a sealed cookie at the client. With `[\"table\", \"cookie\"]` in both: the first one that \
          knows the session is used, unless the other one is newer.",
};
pub(in crate::config) static FAILOVER: Optional<Word<Failover>> = Optional {
    name: "failover",
    rule: Word(&[("sticky", Failover::Sticky), ("temporary", Failover::Temporary), ("none", Failover::None)]),
    absent: "\"sticky\", or \"temporary\" with `remember = \"none\"`",
    doc: "What to do when a session's backend cannot serve it: move to another backend and stay there \
          (`sticky`), move until the backend is back (`temporary`), or answer 503 until it is back (`none`).",
};
pub(in crate::config) static HOLD: Key<Time> = Key {
    name: "hold",
    rule: Time { least: Duration::ZERO, most: seconds(5 * MINUTE) },
    default: Duration::ZERO,
    doc: "How long a request waits for its session's backend to come back before it fails over. `\"0s\"` \
          disables waiting.",
};
pub(in crate::config) static ANNOUNCE: Key<Flag> = Key {
    name: "announce",
    rule: Flag,
    default: false,
    doc: "Send backends their own id and the session's successor (X-Affinity-Backend and \
          X-Affinity-Successor), so that they can replicate the session there.",
};
pub(in crate::config) static REPORT: Key<Flag> =
    Key { name: "report", rule: Flag, default: false, doc: "Send clients the outcome (X-Affinity-Outcome)." };
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
    doc: "Settings of the table, if `remember` includes it.",
    table: Some(&TABLE_TABLE),
};
pub(in crate::config) static COOKIE: Free = Free {
    name: "cookie",
    shape: "table",
    absent: "the defaults below",
    doc: "Settings of the cookie, if `remember` includes it.",
    table: Some(&COOKIE_TABLE),
};

/// `ring`.
static RING_TABLE: Table = Table {
    path: "upstream.NAME.affinity.ring",
    doc: "The hash ring. Proxies with the same backends, weights and ring settings map every key to the same \
          backend.",
    keys: &[&VNODES, &BALANCE_FACTOR, &SEED_FILE],
};
pub(in crate::config) static VNODES: Key<Int<u32>> = Key {
    name: "vnodes",
    rule: Int { least: 1, most: 65_536 },
    default: 1024,
    doc: "Points on the ring per unit of weight. More points spread sessions more evenly. An upstream can have \
          at most 16777216 points.",
};
pub(in crate::config) static BALANCE_FACTOR: Free = Free {
    name: "balance_factor",
    shape: "number, 1.01 to 10",
    absent: "no load cap",
    doc: "Bounded load: new sessions skip a backend that has more than this many times the mean number of \
          requests in flight. 1.25 is a good value.",
    table: None,
};
pub(in crate::config) static SEED_FILE: Optional<Text> = Optional {
    name: "seed_file",
    rule: Text("path"),
    absent: "a public seed",
    doc: "File with the secret seed of the hash. Clients that do not know it cannot choose keys that overload \
          one backend. Use the same seed on every proxy of a fleet.",
};

/// `table`.
static TABLE_TABLE: Table = Table {
    path: "upstream.NAME.affinity.table",
    doc: "The table of bindings.",
    keys: &[&MAX_ENTRIES, &TTL, &FILE_OF_TABLE],
};
pub(in crate::config) static MAX_ENTRIES: Key<Int<usize>> = Key {
    name: "max_entries",
    rule: Int { least: 1, most: 100_000_000 },
    default: 1_000_000,
    doc: "Maximum number of sessions. When the table is full, sessions whose id no backend has set are evicted \
          first, then those idle longest.",
};
pub(in crate::config) static TTL: Key<Time> = Key {
    name: "ttl",
    rule: Time { least: seconds(1), most: seconds(30 * DAY) },
    default: seconds(30 * MINUTE),
    doc: "Bindings without a request for this long are removed.",
};
pub(in crate::config) static FILE_OF_TABLE: Optional<Text> = Optional {
    name: "file",
    rule: Text("path"),
    absent: "not saved",
    doc: "File that the table is saved to at shutdown and loaded from at startup.",
};

/// `cookie`.
static COOKIE_TABLE: Table = Table {
    path: "upstream.NAME.affinity.cookie",
    doc: "The sealed cookie.",
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
    absent: "`homing-` and the upstream's name",
    doc: "Name of the cookie. Upstreams that share a host name need different names. Prefer a name \
          that starts with `__Host-` if you can set `secure = \"always\"`.",
};
pub(in crate::config) static KEYS_FILE: Optional<Text> = Optional {
    name: "keys_file",
    rule: Text("path"),
    absent: "a random key, lost on restart",
    doc: "File with cookie keys, one per line: 64 hex digits, or 32 bytes in base64. The first key encrypts; all \
          keys decrypt. Use the same keys on every proxy of a fleet.",
};
pub(in crate::config) static MAX_AGE: Key<OrOff<Time>> = Key {
    name: "max_age",
    rule: OrOff(Time { least: seconds(1), most: seconds(400 * DAY) }),
    default: None,
    doc: "Maximum lifetime of a binding, even if the session is in use. `\"off\"` sets no limit.",
};
pub(in crate::config) static MAX_IDLE: Key<Time> = Key {
    name: "max_idle",
    rule: Time { least: seconds(1), most: seconds(400 * DAY) },
    default: seconds(30 * MINUTE),
    doc: "Bindings expire after this long without a request.",
};
pub(in crate::config) static COOKIE_PATH: Optional<Text> =
    Optional { name: "path", rule: Text("path"), absent: "\"/\"", doc: "The Path attribute." };
pub(in crate::config) static DOMAIN: Optional<Text> = Optional {
    name: "domain",
    rule: Text("host name"),
    absent: "the request's host",
    doc: "The Domain attribute.",
};
pub(in crate::config) static SECURE: Key<Word<SecureAttribute>> = Key {
    name: "secure",
    rule: Word(&[
        ("auto", SecureAttribute::Auto),
        ("always", SecureAttribute::Always),
        ("never", SecureAttribute::Never),
    ]),
    default: SecureAttribute::Auto,
    doc: "The Secure attribute. `auto` sets it if the client connected over TLS, according to a trusted proxy \
          if there is one.",
};
pub(in crate::config) static SAME_SITE: Key<Word<SameSite>> = Key {
    name: "same_site",
    rule: Word(&[("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)]),
    default: SameSite::Lax,
    doc: "The SameSite attribute. `none` requires `secure = \"always\"`.",
};
pub(in crate::config) static HTTP_ONLY: Key<Flag> =
    Key { name: "http_only", rule: Flag, default: true, doc: "The HttpOnly attribute." };
pub(in crate::config) static PARTITIONED: Key<Flag> = Key {
    name: "partitioned",
    rule: Flag,
    default: false,
    doc: "The Partitioned attribute (CHIPS). Requires `secure = \"always\"`.",
};
pub(in crate::config) static ON_CACHEABLE: Key<Word<OnCacheable>> = Key {
    name: "on_cacheable",
    rule: Word(&[("skip", OnCacheable::Skip), ("private", OnCacheable::Private), ("set", OnCacheable::Set)]),
    default: OnCacheable::Skip,
    doc: "What to do on responses that shared caches may store: do not set the cookie (`skip`), set it and add \
          `Cache-Control: private` (`private`), or just set it (`set`).",
};
