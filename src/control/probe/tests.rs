use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::*;
use crate::dial::names::Names;
use crate::model::Address;

const TIMEOUT: Duration = Duration::from_secs(20);

fn http(path: &str) -> Probe {
    Probe::Http {
        method: "GET".into(),
        path: path.into(),
        host: None,
        expect_status: vec![(200, 299), (304, 304)],
        drain_status: vec![404],
    }
}

/// Answers every connection with these bytes after reading a head, and reports the heads that it
/// read.
async fn server(answer: &'static [u8]) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, heads) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap_or(0) > 0 {}
            let _ = told.send(String::from_utf8(head).unwrap());
            let _ = stream.write_all(answer).await;
        }
    });
    (address, heads)
}

/// Connects without TLS.
fn dialer(address: Address) -> Dialer {
    Dialer::new(address, &Names::new(Handle::current(), TIMEOUT))
}

async fn check(address: SocketAddr, probe: Probe, timeout: Duration) -> ProbeResult {
    Prober::new(dialer(Address::Ip(address)), probe, timeout).check().await
}

async fn answer(bytes: &'static [u8]) -> ProbeResult {
    let (address, _heads) = server(bytes).await;
    check(address, http("/"), TIMEOUT).await
}

#[tokio::test]
async fn status_decides() {
    assert_eq!(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await, ProbeResult::Pass);
    assert_eq!(answer(b"HTTP/1.1 204 No Content\r\n\r\n").await, ProbeResult::Pass);
    assert_eq!(answer(b"HTTP/1.0 304 Not Modified\r\n\r\n").await, ProbeResult::Pass);
    assert_eq!(answer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await, ProbeResult::Drain);
    assert_eq!(
        answer(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await,
        ProbeResult::Fail(ProbeFailure::Status(503))
    );
    assert_eq!(
        answer(b"HTTP/1.1 303 See Other\r\nLocation: /\r\nContent-Length: 0\r\n\r\n").await,
        ProbeResult::Fail(ProbeFailure::Status(303)),
        "redirects are not followed"
    );
}

#[tokio::test]
async fn body_is_not_awaited() {
    // The body never arrives. The check must not wait for it.
    assert_eq!(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await, ProbeResult::Pass);
}

#[tokio::test]
async fn interim_responses_are_skipped() {
    let both = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(answer(both).await, ProbeResult::Fail(ProbeFailure::Status(503)));
}

#[tokio::test]
async fn interim_responses_are_bounded_in_number_and_size() {
    let interim = |count: usize, field: &str| {
        let text = format!("HTTP/1.1 103 Early Hints\r\n{field}\r\n").repeat(count);
        let text = text + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        &*Box::leak(text.into_bytes().into_boxed_slice())
    };
    let long = format!("Link: <{}>\r\n", "x".repeat(8 * 1024));
    assert_eq!(answer(interim(16, "")).await, ProbeResult::Pass);
    assert_eq!(answer(interim(17, "")).await, ProbeResult::Fail(ProbeFailure::Protocol));
    assert_eq!(answer(interim(7, &long)).await, ProbeResult::Pass);
    assert_eq!(answer(interim(9, &long)).await, ProbeResult::Fail(ProbeFailure::Protocol));
}

#[tokio::test]
async fn drain_status_wins_over_expect_status() {
    let (address, _heads) = server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let probe = Probe::Http {
        method: "GET".into(),
        path: "/".into(),
        host: None,
        expect_status: vec![(200, 399)],
        drain_status: vec![200],
    };
    assert_eq!(check(address, probe, TIMEOUT).await, ProbeResult::Drain);
}

#[tokio::test]
async fn invalid_http_fails() {
    for bytes in [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b"", b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\ntruncated: "] {
        assert_eq!(answer(bytes).await, ProbeResult::Fail(ProbeFailure::Protocol), "{bytes:?}");
    }
}

#[tokio::test]
async fn endless_head_fails_without_being_buffered() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let writer = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        let mut written = 0usize;
        while stream.write_all(b"X-Filler: 0123456789012345678901234567890123456789\r\n").await.is_ok() {
            written += 52;
        }
        written
    });
    assert_eq!(check(address, http("/"), TIMEOUT).await, ProbeResult::Fail(ProbeFailure::Protocol));
    // The prober hung up long before the timeout. Kernel buffers may have taken some megabytes.
    assert!(writer.await.unwrap() < 64 << 20);
}

#[tokio::test]
async fn request_is_complete_and_has_a_user_agent() {
    let (address, mut heads) = server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    check(address, http("/healthz?deep=1"), TIMEOUT).await;
    let head = heads.recv().await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("get /healthz?deep=1 http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nhost: {address}\r\n")), "{head}");
    assert!(head.contains(concat!("\r\nuser-agent: homing/", env!("CARGO_PKG_VERSION"), "\r\n")), "{head}");
    assert!(head.contains("\r\nconnection: close\r\n"), "{head}");

    let probe = Probe::Http {
        method: "HEAD".into(),
        path: "/".into(),
        host: Some("shop.example".into()),
        expect_status: vec![(200, 200)],
        drain_status: vec![],
    };
    assert_eq!(check(address, probe, TIMEOUT).await, ProbeResult::Pass);
    let head = heads.recv().await.unwrap().to_ascii_lowercase();
    assert!(head.starts_with("head / http/1.1\r\n") && head.contains("\r\nhost: shop.example\r\n"), "{head}");
}

#[tokio::test]
async fn name_is_resolved_and_sent_as_host() {
    let (address, mut heads) = server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let named = Address::Name("localhost".into(), address.port());
    let mut prober = Prober::new(dialer(named), http("/"), TIMEOUT);
    for _ in 0..2 {
        assert_eq!(prober.check().await, ProbeResult::Pass);
        let head = heads.recv().await.unwrap().to_ascii_lowercase();
        assert!(head.contains(&format!("\r\nhost: localhost:{}\r\n", address.port())), "{head}");
    }
}

#[tokio::test]
async fn unresolvable_name_fails() {
    // `.invalid` never resolves (RFC 6761 section 6.4), but some resolvers are slow to say so.
    let named = Address::Name("no-such-host.invalid".into(), 80);
    let result = Prober::new(dialer(named), Probe::Tcp, TIMEOUT).check().await;
    assert!(matches!(result, ProbeResult::Fail(ProbeFailure::Resolve | ProbeFailure::Timeout)), "{result:?}");
}

#[tokio::test]
async fn refused_connection_fails() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let refused = ProbeResult::Fail(ProbeFailure::Connect(io::ErrorKind::ConnectionRefused));
    assert_eq!(check(address, Probe::Tcp, TIMEOUT).await, refused);
    assert_eq!(check(address, http("/"), TIMEOUT).await, refused);
}

#[tokio::test]
async fn silent_server_passes_tcp_and_times_out_http() {
    // The kernel's backlog accepts the connection, but nothing answers.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(check(address, Probe::Tcp, TIMEOUT).await, ProbeResult::Pass);
    let short = Duration::from_millis(30);
    assert_eq!(check(address, http("/"), short).await, ProbeResult::Fail(ProbeFailure::Timeout));
}
