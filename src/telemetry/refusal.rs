//! Reasons to close a client connection right after accepting it.

/// The limit that a client connection would have exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `limits.connections`.
    Connections,
    /// `limits.connections_per_client`.
    PerClient,
    /// The file descriptor limit of the process.
    Descriptors,
}

impl Refusal {
    /// All values, each at the index of its discriminant.
    pub const ALL: [Self; 3] = [Self::Connections, Self::PerClient, Self::Descriptors];

    /// Returns the name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::PerClient => "connections_per_client",
            Self::Descriptors => "descriptors",
        }
    }
}
