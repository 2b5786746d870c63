//! Backends that keep sessions in memory, as an application server does.
//!
//! They can look up each other's sessions, so the backends decide whether a session is lost or
//! broken, not the proxy.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use parking_lot::Mutex;

use crate::http_server::{Respond, Server, field};
use crate::process::free_address;

/// Name of the session cookie. The backend that creates a session sets it.
pub const COOKIE: &str = "SID";

/// Response header with the number of the backend that answered.
pub const BACKEND_FIELD: &str = "x-backend";

/// Response header with the [`Verdict`].
pub const SESSION_FIELD: &str = "x-session";

/// A backend's verdict on the session id of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The request has no session id: a new session.
    New,
    /// The backend has the session.
    Known,
    /// No backend has the session any more: its backend was killed or removed.
    Lost,
    /// Another backend that is running and in service has the session. The request
    /// should have gone there.
    Broken,
}

impl Verdict {
    const ALL: [(Self, &'static str); 4] =
        [(Self::New, "new"), (Self::Known, "known"), (Self::Lost, "lost"), (Self::Broken, "broken")];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(verdict, _)| *verdict == self).map_or("", |(_, name)| name)
    }

    /// Parses a header value.
    pub fn parse(value: &[u8]) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| name.as_bytes() == value).map(|(verdict, _)| *verdict)
    }
}

/// The state of one backend.
#[derive(Debug, Default)]
struct Memory {
    /// Number of requests per session; `None` if the backend is not running.
    sessions: Mutex<Option<HashMap<String, u32>>>,
    /// True once the backend was removed from the configuration.
    withdrawn: AtomicBool,
}

impl Memory {
    /// Counts a request. Returns false if the session is unknown.
    fn count(&self, id: &str) -> bool {
        let mut sessions = self.sessions.lock();
        let requests = sessions.as_mut().and_then(|sessions| sessions.get_mut(id));
        requests.map(|requests| *requests += 1).is_some()
    }

    /// Returns true if the backend could serve this session now.
    fn holds(&self, id: &str) -> bool {
        !self.withdrawn.load(Ordering::Relaxed)
            && self.sessions.lock().as_ref().is_some_and(|sessions| sessions.contains_key(id))
    }
}

/// All backends in a scenario.
#[derive(Debug)]
pub struct Farm {
    addresses: Vec<SocketAddr>,
    servers: Vec<Option<Server>>,
    memories: Arc<[Memory]>,
}

impl Farm {
    /// Creates `count` backends without starting them.
    pub fn new(count: u8) -> Result<Self> {
        let addresses = (1..=count).map(|number| free_address([127, 0, 1, number])).collect::<Result<_>>()?;
        Ok(Self {
            addresses,
            servers: (0..count).map(|_| None).collect(),
            memories: (0..count).map(|_| Memory::default()).collect(),
        })
    }

    /// Returns the address of a backend.
    pub fn address(&self, backend: usize) -> SocketAddr {
        self.addresses[backend]
    }

    /// Starts a backend without sessions.
    pub fn start(&mut self, backend: usize) -> Result<()> {
        *self.memories[backend].sessions.lock() = Some(HashMap::new());
        let responder = SessionServer { memories: Arc::clone(&self.memories), me: backend };
        let server = Server::start(&[self.addresses[backend]], responder);
        self.servers[backend] = Some(server.with_context(|| format!("backend {backend}"))?);
        Ok(())
    }

    /// Kills a backend. Its sessions disappear before its connections close.
    pub fn kill(&mut self, backend: usize) {
        *self.memories[backend].sessions.lock() = None;
        self.servers[backend] = None;
    }

    /// Marks a backend as permanently removed. Its sessions are no longer expected to
    /// stay there.
    pub fn withdraw(&self, backend: usize) {
        self.memories[backend].withdrawn.store(true, Ordering::Relaxed);
    }
}

struct SessionServer {
    memories: Arc<[Memory]>,
    me: usize,
}

impl Respond for SessionServer {
    fn respond(&mut self, _listener: usize, head: &[u8], out: &mut Vec<u8>) {
        if head.starts_with(b"GET /healthz ") {
            out.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        let presented = field(head, "cookie").and_then(session_id);
        let verdict = match presented {
            None => Verdict::New,
            Some(id) if self.memories[self.me].count(id) => Verdict::Known,
            Some(id) if self.memories.iter().any(|memory| memory.holds(id)) => Verdict::Broken,
            Some(_) => Verdict::Lost,
        };
        let mut minted = String::new();
        if verdict != Verdict::Known {
            // Like a servlet container, never adopt an unknown id.
            let id = format!("{:032x}", fastrand::u128(..));
            let _ = write!(minted, "Set-Cookie: {COOKIE}={id}; Path=/; HttpOnly\r\n");
            if let Some(sessions) = self.memories[self.me].sessions.lock().as_mut() {
                sessions.insert(id, 1);
            }
        }
        let response = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nCache-Control: private\r\n{BACKEND_FIELD}: {}\r\n{SESSION_FIELD}: {}\r\n{minted}\r\nok\n",
            self.me,
            verdict.name()
        );
        out.extend_from_slice(response.as_bytes());
    }
}

fn session_id(cookies: &[u8]) -> Option<&str> {
    let cookies = std::str::from_utf8(cookies).ok()?;
    cookies.split(';').find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Two(Farm);

    impl Two {
        fn running() -> Self {
            let mut farm = Farm::new(2).unwrap();
            farm.start(0).unwrap();
            farm.start(1).unwrap();
            Self(farm)
        }

        fn ask(&self, me: usize, id: Option<&str>) -> (String, Option<String>) {
            let cookie = id.map(|id| format!("Cookie: a=b; SID={id}\r\n")).unwrap_or_default();
            let mut out = vec![];
            let mut server = SessionServer { memories: Arc::clone(&self.0.memories), me };
            server.respond(0, format!("GET / HTTP/1.1\r\n{cookie}\r\n").as_bytes(), &mut out);
            let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
            let minted = field(&out, "set-cookie").map(|value| text(&value[4..36]));
            (text(field(&out, SESSION_FIELD).unwrap()), minted)
        }
    }

    #[test]
    fn session_is_known_to_its_backend_and_broken_on_others() {
        let two = Two::running();
        let (verdict, minted) = two.ask(0, None);
        assert_eq!(verdict, "new");
        let id = minted.unwrap();
        assert_eq!(two.ask(0, Some(&id)), ("known".into(), None));
        let (verdict, other) = two.ask(1, Some(&id));
        assert_eq!(verdict, "broken");
        assert_ne!(other.unwrap(), id);
    }

    #[test]
    fn sessions_of_a_killed_backend_stay_lost_after_its_restart() {
        let mut two = Two::running();
        let id = two.ask(0, None).1.unwrap();
        two.0.kill(0);
        assert_eq!(two.ask(1, Some(&id)).0, "lost");
        two.0.start(0).unwrap();
        assert_eq!(two.ask(0, Some(&id)).0, "lost");
    }

    #[test]
    fn sessions_of_a_withdrawn_backend_are_lost_not_broken() {
        let two = Two::running();
        let id = two.ask(0, None).1.unwrap();
        two.0.withdraw(0);
        assert_eq!(two.ask(1, Some(&id)).0, "lost");
    }

    #[test]
    fn verdict_names_round_trip() {
        for (verdict, name) in Verdict::ALL {
            assert_eq!(Verdict::parse(name.as_bytes()), Some(verdict));
            assert_eq!(verdict.name(), name);
        }
        assert_eq!(Verdict::parse(b"x"), None);
    }
}
