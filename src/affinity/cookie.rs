//! The sealed cookie: the binding, stored at the client.
//!
//! The client holds the backend its session is bound to, the session's key (hashed), and when the
//! session was first and last seen. It can neither read nor change them. [`seal`] seals and opens
//! the value, [`owner`] says whom it must speak for, [`jar`] reads the cookies of a request,
//! [`fields`] writes Set-Cookie and removes our cookie from what backends see, and [`cacheable`]
//! detects responses on which a cookie would leak to other clients.

pub mod cacheable;
pub mod config;
pub mod fields;
pub mod jar;
pub mod opened;
pub mod owner;
pub mod seal;

pub use cacheable::{is_publicly_cacheable, is_targeted_field};
pub use config::{CookieConfig, OnCacheable, SameSite, SecureAttribute};
pub use fields::{Stripped, delete_cookie_value, set_cookie_value, strip_cookie};
pub use jar::{CookieBinding, Jar, OwnCookies, read_binding};
pub use opened::Opened;
pub use owner::Owner;
pub use seal::{KeyRing, OpenError};
