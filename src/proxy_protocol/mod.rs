//! The PROXY protocol, versions 1 and 2, sans-IO (`proxy-protocol.txt` of `HAProxy`; § means a
//! section of it).
//!
//! A proxy in front of Homing sends a header at the start of the connection that names the original
//! client. Any header that is not strictly valid is an error: a receiver that guesses lets clients
//! choose their address.
//!
//! - [`parse`]: parses the header at the start of the input, if there is one;
//! - [`write_v1`], [`write_v2`]: write the header that starts an outgoing connection.

mod error;
mod header;
mod v1;
mod v2;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use header::{Header, Parsed};
pub use v1::{MAX_V1_BYTES, write_v1};
pub use v2::{MAX_V2_BYTES, write_v2};

/// Parses the header at the start of `input`, which is everything received on the connection so
/// far.
///
/// The result is `Partial` for every prefix of a valid header. An error and [`Parsed::NotProxy`]
/// are final, and are returned as soon as no continuation can be valid. The one exception is a
/// version 1 line that is valid but exceeds its limit: the error comes at the limit.
pub fn parse(input: &[u8]) -> Result<Parsed, Error> {
    if begins(input, v1::SIGNATURE) {
        v1::parse(input)
    } else if begins(input, v2::SIGNATURE) {
        v2::parse(input)
    } else {
        Ok(Parsed::NotProxy)
    }
}

/// Returns true if `input` matches the signature as far as it goes.
fn begins(input: &[u8], signature: &[u8]) -> bool {
    input.iter().zip(signature).all(|(a, b)| a == b)
}
