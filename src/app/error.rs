//! Why a proxy cannot be started or reloaded.

use std::io;
use std::path::PathBuf;

use crate::control::ControlError;
use crate::model::Bind;

/// Why a proxy could not be started or reloaded.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A listener or the admin address could not be bound.
    #[error("cannot listen on {address}: {}", bind_problem(.address, .source))]
    Bind {
        /// The configured address.
        address: Bind,
        /// The operating system's error. Part of the message, which has a help line after it.
        source: io::Error,
    },
    /// Certificates or private keys are missing or invalid.
    #[error("{0}")]
    Tls(String),
    /// The access log could not be opened.
    #[error("cannot open the access log {}: {}", .path.display(), file_problem(.error))]
    AccessLog {
        /// The configured file.
        path: PathBuf,
        /// The operating system's error. Part of the message.
        error: io::Error,
    },
    /// A thread or runtime could not be created.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The control plane rejected a reload.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The configuration file is invalid. The message holds its diagnostics.
    #[error("{0}")]
    Config(String),
    /// The proxy has no configuration file to reload.
    #[error("no configuration file to reload")]
    NoFile,
}

/// Explains why an address cannot be bound.
fn bind_problem(address: &Bind, error: &io::Error) -> String {
    let port = address.ip().map_or(0, |address| address.port());
    match (error.kind(), address) {
        (io::ErrorKind::PermissionDenied, Bind::Ip(_)) if (1..1024).contains(&port) => format!(
            "permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)\n\
             help: with systemd, set AmbientCapabilities=CAP_NET_BIND_SERVICE; otherwise run \
             `setcap cap_net_bind_service=+ep` on the program, or use a port above 1023 instead of {port}"
        ),
        (io::ErrorKind::AddrNotAvailable, _) => format!(
            "this machine has no such address\n\
             help: use an address from `ip address`, or 0.0.0.0:{port} or [::]:{port} for all of them"
        ),
        (io::ErrorKind::AddrInUse, Bind::Ip(_)) => format!(
            "address already in use\nhelp: stop the program that listens there: ss -ltnp 'sport = :{port}'"
        ),
        (io::ErrorKind::PermissionDenied, Bind::Unix(_)) => {
            "permission denied\nhelp: make its directory writable for the user that Homing runs as".to_owned()
        }
        (io::ErrorKind::NotFound, Bind::Unix(_)) => {
            "its directory does not exist\nhelp: create it, or change `bind`".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Explains why a file cannot be written.
fn file_problem(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "its directory does not exist\nhelp: create it, or change `access_log.output`".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied\nhelp: make the file and its directory writable for the user that Homing runs as"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(address: &str, errno: i32) -> String {
        let address = Bind::Ip(address.parse().unwrap());
        AppError::Bind { address, source: io::Error::from_raw_os_error(errno) }.to_string()
    }

    #[test]
    fn addresses_that_cannot_be_bound_are_explained() {
        let (access, not_available, in_use) = (13, 99, 98);
        let text = bind("0.0.0.0:80", access);
        assert!(
            text.starts_with(
                "cannot listen on 0.0.0.0:80: permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)\nhelp: "
            ),
            "{text}"
        );
        assert!(!bind("0.0.0.0:8080", access).contains("CAP_NET"), "not because of the port");
        let text = bind("192.0.2.1:8080", not_available);
        assert!(text.contains("192.0.2.1:8080: this machine has no such address\nhelp: "), "{text}");
        assert!(bind("127.0.0.1:8080", in_use).contains("already in use\nhelp: "));
    }
}
