//! `protocol` of an upstream.

/// What backends speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    H1,
    /// HTTP/2 over TLS, chosen in the handshake (ALPN).
    H2,
    /// HTTP/2 without TLS, known beforehand.
    H2c,
}

impl Protocol {
    /// Is it HTTP/2?
    pub fn is_http2(self) -> bool {
        self != Self::H1
    }
}
