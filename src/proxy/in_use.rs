//! Sessions with an exchange in progress. They are in use, however long it takes: a tunnel, a long poll,
//! an upload or a download keeps the binding alive, and idle time begins at its end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::view::View;
use crate::affinity::recent::RecentUse;
use crate::affinity::{KeyHash, SessionName, Timestamp};
use crate::model::snapshot::UpstreamState;

/// The exchanges in progress of one worker.
#[derive(Debug)]
pub(crate) struct InUse {
    recent: Arc<RecentUse>,
    now: Cell<Timestamp>,
    exchanges: RefCell<Vec<Option<Exchange>>>,
    free: RefCell<Vec<usize>>,
}

/// One exchange and the sessions it belongs to: the request's, and one that its response began.
#[derive(Debug)]
struct Exchange {
    view: Rc<View>,
    route: usize,
    names: ArrayVec<SessionName, 2>,
    keys: ArrayVec<KeyHash, 2>,
    began: Timestamp,
    /// When its sessions were last marked used.
    marked: Timestamp,
    /// Seconds after which they are marked again.
    period: u32,
}

/// Keeps the sessions of an exchange in use until dropped.
#[derive(Debug)]
pub(crate) struct ExchangeGuard {
    list: Rc<InUse>,
    index: usize,
}

impl InUse {
    pub(crate) fn new(recent: Arc<RecentUse>) -> Self {
        Self { recent, now: Cell::default(), exchanges: RefCell::default(), free: RefCell::default() }
    }

    /// Returns the memory of sessions that are kept at the client.
    pub(crate) fn recent(&self) -> &RecentUse {
        &self.recent
    }

    /// Begins an exchange of a request on this route.
    pub(crate) fn begin(
        self: &Rc<Self>,
        view: &Rc<View>,
        route: usize,
        (name, key): (Option<SessionName>, Option<KeyHash>),
        now: Timestamp,
    ) -> ExchangeGuard {
        let exchange = Exchange {
            period: period(&view.upstream_of(route).state),
            view: Rc::clone(view),
            route,
            names: name.into_iter().collect(),
            keys: key.into_iter().collect(),
            began: now,
            marked: now,
        };
        let mut exchanges = self.exchanges.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            exchanges.push(None);
            exchanges.len() - 1
        });
        exchanges[index] = Some(exchange);
        ExchangeGuard { list: Rc::clone(self), index }
    }

    /// Marks sessions as used whose exchanges have been in progress for a while.
    pub(crate) fn tick(&self, now: Timestamp) {
        self.now.set(now);
        for exchange in self.exchanges.borrow_mut().iter_mut().flatten() {
            if now.since(exchange.marked) >= exchange.period {
                exchange.mark(&self.recent, now);
            }
        }
    }
}

impl Exchange {
    fn mark(&mut self, recent: &RecentUse, now: Timestamp) {
        self.marked = now;
        let upstream = &self.view.upstream_of(self.route).state;
        // A table that only helps the cookie says when its sessions were bound, not used.
        if let Some(table) = upstream.table() {
            self.names.iter().for_each(|name| table.touch(*name, now));
        }
        if noted_after(upstream).is_some_and(|after| now.since(self.began) >= after) {
            self.keys.iter().for_each(|key| recent.note(&upstream.config.name, *key, now));
        }
    }
}

impl ExchangeGuard {
    /// Adds a session that the response has begun.
    pub(crate) fn add(&self, name: Option<SessionName>, key: Option<KeyHash>) {
        if let Some(exchange) = &mut self.list.exchanges.borrow_mut()[self.index] {
            // A response may begin several. The last counts.
            exchange.names.truncate(1);
            exchange.keys.truncate(1);
            exchange.names.extend(name);
            exchange.keys.extend(key);
        }
    }
}

impl Drop for ExchangeGuard {
    fn drop(&mut self) {
        let now = self.list.now.get();
        let exchange = self.list.exchanges.borrow_mut()[self.index].take();
        self.list.free.borrow_mut().push(self.index);
        if let Some(mut exchange) = exchange
            && now.since(exchange.marked) > 0
        {
            exchange.mark(&self.list.recent, now);
        }
    }
}

/// Returns the seconds after which an exchange is noted for sealed cookies: when they have aged
/// noticeably. `None` if there are none.
fn noted_after(upstream: &UpstreamState) -> Option<u32> {
    let seals = upstream.memory.seals.as_ref()?;
    Some(u32::try_from(seals.config.max_idle.as_secs() / 16).unwrap_or(u32::MAX).max(1))
}

/// Returns the seconds after which sessions of an upstream are marked again: often enough that they do
/// not expire.
fn period(upstream: &UpstreamState) -> u32 {
    let table = upstream.table().map(|table| (table.ttl() / 4).max(1));
    table.into_iter().chain(noted_after(upstream)).min().unwrap_or(u32::MAX)
}
