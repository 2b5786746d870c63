//! The exchange with one backend: sends the request and brings the response back. Both directions
//! run in one task, each with backpressure from its receiver.

use std::task::{Context, Poll};
use std::time::Duration;

use super::client::{After, Client};
use super::error::ProxyError;
use super::head::ClientFraming;
use super::reply::{Reply, ReplyReader};
use super::state::Request;
use super::tunnel;
use crate::affinity::pick::Verdict;
use crate::h1::{Body, BodyLimits, Framing, HeadError};
use crate::model::UpstreamTimeouts;
use crate::proxy::backend::Fault;
use crate::proxy::backend::lease::{BackendStream, Usage};
use crate::proxy::backend::pool::BackendPermit;
use crate::proxy::notices::Limit;
use crate::proxy::view::UpstreamView;
use crate::proxy::wire::buffer::{Buffer, Size};
use crate::proxy::wire::pace::{Pace, PaceStatus};
use crate::proxy::wire::transfer::{KEPT, Transfer, TransferError};

/// The estimated memory of an exchange besides its buffers.
const EXCHANGE_BYTES: usize = 6 * 1024;

/// The input of an exchange.
pub(crate) struct Attempt<'a> {
    pub upstream: &'a UpstreamView,
    pub verdict: Verdict,
    /// The permit for this request, held until the response ends.
    pub permit: BackendPermit,
    /// The connection to the backend.
    pub backend: BackendStream,
    /// The request head to send to the backend.
    pub out: Vec<u8>,
}

/// A running exchange.
pub(crate) struct Exchange<'r, 'w, 'a> {
    request: &'r mut Request<'w>,
    upstream: &'a UpstreamView,
    verdict: Verdict,
    backend: BackendStream,
    /// Bytes of the response read but not yet used.
    held: Option<Buffer>,
    upload: Transfer,
    upload_ended: bool,
    upload_pace: Pace,
    reply: ReplyReader,
    /// Whether to watch for the client's disconnect.
    watch_client: bool,
    /// Whether the response may never end.
    endless: bool,
    /// When an endless response must end, in the milliseconds of its deadline, once Homing stops.
    end: Option<u64>,
}

/// Sends the request and brings the response back.
///
/// # Errors
/// The client did not get the complete response. While `tally.status` is 0, it got nothing at all.
pub(crate) async fn run(
    request: &mut Request<'_>,
    client: &mut Client,
    attempt: Attempt<'_>,
) -> Result<After, ProxyError> {
    let Attempt { upstream, verdict, permit, backend, out } = attempt;
    let Some(framing) = request.facts.as_ref().map(|facts| facts.framing) else {
        return Err(ProxyError::ClientGone);
    };
    let worker = request.worker;
    let timeouts = upstream.state.config.timeouts;

    let has_body = framing != Framing::None;
    let read = upstream.state.config.protocol.is_http2().then(|| client.held.as_ref().map(Buffer::filled));
    let read = read.flatten().filter(|read| has_body && read.len() <= KEPT).map(<[u8]>::to_vec);
    if has_body {
        request.pass_head(client);
    }
    let head_len = out.len() as u64;
    let max_body = request.view.snapshot.config.limits.body_bytes;
    let mut upload =
        Transfer::new(out, Body::new(framing, BodyLimits::default()), false).limit_content(max_body);
    if let Some(read) = read {
        upload = upload.keep(read);
    }
    upload.join(&mut client.held).map_err(|e| ProxyError::of_upload(&e))?;
    let out = worker.buffers.take_output();
    let watch_client = request.view.snapshot.config.server.cancel_on_client_close;
    let mut exchange = Exchange {
        request,
        upstream,
        verdict,
        backend,
        held: None,
        upload,
        upload_ended: false,
        upload_pace: Pace::new(&timeouts),
        reply: ReplyReader::new(out),
        watch_client,
        endless: false,
        end: None,
    };

    client.deadline.set(if has_body { timeouts.body_idle } else { timeouts.response_head });
    let reply = match std::future::poll_fn(|cx| exchange.poll_head(cx, client, &timeouts)).await {
        Ok(reply) => reply,
        Err(mut error) => {
            worker.buffers.put_back(&mut exchange.held);
            if let (ProxyError::BackendRefused { replayable, .. }, true) = (&mut error, has_body) {
                let kept = exchange.upload.take_kept();
                *replayable = kept.is_some_and(|kept| worker.buffers.restore(&mut client.held, &kept));
                if *replayable {
                    return Err(error);
                }
            }
            exchange.request.tally.bytes_in += exchange.upload.sent().saturating_sub(head_len);
            if exchange.request.tally.bytes_out > 0 && !exchange.reply.out.is_empty() {
                // An interim response was cut off, so the client could not parse what follows.
                exchange.request.tally.status = error.status();
            }
            return Err(error);
        }
    };
    exchange.request.pass_head(client);
    if reply.upgraded {
        let Exchange { request, backend, held, reply, .. } = exchange;
        let upgraded = tunnel::Upgraded { backend, held, out: reply.out };
        return tunnel::run(request, client, permit, upgraded, &timeouts).await;
    }

    exchange.endless = reply.endless;
    let counted = reply.endless.then(|| worker.metrics().event_stream());
    let rechunk = reply.framing == ClientFraming::Chunked;
    let mut download = Transfer::new(std::mem::take(&mut exchange.reply.out), reply.body, rechunk);
    let mut result = download.join(&mut exchange.held).map_err(|e| ProxyError::of_download(&e));
    if result.is_err() {
        // Nothing was sent yet, so the client can still get an error response.
        exchange.request.tally.status = 0;
    } else {
        client.deadline.set(timeouts.body_idle);
        let mut pace = Pace::new(&timeouts);
        result =
            std::future::poll_fn(|cx| exchange.poll_body(cx, client, &mut download, &mut pace, &timeouts))
                .await;
    }

    drop(counted);
    let Exchange { request, mut backend, mut held, upload, .. } = exchange;
    request.tally.bytes_out += download.sent();
    // The request head was counted when it was read.
    request.tally.bytes_in += upload.sent().saturating_sub(head_len);
    let uploaded = upload.is_complete();
    let clean = held.as_ref().is_none_or(Buffer::is_empty);
    worker.buffers.put_back(&mut held);
    worker.buffers.put_output(upload.into_output());
    worker.buffers.put_output(download.into_output());
    if result.is_ok() && reply.backend_persistent && uploaded && clean {
        if reply.owns_backend {
            backend.own();
        }
        request.keep_open(client, permit.pool(), backend);
    }
    result?;
    Ok(match (reply.client_persistent, uploaded) {
        (true, true) => After::Next,
        _ => After::Linger,
    })
}

impl Exchange<'_, '_, '_> {
    /// Sends the request until the response head arrives.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client,
        timeouts: &UpstreamTimeouts,
    ) -> Poll<Result<Reply, ProxyError>> {
        if let Err(error) = self.poll_upload(cx, client, timeouts.body_idle, timeouts.response_head, true) {
            return Poll::Ready(Err(error));
        }
        loop {
            if let Some(buffer) = self.held.take_if(|b| !b.is_empty()) {
                let uploaded = self.upload.is_complete();
                let reply = self.reply.read(&buffer, self.request, self.upstream, self.verdict, uploaded);
                let (reply, consumed) = match reply {
                    Ok((reply, consumed)) => (reply, consumed),
                    Err(error) => {
                        self.held = Some(buffer);
                        return Poll::Ready(Err(error));
                    }
                };
                let held = self.held.insert(buffer);
                held.consume(consumed);
                if let Some(reply) = reply {
                    return Poll::Ready(Ok(reply));
                }
                if consumed > 0 {
                    continue;
                }
            }
            let buffers = &self.request.worker.buffers;
            match buffers.poll_fill(&mut self.held, Size::Large, &mut self.backend, cx) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) if self.held.is_some() || self.reply.interim > 0 => {
                    return Poll::Ready(Err(ProxyError::ResponseTruncated));
                }
                Poll::Ready(outcome) => {
                    let http2 = self.upstream.state.config.protocol.is_http2();
                    let fault = outcome.err().filter(|_| http2).map_or(Fault::Closed, |e| Fault::of(&e));
                    return Poll::Ready(Err(self.no_response(fault)));
                }
                Poll::Pending => break,
            }
        }
        if let Err(error) = self.poll_interim(cx, client) {
            return Poll::Ready(Err(error));
        }
        if let Err(error) = self.poll_client_gone(cx, client) {
            return Poll::Ready(Err(error));
        }
        self.charge(client, 0);
        if client.deadline.expired(cx) {
            if client.deadline.is_shed() {
                return Poll::Ready(Err(self.shed(client)));
            }
            return Poll::Ready(Err(match (self.upload_ended, self.upload.is_blocked_by_source()) {
                (false, true) => ProxyError::RequestBodyTimeout,
                _ => ProxyError::ResponseHeadTimeout,
            }));
        }
        Poll::Pending
    }

    /// States the memory that the exchange holds while it waits, and `more`.
    fn charge(&self, client: &Client, more: usize) {
        let held = self.held.as_ref().map_or(0, Buffer::size);
        client.deadline.charge(client.held_bytes() + EXCHANGE_BYTES + held + more);
    }

    /// Returns the error of an exchange that was cut short to free memory.
    fn shed(&self, client: &Client) -> ProxyError {
        let worker = self.request.worker;
        worker.notices.turned_away(Limit::Memory, worker.coarse_now(), &client.origin.peer);
        ProxyError::Shed
    }

    /// Returns the error for a stream that ended without a response.
    fn no_response(&self, fault: Fault) -> ProxyError {
        match fault {
            Fault::GoingAway => ProxyError::BackendRefused { replayable: true, going_away: true },
            Fault::Refused => ProxyError::BackendRefused { replayable: true, going_away: false },
            Fault::Reset => ProxyError::BackendReset,
            Fault::Malformed => ProxyError::ResponseMalformed,
            Fault::Unsendable => ProxyError::Unsendable,
            Fault::NoTunnel => ProxyError::NoTunnel,
            Fault::LargeHead => ProxyError::RequestHead(HeadError::HeadTooLarge),
            Fault::Closed => ProxyError::BackendClosed { reused: self.backend.usage() == Usage::Again },
        }
    }

    /// Sends more of the request. The body may pause for `idle`; once it is complete, the deadline
    /// for the response is `then`. `paced` enforces the minimum rate. After the response has begun
    /// there is none, because client and backend may take turns.
    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client,
        idle: Duration,
        then: Duration,
        paced: bool,
    ) -> Result<(), ProxyError> {
        if self.upload_ended {
            return Ok(());
        }
        let buffers = &self.request.worker.buffers;
        match self.upload.poll(cx, buffers, &mut client.stream, &mut client.held, &mut self.backend) {
            Poll::Ready(Ok(())) => {
                self.upload_ended = true;
                client.deadline.set(then);
                Ok(())
            }
            // The backend takes no more of the body. Its response may have arrived already.
            Poll::Ready(Err(TransferError::Sink)) => {
                self.upload_ended = true;
                Ok(())
            }
            Poll::Ready(Err(error)) => Err(ProxyError::of_upload(&error)),
            Poll::Pending => {
                let waits = paced && self.upload.is_blocked_by_source() && !self.awaits_continue();
                let status = self.upload_pace.check(client.deadline.now(), self.upload.sent(), waits, idle);
                match status {
                    PaceStatus::Wait(time) => client.deadline.set(time),
                    PaceStatus::TooSlow => return Err(ProxyError::RequestBodyTooSlow),
                    PaceStatus::Unchanged => {}
                }
                Ok(())
            }
        }
    }

    /// Returns whether the client waits for a 100 from the backend before it sends the body.
    fn awaits_continue(&self) -> bool {
        let expects = self.request.facts.as_ref().is_some_and(|facts| facts.expects_continue);
        expects && self.reply.interim == 0 && !self.upload.has_begun_body()
    }

    /// Sends interim responses to the client, as far as it takes them now.
    fn poll_interim(&mut self, cx: &mut Context<'_>, client: &mut Client) -> Result<(), ProxyError> {
        while !self.reply.out.is_empty() {
            match client.stream.poll_write(cx, &self.reply.out) {
                Poll::Ready(Ok(n)) => {
                    self.reply.out.drain(..n);
                    self.request.tally.bytes_out += n as u64;
                }
                Poll::Ready(Err(_)) => return Err(ProxyError::ClientGone),
                Poll::Pending => return Ok(()),
            }
        }
        match client.stream.poll_flush(cx) {
            Poll::Ready(Err(_)) => Err(ProxyError::ClientGone),
            _ => Ok(()),
        }
    }

    /// Checks for the client's disconnect while it waits for the response. Bytes that it sends
    /// ahead are kept for its next request, and end the watch.
    fn poll_client_gone(&mut self, cx: &mut Context<'_>, client: &mut Client) -> Result<(), ProxyError> {
        if !self.watch_client || !self.upload_ended {
            return Ok(());
        }
        let before = client.held.as_ref().map_or(0, |held| held.filled().len());
        match client.poll_gone(cx, &self.request.worker.buffers) {
            Poll::Ready(true) => Err(ProxyError::ClientGone),
            Poll::Ready(false) => {
                self.watch_client = false;
                self.upload.keep_ahead(client.held.as_ref(), before);
                Ok(())
            }
            Poll::Pending => Ok(()),
        }
    }

    /// Returns whether an endless response ends now, because Homing stops. What has arrived of it is
    /// passed on, for a second at most.
    fn must_end(&mut self, client: &Client, download: &Transfer) -> bool {
        let now = client.deadline.now();
        let allowed = u64::try_from(tunnel::CLOSE_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        let end = *self.end.get_or_insert_with(|| now.saturating_add(allowed));
        client.deadline.set(Duration::from_millis(end.saturating_sub(now)));
        download.is_blocked_by_source() || now >= end
    }

    /// Sends more of the response body to the client, and the rest of the request body to the
    /// backend.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client,
        download: &mut Transfer,
        pace: &mut Pace,
        timeouts: &UpstreamTimeouts,
    ) -> Poll<Result<(), ProxyError>> {
        if let Err(error) = self.poll_upload(cx, client, timeouts.body_idle, timeouts.body_idle, false) {
            return Poll::Ready(Err(error));
        }
        let buffers = &self.request.worker.buffers;
        match download.poll(cx, buffers, &mut self.backend, &mut self.held, &mut client.stream) {
            Poll::Ready(result) => return Poll::Ready(result.map_err(|e| ProxyError::of_download(&e))),
            Poll::Pending => {
                let waits = !download.is_blocked_by_source();
                if waits {
                    self.backend.absorb(cx);
                }
                match pace.check(client.deadline.now(), download.sent(), waits, timeouts.body_idle) {
                    PaceStatus::Wait(time) => client.deadline.set(time),
                    PaceStatus::TooSlow => return Poll::Ready(Err(ProxyError::ClientTooSlow)),
                    PaceStatus::Unchanged => {}
                }
            }
        }
        if let Err(error) = self.poll_client_gone(cx, client) {
            return Poll::Ready(Err(error));
        }
        if self.endless && self.request.worker.closing() && self.must_end(client, download) {
            return Poll::Ready(Err(ProxyError::Stopping));
        }
        // An unread HTTP/2 response also fills its stream's buffer.
        let unread = !download.is_blocked_by_source();
        self.charge(client, if unread { client.stream.send_buffer() } else { 0 });
        if client.deadline.expired(cx) {
            if client.deadline.is_shed() {
                return Poll::Ready(Err(self.shed(client)));
            }
            let upload_stalls = !self.upload_ended && self.upload.is_blocked_by_source();
            return Poll::Ready(Err(match (download.is_blocked_by_source(), upload_stalls) {
                (false, _) => ProxyError::ClientStalled,
                // The backend may be waiting for the request body: this is not its fault.
                (true, true) => ProxyError::RequestBodyTimeout,
                (true, false) => ProxyError::ResponseBodyTimeout,
            }));
        }
        Poll::Pending
    }
}
