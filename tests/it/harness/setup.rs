//! Setups that many tests share.

use super::backend::Backend;
use super::client::Client;
use super::proxy::{Proxy, ProxyBuilder};

/// Backends with the ids `a`, `b` and `c`.
pub(crate) async fn three() -> [Backend; 3] {
    [Backend::start("a").await, Backend::start("b").await, Backend::start("c").await]
}

/// One worker in front of this backend, so that the backend's connections can be counted.
pub(crate) fn in_front_of(backend: &Backend) -> ProxyBuilder {
    Proxy::builder().workers(1).upstream("web", &[backend])
}

/// A client of the session `the-session`, the backend that serves it, and the other backend.
pub(crate) async fn session_and_heir<'a>(
    proxy: &Proxy,
    [a, b]: [&'a Backend; 2],
) -> (Client, &'a Backend, &'a Backend) {
    let mut client = proxy.session("the-session");
    let home = client.get("/").await.backend().to_owned();
    if a.name == home { (client, a, b) } else { (client, b, a) }
}
