use super::cookies::{CookiePair, cookie_pairs};
use super::*;
use crate::affinity::Slot;
use crate::affinity::name::Owner;

/// A request with a target and headers.
pub(crate) struct TestRequest {
    pub(crate) target: &'static str,
    pub(crate) fields: Vec<(&'static str, Vec<u8>)>,
}

impl TestRequest {
    pub(crate) fn new(target: &'static str, fields: &[(&'static str, &str)]) -> Self {
        Self { target, fields: fields.iter().map(|(n, v)| (*n, v.as_bytes().to_vec())).collect() }
    }
}

impl RequestView for TestRequest {
    fn path_and_query(&self) -> &str {
        self.target
    }
    fn field_values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.fields.iter().filter(move |(n, _)| *n == name).map(|(_, v)| v.as_slice())
    }
}

const SEED: Seed = Seed(7);
const MASK: Mask = Mask { v4: 24, v6: 64 };
const NOW: Timestamp = Timestamp(1_000_000);
const NO_TABLE: KeyContext<'_> = KeyContext { seed: SEED, mask: MASK, table: None, now: NOW };

fn cookie(name: &str) -> KeySource {
    KeySource::Cookie(name.into())
}

fn id(source: &KeySource, request: &TestRequest) -> Option<String> {
    find_id(source, request).map(|id| String::from_utf8_lossy(id).into_owned())
}

fn cookie_id(lines: &[&str]) -> Option<String> {
    let fields: Vec<_> = lines.iter().map(|line| ("cookie", *line)).collect();
    id(&cookie("SID"), &TestRequest::new("/", &fields))
}

fn client<'c>(ip: &str, certificate: Option<&'c str>) -> ClientIdentity<'c> {
    ClientIdentity { ip: ip.parse().unwrap(), certificate }
}

fn find(sources: &[KeySource], request: &TestRequest, ip: &str) -> Option<FoundKey> {
    find_key(sources, NO_TABLE, request, client(ip, None))
}

#[test]
fn first_present_source_decides() {
    let sources = [cookie("SID"), KeySource::Header("x-session".into()), KeySource::Ip];
    let both = TestRequest::new("/", &[("x-session", "h"), ("cookie", "SID=c")]);
    assert_eq!(
        find(&sources, &both, "192.0.2.1"),
        Some(FoundKey { source: 0, hash: KeyHash::of_id(SEED, b"c"), name: None })
    );
    let header = TestRequest::new("/", &[("x-session", "h"), ("cookie", "other=c")]);
    assert_eq!(
        find(&sources, &header, "192.0.2.1"),
        Some(FoundKey { source: 1, hash: KeyHash::of_id(SEED, b"h"), name: None })
    );
    assert_eq!(find(&sources, &TestRequest::new("/", &[]), "192.0.2.1").unwrap().source, 2);
    assert_eq!(find(&sources[..2], &TestRequest::new("/", &[]), "192.0.2.1"), None);
    assert_eq!(find(&[], &both, "192.0.2.1"), None);
}

#[test]
fn certificate_key_cannot_be_forged_by_a_request() {
    let sources = [KeySource::ClientCert, cookie("SID"), KeySource::Ip];
    let request = TestRequest::new("/", &[("cookie", "SID=CN=alice")]);
    let find = |certificate| find_key(&sources, NO_TABLE, &request, client("192.0.2.1", certificate));
    let alice = find(Some("CN=alice")).unwrap();
    assert_eq!(alice.source, 0);
    assert_ne!(find(Some("CN=bob")).unwrap().hash, alice.hash);
    let without = find(None).unwrap();
    assert_eq!(without.source, 1, "without a certificate the next source decides");
    assert_ne!(without.hash, alice.hash, "a cookie cannot impersonate a certificate");
}

#[test]
fn same_id_is_the_same_session_in_every_source() {
    let sources = [
        (cookie("s"), TestRequest::new("/", &[("cookie", "s=abc")])),
        (KeySource::Header("s".into()), TestRequest::new("/", &[("s", " abc ")])),
        (KeySource::Query("s".into()), TestRequest::new("/?s=abc", &[])),
        (KeySource::PathParam("s".into()), TestRequest::new("/x;s=abc", &[])),
    ];
    for (source, request) in sources {
        let found = find(std::slice::from_ref(&source), &request, "192.0.2.1").map(|key| key.hash);
        assert_eq!(found, Some(KeyHash::of_id(SEED, b"abc")), "{source}");
    }
}

#[test]
fn address_is_masked_and_mapped_addresses_are_ipv4() {
    let request = TestRequest::new("/", &[]);
    let hash = |ip: &str| find(&[KeySource::Ip], &request, ip).unwrap().hash;
    assert_eq!(hash("192.0.2.1"), hash("192.0.2.254"));
    assert_ne!(hash("192.0.2.1"), hash("192.0.3.1"));
    assert_eq!(hash("192.0.2.1"), hash("::ffff:192.0.2.77"));
    assert_eq!(hash("2001:db8::1"), hash("2001:db8::ffff:1"));
    assert_ne!(hash("2001:db8::1"), hash("2001:db8:0:1::1"));
    let mut mapped = [0; 16];
    mapped[10..].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 0]);
    assert_eq!(hash("192.0.2.1"), KeyHash::of_address(SEED, mapped));
}

#[test]
fn several_cookie_lines_are_one_list() {
    assert_eq!(cookie_id(&["a=1", "SID=x; b=2"]).as_deref(), Some("x"));
    assert_eq!(cookie_id(&["a=1", "b=2"]), None);
    assert_eq!(cookie_id(&[]), None);
}

#[test]
fn first_of_duplicate_cookies_wins() {
    assert_eq!(cookie_id(&["SID=one; SID=two"]).as_deref(), Some("one"));
    assert_eq!(cookie_id(&["a=1; SID=one", "SID=two"]).as_deref(), Some("one"));
    assert_eq!(cookie_id(&["SID=; SID=two"]).as_deref(), Some("two"), "empty cookies are ignored");
}

#[test]
fn known_one_of_several_values_wins_in_every_source() {
    let table = Table::new(10, 60);
    for known in ["live", "other"] {
        table.bind(table.namer().of_id(known.as_bytes()), Slot(1), Owner(0), NOW);
    }
    let context = KeyContext { table: Some(&table), ..NO_TABLE };
    let cookies = |line| TestRequest::new("/", &[("cookie", line)]);
    let sid = cookie("SID");
    let many = format!("SID=live; {}", "SID=stale; ".repeat(20));
    for (source, request, expected) in [
        (&sid, cookies("SID=stale; SID=live"), "live"),
        (&sid, cookies("SID=live; SID=stale"), "live"),
        (&sid, cookies("SID=; SID=a; x=live; SID=b; SID=live; SID=other"), "live"),
        (&sid, cookies("SID=a; SID=a; SID=live"), "live"),
        (&sid, cookies("SID=a; SID=b"), "a"),
        (&sid, cookies("SID=a; SID=a"), "a"),
        (&sid, cookies(&many), "live"),
        (&KeySource::Header("s".into()), TestRequest::new("/", &[("s", "a"), ("s", "live")]), "live"),
        (&KeySource::Query("s".into()), TestRequest::new("/?s=a&s=&s=live", &[]), "live"),
        (&KeySource::PathParam("s".into()), TestRequest::new("/x;s=a/y;s=live?s=b", &[]), "live"),
    ] {
        let found =
            find_key(std::slice::from_ref(source), context, &request, client("192.0.2.1", None)).unwrap();
        assert_eq!(found.hash, KeyHash::of_id(SEED, expected.as_bytes()), "{source}: {expected}");
        assert_eq!(found.name, Some(table.namer().of_id(expected.as_bytes())));
    }
    let flood: String = (0..200).map(|n| format!("SID=a{n}; ")).chain(["SID=live".to_owned()]).collect();
    let found = find_key(&[sid], context, &cookies(&flood), client("192.0.2.1", None)).unwrap();
    assert_eq!(found.hash, KeyHash::of_id(SEED, b"a0"), "lookups are bounded");
}

#[test]
fn kinds_of_keys_have_unrelated_names() {
    let table = Table::new(10, 60);
    let context = KeyContext { table: Some(&table), ..NO_TABLE };
    let request = TestRequest::new("/?s=CN=alice", &[]);
    let name = |source| {
        find_key(&[source], context, &request, client("192.0.2.1", Some("CN=alice"))).unwrap().name.unwrap()
    };
    let names = [name(KeySource::Ip), name(KeySource::ClientCert), name(KeySource::Query("s".into()))];
    assert!(names[0] != names[1] && names[1] != names[2] && names[0] != names[2]);
}

#[test]
fn quotes_are_not_part_of_a_cookie_value() {
    assert_eq!(cookie_id(&["SID=\"abc\""]).as_deref(), Some("abc"));
    assert_eq!(cookie_id(&["SID=\"abc"]).as_deref(), Some("\"abc"), "unbalanced: as received");
    assert_eq!(cookie_id(&["SID=\""]).as_deref(), Some("\""));
    assert_eq!(cookie_id(&["SID=\"\""]), None);
}

#[test]
fn white_space_around_cookies_is_ignored() {
    assert_eq!(cookie_id(&["a=1;SID=x;b=2"]).as_deref(), Some("x"));
    assert_eq!(cookie_id(&["a=1 ;\t SID \t=  x y  ; b=2"]).as_deref(), Some("x y"));
}

#[test]
fn empty_value_is_absent() {
    let sources = [
        cookie("s"),
        KeySource::Header("s".into()),
        KeySource::Query("s".into()),
        KeySource::PathParam("s".into()),
    ];
    let request = TestRequest::new("/a;s=/b?s=&t=1", &[("cookie", "s=; t=1"), ("s", " \t")]);
    assert_eq!(find(&sources, &request, "192.0.2.1"), None);
}

#[test]
fn names_of_cookies_and_parameters_are_case_sensitive() {
    assert_eq!(cookie_id(&["sid=x"]), None);
    let request = TestRequest::new("/a;sid=1?sid=2", &[]);
    assert_eq!(id(&KeySource::Query("SID".into()), &request), None);
    assert_eq!(id(&KeySource::PathParam("SID".into()), &request), None);
}

#[test]
fn names_must_match_completely() {
    assert_eq!(cookie_id(&["XSID=1; SIDX=2; =SID; SID"]), None);
    let request = TestRequest::new("/a;xsid=1;sidx=2;sid/sid=4?xsid=1&sidx=2&sid", &[]);
    assert_eq!(id(&KeySource::Query("sid".into()), &request), None);
    assert_eq!(id(&KeySource::PathParam("sid".into()), &request), None);
}

#[test]
fn query_parameter_is_not_decoded() {
    let query = |target| id(&KeySource::Query("sid".into()), &TestRequest::new(target, &[]));
    assert_eq!(query("/?a=1&sid=x").as_deref(), Some("x"));
    assert_eq!(query("/?sid=a%20b+c&sid=2").as_deref(), Some("a%20b+c"));
    assert_eq!(query("/?s%69d=x"), None);
    assert_eq!(query("/?sid=a=b?c").as_deref(), Some("a=b?c"));
    assert_eq!(query("/?sid=&sid=y").as_deref(), Some("y"));
    assert_eq!(query("/sid=x&sid=y"), None);
    assert_eq!(query("/?"), None);
    assert_eq!(query("*"), None);
}

#[test]
fn path_parameter_may_be_in_any_segment() {
    let param = |target| id(&KeySource::PathParam("jsessionid".into()), &TestRequest::new(target, &[]));
    assert_eq!(param("/a;jsessionid=X.node1/b;c?d").as_deref(), Some("X.node1"));
    assert_eq!(param("/a;v=1;jsessionid=X").as_deref(), Some("X"));
    assert_eq!(param("/a/b;v=1/c;jsessionid=X;w=2").as_deref(), Some("X"));
    assert_eq!(param("/;jsessionid=X").as_deref(), Some("X"));
    assert_eq!(param("/a;jsessionid=1/b;jsessionid=2").as_deref(), Some("1"));
    assert_eq!(param("/a?b;jsessionid=X"), None, "not in the query");
    assert_eq!(param("/a/jsessionid=X"), None);
}

#[test]
fn first_non_empty_header_wins() {
    let request = TestRequest::new("/", &[("x-session", " "), ("x-session", "a, b"), ("x-session", "c")]);
    assert_eq!(id(&KeySource::Header("x-session".into()), &request).as_deref(), Some("a, b"));
}

#[test]
fn pieces_without_a_name_are_skipped() {
    let pairs: Vec<_> = cookie_pairs(b"; nameless; =v; a=b=c;;").collect();
    assert_eq!(pairs, [CookiePair { name: b"a", value: b"b=c" }]);
}

#[test]
fn sources_print_as_configured() {
    let sources = [KeySource::Ip, cookie("A"), KeySource::Header("b".into())];
    let text: Vec<_> = sources.iter().map(ToString::to_string).collect();
    assert_eq!(text, ["ip", "cookie:A", "header:b"]);
}
