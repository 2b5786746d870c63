//! Tests of fields: classification, Connection options, lookup and copying.

use super::*;

#[test]
fn affinity_reads_the_head() {
    let input = b"GET http://a/p?q HTTP/1.1\r\nHost: a\r\nX-Id: 1\r\nCookie: a\r\nx-id: 2\r\nX-Affinity-A: 3\r\nX-Affinity-B: 4\r\n\r\n";
    let mut slots = FieldSlots::new();
    let Ok(Parsed::Complete { head, .. }) = parse_request(input, &mut 0, &LIMITS, &mut slots) else {
        panic!()
    };
    let values = |name| head.field_values(name).map(<[u8]>::to_vec).collect::<Vec<_>>();
    assert_eq!(RequestView::path_and_query(&head), "/p?q");
    assert_eq!(values("x-id"), [b"1", b"2"]);
    assert_eq!(values("cookie"), [b"a"]);
    assert_eq!(values("x-affinity-b"), [b"4"]);
    assert!(values("x-none").is_empty());
}

#[test]
fn names_are_classified_in_any_case() {
    let table = [
        ("host", FieldKind::Host),
        ("connection", FieldKind::Connection),
        ("content-length", FieldKind::ContentLength),
        ("transfer-encoding", FieldKind::TransferEncoding),
        ("cookie", FieldKind::Cookie),
        ("set-cookie", FieldKind::SetCookie),
        ("expect", FieldKind::Expect),
        ("upgrade", FieldKind::Upgrade),
        ("te", FieldKind::Te),
        ("trailer", FieldKind::Trailer),
        ("keep-alive", FieldKind::KeepAlive),
        ("proxy-connection", FieldKind::ProxyConnection),
        ("x-forwarded-for", FieldKind::XForwardedFor),
        ("x-forwarded-proto", FieldKind::XForwardedProto),
        ("x-forwarded-host", FieldKind::XForwardedHost),
        ("forwarded", FieldKind::Forwarded),
        ("via", FieldKind::Via),
        ("cache-control", FieldKind::CacheControl),
        ("x-affinity-backend", FieldKind::Affinity),
        ("x-affinity-successor", FieldKind::Affinity),
        ("x-affinity-", FieldKind::Affinity),
    ];
    for (name, kind) in table {
        assert_eq!(FieldKind::classify(name.as_bytes()), kind, "{name}");
        assert_eq!(FieldKind::classify(name.to_uppercase().as_bytes()), kind, "{name}");
        // Names that differ by one byte are other fields; `x-affinity-` is a prefix.
        for at in 0..name.len().min(if kind == FieldKind::Affinity { 11 } else { usize::MAX }) {
            let mut other = name.as_bytes().to_vec();
            other[at] = b'_';
            assert_eq!(FieldKind::classify(&other), FieldKind::Other, "{}", other.escape_ascii());
        }
    }
    assert_eq!(FieldKind::classify(b""), FieldKind::Other);
}

#[test]
fn kept_lines_are_copied_unchanged() {
    let input = b"GET / HTTP/1.1\r\nHost:a\r\nA: 1 \r\nB:\t2\r\nC: 3\r\nD: 4\r\n\r\n";
    let mut slots = FieldSlots::new();
    let Ok(Parsed::Complete { head, .. }) = parse_request(input, &mut 0, &LIMITS, &mut slots) else {
        panic!()
    };
    let copy = |edits: &[(&str, Edit<'static>)]| {
        let mut out = Vec::new();
        copy_fields(&mut out, &head.fields, |field| {
            edits.iter().find(|(name, _)| *name == field.name).map_or(Edit::Keep, |(_, edit)| *edit)
        });
        String::from_utf8(out).unwrap()
    };
    assert_eq!(copy(&[]), "Host:a\r\nA: 1 \r\nB:\t2\r\nC: 3\r\nD: 4\r\n");
    assert_eq!(copy(&[("Host", Edit::Drop), ("D", Edit::Drop)]), "A: 1 \r\nB:\t2\r\nC: 3\r\n");
    assert_eq!(copy(&[("B", Edit::Replace(b"x"))]), "Host:a\r\nA: 1 \r\nB: x\r\nC: 3\r\nD: 4\r\n");
    assert_eq!(
        copy(&[("A", Edit::Drop), ("B", Edit::Replace(b"x")), ("C", Edit::Drop)]),
        "Host:a\r\nB: x\r\nD: 4\r\n"
    );
}

#[test]
fn heads_and_chunks_are_written() {
    let mut out = Vec::new();
    write_request_line(&mut out, "GET", "/a");
    write_status_line(&mut out, 404, b"Not Found");
    write_field(&mut out, "A", b"b");
    end_head(&mut out);
    for len in [1, 0xf, 0x10, 0xabc, usize::MAX] {
        write_chunk_prefix(&mut out, len);
    }
    let text = "GET /a HTTP/1.1\r\nHTTP/1.1 404 Not Found\r\nA: b\r\n\r\n1\r\nf\r\n10\r\nabc\r\nffffffffffffffff\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), text);
}
#[test]
fn connection_options_are_parsed() {
    let parsed = |fields: &str, test: &dyn Fn(&Connection<'_>)| {
        let input = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        let mut slots = FieldSlots::new();
        let result = parse_request(input.as_bytes(), &mut 0, &LIMITS, &mut slots);
        let Ok(Parsed::Complete { head, .. }) = result else { panic!("{fields}: {result:?}") };
        test(&head.connection);
    };
    parsed("Connection: Close", &|c| assert!(c.close && !c.persistent(Version::Http11)));
    parsed("Connection: keep-alive, X-Hop ,, TE", &|c| {
        assert!(c.keep_alive && c.persistent(Version::Http10) && !c.close);
        assert!(c.names("x-hop") && c.names("te") && c.names("Keep-Alive") && !c.names("x-other"));
        assert_eq!(c.options().collect::<Vec<_>>(), ["keep-alive", "X-Hop", "TE"]);
    });
    parsed("Connection: a\r\nConnection: close", &|c| assert!(c.names("A") && c.close));
    parsed("Connection: Transfer-Encoding", &|c| assert!(!c.names("transfer-encoding")));
    parsed("X: y", &|c| assert!(!c.names("X") && !c.names("close") && !c.names("upgrade")));
    for value in ["a b", "a;b", "Host", "content-length", "cookie", "x-forwarded-for", "X-Affinity-Backend"] {
        assert_eq!(with(&format!("Connection: {value}")), Err(HeadError::Connection), "{value}");
    }
    assert_eq!(with(&["Connection: close"; 5].join("\r\n")), Err(HeadError::Connection));
}
