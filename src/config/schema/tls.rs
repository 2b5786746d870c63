//! The keys of `tls`, for listeners and upstreams.

use super::{Flag, Free, Key, Optional, Table, Text, Word};
use crate::tls::MinVersion;

/// `[listener.tls]`.
pub(super) static LISTENER_TLS_TABLE: Table = Table {
    path: "listener.tls",
    doc: "TLS for clients: `tls = { certs = [\"certs/*.pem\"] }`. Changed files are reloaded automatically.",
    keys: &[&CERTS, &KEYS, &MIN_VERSION, &TICKETS_FILE, &CLIENT_AUTH],
};
pub(in crate::config) static CERTS: Free = Free {
    name: "certs",
    shape: "array of paths; the file name may contain `*`",
    absent: "required",
    doc: "PEM files with a certificate, its chain and its private key. The certificate is selected by the \
          client's SNI; the first one is the default.",
    table: None,
};
pub(in crate::config) static KEYS: Free = Free {
    name: "keys",
    shape: "array of paths",
    absent: "in the files of `certs`, or next to them: `x.key` for `x.pem`",
    doc: "PEM files with private keys.",
    table: None,
};
pub(in crate::config) static MIN_VERSION: Key<Word<MinVersion>> = Key {
    name: "min_version",
    rule: Word(&[("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)]),
    default: MinVersion::Tls12,
    doc: "Minimum TLS version.",
};
pub(in crate::config) static TICKETS_FILE: Optional<Text> = Optional {
    name: "tickets_file",
    rule: Text("path"),
    absent: "random keys, rotated every 6 hours",
    doc: "File with session ticket keys. Proxies that share it can resume each other's TLS sessions. One key \
          per line: 64 hex digits, or 32 bytes in base64. The first key encrypts; all keys decrypt.",
};
pub(in crate::config) static CLIENT_AUTH: Free = Free {
    name: "client_auth",
    shape: "table",
    absent: "no client certificates",
    doc: "Client certificates (mutual TLS).",
    table: Some(&CLIENT_AUTH_TABLE),
};
static CLIENT_AUTH_TABLE: Table = Table {
    path: "listener.tls.client_auth",
    doc: "Client certificates (mutual TLS). Backends receive the subject in X-Client-Cert-Subject (RFC 4514) \
          and the fingerprint in X-Client-Cert-SHA256. These headers are removed from client requests on every \
          listener.",
    keys: &[&CLIENT_CA, &CLIENT_MODE],
};
pub(in crate::config) static CLIENT_CA: Optional<Text> = Optional {
    name: "ca",
    rule: Text("path"),
    absent: "required",
    doc: "PEM file with the CA certificates that client certificates are verified against.",
};
pub(in crate::config) static CLIENT_MODE: Key<Word<bool>> = Key {
    name: "mode",
    rule: Word(&[("required", true), ("optional", false)]),
    default: true,
    doc: "Whether clients must present a certificate.",
};

/// `[upstream.NAME.tls]`.
pub(super) static UPSTREAM_TLS_TABLE: Table = Table {
    path: "upstream.NAME.tls",
    doc: "TLS to backends. Changed files are reloaded automatically.",
    keys: &[&UPSTREAM_CA, &SERVER_NAME, &SNI, &CLIENT_CERT, &CLIENT_KEY, &VERIFY],
};
pub(in crate::config) static UPSTREAM_CA: Optional<Text> = Optional {
    name: "ca",
    rule: Text("\"native\" or a path"),
    absent: "\"native\"",
    doc: "CA certificates that backends are verified against: the system's, or a PEM file.",
};
pub(in crate::config) static SERVER_NAME: Optional<Text> = Optional {
    name: "server_name",
    rule: Text("host name"),
    absent: "the host of each backend's address",
    doc: "The name expected in the backends' certificates.",
};
pub(in crate::config) static SNI: Key<Flag> =
    Key { name: "sni", rule: Flag, default: true, doc: "Whether to send that name to the backend (SNI)." };
pub(in crate::config) static CLIENT_CERT: Optional<Text> = Optional {
    name: "client_cert",
    rule: Text("path"),
    absent: "no certificate",
    doc: "PEM file with the client certificate that Homing presents to backends.",
};
pub(in crate::config) static CLIENT_KEY: Optional<Text> = Optional {
    name: "client_key",
    rule: Text("path"),
    absent: "in the file of `client_cert`",
    doc: "PEM file with the private key of `client_cert`.",
};
pub(in crate::config) static VERIFY: Key<Flag> = Key {
    name: "verify",
    rule: Flag,
    default: true,
    doc: "Whether to verify the backends' certificates. With `false`, anyone on the network path can read and \
          modify the traffic.",
};
