//! The PROXY protocol, versions 1 and 2, sans-IO (`proxy-protocol.txt` of
//! `HAProxy`; § below means a section of it).
//!
//! A proxy in front of us says by a header, before the first byte of the
//! connection proper, whose connection it relays. Whatever is not exactly
//! right is refused: a receiver that guesses lets clients choose their address.
//!
//! - [`parse`]: the header at the beginning of what was read, if there is one;
//! - [`write_v1`], [`write_v2`]: the header that begins an outgoing connection.

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

/// Reads the header at the beginning of `input`: everything that the
/// connection has delivered so far, from its first byte on.
///
/// The answer is `Partial` for every beginning of a header that is accepted
/// when it is whole. An error, and [`Parsed::NotProxy`], are final, and come
/// as soon as no continuation could be right; only a version 1 line that would
/// end right but past its limit waits for the limit.
pub fn parse(input: &[u8]) -> Result<Parsed, Error> {
    if begins(input, v1::SIGNATURE) {
        v1::parse(input)
    } else if begins(input, v2::SIGNATURE) {
        v2::parse(input)
    } else {
        Ok(Parsed::NotProxy)
    }
}

/// Does `input`, as far as it goes, agree with the signature?
fn begins(input: &[u8], signature: &[u8]) -> bool {
    input.iter().zip(signature).all(|(a, b)| a == b)
}
