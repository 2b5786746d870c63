//! Fields: their meaning to a proxy, and their position in the head.

use std::fmt;
use std::ops::Deref;

use arrayvec::ArrayVec;

/// The maximum number of fields in a head; [`super::HeadLimits::fields`] cannot exceed it.
pub const MAX_FIELDS: usize = 256;

/// The fields that a proxy must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "named after the field")]
pub enum FieldKind {
    Host,
    Connection,
    ContentLength,
    TransferEncoding,
    Cookie,
    SetCookie,
    Expect,
    Upgrade,
    Te,
    Trailer,
    KeepAlive,
    ProxyConnection,
    XForwardedFor,
    XForwardedProto,
    XForwardedHost,
    Forwarded,
    Via,
    CacheControl,
    Authorization,
    ProxyAuthorization,
    WwwAuthenticate,
    ProxyAuthenticate,
    MaxForwards,
    /// `Proxy`, which CGI programs take for a setting of their own (httpoxy).
    Proxy,
    /// Any name that starts with `x-affinity-`.
    Affinity,
    /// Any name that starts with `x-client-cert-`, also with `_` for any `-`: applications that
    /// treat both alike must not be fooled.
    ClientCert,
    /// Any other.
    Other,
}

impl FieldKind {
    /// Returns the kind of a field with this name, in any case.
    pub fn classify(name: &[u8]) -> Self {
        const AFFINITY: &[u8] = b"x-affinity-";
        // The length rules out most names; one comparison decides the rest.
        let (expected, kind): (&[u8], Self) = match name.len() {
            2 => (b"te", Self::Te),
            3 => (b"via", Self::Via),
            4 => (b"host", Self::Host),
            5 if name[0] | 0x20 == b'p' => (b"proxy", Self::Proxy),
            6 if name[0] | 0x20 == b'c' => (b"cookie", Self::Cookie),
            6 => (b"expect", Self::Expect),
            7 if name[0] | 0x20 == b'u' => (b"upgrade", Self::Upgrade),
            7 => (b"trailer", Self::Trailer),
            9 => (b"forwarded", Self::Forwarded),
            10 => match name[0] | 0x20 {
                b'c' => (b"connection", Self::Connection),
                b's' => (b"set-cookie", Self::SetCookie),
                b'k' => (b"keep-alive", Self::KeepAlive),
                _ => return Self::Other,
            },
            12 if name[0] | 0x20 == b'm' => (b"max-forwards", Self::MaxForwards),
            13 if name[0] | 0x20 == b'a' => (b"authorization", Self::Authorization),
            13 if name[0] | 0x20 == b'c' => (b"cache-control", Self::CacheControl),
            14 if name[0] | 0x20 == b'c' => (b"content-length", Self::ContentLength),
            15 if name[0] | 0x20 == b'x' && name[2] | 0x20 == b'f' => {
                (b"x-forwarded-for", Self::XForwardedFor)
            }
            16 if name[0] | 0x20 == b'p' => (b"proxy-connection", Self::ProxyConnection),
            16 if name[0] | 0x20 == b'w' => (b"www-authenticate", Self::WwwAuthenticate),
            16 if name[0] | 0x20 == b'x' && name[2] | 0x20 == b'f' => {
                (b"x-forwarded-host", Self::XForwardedHost)
            }
            17 if name[0] | 0x20 == b't' => (b"transfer-encoding", Self::TransferEncoding),
            17 if name[0] | 0x20 == b'x' && name[2] | 0x20 == b'f' => {
                (b"x-forwarded-proto", Self::XForwardedProto)
            }
            18 if name[0] | 0x20 == b'p' => (b"proxy-authenticate", Self::ProxyAuthenticate),
            19 if name[0] | 0x20 == b'p' => (b"proxy-authorization", Self::ProxyAuthorization),
            len if len >= AFFINITY.len() && name[0] | 0x20 == b'x' => {
                return if name[..AFFINITY.len()].eq_ignore_ascii_case(AFFINITY) {
                    Self::Affinity
                } else if name[2] | 0x20 == b'c' && is_client_cert(name) {
                    Self::ClientCert
                } else {
                    Self::Other
                };
            }
            _ => return Self::Other,
        };
        if name.eq_ignore_ascii_case(expected) { kind } else { Self::Other }
    }
}

fn is_client_cert(name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"x-client-cert-";
    let dashed = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.len() > PREFIX.len() && name.iter().zip(PREFIX).all(|(&byte, &wanted)| dashed(byte) == wanted)
}

/// Returns true for fields that apply to one connection only, even if Connection does not name them
/// (RFC 9110 §7.6.1).
///
/// The RFC also lists Transfer-Encoding. It is not included here because the framing is forwarded
/// with the body, see [`super::Body`].
pub fn is_hop_by_hop(kind: FieldKind) -> bool {
    matches!(
        kind,
        FieldKind::Connection
            | FieldKind::KeepAlive
            | FieldKind::ProxyConnection
            | FieldKind::Te
            | FieldKind::Upgrade
    )
}

/// One field line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field<'b> {
    /// The name as received.
    pub name: &'b str,
    /// The value without surrounding OWS: HTAB, SP, VCHAR and obs-text.
    pub value: &'b [u8],
    /// The kind of field.
    pub kind: FieldKind,
    /// The start of the line in [`Fields::raw`]; it ends where the next one starts.
    pub(super) line: u32,
}

impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.value.escape_ascii())
    }
}

/// The fields of a head, in order: a slice of [`Field`] with the raw field lines.
#[derive(Clone, Copy)]
pub struct Fields<'b> {
    pub(super) raw: &'b [u8],
    pub(super) list: &'b [Field<'b>],
    /// Whether lines may have spaces before the colon, as in responses.
    pub(super) may_have_spaces: bool,
}

impl<'b> Fields<'b> {
    /// Returns the field lines as received, each with its CRLF, without the empty line.
    pub fn raw(&self) -> &'b [u8] {
        self.raw
    }

    /// Returns the fields, with the lifetime of the head's bytes.
    pub fn as_slice(&self) -> &'b [Field<'b>] {
        self.list
    }

    /// Returns the first field of this kind.
    pub fn first(&self, kind: FieldKind) -> Option<&'b Field<'b>> {
        self.list.iter().find(|field| field.kind == kind)
    }

    /// Returns the values of all fields with this name, in any case, in order.
    pub fn values<'s>(&self, name: &'s str) -> impl Iterator<Item = &'b [u8]> + use<'b, 's> {
        let kind = FieldKind::classify(name.as_bytes());
        let by_name = matches!(kind, FieldKind::Other | FieldKind::Affinity | FieldKind::ClientCert);
        self.list
            .iter()
            .filter(move |field| field.kind == kind && (!by_name || field.name.eq_ignore_ascii_case(name)))
            .map(|field| field.value)
    }
}

impl<'b> Deref for Fields<'b> {
    type Target = [Field<'b>];

    fn deref(&self) -> &[Field<'b>] {
        self.list
    }
}

impl<'b> IntoIterator for &Fields<'b> {
    type Item = &'b Field<'b>;
    type IntoIter = std::slice::Iter<'b, Field<'b>>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

impl fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list).finish()
    }
}

/// Storage for the fields of one head, on the caller's stack. It takes about 10 KB, of which only
/// the used part is touched. Keep it out of futures: do not hold it across an await.
#[derive(Debug, Default)]
pub struct FieldSlots<'b> {
    pub(super) list: ArrayVec<Field<'b>, MAX_FIELDS>,
}

impl FieldSlots<'_> {
    /// Creates empty storage, at no cost.
    #[inline]
    pub fn new() -> Self {
        Self { list: ArrayVec::new_const() }
    }
}
