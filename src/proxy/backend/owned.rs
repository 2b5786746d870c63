//! Backend connections that belong to one client connection, because the client has authenticated
//! them (NTLM, Negotiate).
//!
//! The backend takes every request on such a connection for one of that client. It is therefore
//! never pooled: the client connection keeps it, and both end together.

use std::net::IpAddr;
use std::rc::Rc;

use super::lease::BackendStream;
use super::pool::BackendPool;

/// The most backends at which one client connection is authenticated.
const MAX: usize = 4;

/// The backend connections that belong to a client connection.
#[derive(Debug, Default)]
pub(crate) struct OwnedConnections(Vec<Owned>);

#[derive(Debug)]
struct Owned {
    pool: Rc<BackendPool>,
    /// A trusted proxy may send requests of several clients on one connection.
    client: IpAddr,
    stream: BackendStream,
}

impl OwnedConnections {
    /// Returns true if there is one to the backend of this pool.
    pub(crate) fn has(&self, pool: &Rc<BackendPool>) -> bool {
        self.0.iter().any(|owned| Rc::ptr_eq(&owned.pool, pool))
    }

    /// Takes the connection to a backend. Closes it instead if the backend has ended it, or if it
    /// was authenticated by another client.
    pub(crate) fn take(&mut self, pool: &Rc<BackendPool>, client: IpAddr) -> Option<BackendStream> {
        let at = self.0.iter().position(|owned| Rc::ptr_eq(&owned.pool, pool))?;
        let Owned { client: owner, mut stream, .. } = self.0.remove(at);
        (owner == client && stream.is_quiet()).then(|| stream.reused())
    }

    /// Keeps a connection whose exchange ended cleanly.
    pub(crate) fn keep(&mut self, pool: &Rc<BackendPool>, client: IpAddr, stream: BackendStream) {
        self.0.retain(|owned| !Rc::ptr_eq(&owned.pool, pool));
        if self.0.len() == MAX {
            self.0.remove(0);
        }
        self.0.push(Owned { pool: Rc::clone(pool), client, stream });
    }
}
