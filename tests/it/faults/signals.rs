//! SIGTERM and SIGHUP to the program under load.

use rustix::process::Signal;
use tokio::net::TcpStream;

use super::crowd::{Answer, CLIENTS, Crowd, Load, deliveries};
use super::program::Program;
use crate::harness::{Backend, Gate, Proxy, ProxyBuilder, RawClient, Script, Step, eventually};
use crate::tunnel::UPGRADE;

const TUNNELS: usize = 16;

fn before(backends: &[&Backend]) -> ProxyBuilder {
    Proxy::builder()
        .server("admin = \"off\"\nshutdown_grace = \"8s\"")
        .upstream("web", backends)
        .affinity(r#"key = ["cookie:SID"]"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_finishes_requests_in_flight() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let mut program = Program::start(&before(&[&a, &b]));
    let address = program.address().await;
    let mut crowd = Crowd::settled(address, 1).await;
    let gate = Gate::closed();
    for backend in [&a, &b] {
        backend.set(Script::new([Step::ReadHead, Step::ReadBody, Step::Pause(gate.clone()), Step::Reply]));
    }
    let arrived = a.requests() + b.requests();
    let ending = async {
        eventually("the requests arrive", async || a.requests() + b.requests() == arrived + CLIENTS as u64)
            .await;
        program.signal(Signal::TERM);
        eventually("new connections are refused", async || TcpStream::connect(address).await.is_err()).await;
        gate.open();
    };
    let (all, ()) = tokio::join!(crowd.ask("POST"), ending);
    for asked in all {
        assert_eq!(asked.answer, Answer::Backend(asked.place.clone()), "{asked:?}");
        assert!(asked.last, "no Connection: close: {asked:?}");
    }
    assert_eq!(program.exited().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_answers_every_delivered_request() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let mut program = Program::start(&before(&[&a, &b]));
    let address = program.address().await;
    let load = Load::start(Crowd::settled(address, 1).await);
    load.continues(5 * CLIENTS).await;
    program.signal(Signal::TERM);
    assert_eq!(program.exited().await, Some(0));
    let requests = load.ended().await;
    let delivered = deliveries(&[&a, &b]);
    let (mut answered, mut refused) = (0, 0);
    for asked in requests {
        match &asked.answer {
            Answer::Backend(_) => answered += 1,
            // Sent on a closing connection, or not at all.
            Answer::None => {
                refused += 1;
                assert!(!delivered.contains_key(&asked.number), "delivered but not answered: {asked:?}");
            }
            _ => panic!("{asked:?}"),
        }
    }
    println!("SIGTERM under load: {answered} answered, {refused} too late, 0 failed in flight");
    assert!(answered > 5 * CLIENTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_under_load_fails_no_request_and_closes_no_tunnel() {
    let (a, b, c) = (Backend::start("a").await, Backend::start("b").await, Backend::start("c").await);
    let echo = Backend::named("echo").upgrade_echo("").start().await;
    let routes =
        "[[route]]\npath = \"/\"\nupstream = \"web\"\n[[route]]\npath = \"/chat\"\nupstream = \"chat\"\n";
    // Each reload changes something, but nothing that open tunnels and sessions need.
    let version = |number: usize| {
        let backends = if number.is_multiple_of(2) { vec![&a, &b] } else { vec![&c, &b, &a] };
        before(&backends)
            .raw_toml(routes)
            .timeouts(&format!("response_head = \"{}s\"", 30 + number))
            .upstream("chat", &[&echo])
    };
    let mut program = Program::start(&version(0));
    let address = program.address().await;
    let mut tunnels = Vec::new();
    for _ in 0..TUNNELS {
        let mut raw = RawClient::connect(address).await;
        raw.send(UPGRADE).await;
        assert_eq!(raw.head().await.status, 101);
        tunnels.push(raw);
    }
    let load = Load::start(Crowd::settled(address, 1).await);
    for number in 1..=20 {
        program.reload(&version(number)).await;
        load.continues(CLIENTS / 2).await;
        let message = format!("after reload {number}");
        for tunnel in &mut tunnels {
            tunnel.send(&message).await;
            assert_eq!(tunnel.exactly(message.len()).await, message.as_bytes());
        }
    }
    let mut answered = 0;
    for asked in load.stop().await {
        let Answer::Backend(name) = &asked.answer else { panic!("{asked:?}") };
        // c comes and goes, but never had any of these sessions.
        assert_eq!(*name, asked.place, "{asked:?}");
        answered += 1;
    }
    assert!(deliveries(&[&a, &b, &c]).values().all(|times| *times == 1));
    println!("20 reloads: {answered} requests answered, 0 failed, {TUNNELS} tunnels open, 0 cut");
}
