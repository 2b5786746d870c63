use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use super::*;
use crate::affinity::{Health, Member};
use crate::control::fixture::{S, config, upstream};
use crate::dial::names::Names;
use crate::model::client_net::ClientNet;
use crate::model::live_tls::LiveTls;
use crate::model::snapshot::Observation;
use crate::model::{Address, HealthCheck, PassiveCheck, Probe, Remember, TableConfig, Upstream};

const FAST: Duration = Duration::from_millis(20);
/// Timeout of a test. A passing test never waits this long.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A backend with scripted health.
struct Server {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    checks: Arc<AtomicU32>,
    checked: watch::Receiver<u32>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (status, checks) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU32::new(0)));
        let (told, checked) = watch::channel(0);
        let server = Self { address, status: Arc::clone(&status), checks: Arc::clone(&checks), checked };
        let told = Arc::new(told);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (status, checks, told) = (Arc::clone(&status), Arc::clone(&checks), Arc::clone(&told));
                let service = service_fn(move |_: Request<hyper::body::Incoming>| {
                    let count = checks.fetch_add(1, Ordering::Relaxed) + 1;
                    told.send_replace(count);
                    let status = StatusCode::from_u16(status.load(Ordering::Relaxed)).unwrap();
                    let mut response = Response::new(Empty::<bytes::Bytes>::new());
                    *response.status_mut() = status;
                    async move { Ok::<_, io::Error>(response) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        server
    }

    fn answer(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// Waits for `more` further checks.
    async fn checked(&self, more: u32) {
        let target = self.checks.load(Ordering::Relaxed) + more;
        let mut checked = self.checked.clone();
        in_time(checked.wait_for(|&n| n >= target)).await.unwrap();
    }
}

async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(TIMEOUT, future).await.expect("timed out")
}

fn web(servers: &[(&str, &Server)]) -> Upstream {
    let ids: Vec<_> = servers.iter().map(|(id, _)| *id).collect();
    let mut web = upstream("web", &ids);
    for (backend, (_, server)) in web.backends.iter_mut().zip(servers) {
        backend.address = Address::Ip(server.address);
    }
    web.health_check = Some(HealthCheck {
        probe: Probe::Http {
            method: "GET".into(),
            path: "/healthz".into(),
            host: None,
            expect_status: vec![(200, 299)],
            drain_status: vec![404],
        },
        interval: FAST,
        fast_interval: FAST,
        timeout: S * 10,
        rise: 2,
        fall: 2,
    });
    web
}

/// A running control plane.
struct Control {
    handle: ControlHandle,
    published: watch::Receiver<Arc<Snapshot>>,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Control {
    fn start(web: Upstream) -> Self {
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let names = Names::new(Handle::current(), Duration::from_secs(60));
        let (handle, published) =
            start(config(vec![web]), Arc::default(), 2, &names, &tracker, cancel.clone());
        Self { handle, published, tracker, cancel }
    }

    async fn until(&mut self, what: impl Fn(&[Member]) -> bool) {
        in_time(self.published.wait_for(|s| what(s.upstreams[0].cluster.members()))).await.unwrap();
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.tracker.close();
        in_time(self.tracker.wait()).await;
    }
}

#[tokio::test]
async fn failing_backend_goes_down_and_recovers() {
    let (a, b) = (Server::start().await, Server::start().await);
    let mut control = Control::start(web(&[("a", &a), ("b", &b)]));
    assert_eq!(control.handle.snapshot().generation, 1);
    a.answer(503);
    control.until(|m| m[0].health == Health::Down && m[1].health == Health::Up).await;
    a.answer(200);
    control.until(|m| m[0].health == Health::Up).await;
    assert_eq!(
        control.handle.snapshot().generation,
        3,
        "checks without a change must not publish a snapshot"
    );
    control.stop().await;
}

#[tokio::test]
async fn drain_status_reaches_the_snapshot() {
    let a = Server::start().await;
    let mut control = Control::start(web(&[("a", &a)]));
    a.answer(404);
    control.until(|m| m[0].admin == AdminState::Drain && m[0].health == Health::Up).await;
    a.answer(200);
    control.until(|m| m[0].admin == AdminState::Ready).await;
    control.stop().await;
}

#[tokio::test]
async fn backend_in_maintenance_is_not_checked() {
    let (a, b) = (Server::start().await, Server::start().await);
    let control = Control::start(web(&[("a", &a), ("b", &b)]));
    a.checked(1).await;
    let id = "a".parse().unwrap();
    control.handle.set_admin_state("web", &id, AdminState::Maint).await.unwrap();
    assert_eq!(control.handle.snapshot().upstreams[0].cluster.members()[0].admin, AdminState::Maint);
    let before = a.checks.load(Ordering::Relaxed);
    b.checked(10).await;
    let during = a.checks.load(Ordering::Relaxed) - before;
    assert!(during <= 1, "{during} checks during maintenance; at most one was in flight");
    control.handle.set_admin_state("web", &id, AdminState::Ready).await.unwrap();
    a.checked(2).await;
    control.stop().await;
}

#[tokio::test]
async fn unknown_backend_is_an_error() {
    let a = Server::start().await;
    let control = Control::start(web(&[("a", &a)]));
    let result = control.handle.set_admin_state("web", &"z".parse().unwrap(), AdminState::Drain).await;
    assert!(matches!(result, Err(ControlError::UnknownBackend(_))), "{result:?}");
    control.stop().await;
}

#[tokio::test]
async fn failure_reports_shun_a_backend_until_the_penalty_is_over() {
    let mut rules = upstream("web", &["a", "b"]);
    rules.passive =
        Some(PassiveCheck { max_fails: 3, max_5xx: None, window: S, penalty: FAST, max_penalty: S });
    let mut control = Control::start(rules);
    let reporter = control.handle.reporter();
    for n in 0..3 {
        let observation = Observation::Failed(ClientNet::of([192, 0, 2, n].into()));
        reporter.try_send(Report { upstream: "web".into(), slot: Slot(1), observation }).unwrap();
    }
    control.until(|m| m[1].shunned && !m[0].shunned && m[1].health == Health::Up).await;
    control.until(|m| !m[1].shunned).await;
    control.stop().await;
}

#[tokio::test]
async fn reload_starts_stops_and_restarts_checks() {
    let (a, b, c) = (Server::start().await, Server::start().await, Server::start().await);
    let mut control = Control::start(web(&[("a", &a), ("b", &b)]));
    a.checked(1).await;
    b.checked(1).await;

    // Removes `a` and moves `b` to the address of `c`.
    let summary =
        control.handle.reload((*config(vec![web(&[("b", &c)])])).clone(), LiveTls::default()).await.unwrap();
    assert_eq!(summary.to_string(), "upstream web changed, removed a, changed b");
    assert_eq!(
        control.handle.snapshot().generation,
        summary.generation,
        "must be published when reload returns"
    );
    let before = (a.checks.load(Ordering::Relaxed), b.checks.load(Ordering::Relaxed));
    c.checked(10).await;
    assert!(a.checks.load(Ordering::Relaxed) - before.0 <= 1, "more than the one check in flight");
    assert!(b.checks.load(Ordering::Relaxed) - before.1 <= 1, "more than the one check in flight");
    c.answer(503);
    control.until(|m| m[0].health == Health::Down).await;

    let summary =
        control.handle.reload((*config(vec![web(&[("b", &c)])])).clone(), LiveTls::default()).await.unwrap();
    assert!(summary.is_empty());
    control.stop().await;
}

#[tokio::test]
async fn slots_can_be_assigned_to_unconfigured_backends() {
    let control = Control::start(upstream("web", &["a"]));
    let (gone, a) = ("gone".parse().unwrap(), "a".parse().unwrap());
    assert_eq!(control.handle.slot_of("web", &a), Some(Slot(0)));
    assert_eq!(control.handle.slot_of("web", &gone), Some(Slot(1)));
    assert_eq!(control.handle.id_of("web", Slot(1)), Some(gone.clone()));
    assert_eq!(control.handle.slot_of("nowhere", &a), None);
    control
        .handle
        .reload((*config(vec![upstream("web", &["a", "gone"])])).clone(), LiveTls::default())
        .await
        .unwrap();
    let snapshot = control.handle.snapshot();
    assert_eq!(snapshot.upstreams[0].cluster.index_of(Slot(1)), Some(1), "its bindings must find it again");
    control.stop().await;
}

#[tokio::test]
async fn expired_bindings_are_swept() {
    let mut rules = upstream("web", &["a"]);
    rules.affinity.remember = Remember::in_table(TableConfig { max_entries: 100, ttl: S, file: None });
    let control = Control::start(rules);
    let table = control.handle.snapshot().upstreams[0].table().cloned().expect("a table");
    // Long expired by the wall clock, which sweeping uses.
    table.bind(crate::affinity::SessionName(7), Slot(0), crate::affinity::name::Owner(0), Timestamp(1));
    in_time(async {
        while !table.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    control.stop().await;
}

#[tokio::test]
async fn commands_fail_after_stop() {
    let a = Server::start().await;
    let control = Control::start(web(&[("a", &a)]));
    a.checked(1).await;
    let handle = control.handle.clone();
    control.stop().await;
    let result = handle.set_admin_state("web", &"a".parse().unwrap(), AdminState::Drain).await;
    assert_eq!(result, Err(ControlError::Stopped));
    assert_eq!(handle.snapshot().generation, 1, "the last snapshot must stay readable");
}
