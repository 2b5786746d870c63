//! Connection limits, and the response to clients that exceed one.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::dial::socket::Socket;
use crate::proxy::connection_counts::CountedClient;
use crate::proxy::notices::Limit;
use crate::proxy::request::{Answer, write_answer};
use crate::proxy::worker::Worker;
use crate::telemetry::Refusal;

/// Counts a connection against `limits.connections_per_client`. Trusted peers are exempt.
pub(crate) fn place_for(worker: &Worker, client: IpAddr) -> Result<Option<CountedClient>, Refusal> {
    let view = worker.view();
    let config = &view.snapshot.config;
    match config.limits.connections_per_client {
        Some(limit) if !config.client_ip.trusts(client.to_canonical()) => {
            worker.shared.clients.count(client, limit).map(Some).ok_or(Refusal::PerClient)
        }
        _ => Ok(None),
    }
}

/// A client has `limits.streams_per_client` requests in flight.
pub(crate) struct TooManyStreams;

/// Counts an HTTP/2 request against `limits.streams_per_client`. Trusted peers are exempt.
///
/// # Errors
/// The limit is reached.
pub(crate) fn stream_for(worker: &Worker, client: IpAddr) -> Result<Option<CountedClient>, TooManyStreams> {
    let view = worker.view();
    let config = &view.snapshot.config;
    let Some(limit) = config.limits.streams_per_client else { return Ok(None) };
    if config.client_ip.trusts(client) {
        return Ok(None);
    }
    worker.shared.streams.count(client, limit).map(Some).ok_or_else(|| {
        worker.metrics().http2_refused();
        worker.notices.turned_away(Limit::Streams, worker.coarse_now(), &client);
        TooManyStreams
    })
}

/// Refuses a connection. Without TLS the client gets a 503, if it can be written without waiting.
pub(crate) fn refuse(worker: &Worker, socket: &Socket, plain: bool, refusal: Refusal, peer: SocketAddr) {
    worker.metrics().refused_connection(refusal);
    let limit = match refusal {
        Refusal::Connections => Limit::Connections,
        Refusal::PerClient => Limit::PerClient,
        Refusal::Descriptors => Limit::Descriptors,
    };
    worker.notices.turned_away(limit, worker.coarse_now(), &peer.ip().to_canonical());
    tracing::debug!(%peer, limit = refusal.as_str(), "connection refused");
    // Over TLS, a response would need a handshake first.
    if plain {
        let mut out = Vec::new();
        let retry_after = Some(Duration::from_secs(1));
        write_answer(&mut out, &Answer { retry_after, ..Answer::new(503, "too_many_connections") });
        let _ = socket.try_write(&out);
    }
}
