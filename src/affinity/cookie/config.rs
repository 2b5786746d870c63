//! The cookie's settings.

use std::path::PathBuf;
use std::time::Duration;

use crate::secret::SecretKey;

/// `affinity.cookie`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieConfig {
    /// The cookie's name.
    pub name: String,
    /// The name of a cookie that is issued early: for a client without a session, before the
    /// application has set a cookie. It must not replace the other.
    pub early_name: String,
    /// A name that the cookie had before. It is read, but not set.
    pub former_name: Option<String>,
    /// The key file: one key per line, the first seals, all open. `None`: an ephemeral key.
    pub keys_file: Option<PathBuf>,
    /// The keys in `keys_file`, read when the configuration was loaded.
    pub keys: Vec<SecretKey>,
    /// The maximum age of a binding; `None`: no maximum.
    pub max_age: Option<Duration>,
    /// The maximum time without a request, after which the binding is forgotten.
    pub max_idle: Duration,
    /// The `Path` attribute.
    pub path: String,
    /// The `Domain` attribute; `None`: host-only.
    pub domain: Option<String>,
    /// The `Secure` attribute.
    pub secure: SecureAttribute,
    /// The `SameSite` attribute.
    pub same_site: SameSite,
    /// The `HttpOnly` attribute.
    pub http_only: bool,
    /// The `Partitioned` attribute (CHIPS).
    pub partitioned: bool,
    /// What to do on responses that shared caches may store.
    pub on_cacheable: OnCacheable,
}

impl CookieConfig {
    /// Returns the name of the early cookie beside the cookie `name`.
    pub fn early_name_of(name: &str) -> String {
        format!("{name}.early")
    }

    /// Sets the name.
    pub fn rename(&mut self, name: String) {
        self.early_name = Self::early_name_of(&name);
        self.name = name;
    }

    /// Returns true if a cookie of this name may be ours.
    pub fn is_named(&self, name: &[u8]) -> bool {
        name == self.name.as_bytes()
            || name == self.early_name.as_bytes()
            || self.former_name.as_ref().is_some_and(|former| name == former.as_bytes())
    }
}

/// When to mark the cookie `Secure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecureAttribute {
    /// If the request came over TLS, to Homing or to a trusted proxy that says so in
    /// X-Forwarded-Proto.
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
    /// `SameSite=None`; requires `Secure`.
    None,
}

/// What to do with the cookie on a response that shared caches may store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCacheable {
    /// Do not set the cookie.
    Skip,
    /// Set it and add `Cache-Control: private`.
    Private,
    /// Set it.
    Set,
}
