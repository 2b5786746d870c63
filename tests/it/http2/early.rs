//! Responses that come before the end of the request: the client learns them before its stream is
//! reset.

use h2::Reason;

use crate::harness::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, POST, RST_STREAM, block, frame, get};
use crate::harness::{Backend, Proxy, RawClient, Script, Step};

const ANSWER: &[u8] =
    b"HTTP/1.1 413 Too Large\r\nX-Backend: a\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig";

/// Sends the start of an upload and reads the response, which comes early.
async fn answered_early(proxy: &Proxy) -> RawClient {
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    raw.send(frame(HEADERS, END_HEADERS, 1, &block(&POST))).await;
    raw.send(frame(DATA, 0, 1, b"the start")).await;
    let last = raw.next_on(1, DATA).await;
    assert_eq!((last.payload.as_slice(), last.flags & END_STREAM), (b"big".as_slice(), END_STREAM));
    raw
}

async fn refusing() -> (Backend, Proxy) {
    let steps = [Step::ReadHead, Step::Send(ANSWER.into()), Step::Close];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    (a, proxy)
}

#[tokio::test]
async fn upload_that_ends_after_an_early_response_is_not_reset() {
    let (a, proxy) = refusing().await;
    let mut raw = answered_early(&proxy).await;
    for _ in 0..10 {
        raw.send(frame(DATA, 0, 1, &[0; 5_000])).await;
    }
    raw.send(frame(DATA, END_STREAM, 1, b"the end")).await;
    a.set(Script::reply());
    raw.send(get(3, "/")).await;
    loop {
        let next = raw.next_frame().await.expect("the connection stays open");
        assert_ne!((next.kind, next.stream), (RST_STREAM, 1), "reset: {next:?}");
        if (next.kind, next.stream) == (DATA, 3) {
            break;
        }
    }
}

#[tokio::test]
async fn upload_that_goes_on_after_an_early_response_is_reset_without_an_error_in_the_end() {
    let (_a, proxy) = refusing().await;
    // One says nothing more, the other sends for as long as it may.
    for sends in [false, true] {
        let mut raw = answered_early(&proxy).await;
        let mut taken = 0_u32;
        loop {
            let next = raw.next_frame().await.expect("the connection stays open");
            match (next.kind, next.stream) {
                (RST_STREAM, 1) => {
                    assert_eq!(next.code(), u32::from(Reason::NO_ERROR));
                    break;
                }
                (crate::harness::frames::WINDOW_UPDATE, 1) => {
                    taken += next.code();
                    assert!(taken < 2 << 20, "the upload has no bound");
                }
                _ => {}
            }
            if sends {
                raw.send(frame(DATA, 0, 1, &[0; 16_000])).await;
            }
        }
    }
}
