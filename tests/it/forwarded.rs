//! Hostile connections and responses, and mutations of them, through the real proxy: the other
//! side gets exactly what Homing accounts for. The fuzz target `forwarded` does the same with its
//! own inputs.

use crate::oracle::Oracle;

/// Pieces of a client's connection, in any sequence.
const REQUEST_PIECES: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: t\r\n\r\n",
    "GET http://other:80/a?b HTTP/1.1\r\nHost: t\r\n\r\n",
    "HEAD /head HTTP/1.1\r\nHost: t\r\nX-A: b\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n",
    "OPTIONS /here HTTP/1.1\r\nHost: t\r\nMax-Forwards: 0\r\n\r\n",
    "OPTIONS /there HTTP/1.1\r\nHost: t\r\nMax-Forwards: 10\r\n\r\n",
    "TRACE / HTTP/1.1\r\nHost: t\r\n\r\n",
    "GET /q?\\\"<>{}|^`\u{e9} HTTP/1.1\r\nHost: t:\r\n\r\n",
    "POST /length HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello",
    "POST /long HTTP/1.1\r\nHost: t\r\nContent-Length: 40\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n....",
    "POST /chunks HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "PUT /x HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n01\r\n!\r\n000\r\nX-T: y\r\n\r\n",
    "POST /both HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /twice HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "POST /zero HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n",
    "GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "GET /old HTTP/1.0\r\n\r\n",
    "GET /last HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n",
    "GET /hop HTTP/1.1\r\nHost: t\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n\r\n",
    "POST /expect HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok",
    "GET /ws HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "GET /h2c HTTP/1.1\r\nHost: t\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
    "\r\n",
];

/// Pieces of a backend's response, in any sequence.
const RESPONSE_PIECES: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n5;e\r\nhello\r\n0\r\nX-T: y\r\n\r\n",
    "HTTP/1.1 200 OK\r\n\r\nuntil the end",
    "HTTP/1.0 200 OK\r\n\r\nold",
    "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nold",
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 200\r\nX : y\r\nContent-Length\t: 5\r\n\r\nhello",
    "HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
];

/// Text that mutations insert.
const INSERTS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "\t",
    ":",
    ";",
    ",",
    "0",
    "+",
    "_",
    "\u{e9}",
    "X: y\r\n",
    "0\r\n\r\n",
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Host: u\r\n",
    "Connection: close\r\n",
    "chunked, ",
    "ffffffffffffffff",
    "\r\n continued",
];

/// Returns up to `most` random pieces in a row, with up to three mutations.
fn input(random: &mut fastrand::Rng, pieces: &[&str], most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.usize(1..=most) {
        bytes.extend_from_slice(pieces[random.usize(..pieces.len())].as_bytes());
    }
    for _ in 0..random.usize(..4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.usize(..bytes.len());
        match random.u8(..5) {
            0 => {
                let insert = INSERTS[random.usize(..INSERTS.len())].bytes();
                bytes.splice(at..at, insert);
            }
            1 => drop(bytes.remove(at)),
            2 => bytes[at] = random.u8(..),
            3 => {
                let end = (at + random.usize(..20)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => bytes.truncate(at.max(1)),
        }
    }
    if bytes.is_empty() { b"\r\n".to_vec() } else { bytes }
}

/// Runs a check and prints its input if it panics.
fn check(what: &str, seed: u64, bytes: &[u8], check: impl FnOnce()) {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
    if let Err(panic) = result {
        eprintln!("{what} {seed}: {}", bytes.escape_ascii());
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn backend_gets_exactly_the_requests_that_homing_accounts_for() {
    let oracle = Oracle::start();
    for piece in REQUEST_PIECES {
        check("piece", 0, piece.as_bytes(), || oracle.check_requests(piece.as_bytes()));
    }
    for seed in 0..1500 {
        let bytes = input(&mut fastrand::Rng::with_seed(seed), REQUEST_PIECES, 4);
        check("requests", seed, &bytes, || oracle.check_requests(&bytes));
    }
}

#[test]
fn client_gets_exactly_the_responses_that_homing_accounts_for() {
    let oracle = Oracle::start();
    for seed in 0..1500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = vec![random.u8(..)];
        bytes.extend(input(&mut random, RESPONSE_PIECES, 3));
        check("response", seed, &bytes, || oracle.check_response(&bytes));
    }
}
