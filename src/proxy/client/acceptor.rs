//! A worker's listening socket and the connections it accepts.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::task::{Context, Poll};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::listener::Listening;
use crate::dial::socket::Socket;

/// The peer address of a client on a Unix domain socket. Such a client is on this machine, and is
/// trusted if the loopback address is.
const LOCAL_PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A newly accepted client connection.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// The client's socket.
    pub socket: Socket,
    /// The peer's address, or the client's from a trusted PROXY header.
    pub peer: SocketAddr,
    /// The address the client connected to, from a trusted PROXY header. Boxed because it is rare.
    pub destination: Option<Box<SocketAddr>>,
}

impl Arrival {
    fn tcp((socket, peer): (TcpStream, SocketAddr)) -> Self {
        Self { socket: socket.into(), peer, destination: None }
    }

    /// Returns true if the peer has its own address. All clients on Unix domain sockets share one.
    pub(crate) fn is_from_afar(&self) -> bool {
        matches!(self.socket, Socket::Tcp(_))
    }

    fn unix(socket: UnixStream) -> Self {
        Self { socket: socket.into(), peer: LOCAL_PEER, destination: None }
    }
}

/// A listening TCP or Unix domain socket.
#[derive(Debug)]
pub(crate) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    /// Registers a socket with the runtime.
    ///
    /// # Errors
    /// If the registration fails.
    pub(crate) fn new(listening: Listening) -> io::Result<Self> {
        Ok(match listening {
            Listening::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            Listening::Unix(listener) => Self::Unix(UnixListener::from_std(listener)?),
        })
    }

    /// Accepts a connection. Cancel safe.
    ///
    /// # Errors
    /// I/O errors of accept(2).
    pub(crate) async fn accept(&self) -> io::Result<Arrival> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// See [`Self::accept`].
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Arrival>> {
        match self {
            Self::Tcp(listener) => listener.poll_accept(cx).map_ok(Arrival::tcp),
            Self::Unix(listener) => listener.poll_accept(cx).map_ok(|(socket, _)| Arrival::unix(socket)),
        }
    }

    /// Accepts the connections that are in the backlog now, including those that the runtime has
    /// not been notified of.
    pub(crate) fn into_waiting(self) -> impl Iterator<Item = Arrival> {
        let listening = match self {
            Self::Tcp(listener) => listener.into_std().map(Listening::Tcp),
            Self::Unix(listener) => listener.into_std().map(Listening::Unix),
        };
        let mut listening = listening.ok();
        std::iter::from_fn(move || accept_now(listening.as_mut()?).ok()).flatten()
    }
}

/// Accepts a connection without waiting. `None` if it could not be set up.
fn accept_now(listening: &mut Listening) -> io::Result<Option<Arrival>> {
    match listening {
        Listening::Tcp(listener) => {
            let (socket, peer) = listener.accept()?;
            let socket = socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket));
            Ok(socket.ok().map(|socket| Arrival::tcp((socket, peer))))
        }
        Listening::Unix(listener) => {
            let (socket, _) = listener.accept()?;
            let socket = socket.set_nonblocking(true).and_then(|()| UnixStream::from_std(socket));
            Ok(socket.ok().map(Arrival::unix))
        }
    }
}
