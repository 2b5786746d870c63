//! Listening sockets. Each worker has its own TCP socket with `SO_REUSEPORT`, so the kernel
//! distributes connections and workers do not wait for each other. A Unix domain socket is shared
//! by all workers, because only one can be bound to a path.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;

use socket2::{Domain, Protocol, Socket, Type};

pub use super::socket_file::SocketFile;
use crate::model::{Bind, Listener};

/// Maximum length of a socket's queue of connections waiting to be accepted.
const BACKLOG: i32 = 1024;

/// A listening TCP or Unix domain socket.
#[derive(Debug)]
pub enum Listening {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix domain socket.
    Unix(UnixListener),
}

/// The sockets bound to one address.
#[derive(Debug)]
pub struct BoundSockets {
    /// The address, with the actual port.
    pub bind: Bind,
    /// One socket per worker.
    pub sockets: Vec<Listening>,
    /// The file of the Unix domain socket.
    pub file: Option<SocketFile>,
}

/// Binds `count` sockets to the listener's address. With port 0, all share the port that the
/// first one is assigned.
///
/// # Errors
/// I/O errors, for example if the address is invalid or in use by another process.
pub fn bind(listener: &Listener, count: usize) -> io::Result<BoundSockets> {
    match &listener.bind {
        Bind::Ip(address) => {
            let (address, sockets) = bind_tcp(*address, count)?;
            let sockets = sockets.into_iter().map(Listening::Tcp).collect();
            Ok(BoundSockets { bind: Bind::Ip(address), sockets, file: None })
        }
        Bind::Unix(path) => {
            let (socket, file) = SocketFile::listen(path, listener.mode, BACKLOG)?;
            let mut sockets = Vec::new();
            for _ in 1..count {
                sockets.push(Listening::Unix(socket.try_clone()?));
            }
            sockets.push(Listening::Unix(socket));
            Ok(BoundSockets { bind: listener.bind.clone(), sockets, file: Some(file) })
        }
    }
}

/// Tries whether [`bind`] would succeed, without accepting connections.
///
/// # Errors
/// Those of [`bind`]. `AddrInUse` may be this program's own, running already.
pub fn rehearse(bind: &Bind) -> io::Result<()> {
    match bind {
        Bind::Ip(address) => bound_socket(*address, false).map(drop),
        Bind::Unix(path) => crate::may_create(path),
    }
}

fn bind_tcp(address: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    if address.port() != 0 {
        // With `SO_REUSEPORT`, a second Homing would silently take half of this one's
        // connections. Binding once without it detects that.
        drop(bound_socket(address, false)?);
    }
    let first = listen(address)?;
    let bound = first.local_addr()?;
    let mut sockets = vec![first];
    while sockets.len() < count {
        sockets.push(listen(bound)?);
    }
    Ok((bound, sockets))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = bound_socket(address, true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bound_socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        // `[::]` accepts IPv4 too, as operators expect. Mapped peer addresses become IPv4.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
