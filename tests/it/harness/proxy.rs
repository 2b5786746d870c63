//! The proxy under test, running in this process.

use std::fmt::{Display, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use homing::affinity::{self, AdminState};
use homing::app::{self, Running};
use homing::config;
use homing::control::ReloadSummary;
use homing::model::Bind;
use homing::model::snapshot::Standing;

use super::backend::Backend;
use super::client::Client;
use super::http2::H2Client;
use super::raw::RawClient;
use super::wait::{eventually, in_time};

/// Builds a configuration.
#[derive(Debug, Clone)]
pub(crate) struct ProxyBuilder {
    workers: usize,
    /// Address and extra lines of each listener.
    listeners: Vec<(String, String)>,
    /// Whole sections, copied verbatim.
    raw: String,
    server: String,
    timeouts: String,
    limits: String,
    upstreams: Vec<Upstream>,
}

#[derive(Debug, Clone)]
struct Upstream {
    name: String,
    backends: Vec<Member>,
    affinity: Option<String>,
    health_check: String,
    passive: String,
    lines: String,
}

#[derive(Debug, Clone)]
struct Member {
    id: String,
    address: String,
    lines: String,
}

impl ProxyBuilder {
    fn new() -> Self {
        Self {
            workers: 2,
            listeners: vec![("127.0.0.1:0".to_owned(), String::new())],
            raw: String::new(),
            server: String::new(),
            timeouts: String::new(),
            limits: String::new(),
            upstreams: Vec::new(),
        }
    }

    pub(crate) fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Adds a listener.
    pub(crate) fn listener(mut self, bind: &str) -> Self {
        self.listeners.push((bind.to_owned(), String::new()));
        self
    }

    /// Sets the keys of `tls` of the latest listener.
    pub(crate) fn tls(self, keys: &str) -> Self {
        self.listener_line(&format!("tls = {{ {keys} }}"))
    }

    /// Adds a line to the latest listener.
    pub(crate) fn listener_line(mut self, line: &str) -> Self {
        let (_, lines) = self.listeners.last_mut().expect("a listener");
        lines.push_str(line);
        lines.push('\n');
        self
    }

    /// Adds an upstream. The upstream settings that follow apply to it.
    pub(crate) fn upstream(mut self, name: &str, backends: &[&Backend]) -> Self {
        let member = |b: &&Backend| Member {
            id: b.name.clone(),
            address: b.address.to_string(),
            lines: String::new(),
        };
        self.upstreams.push(Upstream {
            name: name.to_owned(),
            backends: backends.iter().map(member).collect(),
            affinity: None,
            health_check: "false".to_owned(),
            passive: "false".to_owned(),
            lines: String::new(),
        });
        self
    }

    fn latest(&mut self) -> &mut Upstream {
        self.upstreams.last_mut().expect("an upstream")
    }

    /// Adds a backend by address.
    pub(crate) fn member(mut self, id: &str, address: impl Display) -> Self {
        let (id, address) = (id.to_owned(), address.to_string());
        self.latest().backends.push(Member { id, address, lines: String::new() });
        self
    }

    /// Removes a backend.
    pub(crate) fn without(mut self, id: &str) -> Self {
        self.latest().backends.retain(|b| b.id != id);
        self
    }

    /// Reverses the order of the backends.
    pub(crate) fn reversed(mut self) -> Self {
        self.latest().backends.reverse();
        self
    }

    /// Sets the extra lines of a backend.
    pub(crate) fn backend(mut self, id: &str, lines: &str) -> Self {
        let backend = self.latest().backends.iter_mut().find(|b| b.id == id).expect("a backend");
        lines.clone_into(&mut backend.lines);
        self
    }

    /// Sets the keys of `affinity`, separated by commas.
    pub(crate) fn affinity(mut self, keys: &str) -> Self {
        self.latest().affinity = Some(keys.to_owned());
        self
    }

    /// Sets the keys of `health_check`.
    pub(crate) fn health_check(mut self, keys: &str) -> Self {
        self.latest().health_check = format!("{{ {keys} }}");
        self
    }

    /// Sets the keys of `passive`.
    pub(crate) fn passive(mut self, keys: &str) -> Self {
        self.latest().passive = format!("{{ {keys} }}");
        self
    }

    /// Sets the extra lines of `[upstream.NAME]`.
    pub(crate) fn lines(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.latest().lines);
        self
    }

    /// Sets the extra lines of `[server]`.
    pub(crate) fn server(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.server);
        self
    }

    /// Sets the lines of `[timeouts]`.
    pub(crate) fn timeouts(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.timeouts);
        self
    }

    /// Sets the lines of `[limits]`.
    pub(crate) fn limits(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.limits);
        self
    }

    /// Adds whole sections.
    pub(crate) fn raw_toml(mut self, text: &str) -> Self {
        self.raw.push_str(text);
        self.raw.push('\n');
        self
    }

    pub(crate) fn toml(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "[server]\nworkers = {}\n{}", self.workers, self.server);
        let _ = writeln!(text, "[timeouts]\n{}\n[limits]\n{}", self.timeouts, self.limits);
        for (bind, lines) in &self.listeners {
            let _ = writeln!(text, "[[listener]]\nbind = \"{bind}\"\n{lines}");
        }
        text.push_str(&self.raw);
        for upstream in &self.upstreams {
            let Upstream { name, backends, affinity, health_check, passive, lines } = upstream;
            let _ = writeln!(
                text,
                "[upstream.{name}]\nhealth_check = {health_check}\npassive = {passive}\n{lines}"
            );
            if let Some(keys) = affinity {
                let _ = writeln!(text, "affinity = {{ {keys} }}");
            }
            for Member { id, address, lines } in backends {
                let _ = writeln!(
                    text,
                    "[[upstream.{name}.backend]]\nid = \"{id}\"\naddress = \"{address}\"\n{lines}"
                );
            }
        }
        text
    }

    pub(crate) fn config(&self) -> homing::model::Config {
        let text = self.toml();
        match config::parse(&text, "test.toml") {
            Ok(loaded) => loaded.config,
            Err(problems) => panic!("{problems}\nin:\n{text}"),
        }
    }

    #[expect(clippy::unused_async, reason = "consistent with `Backend::start`")]
    pub(crate) async fn start(self) -> Proxy {
        Proxy::of(app::start(self.config(), None).expect("start"))
    }

    /// Writes the configuration to `file` and starts from it, so that the proxy can reload it.
    #[expect(clippy::unused_async, reason = "consistent with `Backend::start`")]
    pub(crate) async fn start_from(self, file: &Path) -> Proxy {
        std::fs::write(file, self.toml()).expect("write");
        let loaded = config::load(file).expect("load");
        Proxy::of(app::start(loaded.config, Some(file)).expect("start"))
    }
}

fn ip_addresses(running: &Running) -> Vec<SocketAddr> {
    running.addresses().iter().filter_map(Bind::ip).collect()
}

/// A running proxy. Stops when dropped.
pub(crate) struct Proxy {
    running: Option<Running>,
    addresses: Vec<SocketAddr>,
}

impl Proxy {
    pub(crate) fn builder() -> ProxyBuilder {
        ProxyBuilder::new()
    }

    fn of(running: Running) -> Self {
        let addresses = ip_addresses(&running);
        Self { running: Some(running), addresses }
    }

    /// Waits until every worker uses the latest snapshot. With 16 connections, every worker gets
    /// some. A worker that has responded picks up a new snapshot before it looks for more work.
    async fn settled(&self) {
        for _ in 0..16 {
            let mut raw = self.raw().await;
            raw.send("?").await;
            raw.send("\0\r\n\r\n").await;
            raw.response().await.assert_own(400, "");
        }
    }

    pub(crate) fn running(&self) -> &Running {
        self.running.as_ref().expect("running")
    }

    /// Returns the address of the first listener.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Returns the current IP addresses of all listeners.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        ip_addresses(self.running())
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.running().admin_address().expect("an admin listener")
    }

    pub(crate) async fn raw(&self) -> RawClient {
        RawClient::connect(self.addr()).await
    }

    /// Connects a cleartext HTTP/2 client.
    pub(crate) async fn http2(&self) -> H2Client {
        H2Client::connect(self.addr()).await
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.addr())
    }

    /// Returns a client that sends `sid` in the cookie `SID`.
    pub(crate) fn session(&self, sid: &str) -> Client {
        Client::with_sid(self.addr(), sid)
    }

    /// Reloads with another configuration. When this returns, every worker uses it.
    pub(crate) async fn reload(&self, builder: &ProxyBuilder) -> ReloadSummary {
        let summary = in_time("a reload", self.running().reload(builder.config())).await.expect("reload");
        self.settled().await;
        summary
    }

    pub(crate) async fn set_state(&self, upstream: &str, backend: &str, state: AdminState) {
        let id = backend.parse().expect("an id");
        self.running().control().set_admin_state(upstream, &id, state).await.expect("set the state");
        self.settled().await;
    }

    /// Waits until the control plane considers a backend up, or down.
    pub(crate) async fn backend_is(&self, upstream: &str, backend: &str, up: bool) {
        let labels = [("upstream", upstream), ("backend", backend)];
        let wanted = if up { 1.0 } else { 0.0 };
        let what = format!("{backend} is {}", if up { "up" } else { "down" });
        #[expect(clippy::float_cmp, reason = "0 or 1")]
        eventually(what, async || self.metric("homing_backend_up", &labels) == wanted).await;
        self.settled().await;
    }

    /// Returns a backend as the control plane sees it, and why.
    pub(crate) fn standing(&self, upstream: &str, backend: &str) -> (affinity::Member, Standing) {
        let snapshot = self.running().control().snapshot();
        let upstream = snapshot.upstreams.iter().find(|u| &*u.config.name == upstream).expect("an upstream");
        let mut all = upstream.cluster.members().iter().zip(&upstream.standings);
        let (member, standing) = all.find(|(member, _)| member.id.as_str() == backend).expect("a backend");
        (member.clone(), standing.clone())
    }

    /// Waits until the control plane shuns a backend, or no longer does.
    pub(crate) async fn backend_is_shunned(&self, upstream: &str, backend: &str, shunned: bool) {
        let what = format!("{backend} is {}shunned", if shunned { "" } else { "not " });
        eventually(what, async || self.standing(upstream, backend).0.shunned == shunned).await;
        self.settled().await;
    }

    pub(crate) fn metrics(&self) -> String {
        self.running().metrics()
    }

    /// Returns the sum of all samples with this name and these labels.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let mut sum = 0.0;
        let page = self.metrics();
        assert!(
            page.contains(&format!("\n{name}")) || page.contains(&format!(" {name} ")),
            "no metric named {name}"
        );
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let Some((sample, value)) = line.rsplit_once(' ') else { continue };
            let (found, rest) = sample.split_once('{').unwrap_or((sample, ""));
            if found == name && labels.iter().all(|label| rest.contains(label.as_str())) {
                sum += value.parse::<f64>().expect("a number");
            }
        }
        sum
    }

    /// Waits until the samples with this name and these labels sum up to `wanted`.
    #[track_caller]
    pub(crate) fn metric_becomes(
        &self,
        name: &'static str,
        labels: &'static [(&'static str, &'static str)],
        wanted: f64,
    ) -> impl Future<Output = ()> {
        let what = format!("{name} {labels:?} becomes {wanted}");
        #[expect(clippy::float_cmp, reason = "whole numbers")]
        eventually(what, async move || self.metric(name, labels) == wanted)
    }

    /// Shuts the proxy down; true if everything finished within the grace period.
    pub(crate) async fn shutdown(mut self, grace: Duration) -> bool {
        let running = self.running.take().expect("running");
        in_time("the shutdown", running.shutdown(grace, std::future::pending())).await.in_time
    }

    /// Shuts the proxy down in a task of its own.
    pub(crate) fn shutting_down(mut self, grace: Duration) -> tokio::task::JoinHandle<bool> {
        let running = self.running.take().expect("running");
        tokio::spawn(async move { running.shutdown(grace, std::future::pending()).await.in_time })
    }
}
