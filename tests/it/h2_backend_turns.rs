//! Backends that take back, in HTTP/2, what they seemed to take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame,
};
use crate::harness::{Gate, Http2Backend, Proxy, ProxyBuilder, eventually};

const OK: &[u8] = &[0x88];
const REFUSED_STREAM: u8 = 7;

fn over_http2(address: std::net::SocketAddr) -> ProxyBuilder {
    Proxy::builder().workers(1).upstream("web", &[]).member("a", address).lines("protocol = \"h2c\"")
}

/// Refuses the first POST once the gate is open; answers all else with 200.
async fn refuse_first_post(mut socket: TcpStream, whole: Arc<AtomicUsize>, refuse: Gate) -> Option<()> {
    let mut preface = [0; PREFACE.len()];
    socket.read_exact(&mut preface).await.ok()?;
    let (mut reading, mut writing) = socket.into_split();
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
    say.send(frame(SETTINGS, 0, 0, &[])).ok()?;
    tokio::spawn(async move {
        while let Some(frame) = said.recv().await {
            writing.write_all(&frame).await?;
        }
        std::io::Result::Ok(())
    });
    loop {
        let mut head = [0; 9];
        reading.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        reading.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes(head[5..9].try_into().expect("four bytes"));
        match (head[3], head[4]) {
            (SETTINGS, 0) => say.send(frame(SETTINGS, ACK, 0, &[])).ok()?,
            (HEADERS | DATA, flags) if flags & END_STREAM != 0 => {
                if head[3] == DATA && whole.fetch_add(1, Ordering::SeqCst) == 0 {
                    let (say, refuse) = (say.clone(), refuse.clone());
                    tokio::spawn(async move {
                        refuse.opened().await;
                        say.send(frame(RST_STREAM, 0, stream, &[0, 0, 0, REFUSED_STREAM]))
                    });
                } else {
                    say.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, OK)).ok()?;
                }
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn what_was_sent_ahead_of_a_refused_request_is_not_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let proxy = over_http2(listener.local_addr().expect("an address")).start().await;
    let (whole, refuse) = (Arc::new(AtomicUsize::new(0)), Gate::closed());
    let (seen, gate) = (Arc::clone(&whole), refuse.clone());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(refuse_first_post(socket, Arc::clone(&seen), gate.clone()));
        }
    });
    let mut raw = proxy.raw().await;
    raw.send("POST /a HTTP/1.1\r\nHost: web.test\r\nContent-Length: 3\r\n\r\nabc").await;
    eventually("the backend has it", async || whole.load(Ordering::SeqCst) == 1).await;
    raw.send("GET /b HTTP/1.1\r\nHost: web.test\r\n\r\nGET /c HTTP/1.1\r\nHost: web.test\r\n").await;
    // What comes later was read later.
    assert_eq!(proxy.client().get("/").await.status, 200);
    refuse.open();
    assert_eq!(raw.response().await.status, 200, "sent again");
    assert_eq!(raw.response().await.status, 200, "sent ahead");
    raw.send("\r\n").await;
    assert_eq!(raw.response().await.status, 200, "begun ahead");
    assert_eq!(whole.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn backend_that_leaves_at_once_is_not_connected_to_without_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let proxy = over_http2(listener.local_addr().expect("an address")).start().await;
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let farewell = [frame(SETTINGS, 0, 0, &[]), frame(GOAWAY, 0, 0, &[0; 8])].concat();
                let _ = socket.write_all(&farewell).await;
                // Until the other side has gone.
                let _ = socket.read_to_end(&mut Vec::new()).await;
            });
        }
    });
    let response = proxy.client().get("/").await;
    assert!([502, 503, 504].contains(&response.status), "{}", response.status);
    let made = connections.load(Ordering::SeqCst);
    assert!(made <= 8, "{made} connections for one request");
}

#[tokio::test]
async fn all_whose_connection_never_answered_blame_the_backend() {
    let (a, b) = (Http2Backend::start("a").await, Http2Backend::start("b").await);
    let builder = || {
        let both = Proxy::builder().workers(1).upstream("web", &[]).member("a", a.address);
        let both = both.member("b", b.address).lines("protocol = \"h2c\"");
        both.affinity("key = [\"cookie:SID\"], remember = \"none\"").passive("max_fails = 3")
    };
    // The same ring: another proxy knows who is at home at a.
    let finder = builder().start().await;
    let mut at_a = Vec::new();
    for n in 0..100 {
        let sid = format!("s{n}");
        if finder.session(&sid).get("/").await.backend() == "a" {
            at_a.push(sid);
        }
    }
    let proxy = builder().start().await;
    let mut waiting = Vec::new();
    for sid in &at_a[..2] {
        let mut client = proxy.session(sid);
        waiting.push(tokio::spawn(async move { client.post("/hang", b"x").await }));
    }
    eventually("both are at it", async || a.count("/hang") == 2).await;
    proxy.session(&at_a[2]).post("/die", b"x").await.assert_own(502, "backend_closed");
    for waiting in waiting {
        waiting.await.expect("an answer").assert_own(502, "backend_closed");
    }
    proxy.backend_is("web", "a", false).await;
}
