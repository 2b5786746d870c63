//! The visit as an HTML page, as JSON and as a line of text.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::SocketAddr;

use super::sessions::{Arrival, Visit};

/// What a visitor sees of a visit. The affinity headers and `forwarded_for` come from the request.
#[derive(Debug)]
pub(super) struct VisitView<'a> {
    /// Name of the instance.
    pub(super) id: &'a str,
    pub(super) visit: &'a Visit,
    /// `X-Affinity-Backend`.
    pub(super) affinity_backend: Option<Cow<'a, str>>,
    /// `X-Affinity-Successor`.
    pub(super) affinity_successor: Option<Cow<'a, str>>,
    pub(super) forwarded_for: Option<Cow<'a, str>>,
    pub(super) draining: bool,
    /// Number of sessions of visitors in this instance.
    pub(super) sessions: usize,
    /// Number of copies of other instances' sessions.
    pub(super) copies: usize,
    /// Whether the successor has a copy of the session; `None` without a successor.
    pub(super) copied: Option<bool>,
    /// The address that shows the cluster.
    pub(super) stage: Option<SocketAddr>,
}

/// Returns the start of a session id. The full id is a credential.
pub(super) fn shortened(session: &str) -> String {
    let mut short: String = session.chars().take(8).collect();
    short.push('…');
    short
}

impl VisitView<'_> {
    /// Renders one line of text, for curl.
    pub(super) fn line(&self) -> String {
        let Visit { session, count, arrival } = self.visit;
        let note = match arrival {
            Arrival::Known => String::new(),
            Arrival::TakenOver(from) => format!(" (taken over from {from}, which had copied it here)"),
            Arrival::Fresh => " (new session)".to_owned(),
            Arrival::Lost => " (new session: unknown session in the cookie)".to_owned(),
        };
        let copy = match (self.copied, &self.affinity_successor) {
            (Some(true), Some(successor)) => format!(", copied to {}", plain(successor)),
            (Some(false), Some(successor)) => format!(", not copied: {} does not answer", plain(successor)),
            _ => String::new(),
        };
        format!("{}: visit {count} of session {}{note}{copy}\n", self.id, shortened(session))
    }

    /// Renders a JSON object.
    pub(super) fn json(&self) -> String {
        let value = serde_json::json!({
            "backend": self.id,
            "visits": self.visit.count,
            "session": shortened(&self.visit.session),
            "new": matches!(self.visit.arrival, Arrival::Fresh | Arrival::Lost),
            "lost": self.visit.arrival == Arrival::Lost,
            "taken_over": matches!(self.visit.arrival, Arrival::TakenOver(_)),
            "copied": self.copied,
            "copies": self.copies,
            "affinity_backend": self.affinity_backend,
            "affinity_successor": self.affinity_successor,
            "forwarded_for": self.forwarded_for,
            "draining": self.draining,
            "sessions": self.sessions,
        });
        format!("{value}\n")
    }

    /// Renders an HTML page.
    pub(super) fn html(&self) -> String {
        let id = escape(self.id);
        let Visit { session, count, arrival } = self.visit;
        let note = match arrival {
            Arrival::Known => "",
            Arrival::TakenOver(from) => &format!(
                "<p class=\"note\">Taken over: {} had copied your session here, and the count goes on.</p>",
                escape(from)
            ),
            Arrival::Fresh => {
                "<p class=\"note\">New session. Reload the page: the count continues only on the server that holds your session.</p>"
            }
            Arrival::Lost => {
                "<p class=\"note lost\">New session: this server does not know the one in your cookie.</p>"
            }
        };
        let mut facts = String::new();
        let mut fact = |name: &str, value: &str| {
            let _ = write!(facts, "<dt>{name}</dt><dd>{}</dd>", escape(value));
        };
        fact("Session", &shortened(session));
        fact("Sessions here", &format!("{}, and {} copies", self.sessions, self.copies));
        if let Some(copied) = self.copied {
            fact("Copied to the successor", if copied { "yes" } else { "no, it does not answer" });
        }
        for (name, value) in [
            ("X-Affinity-Backend", &self.affinity_backend),
            ("X-Affinity-Successor", &self.affinity_successor),
            ("X-Forwarded-For", &self.forwarded_for),
        ] {
            fact(name, value.as_deref().unwrap_or("–"));
        }
        fact("State", if self.draining { "draining (keeps existing sessions)" } else { "ready" });
        let drain = if self.draining { "Stop draining" } else { "Drain this server" };
        let cluster = self.stage.map_or_else(String::new, |stage| {
            format!("<iframe title=\"The cluster\" src=\"http://{stage}/\"></iframe>")
        });
        let (hue, visits) = (hue(self.id), if *count == 1 { "visit" } else { "visits" });
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{id}: {count}</title>\
             <style>{STYLE}</style></head><body style=\"--hue:{hue}\"><main><h1>{id}</h1>\
             <p class=\"count\"><b>{count}</b> {visits}</p>{note}<dl>{facts}</dl>\
             <nav><a href=\"/\">Visit again</a><a href=\"/logout\">Log out</a>\
             <form method=\"post\" action=\"/drain\"><button>{drain}</button></form></nav>\
             </main>{cluster}</body></html>\n"
        )
    }
}

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{margin:0;min-height:100vh;display:grid;place-content:center;justify-items:center;gap:1.5rem;font:16px/1.5 system-ui,sans-serif;\
background:hsl(var(--hue) 40% 92%);color:#1c1c1c}\
main{background:#fff;padding:2rem 2.5rem;border-radius:1rem;border-top:.5rem solid hsl(var(--hue) 60% 45%);\
box-shadow:0 1rem 3rem #0002;max-width:30rem}\
h1{margin:0;font-size:1.25rem;color:hsl(var(--hue) 60% 35%)}\
.count{margin:.25rem 0;font-size:1.5rem}.count b{font-size:4rem;line-height:1.1}\
.note{background:hsl(var(--hue) 40% 94%);padding:.5rem .75rem;border-radius:.5rem}.lost{background:#fde3df}\
dl{display:grid;grid-template-columns:auto 1fr;gap:.25rem 1rem}dt{color:#666}dd{margin:0;overflow-wrap:anywhere}\
nav{display:flex;gap:1rem;align-items:center}a,button{color:hsl(var(--hue) 60% 35%);font:inherit}\
button{background:none;border:0;padding:0;text-decoration:underline;cursor:pointer}form{margin:0}\
iframe{border:0;width:min(46rem,94vw);height:24rem;border-radius:1rem}\
@media(prefers-color-scheme:dark){body{background:hsl(var(--hue) 25% 12%);color:#eee}main{background:#1d1f22}\
h1,a,button{color:hsl(var(--hue) 60% 70%)}dt{color:#aaa}.note{background:hsl(var(--hue) 25% 20%)}.lost{background:#54241d}}";

/// Keeps the printable ASCII of an untrusted text.
fn plain(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).collect()
}

/// Returns the hue of an instance's color in degrees. Similar names get different hues.
fn hue(id: &str) -> u32 {
    id.bytes().fold(0, |hue, byte| (hue * 31 + u32::from(byte) * 137) % 360)
}

/// Escapes text for HTML elements and quoted attributes.
fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_input_is_escaped() {
        let visit = Visit { session: "0123456789abcdef".to_owned(), count: 3, arrival: Arrival::Known };
        let hostile = "<script>alert('x')</script>\"&";
        let view = VisitView {
            id: "node1",
            visit: &visit,
            affinity_backend: Some(hostile.into()),
            affinity_successor: Some(hostile.into()),
            forwarded_for: Some(hostile.into()),
            draining: false,
            sessions: 1,
            copies: 0,
            copied: None,
            stage: None,
        };
        let html = view.html();
        assert!(!html.contains("<script"), "{html}");
        let escaped = "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&amp;";
        assert_eq!(html.matches(escaped).count(), 3);
        assert!(!html.contains("0123456789"), "the full session id is shown");
        let json: serde_json::Value = serde_json::from_str(&view.json()).expect("valid JSON");
        assert_eq!(json["affinity_successor"], hostile);
    }

    #[test]
    fn line_shows_lost_sessions() {
        let line = |count, arrival| {
            let visit = Visit { session: "0123456789abcdef".to_owned(), count, arrival };
            VisitView {
                id: "node1",
                visit: &visit,
                affinity_backend: None,
                affinity_successor: None,
                forwarded_for: None,
                draining: false,
                sessions: 1,
                copies: 0,
                copied: None,
                stage: None,
            }
            .line()
        };
        assert_eq!(line(3, Arrival::Known), "node1: visit 3 of session 01234567…\n");
        assert_eq!(line(1, Arrival::Fresh), "node1: visit 1 of session 01234567… (new session)\n");
        assert!(line(1, Arrival::Lost).contains("unknown session"));
    }
}
