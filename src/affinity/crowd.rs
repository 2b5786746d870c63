//! Notices when one address brings most of the new sessions that addresses place.
//!
//! A new session whose key is the client's address goes where that address hashes to. All clients
//! behind one NAT gateway, or behind a proxy that is not trusted, therefore share a backend.

use parking_lot::Mutex;

use super::{KeyHash, Timestamp};

/// Counts the new sessions of an upstream by address, in windows of [`WINDOW`] sessions.
#[derive(Debug, Default)]
pub struct Crowd(Mutex<Window>);

/// Sessions in a window.
pub const WINDOW: u32 = 20;
/// Addresses counted at a time. An address with more than a ninth of the sessions is among them
/// (Misra and Gries, "Finding repeated elements", 1982).
const COUNTED: usize = 8;
/// Seconds between two notices.
const QUIET: u32 = 3600;

#[derive(Debug, Default)]
struct Window {
    sessions: u32,
    addresses: [Counted; COUNTED],
    noticed: Option<Timestamp>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counted {
    address: KeyHash,
    /// At most the number of its sessions.
    sessions: u32,
}

/// The share of one address in a window that is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Sessions of the address that brought most.
    pub largest: u32,
    /// Sessions of all other addresses.
    pub others: u32,
    /// Whether to tell the operator: the address that was just counted brought at least half, and
    /// nobody was told in the last hour.
    pub notice: bool,
}

impl Crowd {
    /// Counts a new session of this address. Returns the share of the largest address if a window
    /// is full now.
    pub fn count(&self, address: KeyHash, now: Timestamp) -> Option<Share> {
        let mut window = self.0.lock();
        window.add(address);
        if window.sessions < WINDOW {
            return None;
        }
        let top = window.addresses.into_iter().max_by_key(|counted| counted.sessions).unwrap_or_default();
        let due = window.noticed.is_none_or(|noticed| now.since(noticed) >= QUIET);
        let notice = due && top.address == address && top.sessions * 2 >= WINDOW;
        if notice {
            window.noticed = Some(now);
        }
        (window.sessions, window.addresses) = (0, Default::default());
        Some(Share { largest: top.sessions, others: WINDOW - top.sessions, notice })
    }
}

impl Window {
    fn add(&mut self, address: KeyHash) {
        self.sessions += 1;
        let known =
            self.addresses.iter_mut().find(|counted| counted.sessions > 0 && counted.address == address);
        if let Some(counted) = known {
            counted.sessions += 1;
        } else if let Some(free) = self.addresses.iter_mut().find(|counted| counted.sessions == 0) {
            *free = Counted { address, sessions: 1 };
        } else {
            for counted in &mut self.addresses {
                counted.sessions -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    /// Counts sessions of these addresses. Returns the shares of full windows.
    fn shares(crowd: &Crowd, addresses: impl IntoIterator<Item = u64>, now: Timestamp) -> Vec<Share> {
        addresses.into_iter().filter_map(|address| crowd.count(KeyHash(address), now)).collect()
    }

    #[test]
    fn one_address_behind_which_everybody_is_stands_out() {
        let crowd = Crowd::default();
        assert_eq!(shares(&crowd, [7; 19], NOW), []);
        let share = Share { largest: 20, others: 0, notice: true };
        assert_eq!(shares(&crowd, [7], NOW), [share]);
        let quiet = Share { notice: false, ..share };
        assert_eq!(shares(&crowd, [7; 40], Timestamp(NOW.0 + 3599)), [quiet; 2], "told a moment ago");
        assert_eq!(shares(&crowd, [7; 20], Timestamp(NOW.0 + 3600)), [share]);
    }

    #[test]
    fn half_of_the_sessions_stand_out_among_many_addresses() {
        let mixed = (0..20).map(|n| if n % 2 == 1 { 7 } else { 100 + n });
        let found = shares(&Crowd::default(), mixed, NOW);
        // The count is a lower bound: each time all counts were taken, one was lost.
        assert!(matches!(found[..], [Share { largest: 9..=10, .. }]), "{found:?}");
    }

    #[test]
    fn many_addresses_do_not_stand_out() {
        let found = shares(&Crowd::default(), 0..200, NOW);
        assert_eq!(found.len(), 10);
        assert!(found.iter().all(|share| share.largest <= 2 && !share.notice), "{found:?}");
    }
}
