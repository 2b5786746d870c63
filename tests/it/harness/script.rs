//! Scripts: what a backend does on a connection, step by step.

use super::wait::Gate;

/// One step of a [`Script`].
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Read a request head. A script that does not start with this acts without a request.
    ReadHead,
    /// Read the request body.
    ReadBody,
    /// Send the default response: 200, the backend's name, and the extra fields.
    Reply,
    /// Send a 101 with the `Sec-WebSocket-Accept` computed from the request's key (RFC 6455 §4.2.2).
    Accept,
    /// Send the default response one byte at a time.
    DripReply,
    /// Send the default response up to the middle of its head.
    ReplyToMidHead,
    /// Send the default response up to the middle of its body.
    ReplyToMidBody,
    /// Send these bytes.
    Send(Vec<u8>),
    /// Send these bytes one at a time.
    Drip(Vec<u8>),
    /// Send this many zero bytes.
    Zeros(usize),
    /// Wait until the gate opens or the peer disconnects. Discards what the peer sends meanwhile.
    Wait(Gate),
    /// Wait until the gate opens, without reading.
    Pause(Gate),
    /// Wait until the peer disconnects.
    Hang,
    /// Shut down the sending side and wait until the peer disconnects.
    HalfClose,
    /// Close the connection.
    Close,
    /// Close the connection with a reset.
    Reset,
    /// Start a TLS key update, which sends an unsolicited message to the peer.
    Rekey,
    /// Echo everything until the peer stops sending.
    Echo,
}

/// The steps for each request on a connection: the first list for the first request, and so on. The
/// last list repeats.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(super) requests: Vec<Vec<Step>>,
}

impl Script {
    /// Uses the same steps for every request.
    pub(crate) fn new(steps: impl Into<Vec<Step>>) -> Self {
        Self { requests: vec![steps.into()] }
    }

    /// Uses these steps from the next request of a connection on.
    pub(crate) fn then(mut self, steps: impl Into<Vec<Step>>) -> Self {
        self.requests.push(steps.into());
        self
    }

    pub(crate) fn reply() -> Self {
        Self::new([Step::ReadHead, Step::ReadBody, Step::Reply])
    }

    /// Responds with these bytes.
    pub(crate) fn raw(bytes: impl AsRef<[u8]>) -> Self {
        Self::new([Step::ReadHead, Step::ReadBody, Step::Send(bytes.as_ref().to_vec())])
    }

    pub(crate) fn raw_then(bytes: impl AsRef<[u8]>, last: Step) -> Self {
        Self::new([Step::ReadHead, Step::ReadBody, Step::Send(bytes.as_ref().to_vec()), last])
    }
}
