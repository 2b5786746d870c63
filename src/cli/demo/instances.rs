//! The instances of the demo application, each a process.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cli::Error;
use crate::demo::Stage;
use crate::model::{Address, Config};

/// The environment variable with the secret that instances of one demo share.
pub(super) const SECRET: &str = "HOMING_DEMO_SECRET";
/// Time allowed for an instance to start listening.
const START: Duration = Duration::from_secs(5);
/// Polling interval while an instance starts.
const LOOK: Duration = Duration::from_millis(20);

/// All instances. Dropping this stops them.
pub(super) struct Instances {
    stage: Stage,
    list: Mutex<Vec<Instance>>,
}

struct Instance {
    upstream: String,
    id: String,
    address: SocketAddr,
    /// `None` after it was stopped.
    process: Option<Child>,
}

/// What the page shows of an instance.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) upstream: String,
    pub(super) id: String,
    pub(super) address: SocketAddr,
    /// The process, if it runs.
    pub(super) process: Option<u32>,
}

impl Instances {
    /// Starts an instance at the address of each backend.
    pub(super) fn start(config: &Config, stage: Stage) -> Result<Self, Error> {
        let instances = Self { stage, list: Mutex::default() };
        for upstream in &config.upstreams {
            for backend in &upstream.backends {
                let Address::Ip(address) = backend.address else {
                    return Err(format!(
                        "backend {} is not an IP address; the demo listens on each backend's address\n\
                         help: use an IP address of this machine, or `homing run`",
                        backend.address
                    )
                    .into());
                };
                if TcpStream::connect_timeout(&address, START).is_ok() {
                    return Err(format!(
                        "{address} is already in use\nhelp: stop that program, or use `homing run` if it is your backend"
                    )
                    .into());
                }
                instances.add(&upstream.name, backend.id.as_str(), address)?;
            }
        }
        for instance in &mut *instances.list.lock() {
            instance.wait_until_listening()?;
        }
        Ok(instances)
    }

    /// Starts an instance that is not in the configuration yet.
    pub(super) fn start_another(&self, upstream: &str, id: &str) -> Result<SocketAddr, Error> {
        // The port is free now, and nobody else on this machine is likely to take it.
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        self.add(upstream, id, address)?;
        if let Some(instance) = self.list.lock().last_mut() {
            instance.wait_until_listening()?;
        }
        Ok(address)
    }

    fn add(&self, upstream: &str, id: &str, address: SocketAddr) -> Result<(), Error> {
        let process = Some(self.spawn(id, address)?);
        let (upstream, id) = (upstream.to_owned(), id.to_owned());
        self.list.lock().push(Instance { upstream, id, address, process });
        Ok(())
    }

    fn spawn(&self, id: &str, address: SocketAddr) -> io::Result<Child> {
        let program = std::env::current_exe()?;
        Command::new(&program)
            .args(["demo-app", "--until-stdin-ends", "--id", id, "--bind", &address.to_string()])
            .args(["--stage", &self.stage.address.to_string()])
            // Not an argument, which other users of the machine could see.
            .env(SECRET, &self.stage.secret)
            .stdin(Stdio::piped())
            .spawn()
    }

    /// Returns all instances.
    pub(super) fn seen(&self) -> Vec<Seen> {
        let mut list = self.list.lock();
        list.iter_mut()
            .map(|instance| Seen {
                upstream: instance.upstream.clone(),
                id: instance.id.clone(),
                address: instance.address,
                process: instance.running(),
            })
            .collect()
    }

    /// Kills an instance, as a crash would. Returns false if there is none with this id.
    pub(super) fn kill(&self, id: &str) -> Result<bool, Error> {
        let mut list = self.list.lock();
        let Some(instance) = list.iter_mut().find(|instance| instance.id == id) else { return Ok(false) };
        if let Some(mut process) = instance.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(true)
    }

    /// Starts an instance again, without its sessions. Returns false if there is none with this id.
    pub(super) fn restart(&self, id: &str) -> Result<bool, Error> {
        let mut list = self.list.lock();
        let Some(instance) = list.iter_mut().find(|instance| instance.id == id) else { return Ok(false) };
        if instance.running().is_none() {
            instance.process = Some(self.spawn(&instance.id, instance.address)?);
            instance.wait_until_listening()?;
        }
        Ok(true)
    }
}

impl Instance {
    /// Returns the process, if it still runs.
    fn running(&mut self) -> Option<u32> {
        let process = self.process.as_mut()?;
        if let Ok(None) = process.try_wait() {
            return Some(process.id());
        }
        self.process = None;
        None
    }

    fn wait_until_listening(&mut self) -> Result<(), Error> {
        let until = Instant::now() + START;
        while TcpStream::connect_timeout(&self.address, START).is_err() {
            if self.running().is_none() {
                return Err(format!("application {} exited", self.id).into());
            }
            if Instant::now() > until {
                return Err(format!("application {} does not listen on {}", self.id, self.address).into());
            }
            std::thread::park_timeout(LOOK);
        }
        Ok(())
    }
}

impl Drop for Instances {
    fn drop(&mut self) {
        let mut list = self.list.lock();
        for process in list.iter_mut().filter_map(|instance| instance.process.as_mut()) {
            // The instance exits when its standard input closes.
            drop(process.stdin.take());
        }
        for process in list.iter_mut().filter_map(|instance| instance.process.as_mut()) {
            let _ = process.wait();
        }
    }
}
