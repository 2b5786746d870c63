//! Connection: how long the connection lives, and which fields end with it.

use arrayvec::ArrayVec;

use super::bytes::{is_token_string, trim_ows};
use super::{FieldKind, HeadError, Version};

/// The most Connection field lines in one head.
pub const MAX_CONNECTION_LINES: usize = 4;

/// What the Connection fields of a head say (RFC 9110 §7.6.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option on the wire, none excludes another")]
pub struct Connection<'b> {
    /// `close`.
    pub close: bool,
    /// `keep-alive`.
    pub keep_alive: bool,
    /// `upgrade`.
    pub upgrade: bool,
    /// Any other option: only then `names` must look at the lines.
    others: bool,
    lines: ArrayVec<&'b [u8], MAX_CONNECTION_LINES>,
}

impl<'b> Connection<'b> {
    /// May the connection carry another message after this one?
    pub fn persistent(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }

    /// Is this field (in any case) nominated hop-by-hop? Transfer-Encoding
    /// never is: it belongs to the body, which goes on.
    pub fn names(&self, field_name: &str) -> bool {
        match field_name.len() {
            5 if self.close && field_name.eq_ignore_ascii_case("close") => true,
            7 if self.upgrade && field_name.eq_ignore_ascii_case("upgrade") => true,
            10 if self.keep_alive && field_name.eq_ignore_ascii_case("keep-alive") => true,
            17 if field_name.eq_ignore_ascii_case("transfer-encoding") => false,
            _ => self.others && self.options().any(|option| option.eq_ignore_ascii_case(field_name)),
        }
    }

    /// Every option, as received.
    pub fn options(&self) -> impl Iterator<Item = &'b str> {
        self.lines
            .iter()
            .flat_map(|line| elements(line))
            .filter_map(|option| std::str::from_utf8(option).ok())
    }

    pub(super) fn add(&mut self, value: &'b [u8]) -> Result<(), HeadError> {
        if value.eq_ignore_ascii_case(b"keep-alive") {
            self.keep_alive = true;
        } else {
            for option in elements(value) {
                self.add_option(option)?;
            }
        }
        self.lines.try_push(value).map_err(|_| HeadError::Connection)
    }

    fn add_option(&mut self, option: &[u8]) -> Result<(), HeadError> {
        if option.eq_ignore_ascii_case(b"close") {
            self.close = true;
        } else if option.eq_ignore_ascii_case(b"keep-alive") {
            self.keep_alive = true;
        } else if option.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        } else if !is_token_string(option) || is_end_to_end(FieldKind::classify(option)) {
            return Err(HeadError::Connection);
        } else {
            self.others = true;
        }
        Ok(())
    }
}

/// The elements of a list, without the empty ones (RFC 9110 §5.6.1.2).
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim_ows).filter(|element| !element.is_empty())
}

/// Fields whose nomination would take from the message what its next reader,
/// or the affinity contract, depends on.
fn is_end_to_end(kind: FieldKind) -> bool {
    matches!(
        kind,
        FieldKind::Host
            | FieldKind::ContentLength
            | FieldKind::Cookie
            | FieldKind::SetCookie
            | FieldKind::XForwardedFor
            | FieldKind::XForwardedProto
            | FieldKind::XForwardedHost
            | FieldKind::Forwarded
            | FieldKind::Via
            | FieldKind::CacheControl
            | FieldKind::Affinity
            | FieldKind::ClientCert
    )
}
