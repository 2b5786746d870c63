//! What the failure of a stream means for its request.

use std::io;

use ::h2::Reason;

use crate::proxy::bridge::head::Malformed;

/// Why a stream to a backend failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It was not processed, because the connection is about to close (GOAWAY).
    GoingAway,
    /// It was not processed (`REFUSED_STREAM`).
    Refused,
    /// The backend reset it.
    Reset,
    /// The response is malformed.
    Malformed,
    /// The request cannot be expressed in HTTP/2.
    Unsendable,
    /// The request asks for a WebSocket, and the backend does not offer extended CONNECT.
    NoTunnel,
    /// The request has more headers than the backend accepts.
    LargeHead,
    /// The connection failed.
    Closed,
}

impl Fault {
    /// Classifies an error of a bridged stream.
    pub(crate) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidInput => return Self::Unsendable,
            io::ErrorKind::Unsupported => return Self::NoTunnel,
            io::ErrorKind::FileTooLarge => return Self::LargeHead,
            // The connection ended before the stream was opened.
            io::ErrorKind::NotConnected => return Self::GoingAway,
            _ => {}
        }
        let Some(inner) = error.get_ref() else { return Self::Closed };
        if inner.is::<Malformed>() {
            return Self::Malformed;
        }
        match inner.downcast_ref::<::h2::Error>() {
            Some(error) if error.is_go_away() && error.is_remote() => Self::GoingAway,
            Some(error) if error.is_reset() && error.is_remote() => match error.reason() {
                Some(Reason::REFUSED_STREAM) => Self::Refused,
                _ => Self::Reset,
            },
            Some(error) if error.is_library() => Self::Malformed,
            _ => Self::Closed,
        }
    }
}
