//! Parse errors and their statuses.

use thiserror::Error;

/// Why a head is invalid. The connection cannot be read further, because the start of the next
/// message is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeadError {
    /// LF without a preceding CR (RFC 9112 §2.2 allows rejecting it).
    #[error("bare LF")]
    BareLf,
    /// CR without a following LF.
    #[error("bare CR")]
    BareCr,
    /// NUL or another control character.
    #[error("invalid control character")]
    Control,
    /// Not `method SP target SP version CRLF`, or too many empty lines before it.
    #[error("invalid request line")]
    RequestLine,
    /// Not `version SP 3DIGIT [SP reason] CRLF`, or a status outside 100..=599.
    #[error("invalid status line")]
    StatusLine,
    /// The method is not a token, or is longer than [`super::MAX_METHOD`].
    #[error("invalid method")]
    Method,
    /// A well-formed version other than HTTP/1.0 and HTTP/1.1.
    #[error("unsupported HTTP version")]
    Version,
    /// The target has a form that its method does not allow, or bytes not allowed in a URI.
    #[error("invalid request target")]
    Target,
    /// CONNECT: Homing is not a forward proxy.
    #[error("CONNECT is not supported")]
    Connect,
    /// The target, or an incomplete request line, exceeds the limit.
    #[error("request target too long")]
    TargetTooLong,
    /// The head exceeds the limit.
    #[error("headers too large")]
    HeadTooLarge,
    /// The number of fields exceeds the limit.
    #[error("too many headers")]
    TooManyFields,
    /// A field name that is not a token, or not directly followed by a colon.
    #[error("invalid header name")]
    FieldName,
    /// A field value with invalid bytes.
    #[error("invalid header value")]
    FieldValue,
    /// A line that continues the previous one (obs-fold).
    #[error("folded header line")]
    Folded,
    /// HTTP/1.1 without Host.
    #[error("missing Host header")]
    HostMissing,
    /// More than one Host.
    #[error("more than one Host header")]
    HostRepeated,
    /// Host, or the authority of an absolute target, is not `host [":" port]`.
    #[error("invalid host")]
    Host,
    /// Content-Length that is not 1*DIGIT or exceeds 63 bits.
    #[error("invalid Content-Length")]
    ContentLength,
    /// More than one Content-Length, equal or not.
    #[error("more than one Content-Length header")]
    ContentLengthRepeated,
    /// Both Content-Length and Transfer-Encoding (RFC 9112 §6.1).
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndCoding,
    /// Transfer-Encoding with `chunked` repeated or not last, or that is not a list of codings.
    #[error("invalid Transfer-Encoding")]
    TransferEncoding,
    /// A transfer coding other than chunked.
    #[error("unsupported transfer coding")]
    UnknownCoding,
    /// Transfer-Encoding where it is not allowed: HTTP/1.0, 1xx, 204.
    #[error("Transfer-Encoding not allowed here")]
    CodingNotAllowed,
    /// TRACE with a body, which is not allowed (RFC 9110 §9.3.8).
    #[error("body not allowed with this method")]
    BodyNotAllowed,
    /// Connection with options that are not tokens, too many or on too many lines, or naming an
    /// end-to-end field (RFC 9110 §7.6.1).
    #[error("invalid Connection header")]
    Connection,
}

impl HeadError {
    /// Returns the status of the answer to a request: 400, 414, 431, 501 or 505. An invalid
    /// response is always answered with 502.
    pub fn status(self) -> u16 {
        match self {
            Self::TargetTooLong => 414,
            Self::HeadTooLarge | Self::TooManyFields => 431,
            Self::Connect | Self::UnknownCoding => 501,
            Self::Version => 505,
            _ => 400,
        }
    }

    /// Returns the stable code used in logs and metrics.
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

/// Why a body is invalid. What was forwarded of it is incomplete, so neither connection can be
/// reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BodyError {
    /// A chunk size that is not 1*16 HEXDIG or exceeds 63 bits.
    #[error("invalid chunk size")]
    ChunkSize,
    /// A chunk extension that is empty or contains control characters.
    #[error("invalid chunk extension")]
    ChunkExtension,
    /// The chunk extensions exceed the limit.
    #[error("chunk extensions too large")]
    ChunkExtensionsTooLarge,
    /// A line, or a chunk's data, that does not end in CRLF.
    #[error("missing CRLF in a chunked body")]
    LineEnd,
    /// A trailer that is not a field line.
    #[error("invalid trailer")]
    Trailer,
    /// The trailers exceed the limit.
    #[error("trailers too large")]
    TrailersTooLarge,
    /// The connection closed before the end of the body.
    #[error("truncated body")]
    Truncated,
}

impl BodyError {
    /// Returns the status of the answer to a request, if no response has started: 400 or 431.
    pub fn status(self) -> u16 {
        match self {
            Self::TrailersTooLarge => 431,
            _ => 400,
        }
    }

    /// Returns the stable code used in logs and metrics.
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
