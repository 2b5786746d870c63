use super::*;
use crate::tls::fixture::{Files, certificate};

fn settings(ca: PathBuf) -> ClientSettings {
    ClientSettings {
        ca: Roots::File(ca),
        server_name: None,
        sni: true,
        identity: None,
        verify: true,
        http2: false,
    }
}

#[test]
fn server_name_defaults_to_the_backends_host() {
    let given = ClientSettings { server_name: Some("app.internal".to_owned()), ..settings(PathBuf::new()) };
    let name = |client: &Client, host| client.server_name(host).map(|name| name.to_str().into_owned());
    assert_eq!(name(&Client::new(given), "10.0.0.1").as_deref(), Some("app.internal"));
    let own = Client::new(settings(PathBuf::new()));
    assert_eq!(name(&own, "node1.internal").as_deref(), Some("node1.internal"));
    assert_eq!(name(&own, "::1").as_deref(), Some("::1"));
    assert_eq!(name(&own, "no name"), None);
}

#[test]
fn problems_name_their_setting() {
    let files = Files::new();
    let (a, b) = (certificate(&["a"]), certificate(&["b"]));
    let ca = files.write("ca.pem", a.cert.pem());
    let part = |settings: ClientSettings| {
        let errors = Client::new(settings).load(&files::read).unwrap_err();
        errors.iter().map(|problem| problem.part).collect::<Vec<_>>()
    };
    assert_eq!(part(settings(files.path("missing"))), [Part::Ca]);
    let identity =
        |certificate, key| ClientSettings { identity: Some((certificate, key)), ..settings(ca.clone()) };
    assert_eq!(part(identity(files.path("missing"), files.pair("p", &["p"]))), [Part::ClientCert]);
    assert_eq!(part(identity(ca.clone(), files.path("missing"))), [Part::ClientKey]);
    let other = files.write("b.key", b.signing_key.serialize_pem());
    assert_eq!(part(identity(ca.clone(), other)), [Part::ClientKey]);
    let unverified = ClientSettings { verify: false, ..settings(files.path("missing")) };
    assert!(Client::new(unverified).load(&files::read).is_ok(), "the CA file is not read");
}

#[test]
fn changed_ca_file_is_reloaded() {
    let files = Files::new();
    let ca = files.write("ca.pem", certificate(&["a"]).cert.pem());
    let client = Client::new(settings(ca));
    client.load(&files::read).unwrap();
    assert_eq!(client.refresh(), Refreshed::Unchanged);
    files.write("ca.pem", certificate(&["b"]).cert.pem());
    assert_eq!(client.refresh(), Refreshed::Replaced(Vec::new()));
}
