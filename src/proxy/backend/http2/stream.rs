//! A bridged stream to a backend. The pipeline sees a connection that takes one HTTP/1.1 request
//! and returns an HTTP/1.1 response.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::h2::client::ResponseFuture;
use ::h2::{Reason, RecvStream};
use http::{Method, Request, Response, StatusCode};
use tokio::time::Instant;

use super::links::StreamPermit;
use super::unfinished::Tail;
use crate::h1::Framing;
use crate::proxy::backend::lease::BackendStream;
use crate::proxy::bridge::head::{self, Malformed};
use crate::proxy::bridge::inlet::{self, Inlet};
use crate::proxy::bridge::observer::{FIELD, Mark};
use crate::proxy::bridge::outlet::{Outlet, Payload};
use crate::proxy::bridge::request_text::RequestText;
use crate::proxy::wire::stream::{Bridge, Stream};
use crate::proxy::wire::websocket;

/// A request that is cancelled before its response, or sooner than this, was cancelled early.
const EARLY: Duration = Duration::from_secs(1);

/// A stream to a backend. It is opened once the request head was written.
struct BackendSide {
    permit: StreamPermit,
    /// The request head until it is complete; after that, the head of an interim response.
    text: Vec<u8>,
    /// Bytes of the interim response already read.
    read: usize,
    /// Whether the response has no body (HEAD).
    head_only: bool,
    /// The Sec-WebSocket-Accept of the response, if the request asks for a WebSocket.
    accept: Option<String>,
    outlet: Option<Outlet>,
    response: ResponseState,
    /// When the request got the stream.
    since: Instant,
}

/// The state of the response.
enum ResponseState {
    /// The request head is not complete.
    NoRequest,
    /// The request was sent; the final response head has not arrived.
    Awaited(ResponseFuture),
    /// The final head arrived; head and body are read from here.
    Arriving(Inlet),
    /// There will be no response.
    Failed(io::ErrorKind),
}

/// Turns a permit into a backend connection for one request.
pub(crate) fn bridged(permit: StreamPermit) -> BackendStream {
    let usage = permit.usage();
    BackendStream::shared(Stream::Bridged(Box::new(BackendSide::new(permit))), usage)
}

impl BackendSide {
    fn new(permit: StreamPermit) -> Self {
        Self {
            permit,
            text: Vec::new(),
            read: 0,
            head_only: false,
            accept: None,
            outlet: None,
            response: ResponseState::NoRequest,
            since: Instant::now(),
        }
    }

    /// Takes bytes of the request head. Opens the stream once the head is complete.
    fn write_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before = self.text.len();
        self.text.extend_from_slice(bytes);
        let Some(end) = head::find_end(&self.text, before) else { return Ok(bytes.len()) };
        let opened = self.open(end);
        self.text.clear();
        opened.map(|()| end - before)
    }

    /// Opens the stream with the head in `text[..end]`.
    fn open(&mut self, end: usize) -> io::Result<()> {
        self.response = ResponseState::Failed(io::ErrorKind::InvalidInput);
        let request = RequestText::parse(&self.text[..end], self.permit.scheme);
        let RequestText { request, framing, websocket } = request.ok_or(io::ErrorKind::InvalidInput)?;
        self.head_only = request.method() == Method::HEAD;
        self.accept = websocket.as_deref().map(websocket::accept_key);
        let payload = match framing {
            _ if self.accept.is_some() => Payload::Raw,
            Framing::None | Framing::Length(0) => Payload::Ended,
            framing => Payload::Framed(head::body(framing)),
        };
        let ended = matches!(payload, Payload::Ended);
        if !self.permit.link.marks.accept(request.headers(), pseudo_size(&request)) {
            self.response = ResponseState::Failed(io::ErrorKind::FileTooLarge);
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut send = self.permit.link.send.clone();
        if self.accept.is_some() && !send.is_extended_connect_protocol_enabled() {
            self.response = ResponseState::Failed(io::ErrorKind::Unsupported);
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (response, stream) = send.send_request(request, ended).map_err(|error| {
            if error.is_io() || error.is_go_away() {
                // The connection has ended in the meantime, before it sent the request.
                self.response = ResponseState::Failed(io::ErrorKind::NotConnected);
            }
            io::Error::other(error)
        })?;
        if !ended {
            self.permit.begin_upload();
        }
        self.outlet = Some(Outlet::new(stream, payload, self.permit.link.unsent.clone()));
        self.response = ResponseState::Awaited(response);
        Ok(())
    }

    /// Waits until there are bytes to read. Ready with false at the end of the response.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            if self.read < self.text.len() {
                return Poll::Ready(Ok(true));
            }
            match &mut self.response {
                // No request was sent, so there is no response.
                ResponseState::NoRequest => return Poll::Ready(Ok(false)),
                ResponseState::Failed(kind) => return Poll::Ready(Err((*kind).into())),
                ResponseState::Arriving(inlet) => return inlet.poll_fill(cx),
                ResponseState::Awaited(_) => {
                    if let Err(error) = ready!(self.poll_head(cx)) {
                        self.response = ResponseState::Failed(error.kind());
                        return Poll::Ready(Err(error));
                    }
                }
            }
        }
    }

    /// Reads the next response head, interim or final.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ResponseState::Awaited(response) = &mut self.response else { return Poll::Ready(Ok(())) };
        self.text.clear();
        self.read = 0;
        if let Some(interim) = ready!(response.poll_informational(cx)) {
            let interim = interim.map_err(io::Error::other)?;
            return Poll::Ready(
                head::write_response(&mut self.text, &interim, head::Ending::Interim)
                    .map_err(io::Error::other),
            );
        }
        let response = ready!(Pin::new(response).poll(cx)).map_err(io::Error::other)?;
        self.permit.link.response_arrived();
        self.response = ResponseState::Arriving(self.begin(response).map_err(io::Error::other)?);
        Poll::Ready(Ok(()))
    }

    /// Writes the final response head as HTTP/1.1 and returns the reader for head and body.
    fn begin(&mut self, response: Response<RecvStream>) -> Result<Inlet, Malformed> {
        let (parts, recv) = response.into_parts();
        let mark = Mark { marks: Rc::clone(&self.permit.link.marks), stream: recv.stream_id().into() };
        if mark.take() {
            return Err(Malformed("request pseudo-header in a response"));
        }
        let mut response = Response::from_parts(parts, ());
        let mut text = Vec::with_capacity(1024);
        if let Some(accept) = self.accept.take_if(|_| response.status().is_success()) {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            head::write_response(&mut text, &response, head::Ending::Tunnel(&accept))?;
            return Ok(Inlet::new(recv, text, inlet::Framing::Raw));
        }
        if let Some(outlet) = &mut self.outlet {
            // A tunnel that was refused.
            let _ = outlet.shutdown();
        }
        let bodiless = self.head_only || matches!(response.status().as_u16(), 204 | 304);
        let known = response.headers().contains_key(http::header::CONTENT_LENGTH);
        let ending = match (bodiless || known, recv.is_end_stream()) {
            (true, _) => head::Ending::Given,
            (false, true) => head::Ending::Empty,
            (false, false) => head::Ending::Chunked,
        };
        let framing = match ending {
            head::Ending::Chunked => inlet::Framing::Chunked,
            _ => inlet::Framing::Raw,
        };
        head::write_response(&mut text, &response, ending)?;
        Ok(Inlet::new(recv, text, framing).with_mark(mark))
    }
}

/// Returns the size of a request's pseudo-headers in a list of headers.
fn pseudo_size(request: &Request<()>) -> usize {
    let target = request.uri().to_string().len() + request.method().as_str().len();
    target + ":method:scheme:authority:path".len() + 4 * FIELD
}

impl Bridge for BackendSide {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if !ready!(self.poll_fill(cx))? {
            return Poll::Ready(Ok(0));
        }
        if let ResponseState::Arriving(inlet) = &mut self.response {
            return inlet.poll_read(cx, into);
        }
        let n = into.len().min(self.text.len() - self.read);
        into[..n].copy_from_slice(&self.text[self.read..self.read + n]);
        self.read += n;
        Poll::Ready(Ok(n))
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_fill(cx).map_ok(|_| ())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.outlet {
            None => Poll::Ready(self.write_head(bytes)),
            Some(outlet) => {
                let outcome = outlet.poll_write(cx, bytes);
                if let Poll::Ready(Ok(n)) = outcome {
                    self.permit.uploaded(n);
                }
                outcome
            }
        }
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Accepted bytes fit the flow-control window, and the connection's driver sends them.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.outlet.as_mut().map_or(Ok(()), Outlet::shutdown))
    }

    fn absorb(&mut self, cx: &mut Context<'_>) {
        if let ResponseState::Arriving(inlet) = &mut self.response {
            inlet.absorb(cx);
        }
    }

    fn abort(&mut self) {
        if let Some(outlet) = &mut self.outlet {
            outlet.abort(Reason::CANCEL);
        }
    }
}

impl Drop for BackendSide {
    fn drop(&mut self) {
        let Some(outlet) = self.outlet.take() else { return };
        let response = std::mem::replace(&mut self.response, ResponseState::NoRequest);
        let (tail, early) = match response {
            ResponseState::Awaited(response) => {
                // The backend may be dead.
                self.permit.link.request_abandoned(self.since);
                (Tail::Head(response), true)
            }
            ResponseState::Arriving(inlet) if !inlet.has_ended() || !outlet.has_ended() => {
                (Tail::Body(inlet.into_recv()), self.since.elapsed() < EARLY)
            }
            ResponseState::Arriving(_) => return self.permit.answered(),
            ResponseState::NoRequest | ResponseState::Failed(_) => return,
        };
        self.permit.abandon(tail, outlet, early);
    }
}

impl fmt::Debug for BackendSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendSide").field("link", &self.permit.link).finish_non_exhaustive()
    }
}
