//! The page of the demo: shows the whole cluster, and stops, drains, starts and adds backends.
//!
//! It listens on loopback only. Web pages of other sites cannot use it: `Host` must be the address,
//! and an `Origin` must be the page itself or the demo's proxy.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue, LOCATION, ORIGIN,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::instances::{Instances, Seen};
use crate::affinity::{AdminState, BackendId};
use crate::app::Remote;
use crate::model::snapshot::Snapshot;
use crate::model::{Address, Backend};

/// The page and what it controls.
pub(super) struct Stage {
    pub(super) address: SocketAddr,
    pub(super) instances: Arc<Instances>,
    pub(super) remote: Remote,
}

/// Serves the page until the runtime ends.
pub(super) async fn serve(listener: TcpListener, stage: Arc<Stage>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let stage = Arc::clone(&stage);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let stage = Arc::clone(&stage);
                async move { Ok::<_, Infallible>(stage.answer(request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Stage {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let header = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let own = self.address.to_string();
        let local = format!("localhost:{}", self.address.port());
        if !header(HOST).is_some_and(|host| host == own || host == local) {
            return text(StatusCode::MISDIRECTED_REQUEST, "this page has another address\n");
        }
        let from_here =
            |origin: &str| origin == format!("http://{own}") || origin == format!("http://{local}");
        if header(ORIGIN).is_some_and(|origin| !from_here(origin)) {
            return text(StatusCode::FORBIDDEN, "requests from other sites are not allowed\n");
        }
        let browser = header(ACCEPT).is_some_and(|accept| accept.contains("text/html"));
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        match (&method, path.as_str()) {
            (&Method::GET, "/") if browser => self.page(),
            (&Method::GET, "/") => text(StatusCode::OK, self.lines()),
            (&Method::GET, "/peers") => text(StatusCode::OK, self.peers()),
            (&Method::POST, path) => {
                let done = self.change(path).await;
                let (status, said) = done.unwrap_or_else(|error| (StatusCode::INTERNAL_SERVER_ERROR, error));
                let mut response = text(status, said);
                if browser && status == StatusCode::OK {
                    *response.status_mut() = StatusCode::SEE_OTHER;
                    response.headers_mut().insert(LOCATION, HeaderValue::from_static("/"));
                }
                response
            }
            _ => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    /// Does what a button says: `/backends/ID/stop`, or `/backends` to add one.
    async fn change(self: &Arc<Self>, path: &str) -> Result<(StatusCode, String), String> {
        if path == "/backends" {
            return self.add().await.map(|said| (StatusCode::OK, said));
        }
        let parts = path.strip_prefix("/backends/").and_then(|rest| rest.rsplit_once('/'));
        let Some((id, action)) = parts else { return Ok((StatusCode::NOT_FOUND, "not found\n".to_owned())) };
        let found = match action {
            "stop" | "start" => {
                let (stage, id, kill) = (Arc::clone(self), id.to_owned(), action == "stop");
                // Waits for the process.
                let done = tokio::task::spawn_blocking(move || {
                    let done = if kill { stage.instances.kill(&id) } else { stage.instances.restart(&id) };
                    done.map_err(|error| format!("{error}\n"))
                });
                done.await.map_err(|error| format!("{error}\n"))??
            }
            "drain" => self.set_state(id, AdminState::Drain).await?,
            "ready" => self.set_state(id, AdminState::Ready).await?,
            _ => return Ok((StatusCode::NOT_FOUND, "not found\n".to_owned())),
        };
        if found {
            return Ok((StatusCode::OK, self.lines()));
        }
        let ids: Vec<_> = self.instances.seen().into_iter().map(|seen| seen.id).collect();
        Ok((
            StatusCode::NOT_FOUND,
            format!("unknown backend \"{id}\"\npossible values: {}\n", ids.join(", ")),
        ))
    }

    async fn set_state(&self, id: &str, state: AdminState) -> Result<bool, String> {
        let Some(seen) = self.instances.seen().into_iter().find(|seen| seen.id == id) else {
            return Ok(false);
        };
        let id: BackendId = id.parse().map_err(|error| format!("{error}\n"))?;
        let set = self.remote.control().set_admin_state(&seen.upstream, &id, state).await;
        set.map(|()| true).map_err(|error| format!("{error}\n"))
    }

    /// Starts another instance and adds it to the running configuration; no file changes.
    async fn add(self: &Arc<Self>) -> Result<String, String> {
        let seen = self.instances.seen();
        let first = seen.first().ok_or("no upstream\n")?;
        let upstream = first.upstream.clone();
        let id = (1..=seen.len() + 1)
            .map(|n| format!("node{n}"))
            .find(|id| seen.iter().all(|seen| seen.id != *id));
        let id = id.unwrap_or_default();
        let (stage, name, new) = (Arc::clone(self), upstream.clone(), id.clone());
        let started = tokio::task::spawn_blocking(move || {
            stage.instances.start_another(&name, &new).map_err(|error| format!("{error}\n"))
        });
        let address = started.await.map_err(|error| format!("{error}\n"))??;
        let mut config = (*self.remote.control().snapshot().config).clone();
        for found in config.upstreams.iter_mut().filter(|found| *found.name == *upstream) {
            let mut changed = (**found).clone();
            let mut backend: Backend = changed.backends.first().cloned().ok_or("no backend\n")?;
            backend.id = id.parse().map_err(|error| format!("{error}\n"))?;
            backend.address = Address::Ip(address);
            backend.admin = AdminState::Ready;
            changed.backends.push(backend);
            changed.backends.sort_by(|a, b| a.id.cmp(&b.id));
            *found = Arc::new(changed);
        }
        self.remote.reload(config).await.map_err(|error| format!("{error}\n"))?;
        Ok(format!("{id} is running at {address}; existing sessions stay, new ones go there too\n"))
    }

    /// The addresses of all instances, for each other.
    fn peers(&self) -> String {
        let lines =
            self.instances.seen().into_iter().map(|seen| format!("peer {} {}\n", seen.id, seen.address));
        lines.collect()
    }

    /// The cluster in a few lines, for curl.
    fn lines(&self) -> String {
        let snapshot = self.remote.control().snapshot();
        let mut out = String::new();
        for seen in self.instances.seen() {
            let known = Known::of(&snapshot, &seen);
            let process = seen.process.map_or_else(|| "stopped".to_owned(), |id| format!("process {id}"));
            let (state, health, sessions) = (known.state, known.health, known.sessions);
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "{:<8} {}  {process:<15} {health:<5} {state:<6} {sessions} sessions",
                seen.id, seen.address
            );
        }
        out
    }

    fn page(&self) -> Response<Full<Bytes>> {
        let snapshot = self.remote.control().snapshot();
        let mut rows = String::new();
        for seen in self.instances.seen() {
            let known = Known::of(&snapshot, &seen);
            let id = escape(&seen.id);
            let button = |action: &str, label: &str| {
                format!(
                    "<form method=post action=\"/backends/{id}/{action}\"><button>{label}</button></form>"
                )
            };
            let (process, run) = match seen.process {
                Some(process) => (format!("process {process}"), button("stop", "Stop")),
                None => ("stopped".to_owned(), button("start", "Start")),
            };
            let drain =
                if known.state == "ready" { button("drain", "Drain") } else { button("ready", "Undrain") };
            let (class, address) = (if known.health == "up" { "up" } else { "down" }, seen.address);
            let (health, state, sessions, in_flight) =
                (known.health, known.state, known.sessions, known.in_flight);
            let _ = write!(
                rows,
                "<tr class={class}><th>{id}<td>{address}<td>{process}<td>{health}<td>{state}<td>{sessions}\
                 <td>{in_flight}<td class=do>{run}{drain}"
            );
        }
        let html = format!(
            "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=2>\
             <title>The cluster</title><style>{STYLE}</style><h1>The cluster</h1>\
             <table><tr><th>backend<th>address<th>application<th>health<th>state<th>sessions<th>in flight<th>{rows}</table>\
             <form method=post action=/backends><button>Add a backend</button></form>\
             <p>Stop kills the process, as a crash would. Its sessions go on at the successors that have their \
             copies. Drain keeps existing sessions and lets no new ones in.</html>\n"
        );
        let mut response = text(StatusCode::OK, html);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(
            CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(
                "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'",
            ),
        );
        response
    }
}

/// What Homing knows of an instance.
struct Known {
    health: &'static str,
    state: &'static str,
    sessions: usize,
    in_flight: u32,
}

impl Known {
    fn of(snapshot: &Snapshot, seen: &Seen) -> Self {
        let found =
            snapshot.upstreams.iter().find(|state| *state.config.name == *seen.upstream).and_then(|state| {
                let mut members = state.cluster.members().iter().zip(&state.live);
                members
                    .find(|(member, _)| member.id.as_str() == seen.id)
                    .map(|(member, live)| (state, member, live))
            });
        let Some((state, member, live)) = found else {
            return Self { health: "–", state: "removed", sessions: 0, in_flight: 0 };
        };
        let sessions = state.table().map_or(0, |table| table.sessions(member.slot));
        let (health, state) = (member.health.as_str(), member.admin.as_str());
        Self { health, state, sessions, in_flight: live.in_flight() }
    }
}

const STYLE: &str = "\
:root{color-scheme:light dark}body{margin:0;padding:1rem 1.25rem;font:14px/1.5 system-ui,sans-serif}\
h1{font-size:1rem;margin:0 0 .5rem}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.3rem .6rem .3rem 0;border-bottom:1px solid #8884}\
tr:first-child th{font-weight:normal;opacity:.65}.down th,.down td{color:#c0392b}\
form{display:inline}button{font:inherit;margin-right:.4rem}.do{white-space:nowrap}p{opacity:.75}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
