//! Open connections per client address, across all workers.

use std::net::IpAddr;
use std::sync::Arc;

use ahash::AHashMap;
use parking_lot::Mutex;

/// Enough shards that workers rarely contend for one.
const SHARDS: usize = 64;

/// Connection counts by client address. Addresses without connections take no memory. Updated
/// when a connection opens or closes, never per request.
#[derive(Debug)]
pub struct ConnectionCounts(Box<[Mutex<AHashMap<u64, u32>>]>);

/// Counts one connection of a client until dropped.
#[derive(Debug)]
pub(crate) struct CountedClient {
    clients: Arc<ConnectionCounts>,
    key: u64,
}

impl Default for ConnectionCounts {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl ConnectionCounts {
    /// Counts a connection. `None` if the client already has `limit`.
    pub(crate) fn count(self: &Arc<Self>, client: IpAddr, limit: u32) -> Option<CountedClient> {
        let key = client_key(client);
        {
            let mut counts = self.shard(key).lock();
            let count = counts.entry(key).or_default();
            // The limit is at least 1, so a new entry of 0 never stays behind.
            if *count >= limit {
                return None;
            }
            *count += 1;
        }
        Some(CountedClient { clients: Arc::clone(self), key })
    }

    fn shard(&self, key: u64) -> &Mutex<AHashMap<u64, u32>> {
        // Multiplying mixes the bits that vary most: the low bits of IPv4, the subnets of IPv6.
        let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &self.0[usize::try_from(mixed).unwrap_or_default() % SHARDS]
    }
}

impl Drop for CountedClient {
    fn drop(&mut self) {
        let mut counts = self.clients.shard(self.key).lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
                // Free the memory after a burst of clients.
                if counts.capacity() > 1024 && counts.len() * 8 < counts.capacity() {
                    counts.shrink_to_fit();
                }
            }
        }
    }
}

/// Returns a client's identity: the IPv4 address, or the /64 prefix of an IPv6 address: a client may use any address
/// in its /64. The two do not collide: no /64 in use is below 2^32.
pub(crate) fn client_key(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64 ^ u64::from(v6.is_loopback()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn entries(clients: &ConnectionCounts) -> usize {
        clients.0.iter().map(|shard| shard.lock().len()).sum()
    }

    #[test]
    fn client_cannot_exceed_its_limit() {
        let clients = Arc::new(ConnectionCounts::default());
        let one = clients.count(ip("192.0.2.1"), 2).unwrap();
        let two = clients.count(ip("::ffff:192.0.2.1"), 2).unwrap();
        assert!(clients.count(ip("192.0.2.1"), 2).is_none());
        let _other = clients.count(ip("192.0.2.2"), 2).unwrap();
        drop(one);
        let _again = clients.count(ip("192.0.2.1"), 2).unwrap();
        drop(two);
    }

    #[test]
    fn ipv6_is_counted_per_64_prefix() {
        let clients = Arc::new(ConnectionCounts::default());
        let _one = clients.count(ip("2001:db8::1"), 1).unwrap();
        assert!(clients.count(ip("2001:db8::ffff:2"), 1).is_none());
        assert!(clients.count(ip("2001:db8:0:1::1"), 1).is_some());
    }

    #[test]
    fn closed_connections_take_no_memory() {
        let clients = Arc::new(ConnectionCounts::default());
        let crowd = (0u32..100_000).map(|n| clients.count(IpAddr::V4(n.into()), 1).unwrap());
        let crowd: Vec<_> = crowd.collect();
        assert_eq!(entries(&clients), 100_000);
        drop(crowd);
        assert_eq!(entries(&clients), 0);
        let room: usize = clients.0.iter().map(|shard| shard.lock().capacity()).sum();
        assert!(room <= SHARDS * 1024, "capacity of {room} entries left");
    }
}
