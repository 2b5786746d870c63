use super::*;
use crate::tls::fixture::Files;

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
fn files_that_change_are_taken_and_broken_ones_are_not() {
    let files = Files::new();
    let path = files.pair("a.pem", &["a.example.com"]);
    let server = loaded(settings(path.clone()));
    assert_eq!(server.refresh(), Refreshed::Unchanged);
    let before = config(&server);

    files.write("a.pem", "nonsense");
    let Refreshed::Failed(errors) = server.refresh() else { panic!("taken") };
    assert!(errors[0].message.contains("no certificate in"), "{errors:?}");
    assert_eq!(server.refresh(), Refreshed::Unchanged, "said once");
    assert!(Arc::ptr_eq(&before, &config(&server)), "the old one stays");

    files.pair("a.pem", &["b.example.com"]);
    assert_eq!(server.refresh(), Refreshed::Replaced(Vec::new()));
    assert_eq!(names(&server), ["b.example.com"]);
    let content = std::fs::read(&path).unwrap();
    files.write("a.pem", content);
    assert_eq!(server.refresh(), Refreshed::Unchanged, "written again with the same in it");
}

#[test]
fn a_file_that_appears_is_taken_up_by_the_pattern() {
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

#[test]
fn servers_are_equal_if_settings_and_contents_are() {
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
fn sessions_go_on_over_a_reload_unless_more_is_demanded_of_clients() {
    let files = Files::new();
    let path = files.pair("a.pem", &["a.example.com"]);
    let first = loaded(settings(path.clone()));
    let ticket = config(&first).ticketer.encrypt(b"state").unwrap();
    files.pair("a.pem", &["a.example.com"]);
    first.refresh();
    assert!(config(&first).ticketer.decrypt(&ticket).is_some(), "over a change of the certificate");

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
fn a_fleets_tickets_open_everywhere_and_only_where_the_same_is_demanded() {
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
    assert!(config(&second).ticketer.decrypt(&ticket).is_some(), "the old key still opens");
    let rotated = config(&second).ticketer.encrypt(b"state").unwrap();
    assert!(config(&first).ticketer.decrypt(&rotated).is_none(), "the new one seals");

    let client_auth = Some(ClientAuth { ca: path, required: true });
    let strict = loaded(ServerSettings { client_auth, ..with_file });
    assert!(config(&strict).ticketer.decrypt(&ticket).is_none());
    assert!(config(&strict).ticketer.decrypt(&rotated).is_none());

    files.write("tickets", "not a key");
    let Refreshed::Failed(errors) = second.refresh() else { panic!("taken") };
    assert_eq!(errors[0].part, Part::Tickets);
}
