//! One of three backends misbehaves while all clients send requests.

use std::collections::BTreeMap;

use super::crowd::{Answer, Crowd, deliveries};
use crate::harness::{Backend, Proxy, Script, Step, eventually};

/// The expected outcome of requests to the misbehaving backend.
#[derive(Debug, Clone, Copy)]
enum Expected {
    /// A normal response.
    Whole,
    /// A normal response, but a POST may hit a closing connection: then it is neither delivered nor
    /// retried.
    WholeOrLate,
    /// A response from Homing with this status and error code, after one delivery.
    Own(u16, &'static str),
    /// The same, except that idempotent requests may be delivered up to `retry.attempts` times,
    /// always to this backend.
    OwnAfterRetries(u16, &'static str),
    /// A truncated response.
    Broken,
}

/// Starts three backends, gives the first one this script, and asserts the outcome.
async fn assert_outcome(script: Script, timeouts: &str, expected: Expected) {
    let (a, b, c) = (Backend::start("a").await, Backend::start("b").await, Backend::start("c").await);
    let proxy = Proxy::builder()
        .timeouts(timeouts)
        .upstream("web", &[&a, &b, &c])
        .affinity(r#"key = ["cookie:SID"]"#)
        .start()
        .await;
    let mut crowd = Crowd::settled(proxy.addr(), 1).await;
    let places = crowd.places();
    assert!(places.len() == 3 && places["a"] > 5, "{places:?}");

    a.set(script);
    let mut sorted = BTreeMap::new();
    let mut faulty = Vec::new();
    for method in ["GET", "POST", "GET"] {
        for asked in crowd.ask(method).await {
            if asked.place == "a" {
                *sorted.entry(format!("{method} {:?}", asked.answer)).or_insert(0) += 1;
                faulty.push(asked);
            } else {
                assert_eq!(
                    asked.answer,
                    Answer::Backend(asked.place.clone()),
                    "a healthy backend's client saw the fault"
                );
            }
        }
    }
    println!("{expected:?}: {sorted:?}");
    assert_eq!(faulty.len(), 3 * places["a"]);
    let delivered = deliveries(&[&a, &b, &c]);
    let at_home = deliveries(&[&a]);
    for asked in faulty {
        let times = at_home.get(&asked.number).copied().unwrap_or_default();
        let everywhere = delivered.get(&asked.number).copied().unwrap_or_default();
        assert_eq!(times, everywhere, "delivered to another backend: {asked:?}");
        if matches!(expected, Expected::WholeOrLate) && asked.method == "POST" && times == 0 {
            assert_eq!(asked.answer, Answer::Own(502, "backend_closed".into()), "{asked:?}");
            continue;
        }
        match expected {
            Expected::Whole | Expected::WholeOrLate => {
                assert_eq!(asked.answer, Answer::Backend("a".into()), "{asked:?}");
            }
            Expected::Own(status, code) | Expected::OwnAfterRetries(status, code) => {
                assert_eq!(asked.answer, Answer::Own(status, code.into()), "{asked:?}");
            }
            Expected::Broken => assert_eq!(asked.answer, Answer::Broken, "{asked:?}"),
        }
        match (expected, asked.method) {
            (Expected::OwnAfterRetries(..), "GET") => assert!((1..=3).contains(&times), "{times} {asked:?}"),
            _ => assert_eq!(times, 1, "{asked:?}"),
        }
    }
    // Once the fault is over, all sessions are where they were, on the same connections where those
    // are still open.
    a.set(Script::reply());
    for method in ["GET", "POST"] {
        crowd.assert_kept(method).await;
    }
    assert_eq!(crowd.places(), places);
    drop(crowd);
    eventually("all connections close", async || proxy.metric("homing_connections", &[]) < 0.5).await;
}

fn after_request(steps: impl IntoIterator<Item = Step>) -> Script {
    Script::new([Step::ReadHead, Step::ReadBody].into_iter().chain(steps).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_hangs_before_its_head_is_504_and_keeps_its_sessions() {
    let expected = Expected::Own(504, "response_head_timeout");
    assert_outcome(after_request([Step::Hang]), "response_head = \"150ms\"", expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_hangs_mid_head_is_504_and_keeps_its_sessions() {
    let expected = Expected::Own(504, "response_head_timeout");
    assert_outcome(after_request([Step::ReplyToMidHead, Step::Hang]), "response_head = \"150ms\"", expected)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_hangs_mid_body_truncates_only_that_response() {
    assert_outcome(
        after_request([Step::ReplyToMidBody, Step::Hang]),
        "body_idle = \"150ms\"",
        Expected::Broken,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_closes_mid_head_is_502_and_gets_nothing_twice() {
    let expected = Expected::Own(502, "response_truncated");
    assert_outcome(after_request([Step::ReplyToMidHead, Step::Close]), "", expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_closes_mid_body_truncates_only_that_response() {
    assert_outcome(after_request([Step::ReplyToMidBody, Step::Close]), "", Expected::Broken).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_closes_before_its_head_is_502_and_gets_no_post_twice() {
    let expected = Expected::OwnAfterRetries(502, "backend_closed");
    assert_outcome(after_request([Step::Close]), "", expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_resets_before_its_head_is_502_and_gets_no_post_twice() {
    let expected = Expected::OwnAfterRetries(502, "backend_closed");
    assert_outcome(after_request([Step::Reset]), "", expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_resets_mid_head_is_502_and_gets_nothing_twice() {
    // A reset may discard bytes sent before it, so the proxy may see no byte of the head.
    let steps = [Step::ReplyToMidHead, Step::Reset];
    assert_outcome(after_request(steps), "", Expected::Own(502, "response_truncated")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_resets_mid_body_truncates_only_that_response() {
    assert_outcome(after_request([Step::ReplyToMidBody, Step::Reset]), "", Expected::Broken).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_resets_after_its_response_is_not_noticed() {
    assert_outcome(after_request([Step::Reply, Step::Reset]), "", Expected::WholeOrLate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_drips_head_and_body_is_only_slow() {
    assert_outcome(after_request([Step::DripReply]), "", Expected::Whole).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_half_closes_before_its_head_is_502_and_gets_no_post_twice() {
    let expected = Expected::OwnAfterRetries(502, "backend_closed");
    assert_outcome(after_request([Step::HalfClose]), "", expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_half_closes_mid_body_truncates_only_that_response() {
    assert_outcome(after_request([Step::ReplyToMidBody, Step::HalfClose]), "", Expected::Broken).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_half_closes_after_its_response_is_not_noticed() {
    assert_outcome(after_request([Step::Reply, Step::HalfClose]), "", Expected::WholeOrLate).await;
}
