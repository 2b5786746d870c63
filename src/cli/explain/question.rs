//! The arguments of `homing explain`.

use std::net::IpAddr;
use std::path::PathBuf;

/// A request, and assumptions about the backends.
#[derive(Debug, Clone, clap::Args)]
pub struct Question {
    /// Configuration file.
    #[arg(long, short, value_name = "FILE", default_value = "proxy.toml")]
    pub config: PathBuf,
    /// IP address of the peer that sends the request.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", aliases = ["client", "client-ip"])]
    pub ip: IpAddr,
    /// Subject of the client certificate, as in X-Client-Cert-Subject, or its SHA-256 fingerprint if it has none.
    #[arg(long, value_name = "SUBJECT")]
    pub client_cert: Option<String>,
    /// Cookies of the request: `SID=x` or `SID=x; theme=dark`. May be repeated.
    #[arg(long = "cookie", value_name = "NAME=VALUE")]
    pub cookies: Vec<String>,
    /// Header of the request: `Name: value`. May be repeated.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// Host of the request.
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Path and query of the request.
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub path: String,
    /// Saved table to use instead of the configured one.
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
    /// Assume that this backend is down. May be repeated.
    #[arg(long = "down", value_name = "ID")]
    pub down: Vec<String>,
    /// Assume that this backend is draining. May be repeated.
    #[arg(long = "drain", value_name = "ID")]
    pub drain: Vec<String>,
    /// Assume that this backend is in maintenance. May be repeated.
    #[arg(long = "maint", value_name = "ID")]
    pub maint: Vec<String>,
}
