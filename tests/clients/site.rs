//! A web site on hyper, for the clients to request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use aws_lc_rs::digest::{self, SHA256};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Collected, Full};
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use crate::harness::eventually;

type Body = BoxBody<Bytes, Infallible>;

/// The page for the browser.
const PAGE: &str = include_str!("browser/page.html");

/// A running site. Stops when dropped.
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    running: AbortHandle,
}

#[derive(Default)]
struct Shared {
    name: String,
    /// Open event streams.
    streams: Mutex<Vec<mpsc::UnboundedSender<Bytes>>>,
    /// Reports from the page.
    reports: Mutex<Vec<Value>>,
    news: Notify,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Site {
    pub(crate) async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let shared = Arc::new(Shared { name: name.to_owned(), ..Shared::default() });
        let running = tokio::spawn(serve(listener, Arc::clone(&shared))).abort_handle();
        Self { address, shared, running }
    }

    /// Sends an event on all event streams. Waits until there is one.
    pub(crate) async fn send_event(&self, data: &str) {
        eventually("a client opens an event stream", async || !self.shared.streams.lock().is_empty()).await;
        for stream in self.shared.streams.lock().iter() {
            stream.send(format!("data: {data}\n\n").into()).expect("a listener");
        }
    }

    /// Ends all event streams.
    pub(crate) fn end_events(&self) {
        self.shared.streams.lock().clear();
    }

    /// Returns the report with this name.
    pub(crate) fn reported(&self, name: &str) -> Option<Value> {
        self.shared.reports.lock().iter().find_map(|report| report.get(name).cloned())
    }

    /// Waits for the next report.
    pub(crate) async fn next_report(&self) {
        self.shared.news.notified().await;
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let shared = Arc::clone(&shared);
                let service = service_fn(move |request| {
                    let shared = Arc::clone(&shared);
                    async move {
                        let mut response = shared.answer(request).await;
                        let name = HeaderValue::from_str(&shared.name).expect("a name");
                        response.headers_mut().insert("x-backend", name);
                        Ok::<_, Infallible>(response)
                    }
                });
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Returns reproducible bytes: numbered lines.
pub(crate) fn bytes(count: usize) -> Vec<u8> {
    (0..).flat_map(|line: u32| format!("{line:015}\n").into_bytes()).take(count).collect()
}

/// Returns the SHA-256 hash in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let mut context = digest::Context::new(&SHA256);
    context.update(bytes);
    hexadecimal(context)
}

fn hexadecimal(context: digest::Context) -> String {
    context.finish().as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn full(bytes: impl Into<Bytes>) -> Response<Body> {
    Response::new(Full::new(bytes.into()).boxed())
}

fn typed(content_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = full(bytes);
    response.headers_mut().insert("content-type", HeaderValue::from_static(content_type));
    response
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/page" => typed("text/html", PAGE),
            "/redirect" => {
                let mut response = full("");
                *response.status_mut() = StatusCode::FOUND;
                response.headers_mut().insert("location", HeaderValue::from_static("/seen?redirected=1"));
                response
            }
            "/seen" => seen(&request),
            "/digest" => summary(request).await,
            "/events" => self.events(),
            "/report" => {
                let body = request.into_body().collect().await.map(Collected::to_bytes);
                let report = body.ok().and_then(|body| serde_json::from_slice(&body).ok());
                self.reports.lock().push(report.expect("a report"));
                self.news.notify_one();
                full("")
            }
            _ => {
                if let Some(count) = path.strip_prefix("/bytes/").and_then(|count| count.parse().ok()) {
                    return full(bytes(count));
                }
                let mut response = full("not found\n");
                *response.status_mut() = StatusCode::NOT_FOUND;
                response
            }
        }
    }

    fn events(&self) -> Response<Body> {
        let (sender, mut events) = mpsc::unbounded_channel::<Bytes>();
        self.streams.lock().push(sender);
        let mut response = Response::new(
            Frames(move |cx: &mut Context<'_>| events.poll_recv(cx).map(|event| event.map(Frame::data)))
                .boxed(),
        );
        let value = HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert("content-type", value);
        response
    }
}

/// Responds with the received request as JSON.
fn seen(request: &Request<Incoming>) -> Response<Body> {
    let fields: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let target = request.uri().to_string();
    let report = json!({ "method": request.method().as_str(), "target": target, "fields": fields });
    typed("application/json", report.to_string())
}

/// Responds with the length and hash of the request body.
async fn summary(request: Request<Incoming>) -> Response<Body> {
    let (mut body, mut length, mut context) = (request.into_body(), 0, digest::Context::new(&SHA256));
    while let Some(Ok(frame)) = body.frame().await {
        let Some(data) = frame.data_ref() else { continue };
        length += data.len();
        context.update(data);
    }
    full(format!("{length} {}\n", hexadecimal(context)))
}

/// A body whose frames come from a closure.
struct Frames<F>(F);

impl<F: FnMut(&mut Context<'_>) -> Poll<Option<Frame<Bytes>>> + Unpin> hyper::body::Body for Frames<F> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        (self.0)(cx).map(|frame| frame.map(Ok))
    }
}
