//! The proxy under test: the real one, in this process.

use std::fmt::{Display, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use homing::affinity::AdminState;
use homing::app::{self, Running};
use homing::config;
use homing::control::ReloadSummary;
use homing::model::Bind;

use super::backend::Backend;
use super::client::Client;
use super::http2::H2Client;
use super::raw::RawClient;
use super::wait::{eventually, in_time};

/// A configuration in the making.
#[derive(Debug, Clone)]
pub(crate) struct ProxyBuilder {
    workers: usize,
    /// Address, and further lines.
    listeners: Vec<(String, String)>,
    /// Whole sections, written as they are.
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

    /// One more address to listen on.
    pub(crate) fn listener(mut self, bind: &str) -> Self {
        self.listeners.push((bind.to_owned(), String::new()));
        self
    }

    /// The latest listener's `tls`: its keys.
    pub(crate) fn tls(self, keys: &str) -> Self {
        self.listener_line(&format!("tls = {{ {keys} }}"))
    }

    /// A line of the latest listener.
    pub(crate) fn listener_line(mut self, line: &str) -> Self {
        let (_, lines) = self.listeners.last_mut().expect("a listener");
        lines.push_str(line);
        lines.push('\n');
        self
    }

    /// Another upstream; what follows is about it.
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

    /// One more backend, by address.
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

    /// In the opposite order.
    pub(crate) fn reversed(mut self) -> Self {
        self.latest().backends.reverse();
        self
    }

    /// Sets the lines of a backend.
    pub(crate) fn backend(mut self, id: &str, lines: &str) -> Self {
        let backend = self.latest().backends.iter_mut().find(|b| b.id == id).expect("a backend");
        lines.clone_into(&mut backend.lines);
        self
    }

    /// The keys of `affinity`, separated by commas.
    pub(crate) fn affinity(mut self, keys: &str) -> Self {
        self.latest().affinity = Some(keys.to_owned());
        self
    }

    /// The keys of `health_check`.
    pub(crate) fn health_check(mut self, keys: &str) -> Self {
        self.latest().health_check = format!("{{ {keys} }}");
        self
    }

    /// The keys of `passive`.
    pub(crate) fn passive(mut self, keys: &str) -> Self {
        self.latest().passive = format!("{{ {keys} }}");
        self
    }

    /// Lines of `[upstream.NAME]`.
    pub(crate) fn lines(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.latest().lines);
        self
    }

    /// Lines of `[server]`.
    pub(crate) fn server(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.server);
        self
    }

    /// Lines of `[timeouts]`.
    pub(crate) fn timeouts(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.timeouts);
        self
    }

    /// Lines of `[limits]`.
    pub(crate) fn limits(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.limits);
        self
    }

    /// Whole sections.
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

    #[expect(clippy::unused_async, reason = "as it reads beside the backends' start")]
    pub(crate) async fn start(self) -> Proxy {
        Proxy::of(app::start(self.config(), None).expect("start"))
    }

    /// Writes the file and starts from it, so that it can be read again.
    #[expect(clippy::unused_async, reason = "as it reads beside the backends' start")]
    pub(crate) async fn start_from(self, file: &Path) -> Proxy {
        std::fs::write(file, self.toml()).expect("write");
        let loaded = config::load(file).expect("load");
        Proxy::of(app::start(loaded.config, Some(file)).expect("start"))
    }
}

fn ip_addresses(running: &Running) -> Vec<SocketAddr> {
    running.addresses().iter().filter_map(Bind::ip).collect()
}

/// A running proxy. Dropped, it stops.
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

    /// Waits until every worker has taken over what was published last. Of so
    /// many connections some meet each; whoever has answered on one, and then
    /// looks for more to do, finds the news first.
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

    /// The address of the first listener.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// The IP addresses of all listeners, as of now.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        ip_addresses(self.running())
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.running().admin_address().expect("an admin listener")
    }

    pub(crate) async fn raw(&self) -> RawClient {
        RawClient::connect(self.addr()).await
    }

    /// A client of HTTP/2, without TLS.
    pub(crate) async fn http2(&self) -> H2Client {
        H2Client::connect(self.addr()).await
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.addr())
    }

    /// A client of a session with this id in the cookie `SID`.
    pub(crate) fn session(&self, sid: &str) -> Client {
        Client::with_sid(self.addr(), sid)
    }

    /// Takes over another configuration. When this returns, every worker has it.
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

    /// Waits until the control plane takes a backend for up, or down.
    pub(crate) async fn backend_is(&self, upstream: &str, backend: &str, up: bool) {
        let labels = [("upstream", upstream), ("backend", backend)];
        let wanted = if up { 1.0 } else { 0.0 };
        let what = format!("{backend} is {}", if up { "up" } else { "down" });
        #[expect(clippy::float_cmp, reason = "0 or 1")]
        eventually(what, async || self.metric("homing_backend_up", &labels) == wanted).await;
        self.settled().await;
    }

    pub(crate) fn metrics(&self) -> String {
        self.running().metrics()
    }

    /// The sum of all samples of this name with these labels.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let mut sum = 0.0;
        let page = self.metrics();
        assert!(
            page.contains(&format!("\n{name}")) || page.contains(&format!(" {name} ")),
            "there is no {name}"
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

    /// Waits until the samples of this name with these labels sum up to this.
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

    /// Ends the proxy; true if everything ended by itself.
    pub(crate) async fn shutdown(mut self, grace: Duration) -> bool {
        let running = self.running.take().expect("running");
        in_time("the shutdown", running.shutdown(grace, std::future::pending())).await
    }

    /// Ends the proxy in a task of its own.
    pub(crate) fn shutting_down(mut self, grace: Duration) -> tokio::task::JoinHandle<bool> {
        let running = self.running.take().expect("running");
        tokio::spawn(running.shutdown(grace, std::future::pending()))
    }
}
