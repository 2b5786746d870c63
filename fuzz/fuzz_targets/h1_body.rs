//! Bodies: no input panics, each step makes progress or needs more input, splitting the input
//! never changes the result, and the output is a body with the same data.
//!
//! The first byte of the input selects the framing, the second where to split the rest.

#![no_main]

use homing::h1::{Body, BodyError, BodyLimits, Framing};
use libfuzzer_sys::fuzz_target;

const LIMITS: BodyLimits = BodyLimits { trailer_bytes: 128, extension_bytes: 32 };

/// Passes a body through in two pieces; returns what is forwarded and how the body ends.
fn pass(mut body: Body, input: &[u8], split: usize) -> (Vec<u8>, Result<(u64, usize), BodyError>) {
    let (mut out, mut at) = (Vec::new(), 0);
    for end in [split, input.len()] {
        while at < end {
            let step = match body.advance(&input[at..end]) {
                Ok(step) => step,
                Err(error) => return (out, Err(error)),
            };
            assert!(step.forward.start <= step.forward.end && step.forward.end <= step.consumed);
            assert!(step.consumed <= end - at);
            assert_eq!(step.done, body.is_done());
            out.extend_from_slice(&input[at..][step.forward]);
            at += step.consumed;
            if step.consumed == 0 || step.done {
                break;
            }
        }
    }
    let end = body.finish_at_eof().map(|()| (body.data_bytes(), at));
    (out, end)
}

fuzz_target!(|data: &[u8]| {
    let [choice, split, input @ ..] = data else { return };
    let framing = match choice % 4 {
        0 => Framing::UntilClose,
        1 => Framing::Length(u64::from(choice / 4)),
        _ => Framing::Chunked,
    };
    let body = || Body::new(framing, LIMITS);
    let (out, end) = pass(body(), input, input.len());
    let in_two = pass(body(), input, usize::from(*split).min(input.len()));
    assert_eq!(in_two.1, end);
    let Ok((count, _)) = end else { return };
    assert_eq!(in_two.0, out);
    let (data, _) = pass(body().with_data_only(), input, input.len());
    assert_eq!(data.len() as u64, count);
    assert_eq!(pass(body(), &out, out.len()).0, out);
    assert_eq!(pass(body().with_data_only(), &out, out.len()).0, data);
});
