//! Bridges a client's stream: to the pipeline, it is a connection with one HTTP/1.1 exchange.

use std::error::Error;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use ::h2::ext::Protocol;
use ::h2::server::SendResponse;
use ::h2::{Reason, RecvStream};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap};
use http::{Method, Request, Response, StatusCode};

use crate::h1::Framing;
use crate::proxy::bridge::head::{self, Malformed, ResponseText};
use crate::proxy::bridge::inlet::{self, Inlet};
use crate::proxy::bridge::observer::{FIELD, Mark, Marks};
use crate::proxy::bridge::outlet::{Outlet, Payload};
use crate::proxy::bridge::unsent::Unsent;
use crate::proxy::wire::stream::{Bridge, Refusal};
use crate::proxy::wire::websocket;

/// The size of `:status` in a list of headers.
const STATUS_SIZE: usize = ":status".len() + "200".len() + FIELD;

/// A stream that a client has opened.
pub(crate) struct ClientStream {
    inlet: Inlet,
    respond: SendResponse<Bytes>,
    /// An incomplete response head.
    text: Vec<u8>,
    state: ResponseState,
    /// Whether the request method is HEAD.
    head_only: bool,
    /// What the client accepts.
    marks: Rc<Marks>,
    /// The expected Sec-WebSocket-Accept, if the client requested a WebSocket.
    accept: Option<String>,
    /// The connection's unsent frames.
    unsent: Unsent,
}

/// The state of the response.
enum ResponseState {
    /// Waiting for the head.
    Head,
    Body(Outlet),
    Tunnel(Outlet),
    /// The client got a 502 instead of the backend's response.
    Refused(Refusal),
}

impl ClientStream {
    /// Creates a bridged stream. `random` supplies the WebSocket key; `unsent` is the connection's.
    ///
    /// # Errors
    /// If HTTP/1.1 cannot express the request. The stream is then already reset.
    pub(crate) fn new(
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        mark: Mark,
        random: impl Fn() -> u64,
        unsent: Unsent,
    ) -> Result<Self, Malformed> {
        if mark.take() {
            respond.send_reset(Reason::PROTOCOL_ERROR);
            return Err(Malformed("fragment in :path"));
        }
        let (parts, recv) = request.into_parts();
        let protocol = parts.extensions.get::<Protocol>();
        let websocket = protocol.is_some_and(|protocol| protocol.as_str() == "websocket");
        let key = websocket.then(|| {
            let bytes = [random().to_ne_bytes(), random().to_ne_bytes()];
            BASE64_STANDARD.encode(bytes.as_flattened())
        });
        let body = !websocket && !recv.is_end_stream();
        let mut text = Vec::with_capacity(1024);
        head::write_request(&mut text, &parts, body, key.as_deref())
            .inspect_err(|_| respond.send_reset(Reason::PROTOCOL_ERROR))?;
        let framing = if body && !parts.headers.contains_key(CONTENT_LENGTH) {
            inlet::Framing::Chunked
        } else {
            inlet::Framing::Raw
        };
        Ok(Self {
            marks: Rc::clone(&mark.marks),
            inlet: Inlet::new(recv, text, framing).with_mark(mark),
            respond,
            text: Vec::new(),
            state: ResponseState::Head,
            head_only: parts.method == Method::HEAD,
            accept: key.as_deref().map(websocket::accept_key),
            unsent,
        })
    }

    /// Refuses the request. The client may send it again (RFC 9113 §8.7).
    pub(crate) fn refuse_stream(&mut self) {
        self.respond.send_reset(Reason::REFUSED_STREAM);
    }

    fn is_tunnel(&self) -> bool {
        matches!(self.state, ResponseState::Tunnel(_))
    }

    /// Handles the end of the client's data. For a tunnel this is EOF. Otherwise the client waits
    /// for the response, and an error is ready once it resets the stream.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let gone = match &mut self.state {
            ResponseState::Refused(_) => Poll::Ready(()),
            ResponseState::Tunnel(_) => return Poll::Ready(Ok(0)),
            ResponseState::Body(outlet) => outlet.poll_reset(cx),
            ResponseState::Head => self.respond.poll_reset(cx).map(|_| ()),
        };
        gone.map(|()| Err(io::ErrorKind::ConnectionReset.into()))
    }

    /// Resets the stream if the request turned out to be malformed.
    fn reset_malformed(&mut self, error: io::Error) -> io::Error {
        if error.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<Malformed>) {
            match &mut self.state {
                ResponseState::Head => self.respond.send_reset(Reason::PROTOCOL_ERROR),
                ResponseState::Body(outlet) | ResponseState::Tunnel(outlet) => {
                    outlet.abort(Reason::PROTOCOL_ERROR);
                }
                ResponseState::Refused(_) => {}
            }
        }
        error
    }

    /// Buffers bytes of the head. Sends the head once it is complete.
    fn write_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before = self.text.len();
        self.text.extend_from_slice(bytes);
        let Some(end) = head::find_end(&self.text, before) else { return Ok(bytes.len()) };
        let response = ResponseText::parse(&self.text[..end], self.head_only);
        self.send_head(response.ok_or(io::ErrorKind::InvalidData)?).map_err(io::Error::other)?;
        self.text.clear();
        Ok(end - before)
    }

    fn send_head(&mut self, response: ResponseText) -> Result<(), ::h2::Error> {
        let ResponseText { status, fields, framing, accept } = response;
        if !self.marks.accept(&fields, STATUS_SIZE) {
            // Interim responses are not needed.
            let interim = status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS;
            return if interim { Ok(()) } else { self.refuse(Refusal::LargeHead) };
        }
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            return self.respond.send_informational(with_head(status, fields));
        }
        let (status, payload) = match &self.accept {
            Some(expected) if status == StatusCode::SWITCHING_PROTOCOLS => {
                if accept.is_none_or(|accept| accept.as_bytes() != expected.as_bytes()) {
                    return self.refuse(Refusal::NoTunnel);
                }
                (StatusCode::OK, Payload::Raw)
            }
            // A 2xx response would tell the client that the tunnel is open.
            Some(_) if status.is_success() => return self.refuse(Refusal::NoTunnel),
            _ if matches!(framing, Framing::None | Framing::Length(0)) => (status, Payload::Ended),
            _ => (status, Payload::Framed(head::body(framing))),
        };
        let (ended, tunnel) = (matches!(payload, Payload::Ended), matches!(payload, Payload::Raw));
        let stream = self.respond.send_response(with_head(status, fields), ended)?;
        let outlet = Outlet::new(stream, payload, self.unsent.clone());
        self.state = if tunnel { ResponseState::Tunnel(outlet) } else { ResponseState::Body(outlet) };
        Ok(())
    }

    /// Sends a 502 instead of the response.
    fn refuse(&mut self, refusal: Refusal) -> Result<(), ::h2::Error> {
        self.state = ResponseState::Refused(refusal);
        self.respond.send_response(with_head(StatusCode::BAD_GATEWAY, HeaderMap::new()), true)?;
        Ok(())
    }
}

impl Bridge for ClientStream {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.inlet.poll_read(cx, into) {
            Poll::Ready(Ok(0)) => self.poll_end(cx),
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.reset_malformed(error))),
            other => other,
        }
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.inlet.poll_fill(cx) {
            Poll::Ready(Ok(false)) => self.poll_end(cx).map_ok(|_| ()),
            other => other.map_ok(|_| ()),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.state {
            ResponseState::Head => Poll::Ready(self.write_head(bytes)),
            ResponseState::Body(outlet) | ResponseState::Tunnel(outlet) => outlet.poll_write(cx, bytes),
            ResponseState::Refused(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Accepted bytes fit the flow-control window. The connection's task sends them.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match &mut self.state {
            ResponseState::Tunnel(outlet) => outlet.shutdown(),
            ResponseState::Head | ResponseState::Body(_) | ResponseState::Refused(_) => Ok(()),
        })
    }

    fn abort(&mut self) {
        match &mut self.state {
            ResponseState::Head => self.respond.send_reset(Reason::INTERNAL_ERROR),
            ResponseState::Tunnel(outlet) => outlet.abort(Reason::CONNECT_ERROR),
            ResponseState::Body(outlet) => outlet.abort(Reason::INTERNAL_ERROR),
            ResponseState::Refused(_) => {}
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<()> {
        let ResponseState::Body(outlet) = &mut self.state else { return Poll::Ready(()) };
        if outlet.poll_reset(cx).is_ready() {
            return Poll::Ready(());
        }
        self.inlet.poll_drain(cx, left)
    }

    fn refusal(&self) -> Option<Refusal> {
        match self.state {
            ResponseState::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

impl fmt::Debug for ClientStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientStream")
            .field("id", &self.respond.stream_id())
            .field("tunnel", &self.is_tunnel())
            .finish_non_exhaustive()
    }
}

fn with_head(status: StatusCode, fields: HeaderMap) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    response
}
