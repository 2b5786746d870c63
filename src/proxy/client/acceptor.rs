//! A worker's listening socket, and what comes out of it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::task::{Context, Poll};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::listener::Listening;
use crate::proxy::wire::socket::Socket;

/// What a client on a Unix domain socket counts as: it is on this machine, and
/// is believed or not as anybody on it.
const LOCAL_PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A client's connection, just accepted.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// Its socket.
    pub socket: Socket,
    /// The other end, or what a trusted one says of it.
    pub peer: SocketAddr,
    /// What the client connected to, where a trusted peer says so; boxed, as it is rare.
    pub destination: Option<Box<SocketAddr>>,
}

impl Arrival {
    fn tcp((socket, peer): (TcpStream, SocketAddr)) -> Self {
        Self { socket: socket.into(), peer, destination: None }
    }

    /// Has its peer an address of its own? All that come by a Unix domain socket
    /// share one.
    pub(crate) fn is_from_afar(&self) -> bool {
        matches!(self.socket, Socket::Tcp(_))
    }

    fn unix(socket: UnixStream) -> Self {
        Self { socket: socket.into(), peer: LOCAL_PEER, destination: None }
    }
}

/// A listening socket, whatever family it is of.
#[derive(Debug)]
pub(crate) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    /// Takes over a socket.
    ///
    /// # Errors
    /// If the runtime cannot watch it.
    pub(crate) fn new(listening: Listening) -> io::Result<Self> {
        Ok(match listening {
            Listening::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            Listening::Unix(listener) => Self::Unix(UnixListener::from_std(listener)?),
        })
    }

    /// Waits for a client. Cancel safe.
    ///
    /// # Errors
    /// The system's.
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

    /// Who waits to be accepted now, whether or not the runtime has heard of it.
    pub(crate) fn into_waiting(self) -> impl Iterator<Item = Arrival> {
        let listening = match self {
            Self::Tcp(listener) => listener.into_std().map(Listening::Tcp),
            Self::Unix(listener) => listener.into_std().map(Listening::Unix),
        };
        let mut listening = listening.ok();
        std::iter::from_fn(move || accept_now(listening.as_mut()?).ok()).flatten()
    }
}

/// Accepts without waiting; `None`: a client that is lost.
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
