//! TLS of a running proxy: what was loaded from the files that a configuration names.

use std::sync::Arc;

use super::Config;
use crate::tls::{Client, Problem, ReadFile, Server};

/// The TLS state of all listeners and upstreams of one configuration.
#[derive(Debug, Clone, Default)]
pub struct LiveTls {
    /// By index of [`Config::listeners`].
    listeners: Vec<Option<Arc<Server>>>,
    /// By index of [`Config::upstreams`].
    upstreams: Vec<Option<Arc<Client>>>,
}

impl LiveTls {
    /// Loads every certificate, private key and CA that the configuration names.
    ///
    /// # Errors
    /// Returns all problems of the first listener or upstream that has any.
    pub fn load(config: &Config, read: ReadFile<'_>) -> Result<Self, Vec<Problem>> {
        let mut live = Self::default();
        for listener in &config.listeners {
            let server = listener.tls.clone().map(Server::new);
            if let Some(server) = &server {
                server.load(read)?;
            }
            live.listeners.push(server.map(Arc::new));
        }
        for upstream in &config.upstreams {
            let client = upstream.tls.clone().map(Client::new);
            if let Some(client) = &client {
                client.load(read)?;
            }
            live.upstreams.push(client.map(Arc::new));
        }
        Ok(live)
    }

    /// Carries connections and TLS sessions over from the state before a reload. What has not
    /// changed stays the same object; a listener that has changed resumes the old sessions.
    pub fn continue_from(&mut self, config: &Config, old: &Self, old_config: &Config) {
        for (index, server) in self.listeners.iter_mut().enumerate() {
            let Some(server) = server else { continue };
            let index = old_config.listener_with_id(&config.listener_id(index));
            match index.and_then(|index| old.listener(index)) {
                Some(before) if *before == *server => *server = Arc::clone(before),
                Some(before) => server.continue_from(before),
                None => {}
            }
        }
        for (upstream, client) in config.upstreams.iter().zip(&mut self.upstreams) {
            let Some(client) = client else { continue };
            let index = old_config.upstreams.iter().position(|before| before.name == upstream.name);
            if let Some(before) = index.and_then(|index| old.upstream(index))
                && *before == *client
            {
                *client = Arc::clone(before);
            }
        }
    }

    /// The TLS state of a listener, by index; `None` for plain HTTP.
    pub fn listener(&self, index: usize) -> Option<&Arc<Server>> {
        self.listeners.get(index)?.as_ref()
    }

    /// The TLS state of an upstream, by index; `None` for plain backends.
    pub fn upstream(&self, index: usize) -> Option<&Arc<Client>> {
        self.upstreams.get(index)?.as_ref()
    }

    /// Is every state the same object as in `other`?
    pub fn same_as(&self, other: &Self) -> bool {
        fn same<T>(a: &[Option<Arc<T>>], b: &[Option<Arc<T>>]) -> bool {
            a.len() == b.len()
                && a.iter().zip(b).all(|pair| match pair {
                    (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                    (a, b) => a.is_none() && b.is_none(),
                })
        }
        same(&self.listeners, &other.listeners) && same(&self.upstreams, &other.upstreams)
    }
}
