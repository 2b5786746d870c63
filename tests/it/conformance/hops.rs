//! Connection and Upgrade in HTTP/1.1 requests.

use super::Outcome::{Forwarded, Rejected};
use super::{Case, Outcome, case};

pub(super) fn cases() -> Vec<Case> {
    let get = |class, rfc, fields: &str, outcome: Outcome| {
        case(class, rfc, format!("GET / HTTP/1.1\r\nHost: t\r\n{fields}\r\n").into_bytes(), outcome)
    };
    let without = |without| Forwarded { line: "GET / HTTP/1.1", host: "t", without };
    let mut list = vec![get(
        "invalid Connection option",
        "9110 §7.6.1",
        "Connection: a b\r\n",
        Rejected(400, "bad_connection"),
    )];
    for (class, fields) in [
        ("Connection lists Host", "Connection: Host\r\n"),
        ("Connection lists Content-Length", "Connection: content-length\r\n"),
        ("Connection lists Cookie", "Connection: Cookie\r\nCookie: SID=x\r\n"),
        ("Connection lists a header that Homing adds", "Connection: close, X-Forwarded-For\r\n"),
        ("Connection lists Forwarded", "Connection: Forwarded\r\n"),
        ("Connection lists Via", "Connection: Via\r\n"),
        ("Connection lists an affinity header", "Connection: X-Affinity-Backend\r\n"),
    ] {
        list.push(get(class, "9110 §7.6.1", fields, Rejected(400, "bad_connection")));
    }
    let many = "x-hop, ".repeat(20);
    list.push(get(
        "20 Connection options",
        "9110 §7.6.1",
        &format!("Connection: {many}close\r\n"),
        Rejected(400, "bad_connection"),
    ));
    list.extend([
        get(
            "hop-by-hop headers are dropped",
            "9110 §7.6.1",
            "Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: gzip\r\nProxy-Connection: x\r\n",
            without(&["connection", "x-hop", "keep-alive", "proxy-connection"]),
        ),
        get(
            "Connection lists Transfer-Encoding, no body",
            "9110 §7.6.1",
            "Connection: Transfer-Encoding\r\n",
            without(&["connection", "transfer-encoding"]),
        ),
        get(
            "upgrade to h2c is dropped",
            "9113 §3.1",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
            without(&["connection", "upgrade", "http2-settings"]),
        ),
        get(
            "upgrade other than WebSocket is dropped",
            "9110 §7.8",
            "Connection: Upgrade\r\nUpgrade: TLS/1.3\r\n",
            without(&["connection", "upgrade"]),
        ),
        get(
            "upgrade with several protocols is dropped",
            "9110 §7.8",
            "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
            without(&["connection", "upgrade"]),
        ),
        get(
            "Upgrade not listed in Connection is dropped",
            "9110 §7.8",
            "Upgrade: websocket\r\n",
            without(&["connection", "upgrade"]),
        ),
    ]);
    list
}
