//! The Connection header: persistence and hop-by-hop fields.

use arrayvec::ArrayVec;

use super::bytes::{is_token_string, trim_ows};
use super::{FieldKind, HeadError, Version};

/// The maximum number of Connection lines in a head.
pub const MAX_CONNECTION_LINES: usize = 4;

/// The maximum number of options other than `close`, `keep-alive` and `upgrade`. Every field of the
/// head is compared with each.
const MAX_OTHER_OPTIONS: usize = 16;

/// The Connection fields of a head (RFC 9110 §7.6.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connection<'b> {
    /// `close`.
    pub close: bool,
    /// `keep-alive`.
    pub keep_alive: bool,
    /// `upgrade`.
    pub upgrade: bool,
    /// The number of other options; only then must `names` read the lines.
    others: usize,
    lines: ArrayVec<&'b [u8], MAX_CONNECTION_LINES>,
}

impl<'b> Connection<'b> {
    /// Returns true if the connection may carry another message after this one.
    pub fn persistent(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }

    /// Returns true if this field (in any case) is listed as hop-by-hop. Transfer-Encoding never
    /// is: it belongs to the body, which is forwarded.
    pub fn names(&self, field_name: &str) -> bool {
        match field_name.len() {
            5 if self.close && field_name.eq_ignore_ascii_case("close") => true,
            7 if self.upgrade && field_name.eq_ignore_ascii_case("upgrade") => true,
            10 if self.keep_alive && field_name.eq_ignore_ascii_case("keep-alive") => true,
            17 if field_name.eq_ignore_ascii_case("transfer-encoding") => false,
            _ => self.others > 0 && self.options().any(|option| option.eq_ignore_ascii_case(field_name)),
        }
    }

    /// Returns every option, as received.
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
        } else if !is_token_string(option)
            || is_end_to_end(FieldKind::classify(option))
            || self.others == MAX_OTHER_OPTIONS
        {
            return Err(HeadError::Connection);
        } else {
            self.others += 1;
        }
        Ok(())
    }
}

/// Returns the non-empty elements of a list (RFC 9110 §5.6.1.2).
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim_ows).filter(|element| !element.is_empty())
}

/// Returns true for fields that must not be listed in Connection: removing them would hide from the
/// next reader something that it, or the affinity contract, depends on.
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
