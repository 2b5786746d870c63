//! The proxies under test: each is a configuration file, a command and signals.

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

/// How long a proxy may take to answer its first request.
const START: Duration = Duration::from_secs(10);

/// How long until it can be reloaded (`HAProxy`'s peers: 5 s for each of two phases).
const SETTLE: Duration = Duration::from_secs(20);

/// A program under test.
pub trait Product {
    /// Its name in tables.
    fn name(&self) -> &'static str;

    /// What it says of its version; an error if it is not there.
    fn version(&self) -> Result<String>;

    /// Its configuration file.
    fn config(&self, setup: &Setup) -> String;

    /// The command that runs it in the foreground with the file at [`Setup::config`].
    fn command(&self, setup: &Setup) -> Command;

    /// Can clients come to it this way?
    fn takes(&self, _front: Front) -> bool {
        true
    }

    /// Makes it read its file again.
    fn reload_signal(&self) -> Signal {
        Signal::HUP
    }

    /// Ends it as an operator's service manager does.
    fn stop_signal(&self) -> Signal {
        Signal::TERM
    }

    /// Does a reload now keep what the proxy has learnt?
    fn settled(&self, _setup: &Setup) -> Result<bool> {
        Ok(true)
    }

    /// Lets a backend keep its sessions and get no new ones, when that is not
    /// done through the file.
    fn drain(&self, _setup: &Setup, _backend: &str) -> Result<Drained> {
        Ok(Drained::ThroughTheFile)
    }
}

/// How a backend is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Done, by a command to the running proxy.
    ByCommand,
    /// To be done by writing the file and reloading.
    ThroughTheFile,
}

/// What clients speak.
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
    /// Over TLS?
    pub fn tls(self) -> bool {
        matches!(self, Self::Https | Self::H2)
    }

    /// HTTP/2?
    pub fn http2(self) -> bool {
        matches!(self, Self::H2c | Self::H2)
    }
}

/// How sessions are tied to backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// Hash of the cookie SID.
    HashCookie,
    /// Hash of the client's address, from X-Forwarded-For. Homing's `hash_ip`
    /// has a table on top.
    HashIp,
    /// Hash of the address that the client connects from.
    Address,
    /// `HAProxy`: a stick table learns the cookie SID from responses.
    StickTable,
    /// `HAProxy`: a cookie of its own names the server.
    InsertCookie,
    /// Homing: `remember = "table"`.
    Table,
    /// Homing: `remember = "cookie"`.
    SealedCookie,
}

impl Affinity {
    /// Its name in tables and on the command line.
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

/// A backend as the operator wishes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its id.
    pub id: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Is it to get no new sessions?
    pub drain: bool,
}

/// What a proxy is to do.
#[derive(Debug)]
pub struct Setup {
    /// A folder of its own.
    pub dir: TempDir,
    /// Where clients come.
    pub listen: SocketAddr,
    /// What they speak.
    pub front: Front,
    /// For what else it serves (metrics; `HAProxy`'s peers).
    pub side: SocketAddr,
    /// Its name among its peers, and theirs with their side address.
    pub name: String,
    /// All proxies that serve the same sessions, this one included.
    pub fleet: Vec<(String, SocketAddr)>,
    /// The backends.
    pub backends: Vec<Backend>,
    /// How sessions are tied to backends.
    pub affinity: Affinity,
    /// Are backends checked, at an interval short enough for a test?
    pub checks: bool,
    /// Client connections that must be possible.
    pub connections: usize,
    /// Keys for sealed cookies, the same in the whole fleet.
    pub keys_file: PathBuf,
}

impl Setup {
    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.file("proxy.conf")
    }

    /// Its certificate and key, if clients come over TLS.
    pub fn pem(&self) -> PathBuf {
        self.file("server.pem")
    }

    /// A file in its folder.
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
    /// Starts it and waits for its first answer.
    pub fn start(product: &'p dyn Product, setup: Setup, cpu: Cpu) -> Result<Self> {
        let process = Self::spawn(product, &setup, cpu)?;
        let mut proxy = Self { product, setup, cpu, process };
        proxy.wait_for_answer()?;
        Ok(proxy)
    }

    fn spawn(product: &dyn Product, setup: &Setup, cpu: Cpu) -> Result<Process> {
        if setup.front.tls() && !setup.pem().exists() {
            // ECDSA with P-256, which is what most of the web has today.
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
            // What comes next is checked by the load that speaks it.
            Ok(if front == Front::Http1 { answers(address) } else { TcpStream::connect(address).is_ok() })
        });
        if !answered.with_context(|| self.product.name())? {
            bail!("{} does not answer within {START:?}:\n{}", self.product.name(), self.process.printed());
        }
        Ok(())
    }

    /// Where clients come.
    pub fn address(&self) -> SocketAddr {
        self.setup.listen
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Changes the backends in the file and makes it read the file again.
    pub fn reload(&mut self, change: impl FnOnce(&mut Vec<Backend>)) -> Result<()> {
        change(&mut self.setup.backends);
        fs::write(self.setup.config(), self.product.config(&self.setup))?;
        self.process.alive().with_context(|| self.product.name())?;
        self.process.signal(self.product.reload_signal())
    }

    /// Waits until it can be reloaded at its best.
    pub fn settle(&self) -> Result<()> {
        if !interrupt::until(SETTLE, || self.product.settled(&self.setup))? {
            bail!("{} is not ready for a reload after {SETTLE:?}", self.product.name());
        }
        Ok(())
    }

    /// Lets a backend keep its sessions and get no new ones.
    pub fn drain(&mut self, id: &str) -> Result<()> {
        match self.product.drain(&self.setup, id)? {
            Drained::ByCommand => Ok(()),
            Drained::ThroughTheFile => self.reload(|backends| {
                for backend in backends.iter_mut().filter(|backend| backend.id == id) {
                    backend.drain = true;
                }
            }),
        }
    }

    /// Stops it and starts it again with the same file.
    pub fn restart(&mut self) -> Result<()> {
        if !self.process.stop()? {
            eprintln!("homing-bench: {} had to be killed", self.product.name());
        }
        self.process = Self::spawn(self.product, &self.setup, self.cpu)?;
        self.wait_for_answer()
    }

    /// Stops it.
    pub fn stop(mut self) -> Result<()> {
        self.process.stop().map(|_| ())
    }
}

/// Does a request get a 200? It carries no session.
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
