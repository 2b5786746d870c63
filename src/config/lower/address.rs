//! Addresses: `10.0.0.1:80`, `[::1]:80`, `host:80`, `unix:/run/app.sock`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::config::diagnostics::Complaint;
use crate::config::reader::Found;
use crate::model::{Address, Bind};

/// Bytes of a Unix domain socket's path at most: the kernel's 108, without the
/// zero at the end.
const MAX_PATH: usize = 107;

/// Where a listener listens: an address as [`listen_address`] takes it, or
/// `unix:` and a path.
pub(super) fn bind(found: &Found<'_>) -> Result<Bind, Complaint> {
    let text = found.text("an address such as \"0.0.0.0:8080\"")?;
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(path, found).map(Bind::Unix);
    }
    if text.starts_with('/') {
        return Err(Complaint::error(format!("`{}` is no address to listen on", found.name))
            .at(found.span(), "")
            .help(format!("write \"unix:{text}\" for a Unix domain socket")));
    }
    listen_address(found, "0.0.0.0").map(Bind::Ip)
}

/// The path of a Unix domain socket, without the `unix:`.
fn socket_path(path: &str, found: &Found<'_>) -> Result<PathBuf, Complaint> {
    let refused = |message: String, help: &str| {
        Err(Complaint::error(message).at(found.span(), "").help(help.to_owned()))
    };
    if !path.starts_with('/') {
        let help = "write the whole path: \"unix:/run/app.sock\"";
        return refused(format!("\"unix:{path}\" does not say where it is"), help);
    }
    if path.ends_with('/') {
        return refused(format!("\"unix:{path}\" is a directory"), "write the path of a socket in it");
    }
    if path.len() > MAX_PATH {
        let message = format!("the path of a Unix domain socket has at most {MAX_PATH} bytes");
        return refused(message, "choose a shorter one");
    }
    if path.chars().any(char::is_control) {
        return refused("the path holds a control character".to_owned(), "choose another one");
    }
    Ok(PathBuf::from(path))
}

/// An address to listen on: an IP address and a port, 0 for any. `usual` is the IP
/// address that is proposed.
pub(super) fn listen_address(found: &Found<'_>, usual: &str) -> Result<SocketAddr, Complaint> {
    let text = found.text(&format!("an address such as \"{usual}:8080\""))?;
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let help = match split(text) {
        Split::Missing => match text.parse::<u16>() {
            Ok(port) => format!("write \"{usual}:{port}\""),
            Err(_) => format!("write address and port, as in \"{usual}:8080\""),
        },
        Split::Scheme(rest) => format!("write only address and port: \"{rest}\""),
        Split::BareV6(instead) => format!("write \"{instead}\""),
        Split::Parts("" | "*", port) => format!("write \"0.0.0.0:{port}\" (or \"[::]:{port}\" for IPv6 too)"),
        Split::Parts("localhost", port) => format!("write \"127.0.0.1:{port}\""),
        Split::Parts(host, _) if host.parse::<IpAddr>().is_ok() || host.starts_with('[') => {
            "a port is a number, 0 to 65535".to_owned()
        }
        Split::Parts(..) => "names are not looked up here: write an IP address and a port".to_owned(),
    };
    Err(Complaint::error(format!("`{}` is no address to listen on", found.name))
        .at(found.span(), "")
        .help(help))
}

/// A backend's address: an IP address or a host name, and a port; or `unix:`
/// and a path.
pub(super) fn backend_address(found: &Found<'_>) -> Result<Address, Complaint> {
    let text = found.text("an address such as \"10.0.0.1:8080\"")?;
    let refused = |message: &str, help: String| {
        Err(Complaint::error(format!("\"{text}\" {message}")).at(found.span(), "").help(help))
    };
    if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 {
            return refused("has port 0", "a backend listens on a port from 1 to 65535".to_owned());
        }
        let ip = address.ip().to_canonical();
        if ip.is_unspecified() {
            let here = if ip.is_ipv4() { "127.0.0.1" } else { "[::1]" };
            let help = format!("write \"{here}:{}\" for this machine", address.port());
            return refused("is an address to listen on, not one to connect to", help);
        }
        if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return refused("is no address of one machine", "write the backend's own address".to_owned());
        }
        return Ok(Address::Ip(SocketAddr::new(ip, address.port())));
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(path, found).map(Address::Unix);
    }
    if text.starts_with('/') {
        return refused("is a path", format!("write \"unix:{text}\" for a Unix domain socket"));
    }
    let (host, port) = match split(text) {
        Split::Missing if text.is_empty() => {
            return refused("is no address", "write \"host:port\"".to_owned());
        }
        Split::Missing => {
            return refused("has no port", format!("write \"{text}:80\", or whatever its port is"));
        }
        Split::Scheme(rest) if text.starts_with("https:") => {
            let help = format!("write \"{rest}\", and tls = true in its upstream");
            return refused("has a scheme", help);
        }
        Split::Scheme(rest) => {
            return refused("has a scheme", format!("write only host and port: \"{rest}\""));
        }
        Split::BareV6(instead) => {
            return refused("is an IPv6 address without brackets", format!("write \"{instead}\""));
        }
        Split::Parts(host, port) => (host, port),
    };
    let port = match port.parse::<u16>() {
        Ok(port) if port != 0 && port.to_string().len() == text.len() - host.len() - 1 => port,
        _ => return refused("has no such port", "a port is a number from 1 to 65535".to_owned()),
    };
    match host_name(host) {
        Ok(name) => Ok(Address::Name(name, port)),
        Err(why) => refused(
            &format!("is no address: {why}"),
            "write an IP address or a host name, and a port".to_owned(),
        ),
    }
}

/// A host name (RFC 1123) in lower case.
pub(super) fn host_name(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        return Err("the host is missing");
    }
    if !text.is_ascii() {
        return Err("write an international name in its ASCII form (xn--…)");
    }
    if text.len() > 253 {
        return Err("a host name has at most 253 characters");
    }
    if text.ends_with('.') {
        return Err("leave out the dot at the end");
    }
    for label in text.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err("each part of a host name has 1 to 63 characters");
        }
        if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err("a host name is made of letters, digits, `-` and `.`");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("no part of a host name begins or ends with `-`");
        }
    }
    let last = text.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return Err("it looks like an IPv4 address, but is none");
    }
    Ok(text.to_ascii_lowercase())
}

/// The parts of something that ought to be host and port.
enum Split<'a> {
    /// There is no port.
    Missing,
    /// It begins with a scheme; this is the rest, without path.
    Scheme(&'a str),
    /// An IPv6 address without brackets; this is what was meant.
    BareV6(String),
    /// Host and what follows the last colon.
    Parts(&'a str, &'a str),
}

fn split(text: &str) -> Split<'_> {
    if let Some((_, rest)) = text.split_once("://") {
        return Split::Scheme(rest.split('/').next().unwrap_or_default());
    }
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        // `::1:8080` is an address as well as an address with a port.
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
