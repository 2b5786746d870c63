//! The errors of a request: status, code, whether they count against the backend, and whether
//! another attempt is safe. This is the only place where errors get a status.

use crate::affinity::pick::Reason;
use crate::dial::connect_error::ConnectError;
use crate::h1::{BodyError, HeadError};
use crate::proxy::wire::transfer::TransferError;

/// Why a request got no complete response from a backend.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    /// The request head is malformed.
    #[error("invalid request head: {0}")]
    RequestHead(HeadError),
    /// The request head was not complete in time.
    #[error("request head timed out")]
    RequestHeadTimeout,
    /// The framing of the request body is malformed.
    #[error("invalid request body: {0}")]
    RequestBody(BodyError),
    /// The request body is larger than the limit.
    #[error("request body too large")]
    RequestBodyTooLarge,
    /// The client stopped sending the request body.
    #[error("request body timed out")]
    RequestBodyTimeout,
    /// The client sends the request body below the minimum rate.
    #[error("request body below the minimum rate")]
    RequestBodyTooSlow,
    /// The client closed or reset its connection.
    #[error("client disconnected")]
    ClientGone,
    /// The client stopped reading the response.
    #[error("client stopped reading")]
    ClientStalled,
    /// The client reads the response below the minimum rate.
    #[error("client reads below the minimum rate")]
    ClientTooSlow,
    /// The client named another host in its TLS handshake, and the certificate that it got does not
    /// cover this one.
    #[error("host does not match the TLS server name")]
    Misdirected,
    /// TRACE, which is not allowed.
    #[error("TRACE is not allowed")]
    TraceNotAllowed,
    /// The request has passed this process too often.
    #[error("request loop")]
    Loop,
    /// Homing shuts down, and a tunnel or event stream may not begin or go on.
    #[error("shutting down")]
    Stopping,
    /// No route matches the request's host and path.
    #[error("no matching route")]
    NoRoute,
    /// No backend may serve the session now.
    #[error("no backend available")]
    Unavailable(Option<Reason>),
    /// The backend is at its connection limit.
    #[error("backend is at its connection limit")]
    Saturated,
    /// Homing is out of file descriptors for a connection to the backend.
    #[error("out of file descriptors")]
    NoDescriptors,
    /// The client has cancelled many requests or left uploads unread, and has filled the HTTP/2
    /// connections that it gets for itself.
    #[error("too many unfinished requests of this client at the backend")]
    TooManyUnfinished,
    /// The request was cut short because its client holds the most memory.
    #[error("memory limit reached")]
    Shed,
    /// The connection to the backend failed.
    #[error("connect to backend: {0}")]
    Connect(#[source] ConnectError),
    /// The TLS handshake with the backend failed.
    #[error("connect to backend: {0}")]
    BackendTls(#[source] ConnectError),
    /// The backend did not accept the connection in time.
    #[error("connect to backend timed out")]
    ConnectTimeout,
    /// The backend closed or reset the connection before it responded.
    #[error("backend closed the connection before it responded")]
    BackendClosed {
        /// Whether the connection had served a request before.
        reused: bool,
    },
    /// The backend does not speak HTTP/2.
    #[error("{0}")]
    NotHttp2(#[source] ConnectError),
    /// The backend has refused the request unprocessed (HTTP/2).
    #[error("backend refused the request")]
    BackendRefused {
        /// Whether Homing still has the whole request and can send it again.
        replayable: bool,
        /// Whether the reason is that the connection is about to close (GOAWAY).
        going_away: bool,
    },
    /// The backend has reset the request's stream (HTTP/2).
    #[error("backend reset the stream")]
    BackendReset,
    /// The response is malformed (HTTP/2).
    #[error("invalid response")]
    ResponseMalformed,
    /// The request cannot be expressed in HTTP/2.
    #[error("request cannot be sent over HTTP/2")]
    Unsendable,
    /// The request asks for a WebSocket, which the backend does not offer over HTTP/2.
    #[error("backend offers no WebSocket over HTTP/2")]
    NoTunnel,
    /// The response head was not complete in time.
    #[error("response head timed out")]
    ResponseHeadTimeout,
    /// The response head is malformed.
    #[error("invalid response head: {0}")]
    ResponseHead(HeadError),
    /// The response head exceeds a limit.
    #[error("response head exceeds a limit: {0}")]
    ResponseHeadTooLarge(HeadError),
    /// The backend sent too many interim responses (1xx).
    #[error("too many interim responses")]
    TooManyInterim,
    /// The backend sent a 101 to a request that asked for no upgrade or for another protocol, or
    /// before the request was complete.
    #[error("unexpected 101 from backend")]
    UnaskedUpgrade,
    /// The client asked for a WebSocket, and the backend answered with a success that is not a 101.
    #[error("backend did not upgrade to WebSocket")]
    NoUpgrade,
    /// The backend closed the connection within its response.
    #[error("response truncated")]
    ResponseTruncated,
    /// The framing of the response body is malformed.
    #[error("invalid response body: {0}")]
    ResponseBody(BodyError),
    /// The backend stopped sending the response body.
    #[error("response body timed out")]
    ResponseBodyTimeout,
}

impl From<ConnectError> for ProxyError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::TimedOut => Self::ConnectTimeout,
            ConnectError::NoDescriptors => Self::NoDescriptors,
            ConnectError::TooManyUnfinished => Self::TooManyUnfinished,
            ConnectError::NotHttp2(_) => Self::NotHttp2(error),
            ConnectError::Tls(_) => Self::BackendTls(error),
            ConnectError::Resolve(_) | ConnectError::Io(_) => Self::Connect(error),
        }
    }
}

impl ProxyError {
    /// Converts the error of a request body's transfer. Its source is the client.
    pub(crate) fn of_upload(error: &TransferError) -> Self {
        match error {
            // The sink is the backend. Callers that must tell them apart check for it first.
            TransferError::Source | TransferError::Sink => Self::ClientGone,
            TransferError::Framing(error) => Self::RequestBody(*error),
            TransferError::TooLarge => Self::RequestBodyTooLarge,
        }
    }

    /// Converts the error of a response body's transfer. Its sink is the client.
    pub(crate) fn of_download(error: &TransferError) -> Self {
        match error {
            TransferError::Source => Self::ResponseTruncated,
            TransferError::Framing(error) => Self::ResponseBody(*error),
            TransferError::Sink | TransferError::TooLarge => Self::ClientGone,
        }
    }

    /// Returns the status for the client, if no other was sent. 499 is only logged: the client is
    /// gone.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::RequestHead(error) => error.status(),
            Self::RequestBody(error) => error.status(),
            Self::RequestHeadTimeout | Self::RequestBodyTimeout | Self::RequestBodyTooSlow => 408,
            Self::RequestBodyTooLarge => 413,
            Self::ClientGone | Self::ClientStalled | Self::ClientTooSlow => 499,
            Self::Unsendable => 400,
            Self::TooManyUnfinished => 429,
            Self::NoTunnel => 501,
            Self::NoRoute => 404,
            Self::TraceNotAllowed => 405,
            Self::Loop => 508,
            Self::Misdirected => 421,
            // The request was not processed, and no other backend could take it: worth a retry.
            Self::Unavailable(_)
            | Self::Stopping
            | Self::Saturated
            | Self::NoDescriptors
            | Self::Shed
            | Self::Connect(_)
            | Self::BackendRefused { replayable: true, .. } => 503,
            Self::BackendTls(_)
            | Self::NotHttp2(_)
            | Self::BackendRefused { replayable: false, .. }
            | Self::BackendReset
            | Self::ResponseMalformed
            | Self::BackendClosed { .. }
            | Self::ResponseHead(_)
            | Self::ResponseHeadTooLarge(_)
            | Self::TooManyInterim
            | Self::UnaskedUpgrade
            | Self::NoUpgrade
            | Self::ResponseTruncated
            | Self::ResponseBody(_) => 502,
            Self::ConnectTimeout | Self::ResponseHeadTimeout | Self::ResponseBodyTimeout => 504,
        }
    }

    /// Returns the error code for logs, metrics and the response body.
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
            Self::TraceNotAllowed => "trace_not_allowed",
            Self::Loop => "loop_detected",
            Self::Misdirected => "misdirected",
            Self::Unavailable(_) => "unavailable",
            Self::Stopping => "shutdown",
            Self::Saturated => "saturated",
            Self::NoDescriptors => "out_of_descriptors",
            Self::TooManyUnfinished => "too_many_unfinished",
            Self::Shed => "memory_limit",
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
            Self::ResponseHeadTooLarge(_) => "response_head_too_large",
            Self::ResponseHeadTimeout => "response_head_timeout",
            Self::TooManyInterim => "too_many_interim",
            Self::UnaskedUpgrade => "unasked_upgrade",
            Self::NoUpgrade => "no_upgrade",
            Self::ResponseTruncated => "response_truncated",
            Self::ResponseBody(_) => "response_body_malformed",
            Self::ResponseBodyTimeout => "response_body_timeout",
        }
    }

    /// Returns whether the error counts against the backend.
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
            // An idle keep-alive connection may close at any time.
            Self::BackendClosed { reused } => !reused,
            _ => false,
        }
    }

    /// Returns whether the client gave up its request, or made it fail by what it sent.
    pub(crate) fn is_clients_doing(&self) -> bool {
        matches!(
            self,
            Self::ClientGone
                | Self::ClientStalled
                | Self::ClientTooSlow
                | Self::RequestBody(_)
                | Self::RequestBodyTooLarge
                | Self::RequestBodyTimeout
                | Self::RequestBodyTooSlow
        )
    }

    /// Returns whether the backend took the request and then closed, reset or timed out instead of
    /// answering.
    pub(crate) fn is_refused_answer(&self) -> bool {
        matches!(self, Self::BackendClosed { .. } | Self::BackendReset | Self::ResponseHeadTimeout)
    }

    /// Returns whether the backend refused a connection: its host is there, but nothing listens.
    pub(crate) fn is_refused_connection(&self) -> bool {
        matches!(self, Self::Connect(error) if error.is_refusal())
    }

    /// Returns whether an attempt at a backend failed because of the backend, even if that does not
    /// count against its health.
    pub(crate) fn is_backend_failure(&self) -> bool {
        let refused =
            matches!(self, Self::BackendClosed { .. } | Self::BackendRefused { .. } | Self::Saturated);
        refused || self.counts_against_backend()
    }

    /// Returns whether another attempt is safe. Without a connection, nothing was processed. If the
    /// backend closed the connection without a response, it may have failed while it processed the
    /// request, so only `replayable` requests are sent again.
    pub(crate) fn allows_retry(&self, replayable: bool) -> bool {
        match self {
            Self::Connect(_) | Self::BackendTls(_) | Self::NotHttp2(_) | Self::ConnectTimeout => true,
            // Not processed either, but only a request that was kept whole can be sent again.
            Self::BackendRefused { replayable, .. } => *replayable,
            Self::BackendClosed { .. } => replayable,
            _ => false,
        }
    }
}
