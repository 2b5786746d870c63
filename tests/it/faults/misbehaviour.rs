//! One backend of three does what it should not, while all ask.

use std::collections::BTreeMap;

use super::crowd::{Answer, Crowd, deliveries};
use crate::harness::{Backend, Proxy, Script, Step, eventually};

/// What is to become of a request to the backend that misbehaves.
#[derive(Debug, Clone, Copy)]
enum Expected {
    /// It is answered as if nothing were.
    Whole,
    /// The same; but a POST may meet a connection that is closing, and then it is
    /// neither delivered nor sent again.
    WholeOrLate,
    /// Homing answers, with this word, and has delivered it once.
    Own(u16, &'static str),
    /// The same; what may be done twice may have been delivered as often as
    /// `retry.attempts` says, always to this backend.
    OwnAfterRetries(u16, &'static str),
    /// It breaks off.
    Broken,
}

/// Three backends of which the first gets a script, and what is to be seen of it.
async fn one_of_three(script: Script, timeouts: &str, expected: Expected) {
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
                assert_eq!(asked.answer, Answer::Backend(asked.place.clone()), "nothing of the fault");
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
        assert_eq!(times, everywhere, "it went nowhere else: {asked:?}");
        if matches!(expected, Expected::WholeOrLate) && asked.method == "POST" && times == 0 {
            assert_eq!(asked.answer, Answer::Own(502, "backend_closed".into()), "{asked:?}");
            continue;
        }
        match expected {
            Expected::Whole | Expected::WholeOrLate => {
                assert_eq!(asked.answer, Answer::Backend("a".into()), "{asked:?}");
            }
            Expected::Own(status, word) | Expected::OwnAfterRetries(status, word) => {
                assert_eq!(asked.answer, Answer::Own(status, word.into()), "{asked:?}");
            }
            Expected::Broken => assert_eq!(asked.answer, Answer::Broken, "{asked:?}"),
        }
        match (expected, asked.method) {
            (Expected::OwnAfterRetries(..), "GET") => assert!((1..=3).contains(&times), "{times} {asked:?}"),
            _ => assert_eq!(times, 1, "{asked:?}"),
        }
    }
    // Over, and all are where they were, on the same connections as far as those go on.
    a.set(Script::reply());
    for method in ["GET", "POST"] {
        crowd.assert_kept(method).await;
    }
    assert_eq!(crowd.places(), places);
    drop(crowd);
    eventually("nothing is left behind", async || proxy.metric("homing_connections", &[]) < 0.5).await;
}

fn asked_then(steps: impl IntoIterator<Item = Step>) -> Script {
    Script::new([Step::ReadHead, Step::ReadBody].into_iter().chain(steps).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_hangs_before_its_head_is_504_and_keeps_its_sessions() {
    let expected = Expected::Own(504, "response_head_timeout");
    one_of_three(asked_then([Step::Hang]), "response_head = \"150ms\"", expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_hangs_in_its_head_is_504_and_keeps_its_sessions() {
    let expected = Expected::Own(504, "response_head_timeout");
    one_of_three(asked_then([Step::ReplyToMidHead, Step::Hang]), "response_head = \"150ms\"", expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_hangs_in_its_body_breaks_that_response_only() {
    one_of_three(asked_then([Step::ReplyToMidBody, Step::Hang]), "body_idle = \"150ms\"", Expected::Broken)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_dies_in_its_head_is_502_and_gets_nothing_twice() {
    let expected = Expected::Own(502, "response_truncated");
    one_of_three(asked_then([Step::ReplyToMidHead, Step::Close]), "", expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_dies_in_its_body_breaks_that_response_only() {
    one_of_three(asked_then([Step::ReplyToMidBody, Step::Close]), "", Expected::Broken).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_closes_before_its_head_is_502_and_gets_no_post_twice() {
    let expected = Expected::OwnAfterRetries(502, "backend_closed");
    one_of_three(asked_then([Step::Close]), "", expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_resets_before_its_head_is_502_and_gets_no_post_twice() {
    let expected = Expected::OwnAfterRetries(502, "backend_closed");
    one_of_three(asked_then([Step::Reset]), "", expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_resets_in_its_head_is_502_and_gets_nothing_twice() {
    // A reset may overtake what was sent before it: then there was no byte.
    let steps = [Step::ReplyToMidHead, Step::Reset];
    one_of_three(asked_then(steps), "", Expected::Own(502, "response_truncated")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_resets_in_its_body_breaks_that_response_only() {
    one_of_three(asked_then([Step::ReplyToMidBody, Step::Reset]), "", Expected::Broken).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_resets_after_its_response_is_not_noticed() {
    one_of_three(asked_then([Step::Reply, Step::Reset]), "", Expected::WholeOrLate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_drips_head_and_body_is_only_slow() {
    one_of_three(asked_then([Step::DripReply]), "", Expected::Whole).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_half_closes_before_its_head_is_502_and_gets_no_post_twice() {
    let expected = Expected::OwnAfterRetries(502, "backend_closed");
    one_of_three(asked_then([Step::HalfClose]), "", expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_half_closes_in_its_body_breaks_that_response_only() {
    one_of_three(asked_then([Step::ReplyToMidBody, Step::HalfClose]), "", Expected::Broken).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_half_closes_after_its_response_is_not_noticed() {
    one_of_three(asked_then([Step::Reply, Step::HalfClose]), "", Expected::WholeOrLate).await;
}
