//! The HTTP/1 codec, sans-IO: bytes in, head and framing out (RFC 9110, RFC 9112).
//!
//! httparse finds the fields. This module decides the framing and rejects anything that is not
//! strictly valid instead of repairing it: two readers of a repaired message may disagree on where
//! it ends. It does no I/O, keeps no buffer and allocates nothing; heads borrow the bytes they were
//! parsed from.
//!
//! - [`parse_request`], [`parse_response`]: parse a complete head;
//! - [`Body`]: finds where a body ends in the input, and which of its bytes to forward;
//! - [`copy_fields`] and related functions: write a head to an output buffer.
//!
//! `docs/codec.md` says what the pipeline may rely on.

mod authentication;
mod body;
mod bytes;
mod connection;
mod encode;
mod error;
mod field;
mod framing;
mod head;
mod host;
mod request;
mod response;
mod scan;
mod spelling;
mod trailer;
mod version;

pub use body::{Body, BodyLimits, Step};
pub use connection::{Connection, MAX_CONNECTION_LINES};
pub use encode::{
    CHUNK_END, Edit, LAST_CHUNK, copy_fields, end_head, write_chunk_prefix, write_field, write_request_line,
    write_status_line,
};
pub use error::{BodyError, HeadError};
pub use field::{Field, FieldKind, FieldSlots, Fields, MAX_FIELDS, is_hop_by_hop};
pub use framing::Framing;
pub use head::{HeadLimits, Parsed, RequestHead, ResponseHead, Target};
pub use request::{MAX_METHOD, parse_request};
pub use response::parse_response;
pub use spelling::write_spelled_field;
pub use version::Version;

#[cfg(test)]
mod tests;
