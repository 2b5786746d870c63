//! The proxies under test. Each has a configuration file, a command and signals.

pub mod blind;
pub mod haproxy;
pub mod homing;
pub mod nginx;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::interrupt;
use crate::process::{Cpu, Process};

/// Time for a proxy to answer its first request.
const START: Duration = Duration::from_secs(10);

/// Time until a proxy can be reloaded (`HAProxy` resync: 5 s in each of two phases).
const SETTLE: Duration = Duration::from_secs(20);

/// A program under test.
pub trait Product {
    /// Returns its name in tables.
    fn name(&self) -> &'static str;

    /// Returns its version, or an error if it is not installed.
    fn version(&self) -> Result<String>;

    /// Returns the text of its configuration file.
    fn config(&self, setup: &Setup) -> String;

    /// Returns the command that runs it in the foreground with the file [`Setup::config`].
    fn command(&self, setup: &Setup) -> Command;

    /// Returns true if it supports this client protocol.
    fn takes(&self, _front: Front) -> bool {
        true
    }

    /// Returns the signal that reloads its configuration.
    fn reload_signal(&self) -> Signal {
        Signal::HUP
    }

    /// Returns the signal with which a service manager stops it.
    fn stop_signal(&self) -> Signal {
        Signal::TERM
    }

    /// Returns true if a reload now would keep the state that the proxy has learned.
    fn settled(&self, _setup: &Setup) -> Result<bool> {
        Ok(true)
    }

    /// Drains a backend with a command, if the proxy has one. Otherwise the caller must drain
    /// it in the configuration file.
    fn drain(&self, _setup: &Setup, _backend: &str) -> Result<Drained> {
        Ok(Drained::InTheFile)
    }
}

/// The result of [`Product::drain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// The running proxy has drained the backend.
    ByCommand,
    /// The caller must write the configuration file and reload.
    InTheFile,
}

/// The protocol between clients and the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// HTTP/1.1.
    Http1,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 without TLS, by prior knowledge.
    H2c,
    /// HTTP/2 over TLS, by ALPN.
    H2,
}

impl Front {
    /// Returns true for TLS.
    pub fn tls(self) -> bool {
        matches!(self, Self::Https | Self::H2)
    }

    /// Returns true for HTTP/2.
    pub fn http2(self) -> bool {
        matches!(self, Self::H2c | Self::H2)
    }
}

/// The kind of session affinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// Hash of the cookie SID.
    HashCookie,
    /// Hash of the client's address, from X-Forwarded-For. Homing's `hash_ip` also
    /// uses a table.
    HashIp,
    /// Hash of the address from which the client connects.
    Address,
    /// `HAProxy`: a stick table that learns the cookie SID from responses.
    StickTable,
    /// `HAProxy`: a cookie that `HAProxy` inserts with the server's name.
    InsertCookie,
    /// Homing: `remember = "table"`.
    Table,
    /// Homing: `remember = "cookie"`.
    SealedCookie,
}

impl Affinity {
    /// Returns its name in tables and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::HashCookie => "hash-cookie",
            Self::HashIp => "hash-ip",
            Self::Address => "address",
            Self::StickTable => "stick-table",
            Self::InsertCookie => "insert-cookie",
            Self::Table => "table",
            Self::SealedCookie => "cookie",
        }
    }
}

/// A backend in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Backend id.
    pub id: String,
    /// Listen address.
    pub address: SocketAddr,
    /// True if it gets no new sessions.
    pub drain: bool,
}

/// The settings for one run of a proxy.
#[derive(Debug)]
pub struct Setup {
    /// The run's own temporary folder.
    pub dir: TempDir,
    /// Listen address for clients.
    pub listen: SocketAddr,
    /// Client protocol.
    pub front: Front,
    /// Second listen address (Homing: metrics; `HAProxy`: peers).
    pub side: SocketAddr,
    /// The proxy's name in the fleet.
    pub name: String,
    /// Name and second address of every proxy that serves the same sessions, including this one.
    pub fleet: Vec<(String, SocketAddr)>,
    /// The backends.
    pub backends: Vec<Backend>,
    /// Kind of session affinity.
    pub affinity: Affinity,
    /// True to check backends, at an interval short enough for a test.
    pub checks: bool,
    /// Number of client connections that the proxy must support.
    pub connections: usize,
    /// Key file for sealed cookies, shared by the fleet.
    pub keys_file: PathBuf,
}

impl Setup {
    /// Returns the path of the configuration file.
    pub fn config(&self) -> PathBuf {
        self.file("proxy.conf")
    }

    /// Returns the path of the certificate and key, used with TLS.
    pub fn pem(&self) -> PathBuf {
        self.file("server.pem")
    }

    /// Returns the path of a file in the temporary folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// A running proxy.
pub struct Proxy<'p> {
    product: &'p dyn Product,
    setup: Setup,
    cpu: Cpu,
    process: Process,
}

impl<'p> Proxy<'p> {
    /// Starts a proxy and waits for its first answer.
    pub fn start(product: &'p dyn Product, setup: Setup, cpu: Cpu) -> Result<Self> {
        let process = Self::spawn(product, &setup, cpu)?;
        let mut proxy = Self { product, setup, cpu, process };
        proxy.wait_for_answer()?;
        Ok(proxy)
    }

    fn spawn(product: &dyn Product, setup: &Setup, cpu: Cpu) -> Result<Process> {
        if setup.front.tls() && !setup.pem().exists() {
            // ECDSA P-256, the most common kind of certificate today.
            let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
            fs::write(setup.pem(), pair.cert.pem() + &pair.signing_key.serialize_pem())?;
        }
        fs::write(setup.config(), product.config(setup))?;
        Process::spawn(&product.command(setup), cpu, &setup.file("output"), product.stop_signal())
    }

    fn wait_for_answer(&mut self) -> Result<()> {
        let (address, front, process) = (self.setup.listen, self.setup.front, &mut self.process);
        let answered = interrupt::until(START, || {
            process.alive()?;
            // For other protocols, the load itself checks the answers.
            Ok(if front == Front::Http1 { answers(address) } else { TcpStream::connect(address).is_ok() })
        });
        if !answered.with_context(|| self.product.name())? {
            bail!("{} did not answer within {START:?}:\n{}", self.product.name(), self.process.printed());
        }
        Ok(())
    }

    /// Returns the listen address for clients.
    pub fn address(&self) -> SocketAddr {
        self.setup.listen
    }

    /// Returns the proxy's process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Rewrites the configuration file with changed backends and reloads the proxy.
    pub fn reload(&mut self, change: impl FnOnce(&mut Vec<Backend>)) -> Result<()> {
        change(&mut self.setup.backends);
        fs::write(self.setup.config(), self.product.config(&self.setup))?;
        self.process.alive().with_context(|| self.product.name())?;
        self.process.signal(self.product.reload_signal())
    }

    /// Waits until a reload would keep everything the proxy has learned.
    pub fn settle(&self) -> Result<()> {
        if !interrupt::until(SETTLE, || self.product.settled(&self.setup))? {
            bail!("{} is not ready for a reload after {SETTLE:?}", self.product.name());
        }
        Ok(())
    }

    /// Drains a backend: it keeps its sessions and gets no new ones.
    pub fn drain(&mut self, id: &str) -> Result<()> {
        match self.product.drain(&self.setup, id)? {
            Drained::ByCommand => Ok(()),
            Drained::InTheFile => self.reload(|backends| {
                for backend in backends.iter_mut().filter(|backend| backend.id == id) {
                    backend.drain = true;
                }
            }),
        }
    }

    /// Restarts the proxy with the same configuration file.
    pub fn restart(&mut self) -> Result<()> {
        if !self.process.stop()? {
            eprintln!("homing-bench: {} had to be killed", self.product.name());
        }
        self.process = Self::spawn(self.product, &self.setup, self.cpu)?;
        self.wait_for_answer()
    }

    /// Stops the proxy.
    pub fn stop(mut self) -> Result<()> {
        self.process.stop().map(|_| ())
    }
}

/// Returns true if a request without a session gets a 200.
pub fn answers(address: SocketAddr) -> bool {
    let patience = Duration::from_secs(1);
    let request = b"GET /healthz HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
    let mut status = [0; 12];
    TcpStream::connect_timeout(&address, patience)
        .and_then(|mut stream| {
            stream.set_read_timeout(Some(patience))?;
            stream.write_all(request)?;
            stream.read_exact(&mut status)
        })
        .is_ok_and(|()| status.ends_with(b" 200"))
}
