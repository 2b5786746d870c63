//! The addresses of host names, looked up in one place for all workers and health checks.
//!
//! The system's resolver is used, so `/etc/hosts`, search domains and everything else that the
//! machine is set up with apply. It does not tell how long an answer is valid. A name in use is
//! therefore looked up again every `server.resolve_every`, in the background. Only the first lookup
//! of a name is waited for.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::connect_error::ConnectError;

/// All names in use.
#[derive(Debug)]
pub struct Names {
    known: Mutex<AHashMap<Key, Weak<Name>>>,
    lookups: Lookups,
}

/// Host and port.
type Key = (Box<str>, u16);

/// How and how often names are looked up.
#[derive(Debug, Clone)]
struct Lookups {
    /// Where lookups run. Workers come and go, this runtime stays.
    runtime: Handle,
    every_millis: Arc<AtomicU64>,
}

/// One name and port, with the addresses that it had last.
#[derive(Debug)]
pub struct Name {
    host: Box<str>,
    port: u16,
    lookups: Lookups,
    /// Counts changes of the addresses.
    version: AtomicU64,
    state: Mutex<State>,
    finished: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Sorted. Empty until a lookup succeeded.
    addresses: Arc<[SocketAddr]>,
    /// When the last lookup finished.
    finished_at: Option<Instant>,
    running: bool,
    failing: bool,
}

impl Names {
    /// Looks names up on `runtime`, again after `every`.
    pub fn new(runtime: Handle, every: Duration) -> Arc<Self> {
        let lookups = Lookups { runtime, every_millis: Arc::default() };
        let names = Self { known: Mutex::default(), lookups };
        names.set_interval(every);
        Arc::new(names)
    }

    /// Changes how often names are looked up.
    pub fn set_interval(&self, every: Duration) {
        let millis = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
        self.lookups.every_millis.store(millis, Ordering::Relaxed);
    }

    /// Returns the shared state of a name. It is kept for as long as anyone holds it.
    pub fn get(&self, host: &str, port: u16) -> Arc<Name> {
        let mut known = self.known.lock();
        let key = (Box::from(host), port);
        if let Some(name) = known.get(&key).and_then(Weak::upgrade) {
            return name;
        }
        known.retain(|_, name| name.strong_count() > 0);
        let name = Arc::new(Name {
            host: host.into(),
            port,
            lookups: self.lookups.clone(),
            version: AtomicU64::new(0),
            state: Mutex::default(),
            finished: Notify::new(),
        });
        known.insert(key, Arc::downgrade(&name));
        name
    }
}

impl Name {
    /// Returns the addresses, and waits for them if the name was never resolved.
    ///
    /// # Errors
    /// [`ConnectError::Resolve`] if the name has no addresses. A name that had some keeps them while
    /// lookups fail.
    pub async fn addresses(self: &Arc<Self>) -> Result<Arc<[SocketAddr]>, ConnectError> {
        self.refresh();
        loop {
            let finished = self.finished.notified();
            {
                let state = self.state.lock();
                if !state.addresses.is_empty() {
                    return Ok(Arc::clone(&state.addresses));
                }
                if !state.running {
                    return Err(ConnectError::Resolve(self.host.as_ref().into()));
                }
            }
            finished.await;
        }
    }

    /// Changes whenever the addresses do.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Returns whether the name has this address now.
    pub fn has(&self, address: SocketAddr) -> bool {
        self.state.lock().addresses.binary_search(&address).is_ok()
    }

    /// Starts a lookup if the last one is old enough and none is running.
    pub fn refresh(self: &Arc<Self>) {
        let every = Duration::from_millis(self.lookups.every_millis.load(Ordering::Relaxed));
        {
            let mut state = self.state.lock();
            if state.running || state.finished_at.is_some_and(|at| at.elapsed() < every) {
                return;
            }
            state.running = true;
        }
        let name = Arc::clone(self);
        self.lookups.runtime.spawn(async move {
            // Counts as finished even if the runtime shuts down in the middle.
            let running = Running(name);
            let found = tokio::net::lookup_host((&*running.0.host, running.0.port)).await;
            running.0.take(found.map(Iterator::collect));
        });
    }

    fn take(&self, found: io::Result<Vec<SocketAddr>>) {
        let mut state = self.state.lock();
        let (host, failing) = (&self.host, state.failing);
        match found {
            Ok(mut addresses) if !addresses.is_empty() => {
                addresses.sort_unstable();
                addresses.dedup();
                state.failing = false;
                if *state.addresses != *addresses {
                    if !state.addresses.is_empty() {
                        tracing::info!(%host, from = ?state.addresses, to = ?addresses, "addresses of a backend changed");
                    }
                    state.addresses = addresses.into();
                    self.version.fetch_add(1, Ordering::Release);
                } else if failing {
                    tracing::info!(%host, "name resolves again");
                }
            }
            outcome => {
                state.failing = true;
                if !failing {
                    let error =
                        outcome.err().map_or_else(|| "no addresses".to_owned(), |error| error.to_string());
                    tracing::warn!(%host, error, known = state.addresses.len(), "cannot resolve name");
                }
            }
        }
    }
}

/// A lookup in progress. Dropped, it has finished.
struct Running(Arc<Name>);

impl Drop for Running {
    fn drop(&mut self) {
        {
            let mut state = self.0.state.lock();
            state.running = false;
            state.finished_at = Some(Instant::now());
        }
        self.0.finished.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Arc<Names> {
        Names::new(Handle::current(), Duration::from_secs(3600))
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_name_resolves_and_everyone_shares_it() {
        let names = names();
        let name = names.get("localhost", 80);
        let found = name.addresses().await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 80));
        assert!(name.has(found[0]));
        assert!(Arc::ptr_eq(&name, &names.get("localhost", 80)));
        assert!(!Arc::ptr_eq(&name, &names.get("localhost", 81)));
    }

    #[tokio::test]
    async fn unknown_name_is_an_error() {
        let error = names().get("unknown.invalid", 80).addresses().await.unwrap_err();
        assert!(matches!(error, ConnectError::Resolve(host) if *host == *"unknown.invalid"));
    }

    #[tokio::test]
    async fn known_addresses_outlive_failed_lookups() {
        let name = names().get("unknown.invalid", 80);
        name.take(Ok(addresses(&["127.0.0.2:80"])));
        name.take(Err(io::ErrorKind::Other.into()));
        name.take(Ok(Vec::new()));
        assert_eq!(*name.addresses().await.unwrap(), *addresses(&["127.0.0.2:80"]));
        assert_eq!(name.version(), 1);
    }

    #[tokio::test]
    async fn version_counts_changes_and_ignores_the_order() {
        let name = names().get("app.invalid", 80);
        name.take(Ok(addresses(&["127.0.0.2:80", "127.0.0.3:80"])));
        name.take(Ok(addresses(&["127.0.0.3:80", "127.0.0.2:80", "127.0.0.3:80"])));
        assert_eq!(name.version(), 1);
        name.take(Ok(addresses(&["127.0.0.3:80"])));
        assert_eq!(name.version(), 2);
        assert!(!name.has("127.0.0.2:80".parse().unwrap()));
    }

    #[tokio::test]
    async fn names_that_nobody_holds_are_dropped() {
        let names = names();
        drop(names.get("a.invalid", 80));
        let _held = names.get("b.invalid", 80);
        assert_eq!(names.known.lock().len(), 1);
    }
}
