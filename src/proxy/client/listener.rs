//! Listening sockets: one per address and worker, sharing the address, so
//! that the kernel spreads connections and no worker waits for another. Of a
//! Unix domain socket there can be but one, which the workers share.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;

use socket2::{Domain, Protocol, Socket, Type};

pub use super::socket_file::SocketFile;
use crate::model::{Bind, Listener};

/// Connections that may wait to be accepted, per socket.
const BACKLOG: i32 = 1024;

/// A listening socket, whatever family it is of.
#[derive(Debug)]
pub enum Listening {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix domain socket.
    Unix(UnixListener),
}

/// The sockets of one listener.
#[derive(Debug)]
pub struct BoundSockets {
    /// Where, with the port that it has become.
    pub bind: Bind,
    /// One for each worker.
    pub sockets: Vec<Listening>,
    /// The file of a Unix domain socket.
    pub file: Option<SocketFile>,
}

/// Binds `count` sockets to where the listener listens; with port 0, all to the
/// port that the first one gets.
///
/// # Errors
/// The system's, if the address cannot be had, or another process has it.
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

fn bind_tcp(address: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    if address.port() != 0 {
        // Shared addresses would let a second Homing take half of the first
        // one's connections without a word.
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
        // `[::]` takes IPv4 too, as operators expect; the peers are unmapped.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
