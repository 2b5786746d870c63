//! Forwarded and X-Forwarded-For: the hop that a trusted proxy appends on its own line decides,
//! whatever the client sends.

#![no_main]

mod message;

use std::net::IpAddr;

use homing::affinity::client_ip::{ClientIpPolicy, ForwardSource, Mask};
use libfuzzer_sys::fuzz_target;
use message::Message;

fuzz_target!(|data: &[u8]| {
    let peer = IpAddr::from([10, 0, 0, 1]);
    for (source, name, appended) in [
        (ForwardSource::Forwarded, "forwarded", b"for=\"198.51.100.7:80\"".as_slice()),
        (ForwardSource::XForwardedFor, "x-forwarded-for", b"198.51.100.7".as_slice()),
    ] {
        let policy = ClientIpPolicy {
            trusted: vec!["10.0.0.0/8".parse().expect("a network")],
            from: vec![source],
            mask: Mask { v4: 24, v6: 56 },
        };
        let mut lines: Vec<_> = data.split(|b| *b == b'\n').collect();
        let client = policy.client_ip(peer, &Message { target: "/", name, lines: lines.clone() });
        let _ = policy.mask.apply(client);
        lines.push(appended);
        let client = policy.client_ip(peer, &Message { target: "/", name, lines });
        assert_eq!(client, IpAddr::from([198, 51, 100, 7]));
    }
});
