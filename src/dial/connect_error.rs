//! Why a connection to a backend could not be opened.

use std::io;
use std::sync::Arc;

use rustix::io::Errno;

/// Why a connection could not be opened. Cheap to clone, because requests that waited for the same
/// connection share it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// The connect timeout has passed.
    #[error("timed out")]
    TimedOut,
    /// Homing, or the whole system, is out of file descriptors.
    #[error("out of file descriptors")]
    NoDescriptors,
    /// The backend's name has no addresses.
    #[error("cannot resolve {0}")]
    Resolve(Arc<str>),
    /// The client has filled the HTTP/2 connections that it gets for itself.
    #[error("too many unfinished requests of this client")]
    TooManyUnfinished,
    /// The TLS handshake failed.
    #[error("TLS handshake: {0}")]
    Tls(#[source] Arc<io::Error>),
    /// The backend does not speak HTTP/2.
    #[error("backend does not speak HTTP/2: {0}")]
    NotHttp2(Arc<str>),
    /// The connection was refused or failed.
    #[error("{0}")]
    Io(#[source] Arc<io::Error>),
}

impl ConnectError {
    /// Converts an error of the TLS handshake. It counts as a TLS error even if the system reports
    /// a timeout or a lack of file descriptors.
    pub fn of_handshake(error: io::Error) -> Self {
        match Self::from(error) {
            Self::NotHttp2(why) => Self::NotHttp2(why),
            Self::Tls(error) | Self::Io(error) => Self::Tls(error),
            other @ (Self::TimedOut | Self::NoDescriptors | Self::Resolve(_) | Self::TooManyUnfinished) => {
                Self::Tls(Arc::new(io::Error::other(other)))
            }
        }
    }

    /// Returns whether nothing listens at the address. A Unix socket may be gone altogether.
    pub fn is_refusal(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        matches!(self, Self::Io(error) if matches!(error.kind(), ConnectionRefused | NotFound))
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        use rustls::{AlertDescription, Error};
        if error.kind() == io::ErrorKind::TimedOut {
            return Self::TimedOut;
        }
        if is_out_of_descriptors(&error) {
            return Self::NoDescriptors;
        }
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(refusal @ Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
                Self::NotHttp2(refusal.to_string().into())
            }
            Some(_) => Self::Tls(Arc::new(error)),
            None => Self::Io(Arc::new(error)),
        }
    }
}

/// Returns whether the process or the system was out of file descriptors.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
