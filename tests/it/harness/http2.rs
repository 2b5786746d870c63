//! An HTTP/2 client on the `h2` crate. `frames` is for frames that `h2` would not send.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request};
use tokio::task::JoinHandle;

use super::message::{Fields, Response};
use super::raw::RawClient;
use super::wait::in_time;

/// A client connection.
pub(crate) struct H2Client {
    send: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
    origin: String,
}

/// A stream of an [`H2Client`].
pub(crate) struct H2Stream {
    response: ResponseFuture,
    pub(crate) send: SendStream<Bytes>,
}

impl H2Client {
    /// Connects without TLS, by prior knowledge.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(RawClient::connect(address).await, "http://t", &Self::builder()).await
    }

    /// Returns the settings of a well-behaved client: until it has the server's settings, it opens
    /// no more than the recommended minimum of 100 streams (RFC 9113 §6.5.2).
    pub(crate) fn builder() -> Builder {
        let mut builder = Builder::new();
        builder.initial_max_send_streams(100);
        builder
    }

    /// Starts HTTP/2 on an open connection. `origin` is the scheme and authority of requests.
    pub(crate) async fn over(raw: RawClient, origin: &str, builder: &Builder) -> Self {
        let handshake = builder.handshake(raw.into_wire());
        let (send, connection) = in_time("a handshake", handshake).await.expect("a handshake");
        Self { send, driver: tokio::spawn(connection), origin: origin.to_owned() }
    }

    /// Returns a request builder.
    pub(crate) fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("{}{path}", self.origin))
    }

    /// Opens a stream as soon as the server allows another.
    pub(crate) async fn try_open(
        &self,
        request: http::request::Builder,
        end: bool,
    ) -> Result<H2Stream, h2::Error> {
        let mut send = in_time("a free stream", self.send.clone().ready()).await?;
        let (response, send) = send.send_request(request.body(()).expect("a request"), end)?;
        Ok(H2Stream { response, send })
    }

    pub(crate) async fn open(&self, request: http::request::Builder, end: bool) -> H2Stream {
        self.try_open(request, end).await.expect("a stream")
    }

    /// Opens a WebSocket once the server has enabled extended CONNECT.
    pub(crate) async fn websocket(&self, path: &str, fields: &[(&str, &str)]) -> H2Stream {
        super::wait::eventually("the server enables extended CONNECT", async || {
            self.send.is_extended_connect_protocol_enabled()
        })
        .await;
        let request = self.request("CONNECT", path).header("sec-websocket-version", "13");
        let request = request.extension(h2::ext::Protocol::from_static("websocket"));
        self.open(with_fields(request, fields), false).await
    }

    pub(crate) async fn get(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        self.open(with_fields(self.request("GET", path), fields), true).await.response().await
    }

    /// Sends a POST with this body and no `content-length`.
    pub(crate) async fn post(&self, path: &str, body: &[u8]) -> Response {
        let mut stream = self.open(self.request("POST", path), false).await;
        // A server that responds early may refuse the rest.
        let _ = stream.send(body, true).await;
        stream.response().await
    }

    /// Waits for the end of the connection and returns its error, if any.
    pub(crate) async fn ended(self) -> Result<(), h2::Error> {
        in_time("the end of the connection", self.driver).await.expect("connection task")
    }

    /// Whether the connection is still open.
    pub(crate) fn is_open(&self) -> bool {
        !self.driver.is_finished()
    }

    /// Drops the connection without a GOAWAY.
    pub(crate) async fn vanish(self) {
        self.driver.abort();
        let _ = self.driver.await;
    }
}

impl H2Stream {
    /// Sends part of the body, within the server's flow-control window.
    pub(crate) async fn send(&mut self, bytes: &[u8], end: bool) -> Result<(), h2::Error> {
        let mut left = Bytes::copy_from_slice(bytes);
        while !left.is_empty() {
            self.send.reserve_capacity(left.len());
            let room = match in_time("window capacity", poll_fn(|cx| self.send.poll_capacity(cx))).await {
                Some(room) => room?,
                None => return Err(Reason::STREAM_CLOSED.into()),
            };
            let piece = left.split_to(room.min(left.len()));
            let last = end && left.is_empty();
            self.send.send_data(piece, last)?;
        }
        if end && bytes.is_empty() {
            self.send.send_data(Bytes::new(), true)?;
        }
        Ok(())
    }

    /// Returns the next interim response; `None` once the final response has arrived.
    pub(crate) async fn interim(&mut self) -> Option<Response> {
        let interim = poll_fn(|cx| match self.response.poll_informational(cx) {
            Poll::Ready(Some(Ok(interim))) => Poll::Ready(Some(interim)),
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        in_time("an interim response", interim).await.map(|head| response_of(&head))
    }

    /// Returns the response head with its interim responses, and the body stream.
    pub(crate) async fn try_head(&mut self) -> Result<(Response, RecvStream), h2::Error> {
        let mut interim = Vec::new();
        let head = poll_fn(|cx| {
            while let Poll::Ready(Some(Ok(head))) = self.response.poll_informational(cx) {
                interim.push(response_of(&head));
            }
            Pin::new(&mut self.response).poll(cx)
        });
        let (parts, body) = in_time("a response", head).await?.into_parts();
        let head = response_of(&http::Response::from_parts(parts, ()));
        Ok((Response { interim, ..head }, body))
    }

    pub(crate) async fn head(&mut self) -> (Response, RecvStream) {
        self.try_head().await.expect("a response")
    }

    /// Returns the complete response.
    pub(crate) async fn try_response(mut self) -> Result<Response, h2::Error> {
        let (mut response, mut body) = self.try_head().await?;
        response.body = rest(&mut body).await?;
        let trailers = in_time("trailers", poll_fn(|cx| body.poll_trailers(cx))).await?;
        response.trailers = trailers.as_ref().map(fields_of).unwrap_or_default();
        Ok(response)
    }

    pub(crate) async fn response(self) -> Response {
        self.try_response().await.expect("a complete response")
    }
}

/// Reads exactly this many bytes of a body.
pub(crate) async fn exactly(body: &mut RecvStream, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let piece = in_time("data", body.data()).await.expect("data").expect("data");
        body.flow_control().release_capacity(piece.len()).expect("release");
        bytes.extend_from_slice(&piece);
    }
    assert_eq!(bytes.len(), count, "more data than expected");
    bytes
}

/// Reads a body to its end.
pub(crate) async fn rest(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = in_time("data", body.data()).await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len()).expect("release");
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

pub(crate) fn with_fields(
    request: http::request::Builder,
    fields: &[(&str, &str)],
) -> http::request::Builder {
    fields.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

fn response_of(head: &http::Response<()>) -> Response {
    let fields = fields_of(head.headers());
    for name in ["connection", "transfer-encoding", "upgrade", "keep-alive", "sec-websocket-accept"] {
        assert!(!fields.has(name), "{name} is not allowed in HTTP/2: {fields:?}");
    }
    Response::of(head.status().as_u16(), fields)
}

fn fields_of(map: &HeaderMap) -> Fields {
    let text = |value: &[u8]| value.iter().map(|b| char::from(*b)).collect();
    Fields(map.iter().map(|(name, value)| (name.as_str().to_owned(), text(value.as_bytes()))).collect())
}
