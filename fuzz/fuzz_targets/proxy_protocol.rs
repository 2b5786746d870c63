//! PROXY protocol headers: no input panics, a result is final, and an accepted header parses the
//! same after it is written again.
//!
//! The first two bytes of the input are where to split the rest.

#![no_main]

use homing::proxy_protocol::{Header, MAX_V1_BYTES, MAX_V2_BYTES, Parsed, parse, write_v1, write_v2};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [high, low, input @ ..] = data else { return };
    let whole = parse(input);
    let split = usize::from(u16::from_be_bytes([*high, *low])).min(input.len());
    match parse(&input[..split]) {
        Ok(Parsed::Partial) => assert!(split < MAX_V2_BYTES),
        Err(_) => assert!(whole.is_err()),
        result => assert_eq!(result, whole),
    }
    let Ok(Parsed::Complete { header, len }) = whole else { return };
    assert!(len <= if input[0] == b'P' { MAX_V1_BYTES } else { MAX_V2_BYTES });
    assert_eq!(parse(&input[..len - 1]), Ok(Parsed::Partial));
    for write in [write_v1, write_v2] {
        let mut out = Vec::new();
        write(&mut out, header);
        let Ok(Parsed::Complete { header: again, len }) = parse(&out) else { panic!("{:?}", parse(&out)) };
        assert_eq!(len, out.len());
        if let Header::Tcp { source, destination } = header {
            let Header::Tcp { source: from, destination: to } = again else { panic!("{again:?}") };
            assert_eq!((from.ip().to_canonical(), from.port()), (source.ip().to_canonical(), source.port()));
            assert_eq!(
                (to.ip().to_canonical(), to.port()),
                (destination.ip().to_canonical(), destination.port())
            );
        }
    }
});
