//! The functions under measurement and their inputs.
//!
//! `wall.rs` times them, `instructions.rs` counts their instructions. Inputs are fixed, so that
//! two runs of one build do the same work. A function that takes nanoseconds works on a batch of
//! [`BATCH`] keys, which makes the cost of calling it irrelevant.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use ahash::RandomState;
use homing::affinity::client_ip::Mask;
use homing::affinity::cookie::{KeyRing, Opened};
use homing::affinity::key::{ClientIdentity, KeyContext, KeySource, find_key};
use homing::affinity::name::Owner;
use homing::affinity::pick::{Binding, Decision, Failover, Idle, Policy, Query, Tried, pick};
use homing::affinity::ring::Ring;
use homing::affinity::table::Table;
use homing::affinity::{
    AdminState, BackendId, Cluster, Health, KeyHash, Member, Seed, SessionName, Slot, Timestamp, Weight,
};
use homing::h1::{
    Body, BodyLimits, FieldSlots, Framing, HeadLimits, Parsed, RequestHead, parse_request, parse_response,
};

/// Keys handled by one call of a batched function.
pub(crate) const BATCH: u64 = 1000;

const SEED: Seed = Seed(0x5eed);
const NOW: Timestamp = Timestamp(1_800_000_000);
/// The defaults of `limits`.
const LIMITS: HeadLimits = HeadLimits { head_bytes: 16 * 1024, fields: 100, uri_bytes: 8 * 1024 };

/// What curl sends.
pub(crate) const SMALL_REQUEST: &[u8] =
    b"GET /index.html HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";

/// What a browser sends: 15 headers, the session in the third of four cookies.
pub(crate) const BROWSER_REQUEST: &[u8] = b"GET /cart;jsessionid=8A2C/items?page=3&sid=4f1d&sort=price HTTP/1.1\r\n\
Host: shop.example.com\r\n\
Connection: keep-alive\r\n\
sec-ch-ua: \"Chromium\";v=\"130\", \"Not?A_Brand\";v=\"99\"\r\n\
sec-ch-ua-mobile: ?0\r\n\
sec-ch-ua-platform: \"Linux\"\r\n\
Upgrade-Insecure-Requests: 1\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
Sec-Fetch-Site: same-origin\r\n\
Sec-Fetch-Mode: navigate\r\n\
Sec-Fetch-Dest: document\r\n\
Referer: https://shop.example.com/cart\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\n\
Accept-Language: en-GB,en;q=0.9\r\n\
Cookie: theme=dark; _ga=GA1.1.1234567890.1700000000; SID=0123456789abcdef0123456789abcdef; lang=en\r\n\r\n";

/// What an application server answers.
pub(crate) const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
Date: Tue, 15 Nov 1994 08:12:31 GMT\r\n\
Content-Type: text/html;charset=UTF-8\r\n\
Content-Language: en\r\n\
Content-Length: 8192\r\n\
Cache-Control: private, no-cache\r\n\
Set-Cookie: SID=0123456789abcdef0123456789abcdef; Path=/; HttpOnly; SameSite=Lax\r\n\
Vary: Accept-Encoding\r\n\
X-Frame-Options: DENY\r\n\
Keep-Alive: timeout=60\r\n\
Connection: keep-alive\r\n\r\n";

/// Parses a request head; returns its length.
pub(crate) fn request_head(buf: &[u8]) -> usize {
    let mut slots = FieldSlots::new();
    match parse_request(black_box(buf), &mut 0, &LIMITS, &mut slots) {
        Ok(Parsed::Complete { head, len }) => {
            black_box(&head);
            len
        }
        other => panic!("{other:?}"),
    }
}

/// Parses a response head; returns its length.
pub(crate) fn response_head(buf: &[u8]) -> usize {
    let mut slots = FieldSlots::new();
    match parse_response(black_box(buf), &mut 0, &LIMITS, "GET", &mut slots) {
        Ok(Parsed::Complete { head, len }) => {
            black_box(&head);
            len
        }
        other => panic!("{other:?}"),
    }
}

/// A chunked body of 64 KiB in chunks of 1 KiB, the last with an extension, and a trailer.
pub(crate) fn chunked_body() -> Vec<u8> {
    let mut body = Vec::new();
    for chunk in 0..64 {
        body.extend_from_slice(if chunk == 63 { b"400;x=1\r\n" } else { b"400\r\n" });
        body.extend_from_slice(&[b'x'; 1024]);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\nServer-Timing: total;dur=12\r\n\r\n");
    body
}

/// Reads a chunked body to its end, as the proxy does with a buffer of 16 KiB; returns the number
/// of bytes forwarded.
pub(crate) fn body_chunked(mut body: Body, bytes: &[u8]) -> usize {
    let (mut at, mut forwarded) = (0, 0);
    while !body.is_done() {
        let end = bytes.len().min(at + 16 * 1024);
        let step = body.advance(black_box(&bytes[at..end])).unwrap();
        assert!(step.consumed > 0 || step.done);
        at += step.consumed;
        forwarded += step.forward.len();
    }
    forwarded
}

/// The codec of a chunked body that is forwarded with its framing.
pub(crate) fn framed() -> Body {
    Body::new(Framing::Chunked, BodyLimits::default())
}

/// The codec of a chunked body for HTTP/2: data, then trailers.
pub(crate) fn unframed() -> Body {
    framed().with_data_and_trailers()
}

/// A parsed head that lives for as long as the process.
pub(crate) fn parsed(buf: &'static [u8]) -> RequestHead<'static> {
    let slots = Box::leak(Box::new(FieldSlots::new()));
    match parse_request(buf, &mut 0, &LIMITS, slots) {
        Ok(Parsed::Complete { head, .. }) => head,
        other => panic!("{other:?}"),
    }
}

/// The key source that each name stands for, found in [`BROWSER_REQUEST`].
pub(crate) fn key_source(name: &str) -> [KeySource; 1] {
    [match name {
        "ip" => KeySource::Ip,
        "cookie" => KeySource::Cookie("SID".into()),
        "header" => KeySource::Header("accept-language".into()),
        "query" => KeySource::Query("sid".into()),
        "path_param" => KeySource::PathParam("jsessionid".into()),
        other => panic!("unknown key source {other}"),
    }]
}

/// Finds and hashes the key of a request.
pub(crate) fn key(sources: &[KeySource], head: &RequestHead<'_>) -> KeyHash {
    let mask = Mask { v4: 32, v6: 64 };
    let client = ClientIdentity { ip: IpAddr::from([192, 0, 2, 1]), certificate: None };
    let context = KeyContext { seed: SEED, mask, table: None, now: NOW };
    find_key(black_box(sources), context, black_box(head), client).unwrap().hash
}

/// `BATCH` keys, the same ones each time; other `run`s have none of them.
pub(crate) fn keys(run: u64) -> Vec<KeyHash> {
    (run * BATCH..(run + 1) * BATCH).map(|n| KeyHash::of_id(SEED, &n.to_le_bytes())).collect()
}

/// The ids and weights of eight backends.
pub(crate) fn backends() -> Vec<(BackendId, Weight)> {
    (1..=8).map(|n| (format!("10.0.1.{n}:8080").parse().unwrap(), Weight::ONE)).collect()
}

/// Builds a ring with the default number of virtual nodes.
pub(crate) fn ring(backends: &[(BackendId, Weight)]) -> Ring {
    Ring::build(SEED, 1024, black_box(backends))
}

/// Looks up the home of each key; returns a checksum.
pub(crate) fn ring_home(ring: &Ring, keys: &[KeyHash]) -> u64 {
    keys.iter().map(|&key| u64::from(ring.home(black_box(key)).unwrap())).sum()
}

/// Looks up the first backend after each key's home; returns a checksum.
pub(crate) fn ring_successor(ring: &Ring, keys: &[KeyHash]) -> u64 {
    let successor = |key| {
        let home = ring.home(key)?;
        ring.first(key, |member, _| member != home)
    };
    keys.iter().map(|&key| u64::from(successor(black_box(key)).unwrap())).sum()
}

/// `BATCH` sessions, the same ones each time; other `run`s have none of them.
pub(crate) fn names(run: u64) -> Vec<SessionName> {
    keys(run).into_iter().map(|key| SessionName(key.0)).collect()
}

/// A full table of 100,000 sessions; the sessions of run 0 are bound last.
pub(crate) fn full_table() -> Table {
    let table = Table::with_hasher(100_000, 1800, RandomState::with_seeds(1, 2, 3, 4));
    for run in (0..100).rev() {
        table_insert(&table, &names(run));
    }
    table
}

/// Looks each session up; returns how many are bound.
pub(crate) fn table_lookup(table: &Table, names: &[SessionName]) -> usize {
    names.iter().filter(|&&name| table.lookup(black_box(name), NOW).is_some()).count()
}

/// Binds each session; evicts where the table is full.
pub(crate) fn table_insert(table: &Table, names: &[SessionName]) {
    for (n, &name) in (0u16..).zip(names) {
        table.bind(black_box(name), Slot(n % 8), Owner(0), NOW);
    }
}

/// The backends of an upstream, of which `down` are down.
pub(crate) fn cluster(down: u16) -> Cluster {
    let backends = backends();
    let ring = Arc::new(ring(&backends));
    let members = (0u16..)
        .zip(backends)
        .map(|(index, (id, weight))| Member {
            id,
            slot: Slot(index),
            weight,
            admin: AdminState::Ready,
            health: if index < down { Health::Down } else { Health::Up },
            shunned: false,
            active_points: ring.points_of(index),
        })
        .collect();
    Cluster::new(ring, members)
}

/// Decides where a request of each key goes; returns a checksum.
pub(crate) fn pick_each(cluster: &Cluster, keys: &[KeyHash], binding: Binding) -> u64 {
    let policy = Policy { failover: Failover::Sticky, balance_percent: Some(125), checked: true };
    let tried = Tried::default();
    let mut sum = 0;
    for &key in keys {
        let query = Query { key: Some(key), binding, tried: &tried, may_hold: false, random: key.0 };
        match pick(cluster, policy, &Idle, black_box(&query)) {
            Decision::Send(verdict) => sum += u64::from(verdict.member),
            other => panic!("{other:?}"),
        }
    }
    sum
}

/// The keys of a fleet: one that seals, and the one before it.
pub(crate) fn key_ring() -> KeyRing {
    KeyRing::new(&[[1; 32], [2; 32]])
}

/// Seals a binding.
pub(crate) fn seal(keys: &KeyRing, backend: &BackendId) -> String {
    let binding =
        Opened { backend: backend.clone(), key: None, issued: NOW, bound: NOW, last_seen: NOW, early: false };
    keys.seal(black_box("shop"), black_box(&binding))
}

/// Opens a sealed binding; returns when it was issued.
pub(crate) fn open(keys: &KeyRing, value: &str) -> Timestamp {
    keys.open(black_box("shop"), black_box(value.as_bytes())).unwrap().issued
}
