//! The sealed cookie: the binding kept at the client.
//!
//! The client carries which backend its session is bound to, since when and
//! until when, and can neither read nor change it. [`seal`] makes and opens
//! the value, [`jar`] decides what the cookies
//! of a request mean, [`fields`] writes Set-Cookie and takes our cookie out of
//! what backends see, and [`cacheable`] tells where setting one would leak it.

pub mod cacheable;
pub mod config;
pub mod fields;
pub mod jar;
pub mod opened;
pub mod seal;

pub use cacheable::is_publicly_cacheable;
pub use config::{CookieConfig, OnCacheable, SameSite, SecureAttribute};
pub use fields::{Stripped, set_cookie_value, strip_cookie};
pub use jar::{CookieBinding, read_binding};
pub use opened::Opened;
pub use seal::{KeyRing, OpenError};
