//! What can go wrong with a request, whose fault it is, what the client is
//! told, and whether another attempt is safe. Errors become responses here
//! and nowhere else.

use crate::affinity::pick::Reason;
use crate::h1::{BodyError, HeadError};
use crate::proxy::backend::connect_error::ConnectError;
use crate::proxy::wire::transfer::TransferError;

/// Why a request was not answered by a backend, or not to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    /// The request's head is not right.
    #[error("request head: {0}")]
    RequestHead(HeadError),
    /// The request's head did not come to its end in time.
    #[error("the request head took too long")]
    RequestHeadTimeout,
    /// The request's body is not framed right.
    #[error("request body: {0}")]
    RequestBody(BodyError),
    /// The request's body is larger than the limit.
    #[error("the request body is too large")]
    RequestBodyTooLarge,
    /// The request's body stopped coming.
    #[error("the request body stalled")]
    RequestBodyTimeout,
    /// The request's body comes too slowly.
    #[error("the request body comes too slowly")]
    RequestBodyTooSlow,
    /// The client closed or broke its connection.
    #[error("the client is gone")]
    ClientGone,
    /// The client does not take its response.
    #[error("the client does not read")]
    ClientStalled,
    /// The client takes its response too slowly.
    #[error("the client reads too slowly")]
    ClientTooSlow,
    /// The client has named another host in its TLS handshake, and the
    /// certificate that it got is not for this one.
    #[error("the host is not the one of the TLS handshake")]
    Misdirected,
    /// No route takes the request's host and path.
    #[error("no route takes this host and path")]
    NoRoute,
    /// Nobody may serve the session now.
    #[error("no backend may serve this session")]
    Unavailable(Option<Reason>),
    /// The backend has no place left.
    #[error("the backend is at its limit")]
    Saturated,
    /// Homing has no descriptor left for a connection to the backend.
    #[error("no file descriptor is left")]
    NoDescriptors,
    /// The backend could not be connected to.
    #[error("connect: {0}")]
    Connect(#[source] ConnectError),
    /// The backend's TLS is not as configured, or broke off.
    #[error("TLS with the backend: {0}")]
    BackendTls(#[source] ConnectError),
    /// It did not accept in time.
    #[error("connect timed out")]
    ConnectTimeout,
    /// The backend closed or broke its connection before its response.
    #[error("the backend closed before its response")]
    BackendClosed {
        /// Was it a connection that had served before?
        reused: bool,
    },
    /// The backend speaks another protocol than it should.
    #[error("{0}")]
    NotHttp2(#[source] ConnectError),
    /// The backend has not looked at the request, and said so (HTTP/2).
    #[error("the backend did not take the request")]
    BackendRefused {
        /// Is all of the request there, to be sent again?
        replayable: bool,
        /// Is it only that the connection is about to end?
        going_away: bool,
    },
    /// The backend has broken off the request's stream (HTTP/2).
    #[error("the backend reset the stream")]
    BackendReset,
    /// The response is not right (HTTP/2).
    #[error("the response is malformed")]
    ResponseMalformed,
    /// HTTP/2 cannot say what the request is for.
    #[error("the request cannot be sent over HTTP/2")]
    Unsendable,
    /// A tunnel was asked for, which the backend's protocol has not.
    #[error("no tunnel leads over HTTP/2 to a backend")]
    NoTunnel,
    /// The response's head did not come in time.
    #[error("the response head took too long")]
    ResponseHeadTimeout,
    /// The response's head is not right.
    #[error("response head: {0}")]
    ResponseHead(HeadError),
    /// The backend sends interim responses (1xx) without end.
    #[error("too many interim responses")]
    TooManyInterim,
    /// The backend upgrades a connection that was not asked to be.
    #[error("the backend switched protocols unasked")]
    UnaskedUpgrade,
    /// The backend was asked for a WebSocket and answered something else that
    /// looks like success.
    #[error("the backend did not open the WebSocket")]
    NoUpgrade,
    /// The backend broke off in its response.
    #[error("the backend broke off in its response")]
    ResponseTruncated,
    /// The response's body is not framed right.
    #[error("response body: {0}")]
    ResponseBody(BodyError),
    /// The response's body stopped coming.
    #[error("the response body stalled")]
    ResponseBodyTimeout,
}

impl From<ConnectError> for ProxyError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::TimedOut => Self::ConnectTimeout,
            ConnectError::NoDescriptors => Self::NoDescriptors,
            ConnectError::NotHttp2(_) => Self::NotHttp2(error),
            ConnectError::Tls(_) => Self::BackendTls(error),
            ConnectError::Io(_) => Self::Connect(error),
        }
    }
}

impl ProxyError {
    /// What a failed transfer of the request's body means; the client is its source.
    pub(crate) fn of_upload(error: &TransferError) -> Self {
        match error {
            // The sink is the backend; it is told apart where it matters.
            TransferError::Source | TransferError::Sink => Self::ClientGone,
            TransferError::Framing(error) => Self::RequestBody(*error),
            TransferError::TooLarge => Self::RequestBodyTooLarge,
        }
    }

    /// What a failed transfer of the response's body means; the client is its sink.
    pub(crate) fn of_download(error: &TransferError) -> Self {
        match error {
            TransferError::Source => Self::ResponseTruncated,
            TransferError::Framing(error) => Self::ResponseBody(*error),
            TransferError::Sink | TransferError::TooLarge => Self::ClientGone,
        }
    }

    /// The status the client is told, while it can be told any; 499 stands in
    /// the log for a client that was gone.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::RequestHead(error) => error.status(),
            Self::RequestBody(error) => error.status(),
            Self::RequestHeadTimeout | Self::RequestBodyTimeout | Self::RequestBodyTooSlow => 408,
            Self::RequestBodyTooLarge => 413,
            Self::ClientGone | Self::ClientStalled | Self::ClientTooSlow => 499,
            Self::Unsendable => 400,
            Self::NoTunnel => 501,
            Self::NoRoute => 404,
            Self::Misdirected => 421,
            // Nothing was sent, and whoever else might serve was asked: it is worth another try.
            Self::Unavailable(_)
            | Self::Saturated
            | Self::NoDescriptors
            | Self::Connect(_)
            | Self::BackendRefused { replayable: true, .. } => 503,
            Self::BackendTls(_)
            | Self::NotHttp2(_)
            | Self::BackendRefused { replayable: false, .. }
            | Self::BackendReset
            | Self::ResponseMalformed
            | Self::BackendClosed { .. }
            | Self::ResponseHead(_)
            | Self::TooManyInterim
            | Self::UnaskedUpgrade
            | Self::NoUpgrade
            | Self::ResponseTruncated
            | Self::ResponseBody(_) => 502,
            Self::ConnectTimeout | Self::ResponseHeadTimeout | Self::ResponseBodyTimeout => 504,
        }
    }

    /// One word for logs and metrics.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::RequestHead(error) => error.code(),
            Self::RequestBody(_) => "request_body_malformed",
            Self::RequestHeadTimeout => "request_head_timeout",
            Self::RequestBodyTimeout => "request_body_timeout",
            Self::RequestBodyTooLarge => "request_body_too_large",
            Self::RequestBodyTooSlow => "request_body_too_slow",
            Self::ClientGone => "client_gone",
            Self::ClientTooSlow => "client_too_slow",
            Self::ClientStalled => "client_stalled",
            Self::NoRoute => "no_route",
            Self::Misdirected => "misdirected",
            Self::Unavailable(_) => "unavailable",
            Self::Saturated => "saturated",
            Self::NoDescriptors => "out_of_descriptors",
            Self::Connect(_) => "connect_failed",
            Self::BackendTls(_) => "backend_tls_failed",
            Self::NotHttp2(_) => "backend_not_http2",
            Self::BackendRefused { .. } => "backend_refused",
            Self::BackendReset => "backend_reset",
            Self::ResponseMalformed => "response_malformed",
            Self::Unsendable => "request_not_for_http2",
            Self::NoTunnel => "no_tunnel",
            Self::ConnectTimeout => "connect_timeout",
            Self::BackendClosed { .. } => "backend_closed",
            Self::ResponseHead(_) => "response_head_malformed",
            Self::ResponseHeadTimeout => "response_head_timeout",
            Self::TooManyInterim => "too_many_interim",
            Self::UnaskedUpgrade => "unasked_upgrade",
            Self::NoUpgrade => "no_upgrade",
            Self::ResponseTruncated => "response_truncated",
            Self::ResponseBody(_) => "response_body_malformed",
            Self::ResponseBodyTimeout => "response_body_timeout",
        }
    }

    /// Does it count against the backend?
    pub(crate) fn counts_against_backend(&self) -> bool {
        match self {
            Self::Connect(_)
            | Self::BackendTls(_)
            | Self::NotHttp2(_)
            | Self::BackendReset
            | Self::ResponseMalformed
            | Self::ConnectTimeout
            | Self::ResponseHeadTimeout
            | Self::ResponseHead(_)
            | Self::TooManyInterim
            | Self::UnaskedUpgrade
            | Self::NoUpgrade
            | Self::ResponseTruncated
            | Self::ResponseBody(_)
            | Self::ResponseBodyTimeout => true,
            // A connection that had served before may close at any time.
            Self::BackendClosed { reused } => !reused,
            _ => false,
        }
    }

    /// Did it come after the connection: may it be of this request and no other?
    pub(crate) fn came_after_connecting(&self) -> bool {
        !matches!(self, Self::Connect(_) | Self::BackendTls(_) | Self::NotHttp2(_) | Self::ConnectTimeout)
    }

    /// May the request go on to another attempt? Nothing of it was processed if
    /// there was no connection; if a connection closed without a word, the backend
    /// may have died at work: only what may be done twice is sent again.
    pub(crate) fn allows_retry(&self, replayable: bool) -> bool {
        match self {
            Self::Connect(_) | Self::BackendTls(_) | Self::NotHttp2(_) | Self::ConnectTimeout => true,
            // Not processed either; but what is not kept cannot be sent again.
            Self::BackendRefused { replayable, .. } => *replayable,
            Self::BackendClosed { .. } => replayable,
            _ => false,
        }
    }
}
