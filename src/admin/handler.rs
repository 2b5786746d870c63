//! Request handling of the admin listener.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode};

use super::status::Status;
use super::{AdminBackend, guard};
use crate::affinity::{AdminState, BackendId};
use crate::model::snapshot::Snapshot;
use crate::telemetry::exposition;

/// Maximum size of a request body in bytes.
const MAX_BODY: usize = 1_024;

/// Maximum number of names in an error.
const MAX_LISTED: usize = 50;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Answers one request.
pub(super) async fn handle<B>(
    request: Request<B>,
    peer: IpAddr,
    backend: Arc<dyn AdminBackend>,
) -> Response<Full<Bytes>>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match answer(request, peer, &*backend).await {
        Ok(response) | Err(response) => response,
    }
}

/// Errors are responses too, returned early.
async fn answer<B>(
    request: Request<B>,
    peer: IpAddr,
    backend: &dyn AdminBackend,
) -> Result<Response<Full<Bytes>>, Response<Full<Bytes>>>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let denied = |denial: guard::Denial| text(denial.status(), denial.message());
    guard::admit(&request).map_err(denied)?;
    let uri = request.uri().clone();
    let route = Route::of(uri.path()).ok_or_else(|| text(StatusCode::NOT_FOUND, "not found\n"))?;
    let allowed = if route.changes() { "POST" } else { "GET, HEAD" };
    let fits = match *request.method() {
        Method::GET | Method::HEAD => !route.changes(),
        Method::POST => route.changes(),
        _ => false,
    };
    if !fits {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return Err(response);
    }
    if route.changes() {
        guard::admit_change(&request, peer).map_err(denied)?;
    }
    match route {
        Route::Index => Ok(text(StatusCode::OK, INDEX)),
        Route::Metrics => Ok(page(StatusCode::OK, exposition::CONTENT_TYPE, backend.metrics_text())),
        Route::Health if backend.draining() => Ok(text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")),
        Route::Health => Ok(text(StatusCode::OK, "ok\n")),
        Route::Ready => Ok(ready(backend)),
        Route::Status => Ok(status(backend)),
        Route::State { upstream, backend: id } => {
            let state = wanted_state(request).await?;
            set_state(backend, &upstream, &id, state).await
        }
        Route::Reload => Ok(match backend.reload().await {
            Ok(what) => text(StatusCode::OK, lines(what)),
            Err(problems) => text(StatusCode::UNPROCESSABLE_ENTITY, lines(problems)),
        }),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Route<'a> {
    Index,
    Metrics,
    Health,
    Ready,
    Status,
    State { upstream: Cow<'a, str>, backend: Cow<'a, str> },
    Reload,
}

const INDEX: &str = "\
GET  /metrics  Prometheus text format
GET  /health   200, or 503 while shutting down
GET  /ready    200 if any backend can serve, otherwise 503
GET  /status   JSON
POST /upstreams/UPSTREAM/backends/BACKEND/state?state=ready|drain|maint
POST /reload
";

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Option<Self> {
        Some(match path {
            "/" => Self::Index,
            "/metrics" => Self::Metrics,
            "/health" => Self::Health,
            "/ready" => Self::Ready,
            "/status" => Self::Status,
            "/reload" => Self::Reload,
            _ => {
                let (upstream, rest) = path.strip_prefix("/upstreams/")?.split_once("/backends/")?;
                // An id may contain slashes, encoded or not.
                let backend = rest.strip_suffix("/state")?;
                Self::State { upstream: percent_decode(upstream)?, backend: percent_decode(backend)? }
            }
        })
    }

    fn changes(&self) -> bool {
        matches!(self, Self::State { .. } | Self::Reload)
    }
}

fn ready(backend: &dyn AdminBackend) -> Response<Full<Bytes>> {
    if backend.draining() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    let snapshot = backend.snapshot();
    let mut members = snapshot.upstreams.iter().flat_map(|upstream| upstream.cluster.members());
    if members.any(crate::affinity::Member::eligible_for_existing) {
        text(StatusCode::OK, "ready\n")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, "no backend is available\n")
    }
}

fn status(backend: &dyn AdminBackend) -> Response<Full<Bytes>> {
    let snapshot = backend.snapshot();
    match serde_json::to_vec_pretty(&Status::of(&snapshot, backend)) {
        Ok(mut json) => {
            json.push(b'\n');
            page(StatusCode::OK, JSON, json)
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

async fn set_state(
    backend: &dyn AdminBackend,
    upstream: &str,
    id: &str,
    state: AdminState,
) -> Result<Response<Full<Bytes>>, Response<Full<Bytes>>> {
    let snapshot = backend.snapshot();
    let Some(id) = known(&snapshot, upstream, id) else {
        return Err(text(StatusCode::NOT_FOUND, unknown(&snapshot, upstream, id)));
    };
    match backend.set_state(upstream.to_owned(), id.clone(), state).await {
        Ok(()) => Ok(text(StatusCode::OK, format!("{upstream}/{id} is {}\n", state.as_str()))),
        Err(problem) => Err(text(StatusCode::CONFLICT, lines(problem))),
    }
}

fn known(snapshot: &Snapshot, upstream: &str, id: &str) -> Option<BackendId> {
    let upstream = snapshot.upstreams.iter().find(|state| &*state.config.name == upstream)?;
    let member = upstream.cluster.members().iter().find(|member| member.id.as_str() == id)?;
    Some(member.id.clone())
}

/// Says which upstreams or backends there are instead.
fn unknown(snapshot: &Snapshot, upstream: &str, id: &str) -> String {
    let list = |names: Vec<&str>| names.into_iter().take(MAX_LISTED).collect::<Vec<_>>().join(", ");
    match snapshot.upstreams.iter().find(|state| &*state.config.name == upstream) {
        None => {
            let names = snapshot.upstreams.iter().map(|state| &*state.config.name).collect();
            format!("unknown upstream \"{upstream}\"\npossible values: {}\n", list(names))
        }
        Some(state) => {
            let ids = state.cluster.members().iter().map(|member| member.id.as_str()).collect();
            format!("unknown backend \"{id}\" in upstream {upstream}\npossible values: {}\n", list(ids))
        }
    }
}

/// Reads `state=…` from the query, or from the body if there is no query.
async fn wanted_state<B>(request: Request<B>) -> Result<AdminState, Response<Full<Bytes>>>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let problem = || text(StatusCode::BAD_REQUEST, "expected state=ready, state=drain or state=maint\n");
    let query = request.uri().query().unwrap_or_default().to_owned();
    if !query.is_empty() {
        return parse_state(&query).ok_or_else(problem);
    }
    let body = Limited::new(request.into_body(), MAX_BODY).collect().await.map_err(|_| problem())?;
    let body = body.to_bytes();
    str::from_utf8(&body).ok().and_then(|body| parse_state(body.trim())).ok_or_else(problem)
}

fn parse_state(form: &str) -> Option<AdminState> {
    match form.strip_prefix("state=")? {
        "ready" => Some(AdminState::Ready),
        "drain" => Some(AdminState::Drain),
        "maint" => Some(AdminState::Maint),
        _ => None,
    }
}

/// Decodes percent-encoding. Returns `None` if an escape is invalid or the result is not UTF-8.
fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' { hex(bytes.next()?)? << 4 | hex(bytes.next()?)? } else { byte });
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Appends a line feed if there is none.
fn lines(mut text: String) -> String {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    page(status, TEXT, body)
}

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_may_contain_slashes_colons_and_brackets() {
        let route = |upstream: &'static str, backend: &'static str| Route::State {
            upstream: Cow::Borrowed(upstream),
            backend: Cow::Borrowed(backend),
        };
        for (path, expected) in [
            ("/upstreams/web/backends/10.0.1.11:8080/state", route("web", "10.0.1.11:8080")),
            ("/upstreams/web/backends/%5B%3a%3A1%5d:8080/state", route("web", "[::1]:8080")),
            ("/upstreams/web/backends/zone/a/state", route("web", "zone/a")),
            ("/upstreams/web/backends/zone%2Fa/state", route("web", "zone/a")),
        ] {
            assert_eq!(Route::of(path), Some(expected), "{path}");
        }
    }

    #[test]
    fn operations_page_lists_exactly_these_requests() {
        let (_, rest) =
            include_str!("../../docs/operations.md").split_once("## Admin API").expect("a heading");
        let rows =
            rest.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
        let documented = rows.skip(2).filter_map(|row| Some(row.split('`').nth(1)?.replace("\\|", "|")));
        let offered = INDEX.lines().map(|line| {
            let mut words = line.split_ascii_whitespace();
            format!("{} {}", words.next().unwrap_or_default(), words.next().unwrap_or_default())
        });
        assert_eq!(documented.collect::<Vec<_>>(), offered.collect::<Vec<_>>());
        for line in INDEX.lines() {
            let path = line.split_ascii_whitespace().nth(1).and_then(|target| target.split('?').next());
            assert!(path.and_then(Route::of).is_some(), "{line}");
        }
    }

    #[test]
    fn invalid_paths_have_no_route() {
        for path in [
            "",
            "/metrics/",
            "/upstreams/web",
            "/upstreams/web/backends/a",
            "/upstreams/web/backends/%4/state",
            "/upstreams/web/backends/%zz/state",
            "/upstreams/web/backends/%ff/state",
            "/upstreams/web/backends/%+1/state",
        ] {
            assert_eq!(Route::of(path), None, "{path}");
        }
    }

    #[test]
    fn only_the_three_states_are_accepted() {
        assert_eq!(parse_state("state=drain"), Some(AdminState::Drain));
        for form in ["", "drain", "state=", "state=DRAIN", "state=drain&state=ready", "states=drain"] {
            assert_eq!(parse_state(form), None, "{form}");
        }
    }
}
