//! Listening sockets: one per address and worker, sharing the address, so
//! that the kernel spreads connections and no worker waits for another.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use parking_lot::RwLock;
use socket2::{Domain, Protocol, Socket, Type};

use crate::model::Listener;
use crate::tls;

/// Connections that may wait to be accepted, per socket.
const BACKLOG: i32 = 1024;

/// How a listener serves who connects: shared by the workers, replaced by a
/// reload, read once per connection.
#[derive(Debug)]
pub struct Entrance(RwLock<Service>);

/// See [`Listener`].
#[derive(Debug, Clone)]
pub(super) struct Service {
    /// TLS; `None`: plain HTTP.
    pub tls: Option<Arc<tls::Server>>,
    /// Plain requests are sent to this port with https.
    pub redirect_https: Option<u16>,
    /// Is HTTP/2 spoken without TLS?
    pub http2: bool,
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

    pub(super) fn service(&self) -> Service {
        self.0.read().clone()
    }
}

impl Service {
    fn of(listener: &Listener) -> Self {
        Self { tls: listener.tls.clone(), redirect_https: listener.redirect_https, http2: listener.http2 }
    }
}

/// Binds `count` sockets to `address`; with port 0, all to the port that the
/// first one gets. Returns them with the address they are bound to.
///
/// # Errors
/// The system's, if the address cannot be had, or another process has it.
pub fn bind(address: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
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
