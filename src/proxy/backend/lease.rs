//! A connection to a backend, leased to one request.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::announced::Announced;
use crate::model::live::BackendLive;
use crate::proxy::wire::stream::Stream;

/// A connection to a backend, or one stream of a shared HTTP/2 connection.
#[derive(Debug)]
pub(crate) struct BackendStream {
    stream: Stream,
    usage: Usage,
    /// The client that the PROXY header named, if one was sent.
    announced: Option<Box<Announced>>,
    /// Whether it belongs to one client connection.
    owned: bool,
    /// `None` for a stream of a shared connection, which is counted as a whole.
    counted: Option<OpenConnection>,
}

/// What a connection was used for before this request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    /// Opened for this request.
    First,
    /// Opened for another request, but no response has arrived on it yet.
    Early,
    /// Has served a response before. If it closes now, the backend may still be healthy.
    Again,
}

/// Counts one open connection to a backend until dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    live: Arc<BackendLive>,
    /// The address that it goes to, if the backend is given by name.
    peer: Option<SocketAddr>,
}

impl OpenConnection {
    /// Counts a connection that was just opened.
    pub(crate) fn new(live: &Arc<BackendLive>, peer: Option<SocketAddr>) -> Self {
        live.opened();
        Self { live: Arc::clone(live), peer }
    }

    /// Returns the address that it goes to, if the backend is given by name.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.live.closed();
    }
}

impl BackendStream {
    /// Wraps a connection that the request opened for itself.
    pub(crate) fn opened(stream: Stream, announced: Option<Box<Announced>>, counted: OpenConnection) -> Self {
        Self { stream, usage: Usage::First, announced, owned: false, counted: Some(counted) }
    }

    /// Wraps a stream of a shared HTTP/2 connection.
    pub(crate) fn shared(stream: Stream, usage: Usage) -> Self {
        Self { stream, usage, announced: None, owned: false, counted: None }
    }

    /// Marks the connection as taken from the pool for another request.
    pub(crate) fn reused(self) -> Self {
        Self { usage: Usage::Again, ..self }
    }

    /// Returns what the connection was used for before.
    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    /// Returns the address that it goes to, if the backend is given by name.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.counted.as_ref().and_then(OpenConnection::peer)
    }

    /// Marks the connection as belonging to the client connection that it is leased to.
    pub(crate) fn own(&mut self) {
        self.owned = true;
    }

    /// Returns whether the connection belongs to one client connection.
    pub(crate) fn is_owned(&self) -> bool {
        self.owned
    }

    /// Returns whether the connection was announced for this client connection.
    pub(crate) fn is_for(&self, announced: &Announced) -> bool {
        self.announced.as_ref().is_some_and(|own| own.same_as(announced))
    }

    /// Returns whether the connection was announced for a client that has disconnected.
    pub(crate) fn is_orphaned(&self) -> bool {
        self.announced.as_ref().is_some_and(|own| own.client_is_gone())
    }
}

impl Deref for BackendStream {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.stream
    }
}

impl DerefMut for BackendStream {
    fn deref_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }
}
