//! The settings of the cookie.

use std::path::PathBuf;
use std::time::Duration;

use crate::secret::SecretKey;

/// `affinity.cookie`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieConfig {
    /// The cookie's name.
    pub name: String,
    /// One key a line; the first seals, all open. `None`: an ephemeral key.
    pub keys_file: Option<PathBuf>,
    /// The key material of `keys_file`, read when the file was loaded.
    pub keys: Vec<SecretKey>,
    /// A binding is forgotten this long after it was first made.
    pub max_age: Duration,
    /// A binding is forgotten after this long without a request.
    pub max_idle: Duration,
    /// `Path`.
    pub path: String,
    /// `Domain`; `None`: host-only.
    pub domain: Option<String>,
    /// `Secure`.
    pub secure: SecureAttribute,
    /// `SameSite`.
    pub same_site: SameSite,
    /// `HttpOnly`.
    pub http_only: bool,
    /// `Partitioned` (CHIPS).
    pub partitioned: bool,
    /// What is done on a response that shared caches may keep.
    pub on_cacheable: OnCacheable,
}

/// When the cookie is marked `Secure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecureAttribute {
    /// When the request came over TLS (to Homing, or to a trusted proxy that
    /// says so in X-Forwarded-Proto).
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The `SameSite` attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// `SameSite=Lax`.
    Lax,
    /// `SameSite=Strict`.
    Strict,
    /// `SameSite=None`; needs Secure.
    None,
}

/// What is done with the cookie on a response that shared caches may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCacheable {
    /// The cookie is not set on it.
    Skip,
    /// It is set and `Cache-Control: private` is added.
    Private,
    /// It is set.
    Set,
}
