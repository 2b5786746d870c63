use super::*;
use crate::tls::fixture::{self, Files};

fn settings(certs: PathBuf) -> ServerSettings {
    ServerSettings {
        certs: vec![certs],
        keys: Vec::new(),
        http2: true,
        min_version: MinVersion::Tls12,
        tickets_file: None,
        client_auth: None,
    }
}

fn loaded(settings: ServerSettings) -> Server {
    let server = Server::new(settings);
    server.load(&files::read).unwrap();
    server
}

fn names(server: &Server) -> Vec<String> {
    server.live().unwrap().identities.iter().map(super::super::Identity::names).collect()
}

fn config(server: &Server) -> Arc<ServerConfig> {
    Arc::clone(&server.live().unwrap().config)
}

#[test]
fn changed_files_are_reloaded_unless_they_are_invalid() {
    let files = Files::new();
    let path = files.pair("a.pem", &["a.example.com"]);
    let server = loaded(settings(path.clone()));
    assert_eq!(server.refresh(), Refreshed::Unchanged);

    files.write("a.pem", "nonsense");
    let Refreshed::Partly(errors, _) = server.refresh() else { panic!("loaded an invalid file") };
    assert!(errors[0].message.contains("no certificate found in"), "{errors:?}");
    assert_eq!(server.refresh(), Refreshed::Unchanged, "the error is reported once");
    assert_eq!(names(&server), ["a.example.com"], "the old certificate stays");

    files.pair("a.pem", &["b.example.com"]);
    assert_eq!(server.refresh(), Refreshed::Replaced(Vec::new()));
    assert_eq!(names(&server), ["b.example.com"]);
    let content = std::fs::read(&path).unwrap();
    files.write("a.pem", content);
    assert_eq!(server.refresh(), Refreshed::Unchanged, "rewritten with the same content");
}

#[test]
fn new_files_matching_the_pattern_are_loaded() {
    let files = Files::new();
    files.pair("a.pem", &["a.example.com"]);
    let server = loaded(settings(files.path("*.pem")));
    files.pair("b.pem", &["b.example.com"]);
    assert_eq!(server.refresh(), Refreshed::Replaced(Vec::new()));
    assert_eq!(names(&server), ["a.example.com", "b.example.com"]);
    std::fs::remove_file(files.path("a.pem")).unwrap();
    assert_eq!(server.refresh(), Refreshed::Replaced(Vec::new()));
    assert_eq!(names(&server), ["b.example.com"]);
}

/// Loads `a.pem`, breaks it, and renews `b.pem` at the same time.
fn broken_beside_a_renewal(pattern: &str, break_it: impl Fn(&Files)) -> (Server, Vec<String>) {
    let files = Files::new();
    files.pair("a.pem", &["a.example.com"]);
    files.pair("b.pem", &["b.example.com"]);
    let server = loaded(settings(files.path(pattern)));
    let first = server.live().unwrap().identities.list()[0].key.cert[0].clone();
    break_it(&files);
    files.pair("b.pem", &["b.example.com", "new.example.com"]);
    let Refreshed::Partly(errors, _) = server.refresh() else { panic!("no error") };
    assert_eq!(server.live().unwrap().identities.list()[0].key.cert[0], first, "not the old certificate");
    // Later refreshes keep it too, until the file is repaired or removed.
    files.pair("c.pem", &["c.example.com"]);
    assert!(matches!(server.refresh(), Refreshed::Partly(..)));
    assert_eq!(names(&server), ["a.example.com", "b.example.com, new.example.com", "c.example.com"]);
    let removed = Server::new(settings(files.path(pattern)));
    assert!(removed.load(&files::read).is_err(), "a new start with a broken file");
    std::fs::remove_file(files.path("a.pem")).unwrap();
    assert!(matches!(server.refresh(), Refreshed::Replaced(_)));
    assert_eq!(names(&server), ["b.example.com, new.example.com", "c.example.com"]);
    (server, errors.into_iter().map(|error| error.message).collect())
}

/// Breaks a file.
type Break<'a> = &'a dyn Fn(&Files);

#[test]
fn broken_file_keeps_its_certificate_and_does_not_stop_the_others() {
    let other = fixture::certificate(&["a.example.com"]);
    let breaks: [(&str, Break<'_>); 5] = [
        ("is empty", &|files| drop(files.write("a.pem", ""))),
        ("is not a PEM file", &|files| drop(files.write("a.pem", "garbage\0"))),
        ("invalid PEM in", &|files| {
            let whole = std::fs::read(files.path("a.pem")).unwrap();
            files.write("a.pem", &whole[..whole.len() / 3]);
        }),
        ("no private key found for", &|files| drop(files.write("a.pem", other.cert.pem()))),
        ("cannot read", &|files| {
            std::fs::remove_file(files.path("a.pem")).unwrap();
            let big = std::fs::File::create(files.path("a.pem")).unwrap();
            big.set_len(1 << 30).unwrap();
        }),
    ];
    for (words, break_it) in breaks {
        let (_, errors) = broken_beside_a_renewal("*.pem", break_it);
        assert!(errors[0].contains(words) && errors[0].contains("a.pem"), "{words}: {errors:?}");
        assert!(errors[1].contains("stays in use for a.example.com"), "{errors:?}");
    }
}

#[test]
fn certificate_whose_key_file_is_broken_stays() {
    let files = Files::new();
    let pair = fixture::certificate(&["a.example.com"]);
    files.write("a.pem", pair.cert.pem());
    files.write("a.key", pair.signing_key.serialize_pem());
    let server = loaded(settings(files.path("*.pem")));
    for broken in ["", "garbage"] {
        files.write("a.key", broken);
        assert!(matches!(server.refresh(), Refreshed::Partly(..)), "{broken}");
        assert_eq!(names(&server), ["a.example.com"]);
    }
}

#[test]
fn servers_are_equal_if_settings_and_file_contents_are() {
    let files = Files::new();
    let path = files.pair("a.pem", &["a.example.com"]);
    let (first, second) = (loaded(settings(path.clone())), loaded(settings(path.clone())));
    assert_eq!(first, second);
    assert_ne!(first, Server::new(settings(path.clone())), "not loaded");
    let newer = ServerSettings { min_version: MinVersion::Tls13, ..settings(path) };
    assert_ne!(first, loaded(newer));
    files.pair("a.pem", &["a.example.com"]);
    second.refresh();
    assert_ne!(first, second, "another key");
}

#[test]
fn sessions_survive_a_reload_unless_client_auth_changes() {
    let files = Files::new();
    let path = files.pair("a.pem", &["a.example.com"]);
    let first = loaded(settings(path.clone()));
    let ticket = config(&first).ticketer.encrypt(b"state").unwrap();
    files.pair("a.pem", &["a.example.com"]);
    first.refresh();
    assert!(config(&first).ticketer.decrypt(&ticket).is_some(), "sessions survive a new certificate");

    let second = loaded(settings(path.clone()));
    assert!(config(&second).ticketer.decrypt(&ticket).is_none());
    second.continue_from(&first);
    assert!(config(&second).ticketer.decrypt(&ticket).is_some());

    for required in [false, true] {
        let client_auth = Some(ClientAuth { ca: path.clone(), required });
        let third = loaded(ServerSettings { client_auth, ..settings(path.clone()) });
        third.continue_from(&first);
        assert!(config(&third).ticketer.decrypt(&ticket).is_none(), "required = {required}");
    }
}

#[test]
fn shared_tickets_open_only_with_the_same_client_auth() {
    let files = Files::new();
    let path = files.pair("a.pem", &["a.example.com"]);
    let [old, new] = ["11".repeat(32), "22".repeat(32)];
    let shared = files.write("tickets", &old);
    let with_file = ServerSettings { tickets_file: Some(shared), ..settings(path.clone()) };
    let (first, second) = (loaded(with_file.clone()), loaded(with_file.clone()));
    let ticket = config(&first).ticketer.encrypt(b"state").unwrap();
    assert_eq!(config(&second).ticketer.decrypt(&ticket).as_deref(), Some(&b"state"[..]));

    files.write("tickets", format!("{new}\n{old}\n"));
    assert_eq!(second.refresh(), Refreshed::Replaced(Vec::new()));
    assert!(config(&second).ticketer.decrypt(&ticket).is_some(), "the old key still decrypts");
    let rotated = config(&second).ticketer.encrypt(b"state").unwrap();
    assert!(config(&first).ticketer.decrypt(&rotated).is_none(), "the new key encrypts");

    let client_auth = Some(ClientAuth { ca: path, required: true });
    let strict = loaded(ServerSettings { client_auth, ..with_file });
    assert!(config(&strict).ticketer.decrypt(&ticket).is_none());
    assert!(config(&strict).ticketer.decrypt(&rotated).is_none());

    files.write("tickets", "not a key");
    let Refreshed::Failed(errors) = second.refresh() else { panic!("loaded invalid keys") };
    assert_eq!(errors[0].part, Part::Tickets);
}
