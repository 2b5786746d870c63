//! The listening sockets, and how a reload changes them.

use std::sync::Arc;

use parking_lot::Mutex;

use super::error::AppError;
use super::workers::Workers;
use crate::model::snapshot::Snapshot;
use crate::model::{Bind, Config, Listener};
use crate::proxy::client::listener::{self, BoundSockets, SocketFile};
use crate::proxy::event_loop::Command;
use crate::proxy::listener_settings::ListenerSettings;

/// The bound listeners, in configuration order as far as reloads allow.
#[derive(Debug, Default)]
pub(super) struct Listeners(Mutex<Vec<BoundListener>>);

#[derive(Debug, Clone)]
struct BoundListener {
    /// The configured address. The port may be 0.
    configured: Bind,
    /// The bound address.
    actual: Bind,
    /// The socket file of a Unix domain socket, removed with the last clone.
    file: Option<Arc<SocketFile>>,
}

/// Sockets that are bound but not served yet.
pub(super) struct NewListener {
    index: usize,
    listener: Listener,
    sockets: BoundSockets,
}

/// What a reload changes: new sockets are bound, nothing is served or closed yet.
pub(super) struct ListenerChanges {
    kept: Vec<(BoundListener, Listener)>,
    gone: Vec<BoundListener>,
    new: Vec<NewListener>,
}

/// Binds all listeners of a configuration.
pub(super) fn bind_all(config: &Config) -> Result<Vec<NewListener>, AppError> {
    config.listeners.iter().enumerate().map(|(index, listener)| bind(index, listener, config)).collect()
}

fn bind(index: usize, listener: &Listener, config: &Config) -> Result<NewListener, AppError> {
    let sockets = listener::bind(listener, config.server.workers.get());
    let sockets = sockets.map_err(|source| AppError::Bind { address: listener.bind.clone(), source })?;
    Ok(NewListener { index, listener: listener.clone(), sockets })
}

impl Listeners {
    /// Returns the bound addresses.
    pub(super) fn addresses(&self) -> Vec<Bind> {
        self.0.lock().iter().map(|bound| bound.actual.clone()).collect()
    }

    /// Forgets all listeners and removes their socket files.
    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }

    /// Starts serving on bound sockets.
    pub(super) fn serve(&self, workers: &Workers, new: Vec<NewListener>, snapshot: &Snapshot) {
        for NewListener { index, listener, sockets } in new {
            let settings = ListenerSettings::new(snapshot, index);
            let BoundSockets { bind: actual, sockets, file } = sockets;
            for (worker, socket) in workers.commands.iter().zip(sockets) {
                let _ = worker.send(Command::Listen(actual.clone(), socket, settings.clone()));
            }
            let (configured, file) = (listener.bind, file.map(Arc::new));
            self.0.lock().push(BoundListener { configured, actual, file });
        }
    }

    /// Compares with a new configuration and binds what is new.
    pub(super) fn changes(&self, config: &Config) -> Result<ListenerChanges, AppError> {
        let mut gone = self.0.lock().clone();
        let (mut kept, mut new) = (Vec::new(), Vec::new());
        for (index, listener) in config.listeners.iter().enumerate() {
            if let Some(bound) = gone.iter().position(|bound| bound.configured == listener.bind) {
                kept.push((gone.remove(bound), listener.clone()));
            } else {
                new.push(bind(index, listener, config)?);
            }
        }
        Ok(ListenerChanges { kept, gone, new })
    }

    /// Makes the changes. What they serve with is in the snapshot, which is published by now.
    pub(super) fn apply(&self, workers: &Workers, changes: ListenerChanges, snapshot: &Snapshot) {
        let ListenerChanges { kept, gone, new } = changes;
        for (bound, listener) in kept {
            if let Some(Err(error)) = bound.file.map(|file| file.set_mode(listener.mode)) {
                tracing::error!(address = %bound.actual, %error, "cannot change the mode of the socket file");
            }
        }
        for bound in gone {
            workers.tell(|| Command::Unlisten(bound.actual.clone()));
            self.0.lock().retain(|other| other.actual != bound.actual);
            tracing::info!(address = %bound.actual, "stopped listening");
        }
        for listener in &new {
            tracing::info!(address = %listener.sockets.bind, "listening");
        }
        self.serve(workers, new, snapshot);
    }
}
