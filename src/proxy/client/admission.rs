//! Accepts connections, and refuses those that exceed a limit.

use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;

use super::acceptor::{Acceptor, Arrival};
use super::connection;
use super::proxy_header;
use super::refusal::{place_for, refuse};
use crate::dial::connect_error::is_out_of_descriptors;
use crate::model::ProxyProtocol;
use crate::proxy::listener_settings::ListenerSettings;
use crate::proxy::worker::Worker;
use crate::telemetry::Refusal;

/// Pause after a failed accept, typically because no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until told to stop, then those still in the backlog.
pub(crate) async fn accept(
    worker: Rc<Worker>,
    acceptor: Acceptor,
    mut settings: ListenerSettings,
    stop: Rc<Notify>,
) {
    loop {
        tokio::select! {
            biased;
            accepted = acceptor.accept() => match accepted {
                Ok(arrival) => admit(&worker, arrival, &mut settings),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    let plain = settings.tls.is_none();
                    if is_out_of_descriptors(&error) && shed(&worker, &acceptor, plain).await {
                        continue;
                    }
                    tracing::warn!(worker = worker.shared.index, %error, "accept failed, retrying");
                    if tokio::time::timeout(ACCEPT_PAUSE, stop.notified()).await.is_ok() {
                        break;
                    }
                }
            },
            () = stop.notified() => break,
        }
    }
    for arrival in acceptor.into_waiting() {
        admit(&worker, arrival, &mut settings);
    }
}

/// Serves a connection in its own task, or refuses it if a limit is reached.
///
/// `settings` follows reloads. If a reload has removed the listener, the last ones are kept for
/// connections that were in the backlog.
fn admit(worker: &Rc<Worker>, arrival: Arrival, settings: &mut ListenerSettings) {
    if let Some(current) = worker.view().listener(&settings.id) {
        settings.clone_from(current);
    }
    let plain = settings.tls.is_none();
    let refuse = |refusal| refuse(worker, &arrival.socket, plain, refusal, arrival.peer);
    if !worker.has_room_for(&arrival.socket) {
        return refuse(Refusal::Descriptors);
    }
    let held = if arrival.is_from_afar() { place_for(worker, arrival.peer.ip()) } else { Ok(None) };
    let held = match held {
        Ok(held) => held,
        Err(refusal) => return refuse(refusal),
    };
    let Some(counted) = worker.count_connection() else { return refuse(Refusal::Connections) };
    let counted = (counted, held);
    let (worker, settings) = (Rc::clone(worker), settings.clone());
    // Each future is created where it is awaited; passed in, it would be stored twice.
    match settings.tls.clone() {
        _ if settings.proxy_protocol != ProxyProtocol::Off => tokio::task::spawn_local(async move {
            proxy_header::serve(worker, arrival, settings).await;
            drop(counted);
        }),
        None => tokio::task::spawn_local(async move {
            connection::serve(worker, arrival, &settings).await;
            drop(counted);
        }),
        Some(tls) => tokio::task::spawn_local(async move {
            connection::serve_secure(worker, arrival, tls).await;
            drop(counted);
        }),
    };
}

/// Accepts one client with the reserve descriptor and refuses it. Returns false if that fails too.
async fn shed(worker: &Worker, acceptor: &Acceptor, plain: bool) -> bool {
    worker.make_room();
    worker.descriptors.release();
    let accepted = std::future::poll_fn(|cx| Poll::Ready(acceptor.poll_accept(cx))).await;
    let shed = match accepted {
        Poll::Ready(Ok(arrival)) => {
            refuse(worker, &arrival.socket, plain, Refusal::Descriptors, arrival.peer);
            true
        }
        Poll::Ready(Err(_)) => false,
        Poll::Pending => true,
    };
    worker.descriptors.renew();
    shed
}

/// Returns true if the error concerns a single connection, not the listening socket.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
