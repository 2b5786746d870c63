//! An HTTP/2 backend and an HTTP/2 client, both on the `h2` crate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::wait::{Gate, in_time};

/// An HTTP/2 backend. The path selects the response:
///
/// - `/echo`: streams back the body and its trailers;
/// - `/hints`: sends a 103 first; `/status/N`: status N without a body;
/// - `/gate`: responds once the gate is open;
/// - `/unread`: leaves the body unread, and never responds;
/// - `/hang`: never responds, and records the reset that ends the stream;
/// - `/cut`: sends a head and part of a body, then a reset;
/// - `/reset`: sends a reset;
/// - `/short`: sends less than its `content-length`;
/// - `/only`: sends trailers only, as gRPC does;
/// - `/die`: closes the connection;
/// - `/refuse`: answers an extended CONNECT with 403;
/// - `/bytes/N`: sends N bytes;
/// - `/drips/N`: sends N frames of one byte, then nothing;
/// - any other path: responds with the backend's name.
pub(crate) struct Http2Backend {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    name: String,
    max_streams: Option<u32>,
    tls: Option<TlsAcceptor>,
    /// Whether it offers extended CONNECT, and echoes on such streams.
    websocket: AtomicBool,
    /// `SETTINGS_MAX_HEADER_LIST_SIZE`, unless 0.
    header_list: AtomicU32,
    /// Processed requests.
    seen: Mutex<Vec<Request<()>>>,
    connections: AtomicUsize,
    streams: AtomicUsize,
    most_streams: AtomicUsize,
    refusing: AtomicBool,
    refused: AtomicUsize,
    resets: Mutex<Vec<Reason>>,
    unread: AtomicUsize,
    gate: Gate,
    leave: watch::Sender<usize>,
}

impl Http2Backend {
    pub(crate) async fn start(name: &str) -> Self {
        Self::with(name, None, None).await
    }

    /// Starts a backend with a limit on concurrent streams per connection, and with TLS.
    pub(crate) async fn with(name: &str, max_streams: Option<u32>, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            name: name.to_owned(),
            max_streams,
            tls: tls.map(TlsAcceptor::from),
            websocket: AtomicBool::new(false),
            header_list: AtomicU32::new(0),
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            most_streams: AtomicUsize::new(0),
            refusing: AtomicBool::new(false),
            refused: AtomicUsize::new(0),
            resets: Mutex::default(),
            unread: AtomicUsize::new(0),
            gate: Gate::closed(),
            leave: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { name: name.to_owned(), address, state, accepting }
    }

    /// Offers extended CONNECT from now on.
    pub(crate) fn offer_websocket(&self) {
        self.state.websocket.store(true, Ordering::SeqCst);
    }

    /// Accepts no more than this many bytes of headers from now on.
    pub(crate) fn accept_header_list(&self, size: u32) {
        self.state.header_list.store(size, Ordering::SeqCst);
    }

    /// Returns the last processed request.
    pub(crate) fn last(&self) -> Request<()> {
        self.state.seen.lock().last().expect("a request").clone()
    }

    /// Returns the number of processed requests for this path.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.state.seen.lock().iter().filter(|request| request.uri().path() == path).count()
    }

    /// Returns the number of connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Returns the highest number of streams open at the same time, over all connections.
    pub(crate) fn most_streams(&self) -> usize {
        self.state.most_streams.load(Ordering::SeqCst)
    }

    /// Returns the number of open streams.
    pub(crate) fn streams(&self) -> usize {
        self.state.streams.load(Ordering::SeqCst)
    }

    /// Sets whether every stream is refused unprocessed.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.state.refusing.store(refuse, Ordering::SeqCst);
    }

    /// Returns the number of refused streams.
    pub(crate) fn refused(&self) -> usize {
        self.state.refused.load(Ordering::SeqCst)
    }

    /// Returns the reasons of the resets that ended streams in `/hang`.
    pub(crate) fn resets(&self) -> Vec<Reason> {
        self.state.resets.lock().clone()
    }

    /// Returns the number of bytes that the latest request for `/unread` has sent.
    pub(crate) fn unread(&self) -> usize {
        self.state.unread.load(Ordering::SeqCst)
    }

    pub(crate) fn open_gate(&self) {
        self.state.gate.open();
    }

    /// Closes every connection gracefully (GOAWAY).
    pub(crate) fn leave(&self) {
        self.state.leave.send_modify(|times| *times += 1);
    }
}

impl Drop for Http2Backend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Dropped with this task, which closes all connections.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let _ = socket.set_nodelay(true);
        state.connections.fetch_add(1, Ordering::SeqCst);
        let state = Arc::clone(&state);
        connections.spawn(async move {
            match state.tls.clone() {
                None => serve(socket, state).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(socket).await {
                        serve(stream, state).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, state: Arc<State>) {
    let mut builder = server::Builder::new();
    if let Some(max) = state.max_streams {
        builder.max_concurrent_streams(max);
    }
    if state.websocket.load(Ordering::SeqCst) {
        builder.enable_connect_protocol();
    }
    match state.header_list.load(Ordering::SeqCst) {
        0 => {}
        size => {
            builder.max_header_list_size(size);
        }
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let mut leave = state.leave.subscribe();
    let (die, mut dies) = watch::channel(());
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let (state, die) = (Arc::clone(&state), die.clone());
                    tokio::spawn(async move { answer(request, respond, &state, &die).await });
                }
                _ => return,
            },
            Ok(()) = leave.changed() => connection.graceful_shutdown(),
            Ok(()) = dies.changed() => return,
        }
    }
}

/// Counts an open stream until dropped.
struct Counted<'a>(&'a State);

impl<'a> Counted<'a> {
    fn new(state: &'a State) -> Self {
        let now = state.streams.fetch_add(1, Ordering::SeqCst) + 1;
        state.most_streams.fetch_max(now, Ordering::SeqCst);
        Self(state)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Serves one stream. Returns `None` on errors: the peer has gone away.
async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    state: &State,
    die: &watch::Sender<()>,
) -> Option<()> {
    if state.refusing.load(Ordering::SeqCst) {
        state.refused.fetch_add(1, Ordering::SeqCst);
        respond.send_reset(Reason::REFUSED_STREAM);
        return None;
    }
    let _counted = Counted::new(state);
    let (parts, mut body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let tunnel = parts.extensions.get::<h2::ext::Protocol>().is_some();
    state.seen.lock().push(Request::from_parts(parts, ()));
    let response = || Response::builder().header("x-backend", &state.name);
    let named = response().body(()).ok()?;
    match path.as_str() {
        "/refuse" => {
            respond.send_response(response().status(403).body(()).ok()?, true).ok()?;
        }
        path if path == "/echo" || tunnel => {
            let mut stream = respond.send_response(named, false).ok()?;
            while let Some(piece) = body.data().await {
                let mut piece = piece.ok()?;
                let _ = body.flow_control().release_capacity(piece.len());
                while !piece.is_empty() {
                    stream.reserve_capacity(piece.len());
                    let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
                    stream.send_data(piece.split_to(room.min(piece.len())), false).ok()?;
                }
            }
            if tunnel {
                stream.send_data(Bytes::new(), true).ok()?;
                return Some(());
            }
            let mut trailers = body.trailers().await.ok()?.unwrap_or_default();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            stream.send_trailers(trailers).ok()?;
        }
        "/hints" => {
            let hints = Response::builder().status(103).header("link", "</a.css>").body(()).ok()?;
            respond.send_informational(hints).ok()?;
            respond.send_response(named, true).ok()?;
        }
        "/gate" => {
            state.gate.opened().await;
            respond.send_response(named, true).ok()?;
        }
        "/unread" => loop {
            state.unread.store(body.flow_control().used_capacity(), Ordering::SeqCst);
            tokio::select! {
                _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => return None,
                () = tokio::time::sleep(std::time::Duration::from_millis(5)) => {}
            }
        },
        "/hang" => {
            let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            state.resets.lock().push(reason.ok()?);
        }
        "/cut" => {
            let mut stream = respond.send_response(named, false).ok()?;
            stream.send_data(Bytes::from_static(b"part"), false).ok()?;
            // Not before the data has been sent.
            state.gate.opened().await;
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
        "/reset" => respond.send_reset(Reason::INTERNAL_ERROR),
        "/short" => {
            let short = response().header("content-length", "5").body(()).ok()?;
            let mut stream = respond.send_response(short, false).ok()?;
            stream.send_data(Bytes::from_static(b"abc"), true).ok()?;
        }
        "/only" => {
            let only = response().header("grpc-status", "12").body(()).ok()?;
            respond.send_response(only, true).ok()?;
        }
        "/die" => {
            let _ = die.send(());
            // Keep the stream from being reset before the connection closes.
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        }
        path if path.starts_with("/bytes/") => {
            let mut left: usize = path["/bytes/".len()..].parse().ok()?;
            let sized = response().header("content-length", left).body(()).ok()?;
            let mut stream = respond.send_response(sized, false).ok()?;
            while left > 0 {
                stream.reserve_capacity(left.min(16_384));
                let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?.min(left);
                left -= room;
                stream.send_data(Bytes::from(vec![b'x'; room]), left == 0).ok()?;
            }
        }
        path if path.starts_with("/drips/") => {
            let mut stream = respond.send_response(named, false).ok()?;
            for _ in 0..path["/drips/".len()..].parse().ok()? {
                stream.reserve_capacity(1);
                std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
                stream.send_data(Bytes::from_static(b"x"), false).ok()?;
            }
            let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
        }
        path => {
            if let Some(status) = path.strip_prefix("/status/") {
                let bare = response().status(status.parse::<u16>().ok()?).body(()).ok()?;
                respond.send_response(bare, true).ok()?;
            } else {
                let sized = response().header("content-length", state.name.len()).body(()).ok()?;
                let mut stream = respond.send_response(sized, false).ok()?;
                stream.send_data(Bytes::from(state.name.clone()), true).ok()?;
            }
        }
    }
    Some(())
}

/// A complete response.
#[derive(Debug)]
pub(crate) struct Http2Response {
    pub(crate) head: Response<()>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
    /// Whether the stream ended with the response head.
    pub(crate) bare: bool,
}

/// A client on one connection. Unlike `H2Client`, it sends trailers and returns responses unchecked.
#[derive(Clone)]
pub(crate) struct Http2Client(SendRequest<Bytes>);

impl Http2Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let socket = in_time("a connection", TcpStream::connect(address)).await.expect("connect");
        let (send, connection) = h2::client::handshake(socket).await.expect("a handshake");
        tokio::spawn(async move {
            // Errors surface on the streams.
            let _ = connection.await;
        });
        Self(send)
    }

    /// Sends a request, with trailers unless they are empty. Returns the response, or the error that
    /// ended the stream.
    pub(crate) async fn ask(
        &self,
        request: Request<()>,
        body: &[u8],
        trailers: HeaderMap,
    ) -> Result<Http2Response, h2::Error> {
        in_time("a response", self.ask_at_ease(request, body, trailers)).await
    }

    async fn ask_at_ease(
        &self,
        request: Request<()>,
        body: &[u8],
        trailers: HeaderMap,
    ) -> Result<Http2Response, h2::Error> {
        let ended = body.is_empty() && trailers.is_empty();
        let mut send = self.0.clone().ready().await?;
        let (response, mut stream) = send.send_request(request, ended)?;
        let sending = async {
            if ended {
                return Ok(());
            }
            let mut left = Bytes::copy_from_slice(body);
            while !left.is_empty() {
                stream.reserve_capacity(left.len());
                let Some(room) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { break };
                stream.send_data(left.split_to(room?.min(left.len())), false)?;
            }
            stream.send_trailers(trailers)
        };
        let receiving = async {
            let (parts, mut recv) = response.await?.into_parts();
            let (bare, mut body) = (recv.is_end_stream(), Vec::new());
            while let Some(piece) = recv.data().await {
                let piece = piece?;
                let _ = recv.flow_control().release_capacity(piece.len());
                body.extend_from_slice(&piece);
            }
            let trailers = recv.trailers().await?.unwrap_or_default();
            Ok::<_, h2::Error>(Http2Response { head: Response::from_parts(parts, ()), body, trailers, bare })
        };
        let (_, received) = tokio::join!(sending, receiving);
        received
    }
}
