//! Errors in PROXY headers.

use thiserror::Error;

/// Why a header is invalid. The connection must be closed: its client, and the start of its data,
/// are unknown (§2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Error {
    /// Longer than [`MAX_V1_BYTES`](super::MAX_V1_BYTES) or [`MAX_V2_BYTES`](super::MAX_V2_BYTES).
    #[error("PROXY header too long")]
    TooLong,
    /// Version 1: not exactly `PROXY SP family SP source SP destination SP port SP port CRLF`
    /// (§2.1).
    #[error("invalid PROXY header line")]
    Line,
    /// Version 1: an address that is not of the family or not canonical.
    #[error("invalid address in PROXY header")]
    Address,
    /// Version 1: a port that is not a decimal number up to 65535, or has leading zeros.
    #[error("invalid port in PROXY header")]
    Port,
    /// The binary signature with a version other than 2 (§2.2).
    #[error("unsupported PROXY protocol version")]
    Version,
    /// Version 2: neither LOCAL nor PROXY.
    #[error("unknown command in PROXY header")]
    Command,
    /// Version 2: an unassigned address family or transport protocol.
    #[error("unknown address family or transport in PROXY header")]
    Family,
    /// Version 2: the length is too short for the addresses of the family.
    #[error("PROXY header too short for its addresses")]
    TooShort,
    /// Version 2: the extensions do not exactly fill the rest of the header (§2.2, TLV).
    #[error("invalid extensions in PROXY header")]
    Extensions,
}
