//! `homing demo`: the proxy with an application behind it, to look at.
//!
//! Each instance of the application is a process of its own, so that it can be
//! killed, and takes its sessions with it, as a real one does.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use super::{Error, run};
use crate::model::{Address, Bind, Config};

/// How long an instance has to begin listening.
const START: Duration = Duration::from_secs(5);
/// Time between two looks at whether it does.
const LOOK: Duration = Duration::from_millis(20);

/// Starts an application at each backend's address, then the proxy.
pub(super) fn run(file: &Path) -> Result<ExitCode, Error> {
    let Some(loaded) = run::load(file)? else { return Ok(ExitCode::from(2)) };
    let instances = Instances::start(&loaded.config)?;
    let Some(running) = run::start(file)? else { return Ok(ExitCode::from(2)) };
    let guide = guide(&loaded.config, file, &running.addresses(), running.admin_address(), &instances);
    let ended = run::until_stopped(running, |_| Ok(io::stdout().write_all(guide.as_bytes())?));
    drop(instances);
    ended
}

/// Runs one instance of the application until a signal or the end of standard
/// input says stop.
pub(super) fn run_app(id: &str, bind: SocketAddr, until_stdin_ends: bool) -> Result<ExitCode, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let app = crate::demo::start(id, bind)
            .await
            .map_err(|error| format!("cannot listen on {bind}: {error}"))?;
        tracing::debug!(id, address = %app.local_addr(), "the application listens");
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

/// The running instances; they end with this.
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
                    "the demo listens at each backend's address; {} is none of this machine's IP addresses: write one, or use `homing run`",
                    backend.address
                )
                .into());
            };
            if TcpStream::connect_timeout(&address, START).is_ok() {
                return Err(format!(
                    "something listens on {address} already; end it, or use `homing run` if it is your backend"
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
                return Err(format!("the application {} ended at once ({status})", self.id).into());
            }
            if Instant::now() > until {
                return Err(format!("the application {} does not listen on {}", self.id, self.address).into());
            }
            std::thread::park_timeout(LOOK);
        }
        Ok(())
    }
}

impl Drop for Instances {
    fn drop(&mut self) {
        for instance in &mut self.0 {
            // Ends it: its standard input ends.
            drop(instance.process.stdin.take());
        }
        for instance in &mut self.0 {
            let _ = instance.process.wait();
        }
    }
}

/// What listens where, and what to try.
fn guide(
    config: &Config,
    file: &Path,
    listeners: &[Bind],
    admin: Option<SocketAddr>,
    instances: &Instances,
) -> String {
    let mut text = String::from("\nHoming is running.\n\n");
    let mut line = |what: &str, address: SocketAddr, more: &str| {
        // Writing into a String cannot fail.
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

  1. Come back, and be known. The same backend counts your visits:
       curl -c jar -b jar http://{proxy}/
       curl -c jar -b jar http://{proxy}/

  2. Kill the backend that answered (here {id}), and go on: the session moves
     to the announced successor, once. Then start it again:
       kill -9 {pid}
       curl -c jar -b jar http://{proxy}/
       {program} demo-app --id {id} --bind {address}

  3. Add a backend. Nobody moves; only new sessions go there:
       {program} demo-app --id node9 --bind 127.0.0.1:9009
       printf '\\n[[upstream.{upstream}.backend]]\\nid = \"node9\"\\naddress = \"127.0.0.1:9009\"\\n' >> {file}
       kill -HUP {own}

Ctrl-C ends it all.

",
        pid = first.process.id(),
        program = program.display(),
    );
    text
}
