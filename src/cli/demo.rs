//! `homing demo`: runs the proxy with a demo application behind it.
//!
//! Each instance of the application is a separate process. When it is killed, its
//! sessions are lost, as in a real application.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use super::{Error, run};
use crate::model::{Address, Bind, Config};

/// Time allowed for an instance to start listening.
const START: Duration = Duration::from_secs(5);
/// Polling interval while an instance starts.
const LOOK: Duration = Duration::from_millis(20);

/// Starts an instance of the application at each backend's address, then the proxy.
pub(super) fn run(file: &Path) -> Result<ExitCode, Error> {
    let Some(loaded) = run::load(file)? else { return Ok(ExitCode::from(2)) };
    let instances = Instances::start(&loaded.config)?;
    let Some(running) = run::start(file)? else { return Ok(ExitCode::from(2)) };
    let guide = guide(&loaded.config, file, &running.addresses(), running.admin_address(), &instances);
    let ended = run::until_stopped(running, |_| Ok(io::stdout().write_all(guide.as_bytes())?));
    drop(instances);
    ended
}

/// Runs one instance of the application until a signal or the end of standard input.
pub(super) fn run_app(id: &str, bind: SocketAddr, until_stdin_ends: bool) -> Result<ExitCode, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let app = crate::demo::start(id, bind)
            .await
            .map_err(|error| format!("cannot listen on {bind}: {error}"))?;
        tracing::debug!(id, address = %app.local_addr(), "application listening");
        let mut stop = run::StopSignals::new()?;
        let input_ends = async {
            if until_stdin_ends {
                let ended = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink()));
                let _ = ended.await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = stop.recv() => {}
            () = input_ends => {}
        }
        app.stop().await;
        Ok::<_, Error>(())
    })?;
    // The thread that reads standard input may still be waiting.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// The running instances. Dropping this stops them.
struct Instances(Vec<Instance>);

struct Instance {
    id: String,
    address: SocketAddr,
    process: Child,
}

impl Instances {
    fn start(config: &Config) -> Result<Self, Error> {
        let program = std::env::current_exe()?;
        let mut instances = Self(Vec::new());
        for backend in config.upstreams.iter().flat_map(|upstream| &upstream.backends) {
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
            let process = Command::new(&program)
                .args(["demo-app", "--until-stdin-ends", "--id", backend.id.as_str()])
                .args(["--bind", &address.to_string()])
                .stdin(Stdio::piped())
                .spawn()?;
            instances.0.push(Instance { id: backend.id.to_string(), address, process });
        }
        for instance in &mut instances.0 {
            instance.wait_until_listening()?;
        }
        Ok(instances)
    }
}

impl Instance {
    fn wait_until_listening(&mut self) -> Result<(), Error> {
        let until = Instant::now() + START;
        while TcpStream::connect_timeout(&self.address, START).is_err() {
            if let Some(status) = self.process.try_wait()? {
                return Err(format!("application {} exited ({status})", self.id).into());
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
        for instance in &mut self.0 {
            // The instance exits when its standard input closes.
            drop(instance.process.stdin.take());
        }
        for instance in &mut self.0 {
            let _ = instance.process.wait();
        }
    }
}

/// Returns the addresses and a short tutorial.
fn guide(
    config: &Config,
    file: &Path,
    listeners: &[Bind],
    admin: Option<SocketAddr>,
    instances: &Instances,
) -> String {
    let mut text = String::from("\nHoming is running.\n\n");
    let mut line = |what: &str, address: SocketAddr, more: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {what:<12} http://{address}{more}");
    };
    let listeners: Vec<_> = listeners.iter().filter_map(Bind::ip).collect();
    for listener in &listeners {
        line("proxy", *listener, "/");
    }
    if let Some(admin) = admin {
        line("admin", admin, "/status  /metrics");
    }
    for instance in &instances.0 {
        line(&instance.id, instance.address, &format!("/  (process {})", instance.process.id()));
    }
    let (Some(proxy), Some(first)) = (listeners.first(), instances.0.first()) else { return text };
    let id = &first.id;
    let (address, own) = (first.address, std::process::id());
    let upstream = config.upstreams.first().map_or("web", |upstream| &upstream.name);
    let file = file.display();
    let program = std::env::current_exe().unwrap_or_else(|_| "homing".into());
    let _ = write!(
        text,
        "
Three things to try:

  1. Visit twice. The same backend counts both visits:
       curl -c jar -b jar http://{proxy}/
       curl -c jar -b jar http://{proxy}/

  2. Kill the backend that answered (here {id}) and visit again. The session
     moves to the announced successor, once. Then restart the backend:
       kill -9 {pid}
       curl -c jar -b jar http://{proxy}/
       {program} demo-app --id {id} --bind {address}

  3. Add a backend. Existing sessions stay; only new ones go there:
       {program} demo-app --id node9 --bind 127.0.0.1:9009
       printf '\\n[[upstream.{upstream}.backend]]\\nid = \"node9\"\\naddress = \"127.0.0.1:9009\"\\n' >> {file}
       kill -HUP {own}

Press Ctrl-C to stop.

",
        pid = first.process.id(),
        program = program.display(),
    );
    text
}
