//! Why a client connection was closed as soon as it was accepted.

/// Which limit it would have gone beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `limits.connections`.
    Connections,
    /// `limits.connections_per_client`.
    PerClient,
    /// The file descriptors that the process may have open.
    Descriptors,
}

impl Refusal {
    /// All of them, each at its own number.
    pub const ALL: [Self; 3] = [Self::Connections, Self::PerClient, Self::Descriptors];

    /// One word, for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::PerClient => "connections_per_client",
            Self::Descriptors => "descriptors",
        }
    }
}
