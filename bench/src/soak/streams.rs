//! The HTTP/2 clients.

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::ext::Protocol as Extended;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::backends::{LARGE, SMALL};
use super::kind::{Kind, PAUSE, Tally};
use super::target::{HOST, PATIENCE, Protocol, Target, host};

/// Concurrent streams of a session.
const CONCURRENT: usize = 4;

/// Runs a client until it is told to stop.
pub fn run(kind: Kind, number: usize, protocol: Protocol, target: &Target, stop: &AtomicBool, tally: &Tally) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    // Without a runtime the client cannot run; its counters show a failure.
    let Ok(runtime) = runtime else { return tally.count(false) };
    runtime.block_on(async {
        let mut kept = None;
        let mut round = 0;
        while !stop.load(Ordering::Relaxed) {
            round += 1;
            let work = once(kind, number, protocol, target, &mut kept, round);
            // Even a slow reader finishes within this time.
            let done = timeout(2 * PATIENCE, work).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
            if done.is_err() {
                kept = None;
            }
            tally.count(done.is_ok());
            sleep(PAUSE).await;
        }
    });
}

/// A connection. Dropping it closes it abruptly.
struct Open {
    send: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn once(
    kind: Kind,
    number: usize,
    protocol: Protocol,
    target: &Target,
    kept: &mut Option<Open>,
    round: u32,
) -> io::Result<()> {
    if kind == Kind::Kept {
        return keep(protocol, target, kept, number, round).await;
    }
    if kind == Kind::Abort && round.is_multiple_of(6) {
        return garbage(protocol, target, round).await;
    }
    let mut open = open(protocol, target).await?;
    match kind {
        Kind::New => get(&mut open, &format!("{:x}", fastrand::u64(..))).await,
        Kind::Post => post(&mut open, number).await,
        Kind::Slow => read_slowly(&mut open, number).await,
        Kind::Socket => web_socket(&mut open, round).await,
        Kind::Abort | Kind::Kept => abort(&mut open, round).await,
    }
}

async fn open(protocol: Protocol, target: &Target) -> io::Result<Open> {
    let socket = TcpStream::connect(target.address(protocol)).await?;
    socket.set_nodelay(true)?;
    if protocol.tls() {
        let tls = TlsConnector::from(target.http2()).connect(host(), socket).await?;
        return shake(tls).await;
    }
    shake(socket).await
}

async fn shake(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> io::Result<Open> {
    let (send, connection): (_, Connection<_, Bytes>) =
        h2::client::handshake(stream).await.map_err(io::Error::other)?;
    let driver = tokio::spawn(async move {
        // An error here also fails the streams, which report it.
        let _ = connection.await;
    });
    Ok(Open { send, driver })
}

fn request(method: Method, path: &str, id: &str) -> io::Result<Request<()>> {
    let uri = format!("https://{HOST}{path}");
    let builder = Request::builder().method(method).uri(uri).header("cookie", format!("SID={id}"));
    builder.body(()).map_err(io::Error::other)
}

async fn start(
    open: &mut Open,
    request: Request<()>,
    end: bool,
) -> io::Result<(ResponseFuture, SendStream<Bytes>)> {
    let ready = open.send.clone().ready().await.map_err(io::Error::other)?;
    open.send = ready;
    open.send.send_request(request, end).map_err(io::Error::other)
}

/// Reads a 200 response with a body of this length.
async fn whole(response: ResponseFuture, length: usize) -> io::Result<()> {
    let mut body = head(response).await?;
    let mut got = 0;
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(io::Error::other)?;
        got += piece.len();
        body.flow_control().release_capacity(piece.len()).map_err(io::Error::other)?;
    }
    if got == length { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

async fn head(response: ResponseFuture) -> io::Result<RecvStream> {
    let response = response.await.map_err(io::Error::other)?;
    if response.status() != 200 {
        return Err(io::Error::other(response.status().to_string()));
    }
    Ok(response.into_body())
}

async fn get(open: &mut Open, id: &str) -> io::Result<()> {
    let (response, _) = start(open, request(Method::GET, "/", id)?, true).await?;
    whole(response, SMALL).await
}

/// Sends several concurrent requests of one session, and opens a new connection every 500
/// rounds.
async fn keep(
    protocol: Protocol,
    target: &Target,
    kept: &mut Option<Open>,
    number: usize,
    round: u32,
) -> io::Result<()> {
    let connection = match kept {
        Some(connection) => connection,
        None => kept.insert(open(protocol, target).await?),
    };
    let id = format!("kept-{number}");
    let mut responses = vec![];
    for _ in 0..CONCURRENT {
        responses.push(start(connection, request(Method::GET, "/", &id)?, true).await?.0);
    }
    for response in responses {
        whole(response, SMALL).await?;
    }
    if round.is_multiple_of(500) {
        *kept = None;
    }
    Ok(())
}

/// Uploads ten bodies of up to 256 KiB.
async fn post(open: &mut Open, number: usize) -> io::Result<()> {
    for turn in 0..10 {
        let length = fastrand::usize(1..256 * 1024);
        let mut request = request(Method::POST, "/", &format!("post-{number}"))?;
        // The backends do not support chunked bodies.
        request.headers_mut().insert("content-length", length.into());
        let (response, mut body) = start(open, request, false).await?;
        // The response may arrive and end the stream before the whole body is sent (RFC 9113
        // §8.1).
        let _ = send(&mut body, length, if turn % 2 == 0 { End::WithTheLast } else { End::After }).await;
        whole(response, SMALL).await?;
    }
    Ok(())
}

/// Sends `length` bytes as flow control permits.
async fn send(out: &mut SendStream<Bytes>, length: usize, end: End) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        out.reserve_capacity(left);
        let room = std::future::poll_fn(|cx| out.poll_capacity(cx)).await;
        let room = room.ok_or(ErrorKind::BrokenPipe)?.map_err(io::Error::other)?.min(left);
        left -= room;
        let last = left == 0 && end == End::WithTheLast;
        out.send_data(vec![b'y'; room].into(), last).map_err(io::Error::other)?;
    }
    if end == End::After {
        out.send_data(Bytes::new(), true).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Whether and how to end a stream after the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Not,
    WithTheLast,
    After,
}

async fn read_slowly(open: &mut Open, number: usize) -> io::Result<()> {
    let (response, _) = start(open, request(Method::GET, "/large", &format!("slow-{number}"))?, true).await?;
    let mut body = head(response).await?;
    let mut got = 0;
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(io::Error::other)?;
        got += piece.len();
        sleep(Duration::from_millis(10)).await;
        body.flow_control().release_capacity(piece.len()).map_err(io::Error::other)?;
    }
    if got == LARGE { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

/// Resets a stream or drops the connection in the middle of a request or response.
async fn abort(open: &mut Open, round: u32) -> io::Result<()> {
    match round % 6 {
        1 => {
            let (_response, mut body) = start(open, request(Method::POST, "/", "abort")?, false).await?;
            body.send_data(Bytes::from_static(b"some of it"), false).map_err(io::Error::other)?;
            sleep(Duration::from_millis(2)).await;
            body.send_reset(Reason::CANCEL);
            get(open, "abort").await
        }
        // Returning drops the connection.
        2 => start(open, request(Method::GET, "/large", "abort")?, true).await.map(|_| ()),
        3 => {
            let (response, _) = start(open, request(Method::GET, "/large", "abort")?, true).await?;
            // Dropping the body resets the stream.
            drop(head(response).await?);
            get(open, "abort").await
        }
        4 => {
            for _ in 0..8 {
                drop(start(open, request(Method::GET, "/large", "abort")?, true).await?);
            }
            get(open, "abort").await
        }
        _ => {
            let (response, _) = start(open, request(Method::GET, "/large", "abort")?, true).await?;
            let mut body = head(response).await?;
            body.data().await.transpose().map_err(io::Error::other).map(|_| ())
        }
    }
}

/// Sends half a preface, or invalid frames.
async fn garbage(protocol: Protocol, target: &Target, round: u32) -> io::Result<()> {
    let mut socket = TcpStream::connect(target.address(protocol)).await?;
    let whole = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x04\x08\0\0\0\0\0\0\0\0\0not HTTP/2 frames";
    let sent = if round.is_multiple_of(4) { &whole[..10] } else { &whole[..] };
    if !protocol.tls() {
        return socket.write_all(sent).await;
    }
    let mut tls = TlsConnector::from(target.http2()).connect(host(), socket).await?;
    tls.write_all(sent).await?;
    tls.flush().await
}

/// Opens a WebSocket with extended CONNECT, sends some messages, and ends or resets the
/// stream.
async fn web_socket(open: &mut Open, round: u32) -> io::Result<()> {
    // After a response, the server's SETTINGS have arrived too.
    get(open, "chat").await?;
    if !open.send.is_extended_connect_protocol_enabled() {
        return Err(ErrorKind::Unsupported.into());
    }
    let mut request = request(Method::CONNECT, "/chat", "chat")?;
    request.extensions_mut().insert(Extended::from_static("websocket"));
    request.headers_mut().insert("sec-websocket-version", 13.into());
    let (response, mut out) = start(open, request, false).await?;
    let mut back = head(response).await?;
    for length in [5, 125, 126, 4000, 70_000] {
        let (sent, got) = tokio::join!(send(&mut out, length, End::Not), receive(&mut back, length));
        sent.and(got)?;
        sleep(Duration::from_millis(20)).await;
    }
    if round.is_multiple_of(2) {
        out.send_data(Bytes::new(), true).map_err(io::Error::other)?;
        while let Some(piece) = back.data().await {
            piece.map_err(io::Error::other)?;
        }
    } else {
        out.send_reset(Reason::CANCEL);
        get(open, "chat").await?;
    }
    Ok(())
}

async fn receive(back: &mut RecvStream, length: usize) -> io::Result<()> {
    let mut got = 0;
    while got < length {
        let piece = back.data().await.ok_or(ErrorKind::UnexpectedEof)?.map_err(io::Error::other)?;
        got += piece.len();
        back.flow_control().release_capacity(piece.len()).map_err(io::Error::other)?;
    }
    Ok(())
}
