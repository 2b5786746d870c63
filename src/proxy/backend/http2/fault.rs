//! What a stream's failure means for its request.

use std::io;

use ::h2::Reason;

use crate::proxy::bridge::head::Malformed;

/// Why a backend's stream gives no response, as far as HTTP/2 tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It was not looked at, as the connection is about to end (GOAWAY).
    GoingAway,
    /// It was not looked at (`REFUSED_STREAM`).
    Refused,
    /// The backend has reset it.
    Reset,
    /// The response is not right.
    Malformed,
    /// The request cannot be put in HTTP/2.
    Unsendable,
    /// The connection broke.
    Closed,
}

impl Fault {
    /// What an error of a bridged stream is.
    pub(crate) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidInput => return Self::Unsendable,
            // The stream was not opened.
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
