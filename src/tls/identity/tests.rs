use super::*;
use crate::tls::fixture::{Files, certificate, name};

fn load(certs: &[PathBuf], keys: &[PathBuf]) -> (Vec<Identity>, Vec<String>, Vec<String>) {
    let mut loader = Loader::new(&files::read);
    let identities = loader.identities(certs, keys);
    let text = |list: &[Problem]| list.iter().map(ToString::to_string).collect();
    (identities, text(&loader.errors), text(&loader.warnings))
}

/// Asserts that loading fails with a single error containing `words`.
#[track_caller]
fn refused(certs: &[PathBuf], keys: &[PathBuf], words: &str) {
    let (_, errors, _) = load(certs, keys);
    assert!(errors.len() == 1 && errors[0].contains(words), "{errors:?}");
}

#[test]
fn key_is_found_in_the_same_file_next_to_it_or_in_a_listed_file() {
    let files = Files::new();
    let [a, b, c] = [1, 2, 3].map(|n| certificate(&[&format!("{n}.example.com")]));
    files.write_pair("a.pem", &a);
    files.write("b.pem", b.cert.pem());
    files.write("b.key", b.signing_key.serialize_pem());
    files.write("c.pem", c.cert.pem());
    let key = files.write("keys", c.signing_key.serialize_pem());
    let (identities, errors, warnings) = load(&[files.path("*.pem")], &[key]);
    assert_eq!((errors, warnings), (Vec::new(), Vec::new()));
    let names: Vec<_> = identities.iter().map(|i| (name(&i.file).to_owned(), i.names())).collect();
    let expected = [("a.pem", "1.example.com"), ("b.pem", "2.example.com"), ("c.pem", "3.example.com")];
    assert_eq!(names, expected.map(|(file, name)| (file.to_owned(), name.to_owned())));
}

#[test]
fn errors_name_the_file() {
    let files = Files::new();
    let (a, b) = (certificate(&["a.example.com"]), certificate(&["b.example.com"]));
    let alone = files.write("alone.pem", a.cert.pem());
    refused(std::slice::from_ref(&alone), &[], "no private key found for the certificate in");
    refused(&[files.path("missing.pem")], &[], "cannot read");
    refused(&[files.path("none*.pem")], &[], "no files match");
    let other = files.write("other", b.signing_key.serialize_pem());
    refused(std::slice::from_ref(&alone), &[other], "does not match the certificate in");
    let mixed = files.write("mixed.pem", a.cert.pem() + &b.signing_key.serialize_pem());
    refused(&[mixed], &[], "does not match the certificate in");
    let text = files.write("text.pem", "hello");
    refused(std::slice::from_ref(&text), &[], "no certificate found in");
    refused(std::slice::from_ref(&alone), &[text], "no private key found in");
    let cut = a.cert.pem();
    let cut = files.write("cut.pem", &cut[..cut.len() / 2]);
    refused(&[cut], &[], "invalid PEM in");
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let encrypted = files.write("encrypted.pem", a.cert.pem() + encrypted);
    let (_, errors, _) = load(&[encrypted], &[]);
    assert!(errors[0].contains("is encrypted"), "{errors:?}");
}

/// A self-signed certificate of X.509 version 1 for localhost, made with
/// `openssl x509 -req -signkey` from a request without extensions.
const VERSION_1: &str = include_str!("version1.pem");

#[test]
fn version_1_is_explained() {
    let files = Files::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let path = files.write("old.pem", VERSION_1.to_owned() + &key.serialize_pem());
    refused(&[path], &[], "is of an X.509 version before 3");
}

#[test]
fn pattern_skips_ca_certificates_and_duplicates() {
    let files = Files::new();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    let leaf = certificate(&["a.example.com"]);
    // The layout of certbot.
    files.write("cert.pem", leaf.cert.pem());
    files.write("chain.pem", authority.pem());
    files.write("fullchain.pem", leaf.cert.pem() + &authority.pem());
    files.write("privkey.pem", leaf.signing_key.serialize_pem());
    let (identities, errors, warnings) = load(&[files.path("*.pem")], &[]);
    assert_eq!((errors, warnings), (Vec::new(), Vec::new()));
    let found: Vec<_> = identities.iter().map(|i| (name(&i.file), i.key.cert.len())).collect();
    assert_eq!(found, [("fullchain.pem", 2)], "the longer chain wins");
    refused(&[files.path("chain.pem")], &[], "no private key");
    refused(&[files.path("chain*")], &[], "only CA certificates");
}

#[test]
fn warns_about_duplicate_names_unused_keys_and_expired_certificates() {
    let files = Files::new();
    files.pair("a.pem", &["a.example.com"]);
    files.pair("b.pem", &["b.example.com", "a.example.com"]);
    files.rsa_pair("c.pem", &["a.example.com"]);
    let mut params = rcgen::CertificateParams::new(vec!["old.example.com".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    files.write("old.pem", params.self_signed(&key).unwrap().pem() + &key.serialize_pem());
    let unused = files.write("unused", rcgen::KeyPair::generate().unwrap().serialize_pem());
    let (identities, errors, warnings) = load(&[files.path("*.pem")], &[unused]);
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(identities.len(), 4);
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[0].ends_with("b.pem both have a certificate for a.example.com"), "{warnings:?}");
    assert!(warnings[1].contains("expired on Wed, 01 Jan 2020"), "{warnings:?}");
    assert!(warnings[2].contains("unused does not match any"), "{warnings:?}");
}
