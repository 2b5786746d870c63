use std::path::PathBuf;

use clap::Parser;

use super::*;
use crate::affinity::cookie::Opened;
use crate::affinity::name::Owner;

const NOW: Timestamp = Timestamp(1_800_000_000);
const KEY: [u8; 32] = [7; 32];

/// The command line.
#[derive(Parser)]
struct Typed {
    #[command(flatten)]
    question: Question,
}

/// A temporary directory with a configuration.
struct Place(tempfile::TempDir);

impl Place {
    fn new(affinity: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let text = format!(
            "[client_ip]\ntrusted = [\"10.0.0.0/8\"]\n\
             [[listener]]\nbind = \"127.0.0.1:0\"\n\
             [[route]]\nhost = \"shop.example.com\"\nupstream = \"shop\"\n\
             [[upstream.shop.backend]]\nid = \"node1\"\naddress = \"10.0.1.1:80\"\n\
             [[upstream.shop.backend]]\nid = \"node2\"\naddress = \"10.0.1.2:80\"\n\
             [[upstream.shop.backend]]\nid = \"node3\"\naddress = \"10.0.1.3:80\"\n\
             [upstream.shop.affinity]\n{affinity}\n"
        );
        std::fs::write(place.path("homing.toml"), text).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn ask(&self, arguments: &[&str]) -> (u8, String) {
        let config = self.path("homing.toml");
        let typed = Typed::try_parse_from(
            ["explain", "--config", config.to_str().unwrap(), "--header", "Host: Shop.example.com:8080"]
                .iter()
                .chain(arguments),
        )
        .unwrap();
        let (status, text) = run(&typed.question, NOW, false);
        (status, text.replace(&format!("{}/", self.0.path().display()), ""))
    }

    /// Returns the output line with this name.
    fn line(&self, arguments: &[&str], name: &str) -> String {
        let (status, text) = self.ask(arguments);
        assert_eq!(status, GOOD, "{text}");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name:<12}")));
        line.unwrap_or_else(|| panic!("no line `{name}` in:\n{text}")).to_owned()
    }
}

fn by_cookie() -> Place {
    Place::new("key = [\"cookie:SID\", \"ip\"]")
}

#[test]
fn new_session_is_explained_without_showing_the_key() {
    let (status, text) = by_cookie().ask(&[
        "--ip",
        "10.0.0.9",
        "--header",
        "X-Forwarded-For: 203.0.113.7",
        "--cookie",
        "SID=very-secret-value",
    ]);
    assert_eq!(status, GOOD);
    assert!(!text.contains("very-secret-value"), "the output shows the key's value:\n{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn walk_shows_why_backends_are_skipped() {
    let place = by_cookie();
    let home = place.line(&["--cookie", "SID=a"], "home");
    let others: Vec<&str> = ["node1", "node2", "node3"].into_iter().filter(|id| *id != home).collect();
    let (status, text) = place.ask(&["--cookie", "SID=a", "--down", &home, "--drain", others[0]]);
    assert_eq!(status, GOOD);
    assert!(text.contains(&format!("walk        1. {home}  down")), "{text}");
    assert!(text.contains(&format!("{}  draining", others[0])), "{text}");
    assert!(text.contains(&format!("decision    {}, new (backend_down)", others[1])), "{text}");
}

#[test]
fn session_moves_to_the_announced_successor() {
    let place = by_cookie();
    let arguments = ["--cookie", "SID=a"];
    let (home, successor) = (place.line(&arguments, "home"), place.line(&arguments, "successor"));
    let after = place.line(&["--cookie", "SID=a", "--down", &home], "decision");
    assert_eq!(after, format!("{successor}, new (backend_down)"));
}

#[test]
fn no_available_backend_means_503() {
    let arguments = ["--down", "node1", "--maint", "node2", "--down", "node3"];
    let decision = by_cookie().line(&arguments, "decision");
    assert!(decision.starts_with("503"), "{decision}");
}

#[test]
fn first_source_present_is_the_key() {
    let place = by_cookie();
    let key = place.line(&["--ip", "203.0.113.7"], "key");
    assert!(key.starts_with("ip, hash ") && key.ends_with("; cookie:SID absent"), "{key}");
    let other = place.line(&["--ip", "203.0.113.8"], "key");
    assert_ne!(key, other);
}

#[test]
fn saved_table_shows_the_binding() {
    let place = Place::new("key = [\"cookie:SID\"]\ntable = { ttl = \"1h\", file = \"sessions.table\" }");
    let arguments = ["--cookie", "SID=a"];
    let home = place.line(&arguments, "home");
    let loaded = config::load(&place.path("homing.toml")).unwrap();
    let upstream = &loaded.config.upstreams[0];
    let away = upstream.backends.iter().find(|backend| backend.id.as_str() != home).unwrap();
    let table = Table::new(10, 3600);
    table.bind(table.namer().of_id(b"a"), Slot(0), Owner(0), NOW);
    file::save(&table, &place.path("sessions.table"), NOW, |_| Some(away.id.clone())).unwrap();
    assert_eq!(place.line(&arguments, "binding"), format!("{}, in sessions.table", away.id));
    assert_eq!(place.line(&arguments, "decision"), format!("{}, kept", away.id));
    assert_eq!(place.line(&["--cookie", "SID=b"], "binding"), "none in sessions.table, new session");
    let both = place.line(&["--cookie", "SID=b; SID=a"], "decision");
    assert_eq!(both, format!("{}, kept", away.id), "the known one of two cookies decides");
}

#[test]
fn invalid_table_is_an_error() {
    let place = by_cookie();
    std::fs::write(place.path("junk"), "not a table").unwrap();
    let junk = place.path("junk");
    let (status, text) = place.ask(&["--cookie", "SID=a", "--table", junk.to_str().unwrap()]);
    assert_eq!(status, INVALID);
    assert!(text.starts_with("error: junk: "), "{text}");
}

fn sealing() -> Place {
    let place =
        Place::new("key = []\nremember = \"cookie\"\ncookie = { name = \"h\", keys_file = \"keys\" }");
    std::fs::write(place.path("keys"), "07".repeat(32)).unwrap();
    place
}

fn cookie(backend: &str, age: u32) -> String {
    let at = Timestamp(NOW.0 - age);
    let backend = backend.parse().unwrap();
    let opened = Opened { backend, key: None, early: false, issued: at, bound: at, last_seen: at };
    format!("h={}", KeyRing::new(&[KEY]).seal("shop", &opened))
}

#[test]
fn sealed_cookie_shows_the_binding() {
    let place = sealing();
    let line = |cookie: &str, name| place.line(&["--cookie", cookie], name);
    assert_eq!(line(&cookie("node2", 60), "binding"), "node2, in cookie h");
    assert_eq!(line(&cookie("node2", 60), "decision"), "node2, kept");
    let removed = line(&cookie("node9", 60), "decision");
    assert!(removed.starts_with("node") && removed.ends_with(", moved (removed)"), "{removed}");
    assert_eq!(line(&cookie("node2", 90_000), "binding"), "node2, in cookie h, but expired");
    assert_eq!(line("h=forged", "binding"), "cookie h is forged or sealed with another key");
    assert_eq!(line("other=1", "binding"), "no cookie h, new session");
}

#[test]
fn layer_that_speaks_comes_first() {
    let place = Place::new(
        "key = [\"cookie:SID\"]\nremember = [\"table\", \"cookie\"]\n\
         table = { file = \"sessions\" }\ncookie = { name = \"h\", keys_file = \"keys\" }",
    );
    std::fs::write(place.path("keys"), "07".repeat(32)).unwrap();
    let loaded = config::load(&place.path("homing.toml")).unwrap();
    let upstream = &loaded.config.upstreams[0];
    let key = KeyHash::of_id(upstream.affinity.seed, b"a");
    let sealed = |key: Option<KeyHash>, bound: u32| {
        let (backend, bound) = ("node2".parse().unwrap(), Timestamp(bound));
        let opened = Opened { backend, key, early: false, issued: bound, bound, last_seen: NOW };
        format!("SID=a; h={}", KeyRing::new(&[KEY]).seal("shop", &opened))
    };
    let line = |cookie: &str, name| place.line(&["--cookie", cookie], name);
    assert_eq!(
        line(&sealed(Some(key), NOW.0), "binding"),
        "node2, in cookie h; unknown, the table is in the running proxy"
    );
    let table = Table::new(10, 3600);
    table.bind(table.namer().of_id(b"a"), Slot(0), Owner(0), Timestamp(NOW.0 - 10));
    let id = upstream.backends[2].id.clone();
    file::save(&table, &place.path("sessions"), NOW, |_| Some(id.clone())).unwrap();
    assert_eq!(
        line(&sealed(Some(key), NOW.0 - 20), "binding"),
        "node3, in sessions; node2, in cookie h",
        "the table is newer"
    );
    assert_eq!(
        line(&sealed(Some(key), NOW.0), "binding"),
        "node2, in cookie h; passed over: node3, in sessions",
        "the cookie is newer"
    );
    let other = format!("SID=b; {}", &sealed(Some(key), NOW.0)["SID=a; ".len()..]);
    assert_eq!(
        line(&other, "binding"),
        "none in sessions, new session; cookie h is of another session, which is at node2; new session"
    );
    assert!(line(&other, "decision").starts_with("node2, new"));
}

#[test]
fn sealed_cookie_without_a_key_fails_over_as_in_the_proxy() {
    let (place, cookie) = (sealing(), cookie("node2", 60));
    let key = place.line(&["--cookie", &cookie], "key");
    assert!(key.starts_with("derived from the cookie, hash "), "{key}");
    // The proxy announces the heir of the key that it derives from the cookie.
    let successor = place.line(&["--cookie", &cookie], "successor");
    let decision = place.line(&["--cookie", &cookie, "--down", "node2"], "decision");
    assert_eq!(decision, format!("{successor}, moved (backend_down)"));
}

#[test]
fn hold_waits_for_the_backend_before_moving() {
    let place = sealing();
    let text = std::fs::read_to_string(place.path("homing.toml")).unwrap();
    std::fs::write(place.path("homing.toml"), text.replace("key = []", "key = [\"ip\"]\nhold = \"3s\""))
        .unwrap();
    let (_, text) = place.ask(&["--cookie", &cookie("node2", 60), "--down", "node2"]);
    assert!(text.contains("decision    wait up to 3s for node2, then:\n            node"), "{text}");
    assert!(text.ends_with(", moved (backend_down)\n"), "{text}");
}

#[test]
fn host_without_a_route_gets_404() {
    let place = by_cookie();
    let (status, text) = place.ask(&["--host", "other.example.com"]);
    assert_eq!(status, GOOD);
    assert!(text.ends_with("404, no route for other.example.com/\n"), "{text}");
}

#[test]
fn invalid_arguments_are_errors() {
    let place = by_cookie();
    for arguments in [["--path", "x"], ["--header", "no colon"], ["--cookie", "SID"], ["--down", "node9"]] {
        let (status, text) = place.ask(&arguments);
        assert_eq!(status, INVALID, "{text}");
        assert!(text.starts_with("error: "), "{text}");
    }
}
