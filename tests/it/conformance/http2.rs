//! Malformed HTTP/2 requests, frame by frame.

use super::http2_cases::{Answer, Case, bodies, good, heads};
use super::http2_frames::{connection, floods};
use crate::harness::frame_client::{FrameClient, Said};
use crate::harness::{Backend, Proxy};

impl Answer {
    fn matches(self, said: &Said) -> bool {
        match (self, said) {
            (Self::Reset(code), Said::Reset(1, said)) | (Self::GoAway(code), Said::GoAway(said)) => {
                code.number() == *said
            }
            (Self::Status(status), Said::Response(1, said)) => status == *said,
            (Self::Forwarded, Said::Response(1, 200)) => true,
            _ => false,
        }
    }
}

/// Sends a case and compares the answer. Afterwards the connection must be closed or
/// still in sync.
async fn check(proxy: &Proxy, case: &Case) {
    let Case { class, bytes, answer, .. } = case;
    let mut client = FrameClient::new(proxy.raw().await).await;
    // The proxy may reject the case before it has read all of it.
    client.send(bytes).await;
    let said = client.said().await;
    assert!(answer.matches(&said), "{class}: expected {answer:?}, got {said:?}");
    if let Answer::GoAway(_) = answer {
        assert_eq!(client.said().await, Said::Closed, "{class}");
        return;
    }
    assert!(client.send(good(101)).await, "{class}");
    loop {
        match client.said().await {
            Said::Response(101, status) => {
                assert_eq!(status, 200, "after {class}");
                return;
            }
            // The stream of an early answer is reset afterwards.
            Said::Reset(1, _) => {}
            other => panic!("after {class}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn malformed_http2_is_rejected_and_no_backend_receives_a_complete_request() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for case in [heads(), bodies(), connection()].into_iter().flatten() {
        let before = a.seen().len();
        check(&proxy, &case).await;
        let seen = a.seen().split_off(before);
        let expected = match case.answer {
            Answer::GoAway(_) => 0,
            Answer::Reset(_) | Answer::Status(_) => 1,
            Answer::Forwarded => 2,
        };
        assert_eq!(seen.len(), expected, "{}: {seen:?}", case.class);
        for request in seen {
            assert!(["GET /", "POST /"].iter().any(|start| request.line.starts_with(start)), "{request:?}");
            assert_eq!(
                (request.field("host"), request.trailers.names().len()),
                (Some("t"), 0),
                "{request:?}"
            );
        }
    }
}

#[tokio::test]
async fn http2_flood_closes_only_its_own_connection() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut bystander = FrameClient::new(proxy.raw().await).await;
    for (case, stream) in floods().iter().zip((1..).step_by(2)) {
        check(&proxy, case).await;
        assert!(bystander.send(good(stream)).await);
        assert_eq!(
            bystander.said().await,
            Said::Response(stream, 200),
            "another connection failed during {}",
            case.class
        );
    }
}
