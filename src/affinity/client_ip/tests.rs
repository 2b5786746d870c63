use super::*;
use crate::affinity::key::tests::TestRequest;

fn policy(from: &[ForwardSource]) -> ClientIpPolicy {
    ClientIpPolicy {
        trusted: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        from: from.to_vec(),
        mask: Mask { v4: 32, v6: 64 },
    }
}

fn xff(peer: &str, lines: &[&str]) -> String {
    let fields: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
    let request = TestRequest::new("/", &fields);
    policy(&[ForwardSource::XForwardedFor]).client_ip(peer.parse().unwrap(), &request).to_string()
}

fn forwarded(lines: &[&str]) -> String {
    let fields: Vec<_> = lines.iter().map(|line| ("forwarded", *line)).collect();
    let request = TestRequest::new("/", &fields);
    policy(&[ForwardSource::Forwarded]).client_ip("10.0.0.1".parse().unwrap(), &request).to_string()
}

#[test]
fn untrusted_peer_is_the_client() {
    assert_eq!(xff("192.0.2.9", &["198.51.100.1"]), "192.0.2.9");
    assert_eq!(xff("::ffff:192.0.2.9", &["198.51.100.1"]), "192.0.2.9");
}

#[test]
fn rightmost_untrusted_hop_is_the_client() {
    assert_eq!(xff("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
    assert_eq!(xff("10.0.0.1", &["6.6.6.6, 198.51.100.1, 10.0.0.2"]), "198.51.100.1");
    assert_eq!(xff("::ffff:10.0.0.1", &["6.6.6.6, 198.51.100.1,10.0.0.2"]), "198.51.100.1");
    assert_eq!(xff("fd00::1", &["6.6.6.6,fd00::2"]), "6.6.6.6");
}

#[test]
fn leftmost_hop_is_the_client_if_all_are_trusted() {
    assert_eq!(xff("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
    assert_eq!(xff("10.0.0.1", &[]), "10.0.0.1");
    assert_eq!(xff("10.0.0.1", &[" ", ","]), "10.0.0.1");
}

#[test]
fn several_lines_are_one_list() {
    assert_eq!(xff("10.0.0.1", &["6.6.6.6", "198.51.100.1", "10.0.0.2, 10.0.0.3"]), "198.51.100.1");
}

#[test]
fn malformed_hop_ends_the_walk() {
    assert_eq!(xff("10.0.0.1", &["198.51.100.1, junk, 10.0.0.2"]), "10.0.0.2");
    assert_eq!(xff("10.0.0.1", &["198.51.100.1, unknown"]), "10.0.0.1");
    assert_eq!(xff("10.0.0.1", &["198.51.100.1, 1.2.3.4:99999"]), "10.0.0.1");
    assert_eq!(xff("10.0.0.1", &["198.51.100.1, [::1"]), "10.0.0.1");
    assert_eq!(xff("10.0.0.1", &["198.51.100.1, [::1]80"]), "10.0.0.1");
    assert_eq!(xff("10.0.0.1", &["198.51.100.1, fe80::1%eth0"]), "10.0.0.1");
}

#[test]
fn hops_may_have_ports_brackets_and_mapped_addresses() {
    assert_eq!(xff("10.0.0.1", &["198.51.100.1:4711"]), "198.51.100.1");
    assert_eq!(xff("10.0.0.1", &["[2001:db8::1]:4711"]), "2001:db8::1");
    assert_eq!(xff("10.0.0.1", &["[2001:db8::1]"]), "2001:db8::1");
    assert_eq!(xff("10.0.0.1", &["2001:db8::1"]), "2001:db8::1");
    assert_eq!(xff("10.0.0.1", &["198.51.100.1, ::ffff:10.0.0.9"]), "198.51.100.1");
}

#[test]
fn empty_elements_are_ignored() {
    assert_eq!(xff("10.0.0.1", &["198.51.100.1,, 10.0.0.2 ,"]), "198.51.100.1");
    assert_eq!(forwarded(&["for=198.51.100.1,, ;for=10.0.0.2;; , ,"]), "198.51.100.1");
}

#[test]
fn forwarded_accepts_every_form_of_node() {
    assert_eq!(forwarded(&["for=198.51.100.1"]), "198.51.100.1");
    assert_eq!(forwarded(&["For=\"[2001:db8::1]:4711\""]), "2001:db8::1");
    assert_eq!(forwarded(&["proto=http ; FOR=\"198.51.100.1:_x\" ;by=203.0.113.43"]), "198.51.100.1");
    assert_eq!(forwarded(&["for=\"198.51\\.100.1\""]), "198.51.100.1");
    assert_eq!(forwarded(&["for=198.51.100.1:80, for=[fd00::1]"]), "198.51.100.1", "quotes forgotten");
    assert_eq!(forwarded(&["for=198.51.100.1", "for=10.0.0.2, for=10.0.0.3"]), "198.51.100.1");
}

#[test]
fn forwarded_hop_without_address_ends_the_walk() {
    assert_eq!(forwarded(&["for=198.51.100.1, for=unknown"]), "10.0.0.1");
    assert_eq!(forwarded(&["for=198.51.100.1, for=_hidden, for=10.0.0.2"]), "10.0.0.2");
    assert_eq!(forwarded(&["for=198.51.100.1, proto=https"]), "10.0.0.1", "no `for` parameter");
    assert_eq!(forwarded(&["for=198.51.100.1;for=198.51.100.2"]), "10.0.0.1", "two `for` parameters");
    assert_eq!(forwarded(&["for=198.51.100.1, for"]), "10.0.0.1");
    assert_eq!(forwarded(&["for=198.51.100.1, for=10.0.0.2 x"]), "10.0.0.1");
}

#[test]
fn quoted_commas_and_semicolons_do_not_separate() {
    assert_eq!(forwarded(&["for=198.51.100.1;host=\"a,for=6.6.6.6;b\\\"\""]), "198.51.100.1");
}

#[test]
fn unclosed_quote_cannot_hide_what_proxies_appended() {
    assert_eq!(forwarded(&["for=6.6.6.6, for=\", for=198.51.100.1"]), "198.51.100.1");
    assert_eq!(forwarded(&["for=6.6.6.6, for=\", for=\"[2001:db8::1]\";proto=http"]), "2001:db8::1");
    assert_eq!(forwarded(&["for=\"\\", "for=198.51.100.1"]), "198.51.100.1");
}

#[test]
fn first_configured_header_that_is_present_wins() {
    let both = policy(&[ForwardSource::Forwarded, ForwardSource::XForwardedFor]);
    let peer = "10.0.0.1".parse().unwrap();
    let fields = [("x-forwarded-for", "198.51.100.2"), ("forwarded", "for=198.51.100.1")];
    assert_eq!(both.client_ip(peer, &TestRequest::new("/", &fields)).to_string(), "198.51.100.1");
    assert_eq!(both.client_ip(peer, &TestRequest::new("/", &fields[..1])).to_string(), "198.51.100.2");
    assert_eq!(policy(&[]).client_ip(peer, &TestRequest::new("/", &fields)), peer);
}

#[test]
fn work_is_bounded() {
    let many = vec!["10.0.0.2"; 1000].join(",");
    assert_eq!(xff("10.0.0.1", &[&format!("198.51.100.1,{many}")]), "10.0.0.2");
    let lines = vec!["10.0.0.3"; 100];
    assert_eq!(xff("10.0.0.1", &lines), "10.0.0.3");
    let many = vec!["for=10.0.0.2"; 1000].join(",");
    assert_eq!(forwarded(&[&format!("for=198.51.100.1,{many}")]), "10.0.0.2");
}

#[test]
fn mapped_peers_and_mapped_nets_are_ipv4() {
    let mut policy = policy(&[]);
    assert!(policy.trusts("::ffff:10.1.2.3".parse().unwrap()));
    assert!(!policy.trusts("::ffff:11.1.2.3".parse().unwrap()));
    policy.trusted = vec!["::ffff:10.0.0.0/104".parse().unwrap()];
    assert!(policy.trusts("10.1.2.3".parse().unwrap()));
    assert!(!policy.trusts("11.1.2.3".parse().unwrap()));
    policy.trusted = vec!["::/0".parse().unwrap()];
    assert!(!policy.trusts("10.1.2.3".parse().unwrap()), "::/0 does not cover IPv4");
}

#[test]
fn masks_of_every_length() {
    let v4 = |bits| Mask { v4: bits, v6: 128 }.apply("255.255.255.255".parse().unwrap())[12..].to_vec();
    assert_eq!(v4(32), [255; 4]);
    assert_eq!(v4(9), [255, 128, 0, 0]);
    assert_eq!(v4(0), [0; 4]);
    let v6 = |bits| Mask { v4: 32, v6: bits }.apply(Ipv6Addr::from_bits(u128::MAX).into());
    assert_eq!(v6(128), [255; 16]);
    assert_eq!(v6(0), [0; 16]);
    assert_eq!(v6(4)[0], 0xf0);
}
