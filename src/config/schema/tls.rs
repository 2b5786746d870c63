//! The keys of `tls`, at listeners and at upstreams.

use super::{Flag, Free, Key, Optional, Table, Text, Word};
use crate::tls::MinVersion;

/// `[listener.tls]`.
pub(super) static LISTENER_TLS_TABLE: Table = Table {
    path: "listener.tls",
    doc: "TLS on a listener: `tls = { certs = [\"certs/*.pem\"] }`. The files are read again when they change.",
    keys: &[&CERTS, &KEYS, &MIN_VERSION, &TICKETS_FILE, &CLIENT_AUTH],
};
pub(in crate::config) static CERTS: Free = Free {
    name: "certs",
    shape: "list of paths, with `*` in the last part",
    absent: "required",
    doc: "PEM files, each with a certificate, its chain behind it and its key. A client gets the one for the \
          name that it asks for, else the first.",
    table: None,
};
pub(in crate::config) static KEYS: Free = Free {
    name: "keys",
    shape: "list of paths",
    absent: "in the files of `certs`, or beside them: `x.key` of `x.pem`",
    doc: "PEM files with private keys.",
    table: None,
};
pub(in crate::config) static MIN_VERSION: Key<Word<MinVersion>> = Key {
    name: "min_version",
    rule: Word(&[("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)]),
    default: MinVersion::Tls12,
    doc: "The oldest version of TLS that is spoken.",
};
pub(in crate::config) static TICKETS_FILE: Optional<Text> = Optional {
    name: "tickets_file",
    rule: Text("path"),
    absent: "keys of its own, changed every 6 hours",
    doc: "Keys of session tickets, shared by a fleet so that a session begun at one proxy is resumed at \
          another: one a line, 64 hexadecimal digits or base64 of 32 bytes. The first seals, all open.",
};
pub(in crate::config) static CLIENT_AUTH: Free = Free {
    name: "client_auth",
    shape: "table",
    absent: "clients are not asked",
    doc: "Clients show certificates.",
    table: Some(&CLIENT_AUTH_TABLE),
};
static CLIENT_AUTH_TABLE: Table = Table {
    path: "listener.tls.client_auth",
    doc: "Clients show certificates. Backends are told in X-Client-Cert-Subject (RFC 4514) and \
          X-Client-Cert-SHA256; what clients send under such names is removed, on every listener.",
    keys: &[&CLIENT_CA, &CLIENT_MODE],
};
pub(in crate::config) static CLIENT_CA: Optional<Text> = Optional {
    name: "ca",
    rule: Text("path"),
    absent: "required",
    doc: "PEM file with the authorities whose certificates are accepted.",
};
pub(in crate::config) static CLIENT_MODE: Key<Word<bool>> = Key {
    name: "mode",
    rule: Word(&[("required", true), ("optional", false)]),
    default: true,
    doc: "Is a client without a certificate turned away?",
};

/// `[upstream.NAME.tls]`.
pub(super) static UPSTREAM_TLS_TABLE: Table = Table {
    path: "upstream.NAME.tls",
    doc: "TLS to backends. The files are read again when they change.",
    keys: &[&UPSTREAM_CA, &SERVER_NAME, &SNI, &CLIENT_CERT, &CLIENT_KEY, &VERIFY],
};
pub(in crate::config) static UPSTREAM_CA: Optional<Text> = Optional {
    name: "ca",
    rule: Text("\"native\" or a path"),
    absent: "\"native\"",
    doc: "Who vouches for the backends: the system's authorities, or those in a PEM file.",
};
pub(in crate::config) static SERVER_NAME: Optional<Text> = Optional {
    name: "server_name",
    rule: Text("host name"),
    absent: "the host of each backend's address",
    doc: "The name in the backends' certificates.",
};
pub(in crate::config) static SNI: Key<Flag> =
    Key { name: "sni", rule: Flag, default: true, doc: "Is that name sent to the backend?" };
pub(in crate::config) static CLIENT_CERT: Optional<Text> = Optional {
    name: "client_cert",
    rule: Text("path"),
    absent: "none is shown",
    doc: "PEM file with the certificate that Homing shows to backends.",
};
pub(in crate::config) static CLIENT_KEY: Optional<Text> = Optional {
    name: "client_key",
    rule: Text("path"),
    absent: "in the file of `client_cert`",
    doc: "PEM file with its key.",
};
pub(in crate::config) static VERIFY: Key<Flag> = Key {
    name: "verify",
    rule: Flag,
    default: true,
    doc: "Are the backends' certificates verified? With `false` anybody in between can read and change what \
          is said.",
};
