//! Authenticated connections (NTLM, Negotiate): a backend connection that a client authenticates
//! serves only that client connection from then on.

use std::rc::Rc;

use super::client::Client;
use super::state::Request;
use crate::affinity::pick::{Outcome, Verdict};
use crate::proxy::backend::asker::Asker;
use crate::proxy::backend::lease::BackendStream;
use crate::proxy::backend::pool::BackendPool;
use crate::proxy::view::UpstreamView;

impl Request<'_> {
    /// Takes an open connection to a backend: the client's own, or one from the pool.
    pub(crate) fn take_open(
        &self,
        client: &mut Client,
        pool: &Rc<BackendPool>,
        asker: Asker,
    ) -> Option<BackendStream> {
        let client_ip = self.client_ip(client);
        if let Some(own) = client.owned_mut().and_then(|owned| owned.take(pool, client_ip)) {
            return Some(own);
        }
        let announced = pool.announces_clients().then(|| client.origin.announced_as(client_ip));
        pool.take_idle(asker, announced.as_ref())
    }

    /// Keeps a backend connection whose exchange ended cleanly: for this client if it is
    /// authenticated, else in the pool. Requests of an HTTP/2 connection may be of several users, and
    /// run at the same time, so an authenticated connection is closed after one of them.
    pub(crate) fn keep_open(&self, client: &mut Client, pool: &Rc<BackendPool>, stream: BackendStream) {
        if !stream.is_owned() {
            pool.keep(stream, self.worker.coarse_now());
        } else if !client.origin.http2 {
            let client_ip = self.client_ip(client);
            client.own().keep(pool, client_ip, stream);
        }
    }

    /// Returns where a request without a key goes if its client has authenticated a connection to a
    /// backend of the upstream. The steps of a handshake need one connection.
    pub(crate) fn to_own_backend(&self, client: &Client, upstream: &UpstreamView) -> Option<Verdict> {
        let owned = client.owned()?;
        let members = upstream.state.cluster.members();
        let usable = |member: &u16| {
            let index = usize::from(*member);
            owned.has(&upstream.pools[index])
                && members[index].eligible_for_existing()
                && !self.tried.contains(*member)
        };
        let member = (0..).take(members.len()).find(usable)?;
        Some(Verdict { member, outcome: Outcome::Unkeyed, reason: None, rebind: false })
    }
}
