//! Sessions with an exchange in progress. They are in use, however long it takes: a tunnel, a long poll,
//! an upload or a download keeps the binding alive, and idle time begins at its end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::view::{UpstreamView, View};
use crate::affinity::recent::RecentUse;
use crate::affinity::{KeyHash, SessionName, Timestamp};
use crate::model::Remember;
use crate::model::snapshot::Memory;

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
            period: period(view.upstream_of(route)),
            view: Rc::clone(view),
            route,
            names: name.into_iter().collect(),
            keys: key.into_iter().collect(),
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
        match &upstream.memory {
            Memory::None => {}
            Memory::Table(table) => self.names.iter().for_each(|name| table.touch(*name, now)),
            Memory::Cookie(_) => {
                self.keys.iter().for_each(|key| recent.note(&upstream.config.name, *key, now));
            }
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
            && ends_late(&exchange, now)
        {
            exchange.mark(&self.list.recent, now);
        }
    }
}

/// Returns whether the end of an exchange must be noted: for a table whenever the second is another one,
/// for cookies if they have aged noticeably.
fn ends_late(exchange: &Exchange, now: Timestamp) -> bool {
    let aged = now.since(exchange.marked);
    match exchange.view.upstream_of(exchange.route).state.memory {
        Memory::None => false,
        Memory::Table(_) => aged > 0,
        Memory::Cookie(_) => aged >= exchange.period,
    }
}

/// Returns the seconds after which sessions of an upstream are marked again: often enough that they do
/// not expire.
fn period(upstream: &UpstreamView) -> u32 {
    let seconds = match (&upstream.state.memory, &upstream.state.config.affinity.remember) {
        (Memory::Table(table), _) => table.ttl() / 4,
        (_, Remember::Cookie(cookie)) => u32::try_from(cookie.max_idle.as_secs() / 16).unwrap_or(u32::MAX),
        _ => u32::MAX,
    };
    seconds.max(1)
}
