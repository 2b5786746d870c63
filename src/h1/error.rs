//! What the codec refuses, and with which status.

use thiserror::Error;

/// Why a head was refused. The connection cannot be read on: where the next
/// message would start is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeadError {
    /// LF without CR before it (RFC 9112 §2.2 lets us refuse it).
    #[error("line feed without carriage return")]
    BareLf,
    /// CR without LF after it.
    #[error("carriage return without line feed")]
    BareCr,
    /// NUL or another control character.
    #[error("control character in the head")]
    Control,
    /// Not `method SP target SP version CRLF`, or more empty lines before it than are tolerated.
    #[error("malformed request line")]
    RequestLine,
    /// Not `version SP 3DIGIT SP reason CRLF`, or a status outside 100..=599.
    #[error("malformed status line")]
    StatusLine,
    /// The method is no token, or longer than [`super::MAX_METHOD`].
    #[error("malformed method")]
    Method,
    /// A well-formed version other than HTTP/1.0 and HTTP/1.1.
    #[error("unsupported HTTP version")]
    Version,
    /// The target is in no form that its method allows, or has bytes that a URI cannot have.
    #[error("malformed request target")]
    Target,
    /// CONNECT: Homing is no forward proxy.
    #[error("CONNECT is not supported")]
    Connect,
    /// The target, or the request line before its end came, is longer than the limit.
    #[error("request target too long")]
    TargetTooLong,
    /// More bytes than the limit.
    #[error("head too large")]
    HeadTooLarge,
    /// More fields than the limit.
    #[error("too many fields")]
    TooManyFields,
    /// A field name that is no token, or not followed at once by a colon.
    #[error("malformed field name")]
    FieldName,
    /// A field value with bytes that are not allowed.
    #[error("malformed field value")]
    FieldValue,
    /// A line that continues the line before it (obs-fold).
    #[error("folded field line")]
    Folded,
    /// HTTP/1.1 without Host.
    #[error("no Host")]
    HostMissing,
    /// More than one Host.
    #[error("several Host fields")]
    HostRepeated,
    /// Host, or the authority of an absolute target, is no `host [":" port]`.
    #[error("malformed host")]
    Host,
    /// Content-Length that is not 1*DIGIT, or beyond 64 bits.
    #[error("malformed Content-Length")]
    ContentLength,
    /// More than one Content-Length, equal or not.
    #[error("several Content-Length fields")]
    ContentLengthRepeated,
    /// Content-Length next to Transfer-Encoding (RFC 9112 §6.1).
    #[error("Content-Length together with Transfer-Encoding")]
    LengthAndCoding,
    /// Transfer-Encoding with `chunked` twice or not last, or no list of codings at all.
    #[error("malformed Transfer-Encoding")]
    TransferEncoding,
    /// A transfer coding other than chunked.
    #[error("unsupported transfer coding")]
    UnknownCoding,
    /// Transfer-Encoding where there can be none: HTTP/1.0, 1xx, 204.
    #[error("Transfer-Encoding is not allowed here")]
    CodingNotAllowed,
    /// TRACE with a body, which it never has (RFC 9110 §9.3.8).
    #[error("a body is not allowed here")]
    BodyNotAllowed,
    /// Connection with options that are no tokens, on too many lines, or
    /// naming a field that is meant for every recipient (RFC 9110 §7.6.1).
    #[error("malformed Connection")]
    Connection,
}

impl HeadError {
    /// The status to answer a request with: 400, 414, 431, 501 or 505. A
    /// response that is refused is 502, whatever the reason.
    pub fn status(self) -> u16 {
        match self {
            Self::TargetTooLong => 414,
            Self::HeadTooLarge | Self::TooManyFields => 431,
            Self::Connect | Self::UnknownCoding => 501,
            Self::Version => 505,
            _ => 400,
        }
    }

    /// A stable word for logs and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::BareLf => "bare_lf",
            Self::BareCr => "bare_cr",
            Self::Control => "control_character",
            Self::RequestLine => "bad_request_line",
            Self::StatusLine => "bad_status_line",
            Self::Method => "bad_method",
            Self::Version => "unsupported_version",
            Self::Target => "bad_target",
            Self::Connect => "connect_not_supported",
            Self::TargetTooLong => "target_too_long",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyFields => "too_many_fields",
            Self::FieldName => "bad_field_name",
            Self::FieldValue => "bad_field_value",
            Self::Folded => "folded_field",
            Self::HostMissing => "host_missing",
            Self::HostRepeated => "host_repeated",
            Self::Host => "bad_host",
            Self::ContentLength => "bad_content_length",
            Self::ContentLengthRepeated => "content_length_repeated",
            Self::LengthAndCoding => "length_and_coding",
            Self::TransferEncoding => "bad_transfer_encoding",
            Self::UnknownCoding => "unknown_coding",
            Self::CodingNotAllowed => "coding_not_allowed",
            Self::BodyNotAllowed => "body_not_allowed",
            Self::Connection => "bad_connection",
        }
    }
}

/// Why a body was refused. What was forwarded of it is incomplete, so neither
/// connection may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BodyError {
    /// A chunk size that is not 1*16 HEXDIG.
    #[error("malformed chunk size")]
    ChunkSize,
    /// A chunk extension that is empty or has controls in it.
    #[error("malformed chunk extension")]
    ChunkExtension,
    /// More bytes of chunk extensions than the limit.
    #[error("chunk extensions too large")]
    ChunkExtensionsTooLarge,
    /// A line, or a chunk's data, that does not end in CRLF.
    #[error("chunk line does not end in CRLF")]
    LineEnd,
    /// A trailer that is no field line.
    #[error("malformed trailer")]
    Trailer,
    /// More bytes of trailers than the limit.
    #[error("trailers too large")]
    TrailersTooLarge,
    /// The connection ended before the body did.
    #[error("body truncated")]
    Truncated,
}

impl BodyError {
    /// The status to answer a request with, where no response has begun: 400 or 431.
    pub fn status(self) -> u16 {
        match self {
            Self::TrailersTooLarge => 431,
            _ => 400,
        }
    }

    /// A stable word for logs and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::ChunkSize => "bad_chunk_size",
            Self::ChunkExtension => "bad_chunk_extension",
            Self::ChunkExtensionsTooLarge => "chunk_extensions_too_large",
            Self::LineEnd => "bad_chunk_line",
            Self::Trailer => "bad_trailer",
            Self::TrailersTooLarge => "trailers_too_large",
            Self::Truncated => "body_truncated",
        }
    }
}
