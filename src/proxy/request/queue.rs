//! The line at backends that are at their connection limit: waits for a place.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::client::Client;
use super::error::ProxyError;
use super::state::Request;
use crate::affinity::Member;
use crate::affinity::pick::{Loads, Outcome};
use crate::model::line::{Entered, Place, Wanted};
use crate::model::live::BackendLive;
use crate::proxy::connection_counts::client_key;
use crate::proxy::notices::Limit;
use crate::proxy::view::{UpstreamView, View};

/// The loads as a request sees them: its reserved place is free for itself.
pub(crate) struct LoadsFor<'a> {
    pub upstream: &'a UpstreamView,
    pub place: Option<&'a Place>,
}

impl Loads for LoadsFor<'_> {
    fn in_flight(&self, index: u16) -> u32 {
        self.upstream.in_flight(index)
    }

    fn saturated(&self, index: u16) -> bool {
        let own = |place: &Place| place.is_at(&self.upstream.state.live[usize::from(index)]);
        self.upstream.saturated(index) && !self.place.is_some_and(own)
    }
}

/// What a request waits for in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueFor {
    /// A place at its session's backend.
    Member(u16),
    /// A place at any backend that takes new sessions.
    Any,
}

impl QueueFor {
    /// Returns what a request waits for whose backend had no place.
    pub(crate) fn of(outcome: Outcome, member: u16) -> Self {
        match outcome {
            Outcome::Kept | Outcome::Moved => Self::Member(member),
            Outcome::New | Outcome::Unkeyed => Self::Any,
        }
    }

    /// Returns the backends with a place to wait for.
    fn backends(self, upstream: &UpstreamView) -> Vec<(u16, Arc<BackendLive>)> {
        let members = upstream.state.cluster.members();
        let all = |suits: fn(&Member) -> bool| {
            let suited = (0u16..).zip(members).filter(move |(_, member)| suits(member));
            suited.map(|(index, _)| (index, Arc::clone(&upstream.state.live[usize::from(index)]))).collect()
        };
        match self {
            Self::Member(member) if members[usize::from(member)].eligible_for_existing() => {
                vec![(member, Arc::clone(&upstream.state.live[usize::from(member)]))]
            }
            Self::Member(_) => Vec::new(),
            Self::Any => {
                let open: Vec<_> = all(Member::eligible_for_new);
                if open.is_empty() { all(Member::eligible_for_existing) } else { open }
            }
        }
    }
}

impl Request<'_> {
    /// Returns whether the request may still wait in the line.
    pub(crate) fn may_queue(&self, upstream: &UpstreamView) -> bool {
        upstream.state.config.queue.max > 0 && self.queue_until.is_none_or(|until| Instant::now() < until)
    }

    /// Waits in the line until the request has a place, or until the backends that it waits for have
    /// changed. The request must be planned again then.
    ///
    /// # Errors
    /// [`ProxyError::Saturated`] if the line is full or the time is up, [`ProxyError::ClientGone`] if
    /// the client disconnects.
    pub(crate) async fn queue(&mut self, what: QueueFor, client: &mut Client) -> Result<(), ProxyError> {
        let Some(route) = self.route else { return Err(ProxyError::Saturated) };
        let view = Rc::clone(&self.view);
        let upstream = view.upstream_of(route);
        let settings = upstream.state.config.queue;
        let until = *self.queue_until.get_or_insert_with(|| Instant::now() + settings.timeout);
        let before = what.backends(upstream);
        let untried = before.iter().filter(|(member, _)| !self.tried.contains(*member));
        let wanted = Wanted {
            client: client_key(self.client_ip(client)),
            exists: what != QueueFor::Any,
            backends: untried.map(|(_, live)| Arc::clone(live)).collect(),
        };
        let mut ticket = match upstream.state.line.enter(wanted, settings.max) {
            Entered::Place(place) => {
                self.place = Some(place);
                self.session = None;
                return Ok(());
            }
            Entered::Full => return Err(self.turned_away()),
            Entered::Waits(ticket) => ticket,
        };
        let slot = match what {
            QueueFor::Member(member) => Some(upstream.slot(member)),
            QueueFor::Any => None,
        };
        let changed = |now: &View| {
            let name = &upstream.state.config.name;
            let Some(now) = now.upstreams.iter().find(|u| u.state.config.name == *name) else { return true };
            let what = match slot.map(|slot| now.state.cluster.index_of(slot)) {
                None => QueueFor::Any,
                Some(Some(member)) => QueueFor::Member(member),
                Some(None) => return true,
            };
            let backends = what.backends(now);
            let mut pairs = backends.iter().zip(&before);
            backends.len() != before.len() || !pairs.all(|((_, a), (_, b))| Arc::ptr_eq(a, b))
        };
        let watch_client = view.snapshot.config.server.cancel_on_client_close;
        tokio::select! {
            biased;
            place = ticket.place() => match place {
                Some(place) => self.place = Some(place),
                None => return Err(self.turned_away()),
            },
            () = self.worker.wait_until(until, changed) => {
                if Instant::now() >= until {
                    ticket.time_out();
                    return Err(self.turned_away());
                }
            }
            () = client.gone(&self.worker.buffers), if watch_client => return Err(ProxyError::ClientGone),
        }
        if Rc::ptr_eq(&view, &self.worker.view()) {
            // Another request may have bound the session meanwhile.
            self.session = None;
        } else {
            self.start_over();
        }
        Ok(())
    }

    /// Logs that the request got no place. It does not wait again.
    fn turned_away(&mut self) -> ProxyError {
        self.queue_until = Some(Instant::now());
        let upstream = self.upstream().map_or("", |upstream| &*upstream.state.config.name);
        self.worker.notices.turned_away(Limit::Queue, self.worker.coarse_now(), &upstream);
        ProxyError::Saturated
    }
}
