//! Where bindings are kept.

use std::path::PathBuf;
use std::time::Duration;

use crate::affinity::cookie::CookieConfig;
use crate::affinity::recall::Layer;

/// The layers that bindings are kept in. Without any, the ring alone decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remember {
    /// A table in the proxy.
    pub table: Option<TableConfig>,
    /// A sealed cookie at the client.
    pub cookie: Option<CookieConfig>,
    /// Whether the cookie is listed before the table.
    pub cookie_first: bool,
}

impl Remember {
    /// Nowhere: the ring alone decides.
    pub const NONE: Self = Self { table: None, cookie: None, cookie_first: false };

    /// Only in a table.
    pub fn in_table(table: TableConfig) -> Self {
        Self { table: Some(table), ..Self::NONE }
    }

    /// Only in a sealed cookie.
    pub fn in_cookie(cookie: CookieConfig) -> Self {
        Self { cookie: Some(cookie), cookie_first: true, ..Self::NONE }
    }

    /// Returns true if bindings are kept nowhere.
    pub fn is_none(&self) -> bool {
        self.table.is_none() && self.cookie.is_none()
    }

    /// Returns the layer that is asked first.
    pub fn first(&self) -> Layer {
        if self.cookie_first { Layer::Cookie } else { Layer::Table }
    }

    /// Returns the layers as the configuration has them: `none`, or the list.
    pub fn as_str(&self) -> &'static str {
        match (&self.table, &self.cookie, self.cookie_first) {
            (None, None, _) => "none",
            (Some(_), None, _) => "table",
            (None, Some(_), _) => "cookie",
            (Some(_), Some(_), false) => "table, cookie",
            (Some(_), Some(_), true) => "cookie, table",
        }
    }
}

/// `affinity.table`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableConfig {
    /// Maximum number of bindings. Those that no backend has minted are evicted first,
    /// then the longest idle.
    pub max_entries: usize,
    /// Idle time after which a binding expires.
    pub ttl: Duration,
    /// File that the table is saved to at shutdown and loaded from at startup.
    pub file: Option<PathBuf>,
}
