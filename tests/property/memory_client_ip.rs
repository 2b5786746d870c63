//! The client's address, checked against a list of hops.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use homing::affinity::client_ip::{ClientIpPolicy, ForwardSource, Mask};
use proptest::prelude::*;

use crate::memory_key::Message;

/// A hop: its address, if it has one, and its spelling in both headers.
#[derive(Debug, Clone)]
struct Hop {
    address: Option<IpAddr>,
    x_forwarded_for: String,
    forwarded: String,
}

fn hop() -> impl Strategy<Value = Hop> {
    let address = prop_oneof![
        4 => (0..256u32).prop_map(|n| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n))),
        1 => any::<u32>().prop_map(|n| IpAddr::V4(Ipv4Addr::from_bits(n))),
        1 => any::<u128>().prop_map(|n| IpAddr::V6(Ipv6Addr::from_bits(n))),
    ];
    let readable =
        (address, prop::option::of(any::<u16>()), "[ \t]{0,2}").prop_map(|(address, port, space)| {
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            let node = match address {
                IpAddr::V4(v4) => format!("{v4}{port}"),
                IpAddr::V6(v6) => format!("[{v6}]{port}"),
            };
            Hop {
                address: Some(address.to_canonical()),
                x_forwarded_for: format!("{space}{node}{space}"),
                forwarded: format!("{space}proto=http;for=\"{node}\"; by=_x{space}"),
            }
        });
    let unreadable = prop_oneof!["unknown", "_[a-z]{1,5}", "[a-z.]{1,9}", "1[0-9.]{20}"]
        .prop_map(|text| Hop { address: None, forwarded: format!("For={text}"), x_forwarded_for: text });
    prop_oneof![9 => readable, 1 => unreadable]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_client_is_the_first_untrusted_hop_from_the_right(lines in prop::collection::vec(prop::collection::vec(hop(), 1..4), 0..4)) {
        let trusted: ipnet::IpNet = "10.0.0.0/8".parse().unwrap();
        let peer: IpAddr = "10.9.9.9".parse().unwrap();
        let mut expected = peer;
        for hop in lines.iter().flatten().rev() {
            let Some(address) = hop.address.filter(|_| trusted.contains(&expected)) else { break };
            expected = address;
        }
        for (source, field) in
            [(ForwardSource::Forwarded, "forwarded"), (ForwardSource::XForwardedFor, "x-forwarded-for")]
        {
            let write = |hop: &Hop| match source {
                ForwardSource::Forwarded => hop.forwarded.clone(),
                ForwardSource::XForwardedFor => hop.x_forwarded_for.clone(),
            };
            let line = |hops: &Vec<Hop>| hops.iter().map(write).collect::<Vec<_>>().join(",").into_bytes();
            let request = Message {
                target: "/".into(),
                fields: lines.iter().map(|hops| (field, line(hops))).collect(),
            };
            let policy = ClientIpPolicy {
                trusted: vec![trusted],
                from: vec![source],
                mask: Mask { v4: 32, v6: 64 },
            };
            prop_assert_eq!(policy.client_ip(peer, &request), expected);
        }
    }

    /// The entry that the trusted proxy appends decides.
    #[test]
    fn a_client_cannot_forge_its_address(
        forged in "[a-z0-9=\",;:. \\\\\\[\\]]{0,40}",
        same_line in any::<bool>(),
    ) {
        let client: IpAddr = "198.51.100.7".parse().unwrap();
        for (source, field, appended) in [
            (ForwardSource::Forwarded, "forwarded", "for=198.51.100.7;proto=http"),
            (ForwardSource::Forwarded, "forwarded", "proto=\"http\";for=\"198.51.100.7:80\""),
            (ForwardSource::XForwardedFor, "x-forwarded-for", "198.51.100.7"),
        ] {
            let fields = if same_line {
                vec![(field, format!("{forged}, {appended}").into_bytes())]
            } else {
                vec![(field, forged.clone().into_bytes()), (field, appended.into())]
            };
            let policy = ClientIpPolicy {
                trusted: vec!["10.0.0.0/8".parse().unwrap()],
                from: vec![source],
                mask: Mask { v4: 32, v6: 64 },
            };
            let request = Message { target: "/".into(), fields };
            prop_assert_eq!(policy.client_ip("10.0.0.1".parse().unwrap(), &request), client);
        }
    }
}
