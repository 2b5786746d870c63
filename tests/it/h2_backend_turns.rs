//! HTTP/2 backends that refuse streams or close connections that they had accepted.

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

/// Refuses the first POST once the gate is open; answers everything else with 200.
async fn refuse_first_post(mut socket: TcpStream, whole: Arc<AtomicUsize>, refuse: Gate) -> Option<()> {
    let mut preface = [0; PREFACE.len()];
    socket.read_exact(&mut preface).await.ok()?;
    let (mut reading, mut writing) = socket.into_split();
    let (sender, mut frames) = tokio::sync::mpsc::unbounded_channel();
    sender.send(frame(SETTINGS, 0, 0, &[])).ok()?;
    tokio::spawn(async move {
        while let Some(frame) = frames.recv().await {
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
            (SETTINGS, 0) => sender.send(frame(SETTINGS, ACK, 0, &[])).ok()?,
            (HEADERS | DATA, flags) if flags & END_STREAM != 0 => {
                if head[3] == DATA && whole.fetch_add(1, Ordering::SeqCst) == 0 {
                    let (sender, refuse) = (sender.clone(), refuse.clone());
                    tokio::spawn(async move {
                        refuse.opened().await;
                        sender.send(frame(RST_STREAM, 0, stream, &[0, 0, 0, REFUSED_STREAM]))
                    });
                } else {
                    sender.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, OK)).ok()?;
                }
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn requests_pipelined_behind_a_refused_one_are_not_lost() {
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
    eventually("the backend has the request", async || whole.load(Ordering::SeqCst) == 1).await;
    raw.send("GET /b HTTP/1.1\r\nHost: web.test\r\n\r\nGET /c HTTP/1.1\r\nHost: web.test\r\n").await;
    // Once this is served, the proxy has read the pipelined requests.
    assert_eq!(proxy.client().get("/").await.status, 200);
    refuse.open();
    assert_eq!(raw.response().await.status, 200, "the refused request must be retried");
    assert_eq!(raw.response().await.status, 200, "the pipelined request must be served");
    raw.send("\r\n").await;
    assert_eq!(raw.response().await.status, 200, "the request that was pipelined in part must be served");
    assert_eq!(whole.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn backend_that_always_sends_goaway_gets_few_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let proxy = over_http2(listener.local_addr().expect("an address")).start().await;
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let goaway = [frame(SETTINGS, 0, 0, &[]), frame(GOAWAY, 0, 0, &[0; 8])].concat();
                let _ = socket.write_all(&goaway).await;
                // Reads until the proxy closes.
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
async fn every_request_lost_with_a_connection_that_never_answered_counts_as_failed() {
    let (a, b) = (Http2Backend::start("a").await, Http2Backend::start("b").await);
    let builder = || {
        let both = Proxy::builder().workers(1).raw_toml("[client_ip]\ntrusted = [\"127.0.0.0/8\"]");
        let both = both.upstream("web", &[]).member("a", a.address);
        let both = both.member("b", b.address).lines("protocol = \"h2c\"");
        both.affinity("key = [\"cookie:SID\"], remember = \"none\"").passive("max_fails = 3")
    };
    // A proxy with the same ring shows which sessions have their home at a.
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
    let client = |n: usize| proxy.session(&at_a[n]).field(&format!("X-Forwarded-For: 192.0.2.{n}"));
    for n in 0..2 {
        let mut client = client(n);
        waiting.push(tokio::spawn(async move { client.post("/hang", b"x").await }));
    }
    eventually("the backend has both requests", async || a.count("/hang") == 2).await;
    client(2).post("/die", b"x").await.assert_own(502, "backend_closed");
    for waiting in waiting {
        waiting.await.expect("request task").assert_own(502, "backend_closed");
    }
    proxy.backend_is_shunned("web", "a", true).await;
}
