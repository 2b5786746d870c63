//! The client's address, seen through trusted proxies.
//!
//! Forwarding headers are lists to which every proxy appends the peer it saw, so only the right end
//! can be trusted. The list is read from the right, for as long as the addresses are trusted.
//! Anything the client put into the header is further left and is never reached.

use std::net::{IpAddr, Ipv6Addr};

use arrayvec::ArrayVec;
use ipnet::IpNet;

use self::hops::MAX_HOPS;
use super::message::RequestView;

mod hops;
#[cfg(test)]
mod tests;

/// Which peers are trusted to name the client's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIpPolicy {
    /// Peers and hops whose forwarding headers are trusted.
    pub trusted: Vec<IpNet>,
    /// The headers to read, in order; the first one present is used.
    pub from: Vec<ForwardSource>,
    /// How much of an address identifies a client.
    pub mask: Mask,
}

/// A header that names the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardSource {
    /// `Forwarded` (RFC 7239), its `for` parameters.
    Forwarded,
    /// `X-Forwarded-For`.
    XForwardedFor,
}

impl ForwardSource {
    /// Returns the header's name, in lower case.
    pub fn field(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::XForwardedFor => "x-forwarded-for",
        }
    }
}

/// Prefix lengths, in bits, of the part of an address that identifies a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask {
    /// For IPv4, 0 to 32.
    pub v4: u8,
    /// For IPv6, 0 to 128.
    pub v6: u8,
}

impl Mask {
    /// Returns the part of `address` that identifies a client, as 16 bytes. IPv4 is mapped into
    /// IPv6 (RFC 4291 §2.5.5.2) after masking; an IPv4-mapped address counts as IPv4.
    pub fn apply(self, address: IpAddr) -> [u8; 16] {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.v4.min(32))).unwrap_or(0);
                std::net::Ipv4Addr::from_bits(v4.to_bits() & mask).to_ipv6_mapped().octets()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.v6.min(128))).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & mask).octets()
            }
        }
    }
}

impl ClientIpPolicy {
    /// Returns the client's address: the peer's, or the one that trusted proxies report. It is
    /// always canonical: an IPv4-mapped address is returned as IPv4.
    ///
    /// The client is the rightmost hop that is not trusted, or the leftmost hop if all are trusted.
    /// A hop that is not an address (`unknown`, an obfuscated identifier, garbage) ends the walk at
    /// the hop to its right. Only the last 32 hops in the last 16 header lines are read.
    pub fn client_ip(&self, peer: IpAddr, request: &impl RequestView) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            return peer;
        }
        for source in &self.from {
            let mut lines = ArrayVec::<&[u8], MAX_LINES>::new();
            for line in request.field_values(source.field()).filter(|line| !line.trim_ascii().is_empty()) {
                if lines.is_full() {
                    lines.remove(0);
                }
                lines.push(line);
            }
            if !lines.is_empty() {
                return self.walk(peer, *source, &lines);
            }
        }
        peer
    }

    /// Returns true if this peer's forwarding headers are trusted.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted.iter().any(|net| match (net, peer) {
            // `::ffff:10.0.0.0/104` is 10.0.0.0/8, as a dual-stack socket writes it.
            (IpNet::V6(net), IpAddr::V4(v4)) if net.prefix_len() >= 96 => net.contains(&v4.to_ipv6_mapped()),
            _ => net.contains(&peer),
        })
    }

    fn walk(&self, peer: IpAddr, source: ForwardSource, lines: &[&[u8]]) -> IpAddr {
        let mut client = peer;
        let mut left = MAX_HOPS;
        for line in lines.iter().rev() {
            let hops = match source {
                ForwardSource::Forwarded => hops::forwarded(line, left),
                ForwardSource::XForwardedFor => hops::x_forwarded_for(line, left),
            };
            left -= hops.len();
            for hop in hops {
                let Some(address) = hop else { return client };
                client = address;
                if !self.trusts(client) {
                    return client;
                }
            }
        }
        client
    }
}

/// Header lines to read; the last ones in the message.
const MAX_LINES: usize = 16;
