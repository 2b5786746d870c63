//! Configurations for unit tests. They are parsed from TOML, so a new key with a default changes
//! nothing here.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::model::{Config, Upstream};

/// Parses a configuration and panics if it has errors. Warnings are ignored.
pub(crate) fn parse(toml: &str) -> Config {
    match crate::config::parse_sealed_off(toml, "fixture.toml", b"") {
        Ok(loaded) => loaded.config,
        Err(diagnostics) => panic!("{diagnostics}"),
    }
}

/// Returns the default settings with one listener, these upstreams (sorted by name) and no routes.
pub(crate) fn config(upstreams: Vec<Upstream>) -> Config {
    assert!(upstreams.is_sorted_by(|a, b| a.name < b.name));
    let upstreams = upstreams.into_iter().map(Arc::new).collect();
    let defaults = parse(
        "server.workers = 1\n\
         [[listener]]\nbind = \"127.0.0.1:8080\"\n\
         [upstream.web]\nbackends = [\"127.0.0.1:8001\"]\n",
    );
    Config { upstreams, routes: Vec::new(), ..defaults }
}

/// Returns an upstream with these backends (sorted by id) at 127.0.0.1:8001. `settings` are the
/// lines of its table.
pub(crate) fn upstream(name: &str, ids: &[&str], settings: &str) -> Upstream {
    assert!(ids.is_sorted());
    let mut toml = format!("[[listener]]\nbind = \"127.0.0.1:8080\"\n[upstream.{name}]\n{settings}\n");
    for id in ids {
        write!(toml, "[[upstream.{name}.backend]]\nid = \"{id}\"\naddress = \"127.0.0.1:8001\"\n")
            .expect("writing to a string");
    }
    let upstream = parse(&toml).upstreams.remove(0);
    Arc::unwrap_or_clone(upstream)
}
