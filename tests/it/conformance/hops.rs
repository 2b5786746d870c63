//! Connection and Upgrade.

use super::Outcome::{Passed, Refused};
use super::{Case, Outcome, case};

pub(super) fn cases() -> Vec<Case> {
    let get = |class, rfc, fields: &str, outcome: Outcome| {
        case(class, rfc, format!("GET / HTTP/1.1\r\nHost: t\r\n{fields}\r\n").into_bytes(), outcome)
    };
    let without = |without| Passed { line: "GET / HTTP/1.1", host: "t", without };
    let mut list = vec![get(
        "Connection with an option that is no token",
        "9110 §7.6.1",
        "Connection: a b\r\n",
        Refused(400, "bad_connection"),
    )];
    for (class, fields) in [
        ("Connection that names Host", "Connection: Host\r\n"),
        ("Connection that names Content-Length", "Connection: content-length\r\n"),
        ("Connection that names Cookie", "Connection: Cookie\r\nCookie: SID=x\r\n"),
        ("Connection that names what Homing adds", "Connection: close, X-Forwarded-For\r\n"),
        ("Connection that names Forwarded", "Connection: Forwarded\r\n"),
        ("Connection that names Via", "Connection: Via\r\n"),
        ("Connection that names the affinity's fields", "Connection: X-Affinity-Backend\r\n"),
    ] {
        list.push(get(class, "9110 §7.6.1", fields, Refused(400, "bad_connection")));
    }
    list.extend([
        get(
            "fields of the connection end here",
            "9110 §7.6.1",
            "Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: gzip\r\nProxy-Connection: x\r\n",
            without(&["connection", "x-hop", "keep-alive", "proxy-connection"]),
        ),
        get(
            "Connection that names Transfer-Encoding, without a body",
            "9110 §7.6.1",
            "Connection: Transfer-Encoding\r\n",
            without(&["connection", "transfer-encoding"]),
        ),
        get(
            "an upgrade to h2c is not passed on",
            "9113 §3.1",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
            without(&["connection", "upgrade", "http2-settings"]),
        ),
        get(
            "an upgrade to anything but WebSocket is not passed on",
            "9110 §7.8",
            "Connection: Upgrade\r\nUpgrade: TLS/1.3\r\n",
            without(&["connection", "upgrade"]),
        ),
        get(
            "an upgrade to one of several is not passed on",
            "9110 §7.8",
            "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
            without(&["connection", "upgrade"]),
        ),
        get(
            "an upgrade that Connection does not name is not passed on",
            "9110 §7.8",
            "Upgrade: websocket\r\n",
            without(&["connection", "upgrade"]),
        ),
    ]);
    list
}
