//! Names sessions in the table.
//!
//! A name says which session a key identifies, while a [`KeyHash`](super::KeyHash) says where on the
//! ring it is. The two are separate because they need different things. All proxies of a fleet must
//! agree on the place, without a common secret if there is none. But whoever could make up a key with
//! the name of another's would share its binding, so names are hashes under a secret of their table.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};

use super::siphash::{SipHasher, SipKey};

/// The name of a session in one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionName(pub u64);

/// The group of client addresses that an entry of the table counts for. Two addresses share a group
/// by chance, and nobody can choose with whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner(pub u16);

/// The scope of a cookie: where a browser keeps it apart from others of its name. Equal scopes mean
/// the same domain, path and kind of partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scope(u32);

impl Scope {
    /// Of ids that are not in a cookie: there is only one of its name.
    pub const HEADER: Self = Self(0);
    /// The bits of a scope.
    pub const BITS: u32 = 29;

    /// Returns the scope with these bits. Higher bits are ignored.
    pub fn of_bits(bits: u32) -> Self {
        Self(bits & ((1 << Self::BITS) - 1))
    }

    /// Returns its bits.
    pub fn bits(self) -> u32 {
        self.0
    }
}

/// The hash of a path of a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathHash(u64);

/// The secret from which all names of a table are made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NameSecret(pub [u8; 16]);

impl NameSecret {
    /// Draws a secret.
    ///
    /// # Panics
    /// If the system's random number generator fails.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        // Continuing with a predictable secret would be worse.
        aws_lc_rs::rand::fill(&mut bytes).expect("the system's random number generator works");
        Self(bytes)
    }
}

impl fmt::Debug for NameSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NameSecret(…)")
    }
}

/// Makes the names of one table. Each kind of key has a hash key of its own, so equal bytes of
/// different kinds have unrelated names.
#[derive(Clone, PartialEq, Eq)]
pub struct Namer {
    secret: NameSecret,
    ids: SipKey,
    addresses: SipKey,
    certificates: SipKey,
    scopes: SipKey,
}

impl Namer {
    /// Creates the namer of a secret.
    pub fn new(secret: NameSecret) -> Self {
        let derived = |kind: &[u8]| {
            let text = [b"homing session name\0", kind, b"\0", secret.0.as_slice()].concat();
            let hash = digest(&SHA256, &text);
            let word = |at: usize| {
                let mut word = [0; 8];
                word.copy_from_slice(&hash.as_ref()[at..at + 8]);
                u64::from_le_bytes(word)
            };
            SipKey(word(0), word(8))
        };
        Self {
            secret,
            ids: derived(b"id"),
            addresses: derived(b"address"),
            certificates: derived(b"certificate"),
            scopes: derived(b"scope"),
        }
    }

    /// Returns its secret.
    pub fn secret(&self) -> NameSecret {
        self.secret
    }

    /// Names the session of an id. The same id is the same session in every source.
    pub fn of_id(&self, id: &[u8]) -> SessionName {
        SessionName(hash(self.ids, id))
    }

    /// Names the session of a client address (16 bytes, already masked; IPv4 is mapped).
    pub fn of_address(&self, address: [u8; 16]) -> SessionName {
        SessionName(hash(self.addresses, &address))
    }

    /// Names the session of the name in a client certificate.
    pub fn of_certificate(&self, name: &[u8]) -> SessionName {
        SessionName(hash(self.certificates, name))
    }

    /// Returns the group of a client address (16 bytes, already masked).
    pub fn owner(&self, address: [u8; 16]) -> Owner {
        Owner((self.of_address(address).0 >> 48) as u16)
    }

    /// Hashes the path of a cookie.
    pub fn path(&self, path: &[u8]) -> PathHash {
        PathHash(hash(self.scopes, path))
    }

    /// Hashes the path that a cookie has if its line names none: the directory of the request's path
    /// (RFC 6265 §5.1.4). The query may follow the path.
    pub fn default_path(&self, target: &[u8]) -> PathHash {
        let path = &target[..memchr::memchr(b'?', target).unwrap_or(target.len())];
        match memchr::memrchr(b'/', path) {
            Some(end) if end > 0 && path[0] == b'/' => self.path(&path[..end]),
            _ => self.path(b"/"),
        }
    }

    /// Returns the scope of a cookie. Without a domain it is for its host only.
    pub fn scope(&self, domain: Option<&[u8]>, path: PathHash, partitioned: bool) -> Scope {
        let mut hasher = SipHasher::new(self.scopes);
        hasher.write(&path.0.to_le_bytes());
        hasher.write(&[u8::from(partitioned), u8::from(domain.is_some())]);
        for byte in domain.unwrap_or_default() {
            hasher.write(&[byte.to_ascii_lowercase()]);
        }
        #[expect(clippy::cast_possible_truncation, reason = "the low bits are as good as any")]
        let scope = Scope::of_bits(hasher.finish() as u32);
        // Zero is no cookie's.
        if scope == Scope::HEADER { Scope(1) } else { scope }
    }

    /// Returns the scope of a cookie for all paths of its host.
    pub fn root_scope(&self) -> Scope {
        self.scope(None, self.path(b"/"), false)
    }
}

impl fmt::Debug for Namer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Namer(…)")
    }
}

fn hash(key: SipKey, bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher::new(key);
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namer(secret: u8) -> Namer {
        Namer::new(NameSecret([secret; 16]))
    }

    #[test]
    fn equal_bytes_of_another_kind_or_table_have_another_name() {
        let (one, two) = (namer(1), namer(2));
        let bytes = *b"sixteen bytes ok";
        let names = [
            one.of_id(&bytes),
            one.of_address(bytes),
            one.of_certificate(&bytes),
            two.of_id(&bytes),
            two.of_address(bytes),
            two.of_certificate(&bytes),
        ];
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{at}");
        }
        assert_eq!(one.of_id(&bytes), namer(1).of_id(&bytes));
        assert_ne!(NameSecret::random(), NameSecret::random());
    }

    #[test]
    fn names_are_stable_across_builds() {
        // A file with the secret names the same sessions forever.
        assert_eq!(namer(7).of_id(b"abc"), SessionName(GOLDEN));
    }

    #[test]
    fn scopes_differ_by_domain_path_and_partition() {
        let namer = namer(1);
        let (root, app) = (namer.path(b"/"), namer.path(b"/app"));
        let scopes = [
            namer.scope(None, root, false),
            namer.scope(None, app, false),
            namer.scope(None, root, true),
            namer.scope(Some(b"example.com"), root, false),
            namer.scope(Some(b"www.example.com"), root, false),
            Scope::HEADER,
        ];
        for (at, scope) in scopes.iter().enumerate() {
            assert!(!scopes[..at].contains(scope), "{at}");
        }
        assert_eq!(namer.scope(Some(b"EXAMPLE.com"), root, false), scopes[3]);
        assert_eq!(namer.root_scope(), scopes[0]);
    }

    #[test]
    fn default_path_is_the_directory_of_the_request() {
        let namer = namer(1);
        for (target, path) in [
            ("/", "/"),
            ("/login", "/"),
            ("/app/login?next=/a/b", "/app"),
            ("/app/", "/app"),
            ("/a/b/c", "/a/b"),
            ("*", "/"),
            ("", "/"),
        ] {
            assert_eq!(namer.default_path(target.as_bytes()), namer.path(path.as_bytes()), "{target}");
        }
    }

    /// Computed by another implementation.
    const GOLDEN: u64 = 0x71c5_7650_5ad6_bd23;
}
