//! A WebSocket echo endpoint (RFC 6455), to hold a tunnel open.

use std::io;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::DemoBody;
use super::response::text;

/// Maximum payload of a frame in bytes.
const MAX_PAYLOAD: u64 = 64 * 1024;
/// Idle time after which a WebSocket is closed.
const MAX_IDLE: Duration = Duration::from_secs(600);
/// RFC 6455 section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const OPCODE_CLOSE: u8 = 8;
const OPCODE_PING: u8 = 9;
const OPCODE_PONG: u8 = 10;

/// Answers the handshake (RFC 6455 section 4.2) and serves the connection.
pub(super) fn accept(
    mut request: Request<Incoming>,
    cancel: &CancellationToken,
    tasks: &TaskTracker,
) -> Response<DemoBody> {
    let headers = request.headers();
    let asks = has_token(headers, &CONNECTION, "upgrade") && has_token(headers, &UPGRADE, "websocket");
    let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
    let Some(accept) = key.filter(|_| asks).and_then(accept_value) else {
        let mut response = text(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket endpoint\n");
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        return response;
    };
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut response = text(StatusCode::UPGRADE_REQUIRED, "only WebSocket version 13 is supported\n");
        response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return response;
    }

    let upgrade = hyper::upgrade::on(&mut request);
    let cancel = cancel.clone();
    tasks.spawn(async move {
        let served = async { serve(TokioIo::new(upgrade.await.map_err(io::Error::other)?)).await };
        let ended = tokio::select! {
            ended = served => ended,
            () = cancel.cancelled() => Ok(()),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "WebSocket of the demo application failed");
        }
    });
    let mut response = Response::new(DemoBody::full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// Returns the value of Sec-WebSocket-Accept, or `None` if the key is not 16 bytes in Base64.
fn accept_value(key: &str) -> Option<HeaderValue> {
    STANDARD.decode(key).ok().filter(|bytes| bytes.len() == 16)?;
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    HeaderValue::from_str(&STANDARD.encode(hash)).ok()
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

struct Frame {
    last: bool,
    opcode: u8,
    payload: Vec<u8>,
}

/// The status code to close with (RFC 6455 section 7.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    ProtocolError = 1002,
    TooBig = 1009,
}

/// Echoes every frame as it arrives, fragments as fragments.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    loop {
        let read = tokio::time::timeout(MAX_IDLE, read_frame(&mut stream));
        let Ok(frame) = read.await else { return Ok(()) };
        let frame = match frame? {
            Ok(frame) => frame,
            Err(close) => {
                let code = (close as u16).to_be_bytes().to_vec();
                return write_frame(&mut stream, &Frame { last: true, opcode: OPCODE_CLOSE, payload: code })
                    .await;
            }
        };
        match frame.opcode {
            OPCODE_CLOSE => return write_frame(&mut stream, &frame).await,
            OPCODE_PING => write_frame(&mut stream, &Frame { opcode: OPCODE_PONG, ..frame }).await?,
            OPCODE_PONG => {}
            _ => write_frame(&mut stream, &frame).await?,
        }
    }
}

/// Reads and unmasks one frame (RFC 6455 section 5.2).
async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Result<Frame, Close>> {
    let [first, second] = read_array(stream).await?;
    let (last, opcode, masked) = (first & 0x80 != 0, first & 0x0f, second & 0x80 != 0);
    let len = match second & 0x7f {
        126 => u64::from(u16::from_be_bytes(read_array(stream).await?)),
        127 => u64::from_be_bytes(read_array(stream).await?),
        len => u64::from(len),
    };
    let control = opcode & 0x08 != 0;
    let known = matches!(opcode, 0..=2 | OPCODE_CLOSE..=OPCODE_PONG);
    if first & 0x70 != 0 || !masked || !known || (control && (!last || len > 125)) {
        return Ok(Err(Close::ProtocolError));
    }
    let Some(len) = usize::try_from(len).ok().filter(|_| len <= MAX_PAYLOAD) else {
        return Ok(Err(Close::TooBig));
    };
    let mask: [u8; 4] = read_array(stream).await?;
    let mut payload = vec![0; len];
    stream.read_exact(&mut payload).await?;
    for (byte, mask) in payload.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
    Ok(Ok(Frame { last, opcode, payload }))
}

async fn read_array<const N: usize>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> io::Result<()> {
    let mut bytes = vec![u8::from(frame.last) << 7 | frame.opcode];
    match (u8::try_from(frame.payload.len()), u16::try_from(frame.payload.len())) {
        (Ok(len), _) if len < 126 => bytes.push(len),
        (_, Ok(len)) => {
            bytes.push(126);
            bytes.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            bytes.push(127);
            bytes.extend_from_slice(&(frame.payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&frame.payload);
    stream.write_all(&bytes).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_value_matches_the_rfc() {
        let value = accept_value("dGhlIHNhbXBsZSBub25jZQ==").expect("a good key");
        assert_eq!(value, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(accept_value("c2hvcnQ=").is_none());
        assert!(accept_value("not base64").is_none());
    }

    async fn answer_to(bytes: &[u8]) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(256 * 1024);
        client.write_all(bytes).await.expect("sent");
        client.shutdown().await.expect("shut down");
        // Ignore the error from a stream that ends within a frame.
        let _ = serve(server).await;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("read");
        answer
    }

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut bytes = vec![first];
        if payload.len() < 126 {
            bytes.push(0x80 | u8::try_from(payload.len()).expect("short"));
        } else {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
        bytes.extend_from_slice(&mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    #[tokio::test]
    async fn messages_and_fragments_are_echoed_and_pings_are_answered() {
        let mut sent = masked(0x81, b"hello");
        sent.extend(masked(0x01, b"frag"));
        sent.extend(masked(0x89, b"p"));
        sent.extend(masked(0x80, b"ment"));
        sent.extend(masked(0x8a, b"unasked"));
        sent.extend(masked(0x88, &[0x03, 0xe8]));
        let expected = [
            b"\x81\x05hello".as_slice(),
            b"\x01\x04frag",
            b"\x8a\x01p",
            b"\x80\x04ment",
            b"\x88\x02\x03\xe8",
        ]
        .concat();
        assert_eq!(answer_to(&sent).await, expected);
    }

    #[tokio::test]
    async fn lengths_are_encoded_in_the_shortest_form() {
        let payload = vec![b'x'; 300];
        assert_eq!(
            answer_to(&masked(0x82, &payload)).await,
            [b"\x82\x7e\x01\x2c", payload.as_slice()].concat()
        );
        let payload = vec![b'x'; 64 * 1024];
        let answer = answer_to(&masked(0x82, &payload)).await;
        assert_eq!(answer[..10], *b"\x82\x7f\0\0\0\0\0\x01\0\0");
        assert_eq!(answer.len(), 10 + payload.len());
    }

    #[tokio::test]
    async fn protocol_violations_close_the_connection() {
        let protocol_error = b"\x88\x02\x03\xea";
        for forbidden in [
            b"\x81\x05hello".to_vec(),   // not masked
            masked(0xc1, b"compressed"), // RSV1
            masked(0x83, b"reserved"),   // unknown opcode
            masked(0x09, b"fragmented"), // a ping in fragments
            masked(0x89, &[b'x'; 126]),  // a long ping
        ] {
            assert_eq!(answer_to(&forbidden).await, protocol_error, "{forbidden:?}");
        }
        assert_eq!(answer_to(b"\x82\xff\0\0\0\0\0\x01\0\x01").await, b"\x88\x02\x03\xf1", "too big");
        assert_eq!(answer_to(b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff").await, b"\x88\x02\x03\xf1");
    }
}
