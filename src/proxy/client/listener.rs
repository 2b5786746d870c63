//! Listening sockets: one per address and worker, sharing the address, so
//! that the kernel spreads connections and no worker waits for another. Of a
//! Unix domain socket there can be but one, which the workers share.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use parking_lot::RwLock;
use socket2::{Domain, Protocol, Socket, Type};

pub use super::socket_file::SocketFile;
use crate::model::{Bind, Listener, ProxyProtocol};
use crate::tls;

/// Connections that may wait to be accepted, per socket.
const BACKLOG: i32 = 1024;

/// How a listener serves who connects: shared by the workers, replaced by a
/// reload, read once per connection.
#[derive(Debug)]
pub struct Entrance(RwLock<Service>);

/// See [`Listener`].
#[derive(Debug, Clone)]
pub(crate) struct Service {
    /// TLS; `None`: plain HTTP.
    pub tls: Option<Arc<tls::Server>>,
    /// Plain requests are sent to this port with https.
    pub redirect_https: Option<u16>,
    /// Is HTTP/2 spoken without TLS?
    pub http2: bool,
    /// Is the PROXY protocol spoken?
    pub proxy_protocol: ProxyProtocol,
}

impl Entrance {
    /// As this listener says.
    pub fn new(listener: &Listener) -> Self {
        Self(RwLock::new(Service::of(listener)))
    }

    /// From now on as this listener says. Clients can resume their sessions.
    pub fn replace(&self, listener: &Listener) {
        let mut service = self.0.write();
        if let (Some(old), Some(new)) = (&service.tls, &listener.tls)
            && !Arc::ptr_eq(old, new)
        {
            new.continue_from(old);
        }
        *service = Service::of(listener);
    }

    pub(crate) fn service(&self) -> Service {
        self.0.read().clone()
    }
}

impl Service {
    fn of(listener: &Listener) -> Self {
        Self {
            tls: listener.tls.clone(),
            redirect_https: listener.redirect_https,
            http2: listener.http2,
            proxy_protocol: listener.proxy_protocol,
        }
    }
}

/// A listening socket, whatever family it is of.
#[derive(Debug)]
pub enum Listening {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix domain socket.
    Unix(UnixListener),
}

/// Sockets that listen in one place.
#[derive(Debug)]
pub struct Bound {
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
pub fn bind(listener: &Listener, count: usize) -> io::Result<Bound> {
    match &listener.bind {
        Bind::Ip(address) => {
            let (address, sockets) = bind_tcp(*address, count)?;
            let sockets = sockets.into_iter().map(Listening::Tcp).collect();
            Ok(Bound { bind: Bind::Ip(address), sockets, file: None })
        }
        Bind::Unix(path) => {
            let (socket, file) = SocketFile::listen(path, listener.mode, BACKLOG)?;
            let mut sockets = Vec::new();
            for _ in 1..count {
                sockets.push(Listening::Unix(socket.try_clone()?));
            }
            sockets.push(Listening::Unix(socket));
            Ok(Bound { bind: listener.bind.clone(), sockets, file: Some(file) })
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
