//! Malformed HTTP/2 frames, and floods of valid ones.

use super::http2_cases::{Answer, Case, Code, GET, POST, encoded, frames, good};
use crate::harness::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, PING, PRIORITY, PUSH_PROMISE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, frame,
};

pub(super) fn connection() -> Vec<Case> {
    use Answer::GoAway;
    let protocol = GoAway(Code::Protocol);
    let size = GoAway(Code::FrameSize);
    let open = || frame(HEADERS, END_HEADERS, 1, &encoded(&POST));
    vec![
        frames("HEADERS on stream 0", "9113 §6.2", "HEADERS, stream 0", &[good(0)], protocol),
        frames("even stream number", "9113 §5.1.1", "HEADERS, stream 2", &[good(2)], protocol),
        frames("DATA on stream 0", "9113 §6.1", "DATA, stream 0", &[frame(DATA, 0, 0, b"x")], protocol),
        frames("DATA on an idle stream", "9113 §5.1", "DATA, stream 5", &[frame(DATA, 0, 5, b"x")], protocol),
        frames(
            "padding longer than the frame",
            "9113 §6.1",
            "DATA, padding 200 of 3",
            &[open(), frame(DATA, PADDED, 1, b"\xc8xx")],
            protocol,
        ),
        frames(
            "frame over the size limit",
            "9113 §4.2",
            "DATA of 16,385 bytes",
            &[open(), frame(DATA, 0, 1, &[0; 16_385])],
            size,
        ),
        frames(
            "CONTINUATION without HEADERS",
            "9113 §6.10",
            "CONTINUATION",
            &[frame(CONTINUATION, END_HEADERS, 1, b"")],
            protocol,
        ),
        frames(
            "another frame within a header block",
            "9113 §6.10",
            "HEADERS without END_HEADERS, PING",
            &[frame(HEADERS, END_STREAM, 1, &encoded(&GET)), frame(PING, 0, 0, &[0; 8])],
            protocol,
        ),
        frames(
            "invalid HPACK block",
            "9113 §4.3",
            "HEADERS ff ff ff ff ff ff",
            &[frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 6])],
            protocol,
        ),
        frames(
            "HPACK index outside the table",
            "7541 §2.3.3",
            "HEADERS fe",
            &[frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xfe])],
            protocol,
        ),
        frames(
            "SETTINGS of 5 bytes",
            "9113 §6.5",
            "SETTINGS 00 00 00 00 00",
            &[frame(SETTINGS, 0, 0, &[0; 5])],
            protocol,
        ),
        frames(
            "SETTINGS on a stream",
            "9113 §6.5",
            "SETTINGS, stream 1",
            &[frame(SETTINGS, 0, 1, b"")],
            protocol,
        ),
        frames("PING of 7 bytes", "9113 §6.7", "PING of 7 bytes", &[frame(PING, 0, 0, &[0; 7])], protocol),
        frames(
            "WINDOW_UPDATE of 0",
            "9113 §6.9",
            "WINDOW_UPDATE 0",
            &[frame(WINDOW_UPDATE, 0, 0, &[0; 4])],
            protocol,
        ),
        frames(
            "window over 31 bits",
            "9113 §6.9.1",
            "WINDOW_UPDATE 7fffffff",
            &[frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])],
            GoAway(Code::FlowControl),
        ),
        frames(
            "RST_STREAM on an idle stream",
            "9113 §6.4",
            "RST_STREAM, stream 5",
            &[frame(RST_STREAM, 0, 5, &[0, 0, 0, 8])],
            protocol,
        ),
        frames(
            "PUSH_PROMISE from the client",
            "9113 §8.4",
            "PUSH_PROMISE",
            &[open(), frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])],
            protocol,
        ),
        frames(
            "stream number lower than the last",
            "9113 §5.1.1",
            "HEADERS, streams 3 and 1",
            &[frame(HEADERS, END_HEADERS, 3, &encoded(&POST)), good(1)],
            protocol,
        ),
    ]
}

pub(super) fn floods() -> Vec<Case> {
    use Answer::{GoAway, Status};
    let calm = GoAway(Code::Calm);
    let long = "v".repeat(40_000);
    let large = encoded(&[&GET[..], &[("x", &long)]].concat());
    let in_three = [
        frame(HEADERS, END_STREAM, 1, &large[..15_000]),
        frame(CONTINUATION, 0, 1, &large[15_000..30_000]),
        frame(CONTINUATION, END_HEADERS, 1, &large[30_000..]),
    ];
    let many = encoded(&[&GET[..], &vec![("x", "y"); 200][..]].concat());
    let resets = |count: u32| -> Vec<Vec<u8>> {
        let odd = (0..count).map(|n| 2 * n + 1);
        odd.flat_map(|stream| [good(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])]).collect()
    };
    let open = frame(HEADERS, END_HEADERS, 1, &encoded(&POST));
    let with = |first: Vec<u8>, frame: Vec<u8>| [first, frame.repeat(5000)];
    vec![
        frames(
            "40,000 bytes of headers, decoded",
            "9113 §10.5.1",
            "HEADERS, CONTINUATION twice",
            &in_three,
            Status(431),
        ),
        frames(
            "200 headers",
            "9110 §5.4",
            "HEADERS of x: y, 200 times",
            &[frame(HEADERS, END_HEADERS | END_STREAM, 1, &many)],
            Status(431),
        ),
        frames("rapid reset", "9113 §10.5", "HEADERS, RST_STREAM, 2,000 times", &resets(2000), calm),
        frames(
            "PING flood",
            "9113 §10.5",
            "PING, 5,000 times",
            &with(vec![], frame(PING, 0, 0, &[0; 8])),
            calm,
        ),
        frames(
            "SETTINGS flood",
            "9113 §10.5",
            "SETTINGS, 5,000 times",
            &with(vec![], frame(SETTINGS, 0, 0, b"")),
            calm,
        ),
        frames(
            "PRIORITY flood",
            "9113 §10.5",
            "PRIORITY, 5,000 times",
            &with(vec![], frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 9])),
            calm,
        ),
        frames(
            "WINDOW_UPDATE flood",
            "9113 §10.5",
            "WINDOW_UPDATE 1, 5,000 times",
            &with(vec![], frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
            calm,
        ),
        frames(
            "empty DATA flood",
            "9113 §10.5",
            "empty DATA, 5,000 times",
            &with(open, frame(DATA, 0, 1, b"")),
            calm,
        ),
        frames(
            "CONTINUATION flood",
            "9113 §10.5",
            "HEADERS, empty CONTINUATION, 5,000 times",
            &with(frame(HEADERS, END_STREAM, 1, &encoded(&GET)), frame(CONTINUATION, 0, 1, b"")),
            calm,
        ),
    ]
}
