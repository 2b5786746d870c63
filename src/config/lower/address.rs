//! Parses addresses: `10.0.0.1:80`, `[::1]:80`, `host:80`, `unix:/run/app.sock`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::config::diagnostics::Complaint;
use crate::config::found::Found;
use crate::model::{Address, Bind};

/// Maximum length of a Unix domain socket's path, in bytes: the kernel's 108, minus
/// the terminating NUL.
const MAX_PATH: usize = 107;

/// Parses `bind` of a listener: a [`listen_address`], or `unix:` and a path.
pub(super) fn bind(found: &Found<'_>) -> Result<Bind, Complaint> {
    let text = found.text("an address such as \"0.0.0.0:8080\"")?;
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(path, found).map(Bind::Unix);
    }
    if text.starts_with('/') {
        return Err(Complaint::error("invalid listen address: missing `unix:` prefix")
            .at(found.span(), "")
            .help(format!("for a Unix domain socket, use \"unix:{text}\"")));
    }
    listen_address(found, "0.0.0.0").map(Bind::Ip)
}

/// Validates the path of a Unix domain socket, given without the `unix:`.
fn socket_path(path: &str, found: &Found<'_>) -> Result<PathBuf, Complaint> {
    let invalid = |message: String, help: &str| {
        Err(Complaint::error(message).at(found.span(), "").help(help.to_owned()))
    };
    if !path.starts_with('/') {
        let help = "use an absolute path: \"unix:/run/app.sock\"";
        return invalid(format!("invalid socket path \"{path}\": not an absolute path"), help);
    }
    if path.ends_with('/') {
        let message = format!("invalid socket path \"{path}\": is a directory");
        return invalid(message, "use the path of a socket in it");
    }
    if path.len() > MAX_PATH {
        let message = format!("invalid socket path: longer than {MAX_PATH} bytes");
        return invalid(message, "use a shorter path");
    }
    if path.chars().any(char::is_control) {
        let message = "invalid socket path: contains a control character".to_owned();
        return invalid(message, "use another path");
    }
    Ok(PathBuf::from(path))
}

/// Parses an address to listen on: an IP address and a port, 0 for any. `usual` is
/// the IP address that the help suggests.
pub(super) fn listen_address(found: &Found<'_>, usual: &str) -> Result<SocketAddr, Complaint> {
    let text = found.text(&format!("an address such as \"{usual}:8080\""))?;
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let (why, help) = match split(text) {
        Split::Missing => match text.parse::<u16>() {
            Ok(port) => ("missing IP address", format!("use \"{usual}:{port}\"")),
            Err(_) => ("missing port", format!("use an IP address and a port: \"{usual}:8080\"")),
        },
        Split::Scheme(rest) => ("unexpected scheme", format!("use \"{rest}\"")),
        Split::BareV6(instead) => ("IPv6 address without brackets", format!("use \"{instead}\"")),
        Split::Parts("" | "*", port) => {
            let help = format!("use \"0.0.0.0:{port}\", or \"[::]:{port}\" to include IPv6");
            ("missing IP address", help)
        }
        Split::Parts("localhost", port) => ("expected an IP address", format!("use \"127.0.0.1:{port}\"")),
        Split::Parts(host, _) if host.parse::<IpAddr>().is_ok() || host.starts_with('[') => {
            ("invalid port", "use a port from 0 to 65535".to_owned())
        }
        Split::Parts(..) => {
            let help = "host names are not resolved here; use an IP address and a port".to_owned();
            ("expected an IP address", help)
        }
    };
    Err(Complaint::error(format!("invalid listen address: {why}")).at(found.span(), "").help(help))
}

/// Parses a backend's address: an IP address or host name with a port, or `unix:`
/// and a path.
pub(super) fn backend_address(found: &Found<'_>) -> Result<Address, Complaint> {
    let text = found.text("an address such as \"10.0.0.1:8080\"")?;
    let invalid = |message: &str, help: String| {
        Err(Complaint::error(format!("invalid backend address: {message}")).at(found.span(), "").help(help))
    };
    if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 {
            return invalid("port is 0", "use a port from 1 to 65535".to_owned());
        }
        let ip = address.ip().to_canonical();
        if ip.is_unspecified() {
            let here = if ip.is_ipv4() { "127.0.0.1" } else { "[::1]" };
            let help = format!("for a backend on this machine, use \"{here}:{}\"", address.port());
            return invalid("cannot connect to an unspecified address", help);
        }
        if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return invalid("not a unicast address", "use the backend's own address".to_owned());
        }
        return Ok(Address::Ip(SocketAddr::new(ip, address.port())));
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(path, found).map(Address::Unix);
    }
    if text.starts_with('/') {
        let help = format!("for a Unix domain socket, use \"unix:{text}\"");
        return invalid("missing `unix:` prefix", help);
    }
    let (host, port) = match split(text) {
        Split::Missing if text.is_empty() => {
            return invalid("empty string", "use \"host:port\"".to_owned());
        }
        Split::Missing => {
            return invalid("missing port", format!("add the port: \"{text}:80\""));
        }
        Split::Scheme(rest) if text.split_once("://").is_some_and(|(_, rest)| rest.contains('/')) => {
            let help = format!("use \"{rest}\"; backends get the path of the request as it is");
            return invalid("unexpected scheme and path", help);
        }
        Split::Scheme(rest) if text.starts_with("https:") => {
            let help = format!("use \"{rest}\" and set tls = true in the upstream");
            return invalid("unexpected scheme", help);
        }
        Split::Scheme(rest) => {
            return invalid("unexpected scheme", format!("use \"{rest}\""));
        }
        Split::BareV6(instead) => {
            return invalid("IPv6 address without brackets", format!("use \"{instead}\""));
        }
        Split::Parts(host, port) => (host, port),
    };
    if let Some((digits, _)) = port.split_once('/')
        && digits.parse::<u16>().is_ok()
    {
        let help = format!("use \"{host}:{digits}\"; backends get the path of the request as it is");
        return invalid("unexpected path", help);
    }
    let port = match port.parse::<u16>() {
        Ok(port) if port != 0 && port.to_string().len() == text.len() - host.len() - 1 => port,
        _ => return invalid("invalid port", "use a port from 1 to 65535".to_owned()),
    };
    match host_name(host) {
        Ok(name) => Ok(Address::Name(name, port)),
        Err(why) => invalid(why, "use an IP address or a host name, and a port".to_owned()),
    }
}

/// Validates a host name (RFC 1123) and converts it to lower case.
///
/// # Errors
/// What is wrong with the name.
pub(super) fn host_name(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        return Err("missing host");
    }
    if !text.is_ascii() {
        return Err("international host names must be in ASCII form (xn--…)");
    }
    if text.len() > 253 {
        return Err("host names have at most 253 characters");
    }
    if text.ends_with('.') {
        return Err("host names must not end with a dot");
    }
    for label in text.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err("each label of a host name must have 1 to 63 characters");
        }
        if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err("host names may only contain letters, digits, `-`, `_` and `.`");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("labels of a host name must not start or end with `-`");
        }
    }
    let last = text.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return Err("not a valid IPv4 address");
    }
    Ok(text.to_ascii_lowercase())
}

/// The parts of an address that should be host and port.
enum Split<'a> {
    /// No port.
    Missing,
    /// A scheme. Holds the rest, without the path.
    Scheme(&'a str),
    /// An IPv6 address without brackets. Holds the suggested address.
    BareV6(String),
    /// The parts before and after the last colon.
    Parts(&'a str, &'a str),
}

fn split(text: &str) -> Split<'_> {
    if let Some((_, rest)) = text.split_once("://") {
        return Split::Scheme(rest.split('/').next().unwrap_or_default());
    }
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        // `::1:8080` may be an address, or an address with a port.
        return Split::BareV6(match text.rsplit_once(':') {
            Some((head, port)) if head.parse::<Ipv6Addr>().is_ok() && port.parse::<u16>().is_ok() => {
                format!("[{head}]:{port}")
            }
            _ => format!("[{ip}]:80"),
        });
    }
    match text.rsplit_once(':') {
        Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => Split::BareV6(format!("[{host}]:{port}")),
        Some((host, port)) if !port.ends_with(']') => Split::Parts(host, port),
        _ => Split::Missing,
    }
}
