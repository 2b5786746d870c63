//! Why a header is refused.

use thiserror::Error;

/// Why a header was refused. The connection has to be closed: whose it is, and
/// where its bytes begin, is not known (§2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Error {
    /// Longer than [`MAX_V1_BYTES`](super::MAX_V1_BYTES) or [`MAX_V2_BYTES`](super::MAX_V2_BYTES).
    #[error("PROXY header too long")]
    TooLong,
    /// Version 1: not `PROXY SP family SP source SP destination SP port SP port CRLF`,
    /// letter by letter (§2.1).
    #[error("malformed PROXY header line")]
    Line,
    /// Version 1: an address that is none of its family, or not canonical.
    #[error("malformed address in the PROXY header")]
    Address,
    /// Version 1: a port that is no decimal number up to 65535, or has leading zeros.
    #[error("malformed port in the PROXY header")]
    Port,
    /// The binary signature with another version than 2 (§2.2).
    #[error("unsupported version of the PROXY protocol")]
    Version,
    /// Version 2: neither LOCAL nor PROXY.
    #[error("unknown command in the PROXY header")]
    Command,
    /// Version 2: an address family or a transport protocol that is not assigned.
    #[error("unknown address family or transport in the PROXY header")]
    Family,
    /// Version 2: the length leaves no room for the addresses of the family.
    #[error("PROXY header too short for its addresses")]
    TooShort,
    /// Version 2: the extensions do not fill the rest of the header exactly (§2.2, TLV).
    #[error("malformed extensions in the PROXY header")]
    Extensions,
}
