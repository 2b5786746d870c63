//! What a backend does with a connection, step by step.

use super::wait::Gate;

/// One step.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Read a request's head. Without this first, whatever follows happens
    /// unasked.
    ReadHead,
    /// Read its body.
    ReadBody,
    /// The usual response: 200, who answered, and the extra fields.
    Reply,
    /// 101, with the proof that the request's key was read (RFC 6455 §4.2.2).
    Accept,
    /// The usual response, one byte at a time.
    DripReply,
    /// The usual response up to the middle of its head.
    ReplyToMidHead,
    /// The usual response up to the middle of its body.
    ReplyToMidBody,
    /// These bytes.
    Send(Vec<u8>),
    /// These bytes, one at a time.
    Drip(Vec<u8>),
    /// So many zero bytes.
    Zeros(usize),
    /// Wait for a test to say go on, or for the other side to go away; what
    /// it sends meanwhile is lost.
    Wait(Gate),
    /// Wait for a test to say go on, and read nothing.
    Pause(Gate),
    /// Wait for the other side to go away.
    Hang,
    /// End the sending side and wait for the other side to go away.
    HalfClose,
    /// Close.
    Close,
    /// Close with a reset.
    Reset,
    /// Change the keys of TLS: it says so to the other side, unasked.
    Rekey,
    /// Send back what comes, until its end.
    Echo,
}

/// The steps for the requests of a connection: the first list for the first,
/// and so on; the last for all after it.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(super) requests: Vec<Vec<Step>>,
}

impl Script {
    /// The same for every request.
    pub(crate) fn new(steps: impl Into<Vec<Step>>) -> Self {
        Self { requests: vec![steps.into()] }
    }

    /// Something else from the next request of a connection on.
    pub(crate) fn then(mut self, steps: impl Into<Vec<Step>>) -> Self {
        self.requests.push(steps.into());
        self
    }

    pub(crate) fn reply() -> Self {
        Self::new([Step::ReadHead, Step::ReadBody, Step::Reply])
    }

    /// A response of these bytes.
    pub(crate) fn raw(bytes: impl AsRef<[u8]>) -> Self {
        Self::new([Step::ReadHead, Step::ReadBody, Step::Send(bytes.as_ref().to_vec())])
    }

    pub(crate) fn raw_then(bytes: impl AsRef<[u8]>, last: Step) -> Self {
        Self::new([Step::ReadHead, Step::ReadBody, Step::Send(bytes.as_ref().to_vec()), last])
    }
}
