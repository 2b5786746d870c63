//! Request handling of the demo application.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HeaderMap, HeaderName,
    HeaderValue, LOCATION, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::DemoBody;
use super::page::VisitView;
use super::replicas::{Replicas, SECRET, Stage};
use super::response::{page, text};
use super::sessions::{Arrival, Sessions};
use super::websocket;

/// Name of the session cookie.
const COOKIE_NAME: &str = "SID";
/// Names the instance on every response.
const X_BACKEND: HeaderName = HeaderName::from_static("x-backend");
/// Size of the `/echo` body in bytes.
const X_ECHO_BYTES: HeaderName = HeaderName::from_static("x-echo-bytes");
/// Path of the copies of other instances' sessions.
const REPLICA: &str = "/replica/";
const MAX_ECHO: usize = 8 * 1024 * 1024;
const MAX_SLOW: Duration = Duration::from_secs(60);
const MAX_TICKS: u32 = 1_000;

/// The page has inline styles and loads nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'";

/// The state of one instance.
#[derive(Debug)]
pub(super) struct Application {
    id: String,
    sessions: Mutex<Sessions>,
    replicas: Replicas,
    draining: AtomicBool,
    pub(super) cancel: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Application {
    pub(super) fn new(id: &str, stage: Option<Stage>, cancel: CancellationToken, tasks: TaskTracker) -> Self {
        Self {
            id: id.to_owned(),
            sessions: Mutex::default(),
            replicas: Replicas::new(stage),
            draining: AtomicBool::new(false),
            cancel,
            tasks,
        }
    }

    pub(super) async fn handle(&self, request: Request<Incoming>) -> Response<DemoBody> {
        let mut response = self.answer(request).await;
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&self.id) {
            headers.insert(X_BACKEND, id);
        }
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<DemoBody> {
        let path = request.uri().path().to_owned();
        let allowed = match path.as_str() {
            "/" | "/healthz" | "/pid" | "/slow" | "/stream" | "/ws" => &[Method::GET, Method::HEAD][..],
            "/logout" => &[Method::GET, Method::HEAD, Method::POST],
            "/drain" | "/echo" => &[Method::POST],
            path if path.starts_with(REPLICA) => &[Method::PUT],
            _ => return text(StatusCode::NOT_FOUND, "not found\n"),
        };
        if !allowed.contains(request.method()) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
            let list = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
            if let Ok(list) = HeaderValue::from_str(&list) {
                response.headers_mut().insert(ALLOW, list);
            }
            return response;
        }
        match path.as_str() {
            "/healthz" if self.draining() => text(StatusCode::NOT_FOUND, "draining\n"),
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/pid" => text(StatusCode::OK, format!("{}\n", std::process::id())),
            "/drain" => self.toggle_drain(request.headers()),
            "/slow" => self.slow(request.uri().query()).await,
            "/stream" => self.stream(request.uri().query()),
            "/echo" => echo(request).await,
            "/logout" => self.log_out(request.headers()).await,
            "/ws" => websocket::accept(request, &self.cancel, &self.tasks),
            "/" => self.visit(request.headers()).await,
            path => self.take_copy(path, &request),
        }
    }

    fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Stores a copy of another instance's session.
    fn take_copy(&self, path: &str, request: &Request<Incoming>) -> Response<DemoBody> {
        let secret = request.headers().get(SECRET).and_then(|value| value.to_str().ok());
        if !self.replicas.trusts(secret) {
            return text(StatusCode::FORBIDDEN, "only other instances may copy sessions\n");
        }
        let query = request.uri().query();
        let (visits, from) = (parameter(query, "visits"), value_of(query, "from").unwrap_or_default());
        let id = path.strip_prefix(REPLICA).unwrap_or_default();
        match visits {
            Some(visits) if self.sessions.lock().copy(id, visits, from, Instant::now()) => {
                let mut response = text(StatusCode::NO_CONTENT, "");
                response.headers_mut().remove(CONTENT_TYPE);
                response
            }
            _ => text(StatusCode::BAD_REQUEST, "expected a session and its visits\n"),
        }
    }

    /// Copies a session to the announced successor. Returns `None` without one.
    async fn copy_to_successor(&self, headers: &HeaderMap, session: &str, visits: u64) -> Option<bool> {
        let successor = headers.get("x-affinity-successor")?.to_str().ok()?;
        self.replicas.stage()?;
        Some(self.replicas.copy(&self.id, successor, session, visits).await)
    }

    async fn visit(&self, headers: &HeaderMap) -> Response<DemoBody> {
        let (visit, (sessions, copies)) = {
            let mut sessions = self.sessions.lock();
            let visit = sessions.visit(cookie(headers), Instant::now());
            (visit, sessions.len())
        };
        let Ok(visit) = visit else {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "cannot generate a session id\n");
        };
        let copied = self.copy_to_successor(headers, &visit.session, visit.count).await;
        let header =
            |name| headers.get(name).map(|value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()));
        let view = VisitView {
            id: &self.id,
            visit: &visit,
            affinity_backend: header("x-affinity-backend"),
            affinity_successor: header("x-affinity-successor"),
            forwarded_for: header("x-forwarded-for"),
            draining: self.draining(),
            sessions,
            copies,
            copied,
            stage: self.replicas.stage(),
        };
        let accept = header(ACCEPT.as_str()).unwrap_or(Cow::Borrowed(""));
        let mut response = if accept.contains("text/html") {
            page(StatusCode::OK, "text/html; charset=utf-8", view.html())
        } else if accept.contains("application/json") {
            page(StatusCode::OK, "application/json", view.json())
        } else {
            text(StatusCode::OK, view.line())
        };
        let headers = response.headers_mut();
        let policy = match self.replicas.stage() {
            Some(stage) => HeaderValue::from_str(&format!("{POLICY}; frame-src http://{stage}")),
            None => Ok(HeaderValue::from_static(POLICY)),
        };
        headers.extend(policy.ok().map(|policy| (CONTENT_SECURITY_POLICY, policy)));
        if matches!(visit.arrival, Arrival::Fresh | Arrival::Lost) {
            let cookie = format!("{COOKIE_NAME}={}; Path=/; HttpOnly; SameSite=Lax", visit.session);
            if let Ok(cookie) = HeaderValue::from_str(&cookie) {
                headers.insert(SET_COOKIE, cookie);
            }
        }
        response
    }

    async fn log_out(&self, headers: &HeaderMap) -> Response<DemoBody> {
        if let Some(id) = cookie(headers).filter(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            self.sessions.lock().end(id);
            self.copy_to_successor(headers, id, 0).await;
        }
        let mut response = text(StatusCode::SEE_OTHER, "logged out\n");
        let headers = response.headers_mut();
        headers.insert(LOCATION, HeaderValue::from_static("/"));
        let expired = const { HeaderValue::from_static("SID=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax") };
        headers.insert(SET_COOKIE, expired);
        response
    }

    fn toggle_drain(&self, headers: &HeaderMap) -> Response<DemoBody> {
        let draining = !self.draining.fetch_xor(true, Ordering::Relaxed);
        let state = if draining { "draining" } else { "ready" };
        let mut response = text(StatusCode::OK, format!("{}: {state}\n", self.id));
        let from_page = headers
            .get(ACCEPT)
            .is_some_and(|value| String::from_utf8_lossy(value.as_bytes()).contains("text/html"));
        if from_page {
            *response.status_mut() = StatusCode::SEE_OTHER;
            response.headers_mut().insert(LOCATION, HeaderValue::from_static("/"));
        }
        response
    }

    async fn slow(&self, query: Option<&str>) -> Response<DemoBody> {
        let wait = Duration::from_millis(parameter(query, "ms").unwrap_or(1_000)).min(MAX_SLOW);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.cancel.cancelled() => {}
        }
        text(StatusCode::OK, format!("{}: {} ms\n", self.id, wait.as_millis()))
    }

    /// Streams `ticks` events (default 10, at most 1000), `ms` milliseconds apart (default 1000, 10 to
    /// 60000).
    fn stream(&self, query: Option<&str>) -> Response<DemoBody> {
        let ticks = parameter(query, "ticks").unwrap_or(10).min(u64::from(MAX_TICKS));
        let period = Duration::from_millis(parameter(query, "ms").unwrap_or(1_000).clamp(10, 60_000));
        let ticks = u32::try_from(ticks).unwrap_or(MAX_TICKS);
        let mut response = Response::new(DemoBody::ticks(&self.id, ticks, period, self.cancel.clone()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response
    }
}

/// Returns the request body. The content type is one that browsers do not execute.
async fn echo(request: Request<Incoming>) -> Response<DemoBody> {
    match Limited::new(request.into_body(), MAX_ECHO).collect().await {
        Ok(body) => {
            let bytes = body.to_bytes();
            let count = HeaderValue::from(bytes.len());
            let mut response = page(StatusCode::OK, "application/octet-stream", bytes);
            response.headers_mut().insert(X_ECHO_BYTES, count);
            response
        }
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            text(StatusCode::PAYLOAD_TOO_LARGE, "body is larger than 8 MiB\n")
        }
        Err(_) => text(StatusCode::BAD_REQUEST, "body is incomplete\n"),
    }
}

/// Returns the first session cookie.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let fields = headers.get_all(COOKIE).iter().filter_map(|field| field.to_str().ok());
    let mut pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE_NAME).map(|(_, value)| value)
}

fn parameter(query: Option<&str>, name: &str) -> Option<u64> {
    value_of(query, name)?.parse().ok()
}

fn value_of<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    let mut pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}
