//! The protocol of an upstream.

/// The protocol that backends speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    H1,
    /// HTTP/2 over TLS, negotiated with ALPN.
    H2,
    /// HTTP/2 without TLS, with prior knowledge.
    H2c,
}

impl Protocol {
    /// Returns whether this is HTTP/2.
    pub fn is_http2(self) -> bool {
        self != Self::H1
    }
}
