use super::*;
use crate::affinity::key::tests::TestRequest;
use crate::affinity::name::NameSecret;

impl ResponseView for TestRequest {
    fn field_values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        super::super::key::RequestView::field_values(self, name)
    }
}

const SEED: Seed = Seed(7);
/// 2023-11-14.
const NOW: Timestamp = Timestamp(1_700_000_000);

fn namer() -> Namer {
    Namer::new(NameSecret([1; 16]))
}

fn learned(sources: &[KeySource], fields: &[(&'static str, &str)]) -> Vec<Learned> {
    let namer = namer();
    let default_path = namer.default_path(b"/login?next=/a/b");
    let context = LearnContext { seed: SEED, namer: &namer, default_path, now: NOW };
    let mut all = Vec::new();
    learn(sources, context, &TestRequest::new("", fields), |learned| all.push(learned));
    all
}

fn from_cookies(lines: &[&str]) -> Vec<Learned> {
    let fields: Vec<_> = lines.iter().map(|line| ("set-cookie", *line)).collect();
    learned(&[KeySource::Ip, KeySource::Cookie("SID".into())], &fields)
}

fn binds(source: usize, id: &str, scope: Scope) -> Learned {
    let id = id.as_bytes();
    let key = FoundKey { source, hash: KeyHash::of_id(SEED, id), name: Some(namer().of_id(id)) };
    Learned::Bind { key, scope }
}

/// One id, set for all paths of the host.
fn bind(source: usize, id: &str) -> Vec<Learned> {
    vec![binds(source, id, namer().root_scope())]
}

fn deletes(scope: Scope) -> Learned {
    Learned::Delete { source: 1, scope }
}

fn deleted() -> Vec<Learned> {
    vec![deletes(namer().root_scope())]
}

fn at(path: &str) -> Scope {
    namer().scope(None, namer().path(path.as_bytes()), false)
}

#[test]
fn set_cookie_binds_its_value() {
    assert_eq!(from_cookies(&["SID=abc"]), bind(1, "abc"));
    assert_eq!(from_cookies(&["x=1; Path=/", " SID = abc.node1 ;HttpOnly;path=/"]), bind(1, "abc.node1"));
    assert_eq!(from_cookies(&["SID=\"abc\"; Path=/"]), bind(1, "abc"), "as in requests");
    assert_eq!(from_cookies(&["SID=a=b"]), bind(1, "a=b"));
}

#[test]
fn other_cookies_are_ignored() {
    assert_eq!(from_cookies(&[]), vec![]);
    assert_eq!(from_cookies(&["sid=abc", "XSID=1", "SID", "=SID", "x=1; SID=2", ""]), vec![]);
}

#[test]
fn last_of_several_lines_wins() {
    assert_eq!(from_cookies(&["SID=; Max-Age=0", "SID=new"]), bind(1, "new"));
    assert_eq!(from_cookies(&["SID=new", "x=1", "SID=; Max-Age=0"]), deleted());
}

#[test]
fn max_age_of_zero_or_less_deletes() {
    assert_eq!(from_cookies(&["SID=x; Max-Age=0"]), deleted());
    assert_eq!(from_cookies(&["SID=x; Path=/; max-age = -1; HttpOnly"]), deleted());
    assert_eq!(from_cookies(&["SID=x;MAX-AGE=000"]), deleted());
    assert_eq!(from_cookies(&["SID=x; Max-Age=3600"]), bind(1, "x"));
    assert_eq!(from_cookies(&[&format!("SID=x; Max-Age={}", "9".repeat(50))]), bind(1, "x"));
}

#[test]
fn expires_in_the_past_deletes() {
    assert_eq!(from_cookies(&["SID=x; Expires=Thu, 01 Jan 1970 00:00:00 GMT"]), deleted());
    assert_eq!(from_cookies(&["SID=x; Path=/; EXPIRES=Thu, 01-Jan-1970 00:00:10 GMT"]), deleted());
    assert_eq!(from_cookies(&["SID=x; expires=Tue, 14 Nov 2023 22:13:20 GMT"]), deleted(), "now");
    assert_eq!(from_cookies(&["SID=x; expires=Tue, 14 Nov 2023 22:13:21 GMT"]), bind(1, "x"));
}

#[test]
fn max_age_takes_precedence_over_expires() {
    assert_eq!(from_cookies(&["SID=x; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT"]), bind(1, "x"));
    assert_eq!(from_cookies(&["SID=x; Expires=Thu, 01 Jan 2099 00:00:00 GMT; Max-Age=0"]), deleted());
}

#[test]
fn last_attribute_that_parses_wins() {
    assert_eq!(from_cookies(&["SID=x; Max-Age=0; Max-Age=60"]), bind(1, "x"));
    assert_eq!(from_cookies(&["SID=x; Max-Age=0; Max-Age=soon; Max-Age"]), deleted());
}

#[test]
fn malformed_attributes_delete_nothing() {
    for attribute in
        ["Max-Age=", "Max-Age=-", "Max-Age=+0", "Max-Age=0.0", "Expires=0", "Expires", "Expires=x"]
    {
        assert_eq!(from_cookies(&[&format!("SID=x; {attribute}")]), bind(1, "x"), "{attribute}");
    }
}

#[test]
fn empty_value_deletes() {
    assert_eq!(from_cookies(&["SID="]), deleted());
    assert_eq!(from_cookies(&["SID=\"\"; Path=/"]), deleted());
}

#[test]
fn every_scope_that_is_set_is_learned() {
    assert_eq!(
        from_cookies(&["SID=one; Path=/", "SID=two; Path=/other", "x=3"]),
        [binds(1, "one", at("/")), binds(1, "two", at("/other"))]
    );
    let many: Vec<_> = (0..40).map(|n| format!("SID=id{n}; Path=/{n}")).collect();
    let lines: Vec<_> = many.iter().map(String::as_str).collect();
    let expected: Vec<_> = (0..40).map(|n| binds(1, &format!("id{n}"), at(&format!("/{n}")))).collect();
    assert_eq!(from_cookies(&lines), expected);
}

#[test]
fn deletion_elsewhere_leaves_the_id_that_is_set() {
    let (namer, root) = (namer(), at("/"));
    let partitioned = namer.scope(None, namer.path(b"/"), true);
    let domain = namer.scope(Some(b"app.test"), namer.path(b"/"), false);
    for (set, deletion, scopes) in [
        ("SID=new; Path=/", "SID=; Path=/old; Max-Age=0", (root, at("/old"))),
        ("SID=new; Path=/", "SID=x; path=/; domain=.App.Test; Max-Age=0", (root, domain)),
        ("SID=new; Path=/; Secure; Partitioned", "SID=; Path=/; Secure; Max-Age=0", (partitioned, root)),
        ("SID=new", "SID=; Path=/login; Max-Age=0", (root, at("/login"))),
    ] {
        assert_eq!(
            from_cookies(&[set, deletion]),
            [binds(1, "new", scopes.0), deletes(scopes.1)],
            "{deletion}"
        );
        assert_eq!(
            from_cookies(&[deletion, set]),
            [deletes(scopes.1), binds(1, "new", scopes.0)],
            "{deletion}"
        );
    }
}

#[test]
fn malformed_scopes_are_those_of_browsers() {
    for line in
        ["SID=a", "SID=a; Path", "SID=a; Path=", "SID=a; Path=x", "SID=a; Path=/x; Path=", "SID=a; Domain="]
    {
        assert_eq!(from_cookies(&[line]), bind(1, "a"), "{line}");
    }
    assert_eq!(from_cookies(&["SID=a; Path=/x; Path=/y"]), [binds(1, "a", at("/y"))]);
}

#[test]
fn header_binds_its_value() {
    let sources = [KeySource::Header("mcp-session-id".into())];
    let expected = [binds(0, "abc", Scope::HEADER)];
    assert_eq!(learned(&sources, &[("mcp-session-id", " abc ")]), expected);
    assert_eq!(learned(&sources, &[("mcp-session-id", " ")]), []);
}

#[test]
fn every_source_that_is_set_is_learned() {
    let sources =
        [KeySource::Query("sid".into()), KeySource::Cookie("A".into()), KeySource::Header("b".into())];
    let header = binds(2, "1", Scope::HEADER);
    assert_eq!(learned(&sources, &[("b", "1"), ("set-cookie", "A=2")]), [binds(1, "2", at("/")), header]);
    assert_eq!(learned(&sources, &[("b", "1"), ("set-cookie", "C=2")]), [header]);
    assert_eq!(learned(&sources[..1], &[("sid", "1"), ("set-cookie", "sid=2")]), []);
}

#[test]
fn release_takes_precedence() {
    let sources = [KeySource::Cookie("A".into())];
    assert_eq!(learned(&sources, &[("set-cookie", "A=2"), (RELEASE, "")]), [Learned::Release]);
    assert_eq!(learned(&[], &[(RELEASE, "1")]), [Learned::Release]);
}
