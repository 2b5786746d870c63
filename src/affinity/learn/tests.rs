use super::*;
use crate::affinity::key::tests::TestRequest;

impl ResponseView for TestRequest {
    fn field_values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        super::super::key::RequestView::field_values(self, name)
    }
}

const SEED: Seed = Seed(7);
/// 2023-11-14.
const NOW: Timestamp = Timestamp(1_700_000_000);

fn learned(sources: &[KeySource], fields: &[(&'static str, &str)]) -> Learned {
    learn(sources, SEED, NOW, &TestRequest::new("", fields))
}

fn from_cookies(lines: &[&str]) -> Learned {
    let fields: Vec<_> = lines.iter().map(|line| ("set-cookie", *line)).collect();
    learned(&[KeySource::Ip, KeySource::Cookie("SID".into())], &fields)
}

fn bind(source: usize, id: &str) -> Learned {
    Learned::Bind(FoundKey { source, hash: KeyHash::of_id(SEED, id.as_bytes()) })
}

const DELETED: Learned = Learned::Delete { source: 1 };

#[test]
fn set_cookie_binds_its_value() {
    assert_eq!(from_cookies(&["SID=abc"]), bind(1, "abc"));
    assert_eq!(from_cookies(&["x=1; Path=/", " SID = abc.node1 ;HttpOnly;path=/"]), bind(1, "abc.node1"));
    assert_eq!(from_cookies(&["SID=\"abc\"; Path=/"]), bind(1, "abc"), "as in requests");
    assert_eq!(from_cookies(&["SID=a=b"]), bind(1, "a=b"));
}

#[test]
fn other_cookies_are_ignored() {
    assert_eq!(from_cookies(&[]), Learned::Nothing);
    assert_eq!(from_cookies(&["sid=abc", "XSID=1", "SID", "=SID", "x=1; SID=2", ""]), Learned::Nothing);
}

#[test]
fn last_of_several_lines_wins() {
    assert_eq!(from_cookies(&["SID=; Max-Age=0", "SID=new"]), bind(1, "new"));
    assert_eq!(from_cookies(&["SID=new", "x=1", "SID=; Max-Age=0"]), DELETED);
}

#[test]
fn max_age_of_zero_or_less_deletes() {
    assert_eq!(from_cookies(&["SID=x; Max-Age=0"]), DELETED);
    assert_eq!(from_cookies(&["SID=x; Path=/; max-age = -1; HttpOnly"]), DELETED);
    assert_eq!(from_cookies(&["SID=x;MAX-AGE=000"]), DELETED);
    assert_eq!(from_cookies(&["SID=x; Max-Age=3600"]), bind(1, "x"));
    assert_eq!(from_cookies(&[&format!("SID=x; Max-Age={}", "9".repeat(50))]), bind(1, "x"));
}

#[test]
fn expires_in_the_past_deletes() {
    assert_eq!(from_cookies(&["SID=x; Expires=Thu, 01 Jan 1970 00:00:00 GMT"]), DELETED);
    assert_eq!(from_cookies(&["SID=x; Path=/; EXPIRES=Thu, 01-Jan-1970 00:00:10 GMT"]), DELETED);
    assert_eq!(from_cookies(&["SID=x; expires=Tue, 14 Nov 2023 22:13:20 GMT"]), DELETED, "now");
    assert_eq!(from_cookies(&["SID=x; expires=Tue, 14 Nov 2023 22:13:21 GMT"]), bind(1, "x"));
}

#[test]
fn max_age_takes_precedence_over_expires() {
    assert_eq!(from_cookies(&["SID=x; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT"]), bind(1, "x"));
    assert_eq!(from_cookies(&["SID=x; Expires=Thu, 01 Jan 2099 00:00:00 GMT; Max-Age=0"]), DELETED);
}

#[test]
fn last_attribute_that_parses_wins() {
    assert_eq!(from_cookies(&["SID=x; Max-Age=0; Max-Age=60"]), bind(1, "x"));
    assert_eq!(from_cookies(&["SID=x; Max-Age=0; Max-Age=soon; Max-Age"]), DELETED);
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
    assert_eq!(from_cookies(&["SID="]), DELETED);
    assert_eq!(from_cookies(&["SID=\"\"; Path=/"]), DELETED);
}

#[test]
fn header_binds_its_value() {
    let sources = [KeySource::Header("mcp-session-id".into())];
    assert_eq!(learned(&sources, &[("mcp-session-id", " abc ")]), bind(0, "abc"));
    assert_eq!(learned(&sources, &[("mcp-session-id", " ")]), Learned::Nothing);
}

#[test]
fn first_source_that_is_set_decides() {
    let sources =
        [KeySource::Query("sid".into()), KeySource::Cookie("A".into()), KeySource::Header("b".into())];
    assert_eq!(learned(&sources, &[("b", "1"), ("set-cookie", "A=2")]), bind(1, "2"));
    assert_eq!(learned(&sources, &[("b", "1"), ("set-cookie", "C=2")]), bind(2, "1"));
    assert_eq!(learned(&sources[..1], &[("sid", "1"), ("set-cookie", "sid=2")]), Learned::Nothing);
}

#[test]
fn release_takes_precedence() {
    let sources = [KeySource::Cookie("A".into())];
    assert_eq!(learned(&sources, &[("set-cookie", "A=2"), (RELEASE, "")]), Learned::Release);
    assert_eq!(learned(&[], &[(RELEASE, "1")]), Learned::Release);
}
