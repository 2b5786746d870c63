//! `homing demo`: runs the proxy with a demo application behind it, and a page that shows the cluster.
//!
//! Each instance of the application is a separate process. When it is killed, its
//! sessions are lost, as in a real application, but for the copies that it made.

mod instances;
mod stage;

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use self::instances::{Instances, SECRET};
use super::signals::Signals;
use super::terminal::Terminal;
use super::{Error, run, status};
use crate::app::Running;
use crate::demo::Stage;
use crate::model::{Bind, Config};

/// The configuration of a demo without a file.
const BUILT_IN: &str = include_str!("../../proxy.toml");

/// Starts an instance of the application at each backend's address, then the proxy. Without a file, the
/// reference configuration is used.
pub(super) fn run(file: Option<PathBuf>, terminal: Terminal) -> Result<ExitCode, Error> {
    let file = file.map_or_else(Source::found, |file| Ok(Source { file, temporary: None }))?;
    let Some(loaded) = run::load(&file.file, terminal) else { return Ok(ExitCode::from(status::INVALID)) };
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let stage = Stage { address: listener.local_addr()?, secret: secret()? };
    let instances = Arc::new(Instances::start(&loaded.config, stage.clone())?);
    run::until_stopped(|| {
        let Some(running) = run::start(&file.file, terminal)? else { return Ok(None) };
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (instances, remote) = (Arc::clone(&instances), running.remote());
        Terminal::print(&guide(&loaded.config, &running, &instances, stage.address))?;
        tokio::spawn(stage::serve(
            listener,
            Arc::new(stage::Stage { address: stage.address, instances, remote }),
        ));
        Ok(Some(running))
    })
}

/// The configuration file of a demo.
struct Source {
    file: PathBuf,
    /// The directory of the built-in configuration, removed at the end.
    temporary: Option<PathBuf>,
}

impl Source {
    /// Returns `proxy.toml` in the current directory, or a copy of the built-in one.
    fn found() -> io::Result<Self> {
        let here = Path::new("proxy.toml");
        if here.exists() {
            return Ok(Self { file: here.to_owned(), temporary: None });
        }
        let directory = std::env::temp_dir().join(format!("homing-demo-{}", std::process::id()));
        std::fs::create_dir(&directory)?;
        let file = directory.join("proxy.toml");
        std::fs::write(&file, BUILT_IN)?;
        Ok(Self { file, temporary: Some(directory) })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(directory) = &self.temporary {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

fn secret() -> Result<String, Error> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "no randomness for the demo's secret")?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Runs one instance of the application until a signal or the end of standard input.
pub(super) fn run_app(
    id: &str,
    bind: SocketAddr,
    stage: Option<SocketAddr>,
    until_stdin_ends: bool,
) -> Result<ExitCode, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let secret = std::env::var(SECRET).unwrap_or_default();
    let stage = stage.filter(|_| !secret.is_empty()).map(|address| Stage { address, secret });
    runtime.block_on(async {
        let app = crate::demo::start_on(stage, id, bind)
            .await
            .map_err(|error| format!("cannot listen on {bind}: {error}"))?;
        tracing::debug!(id, address = %app.local_addr(), "application listening");
        let mut signals = Signals::new()?;
        let input_ends = async {
            if until_stdin_ends {
                let ended = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink()));
                let _ = ended.await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = signals.stop() => {}
            () = input_ends => {}
        }
        app.stop().await;
        Ok::<_, Error>(())
    })?;
    // The thread that reads standard input may still be waiting.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// Returns the addresses and a short tutorial.
fn guide(config: &Config, running: &Running, instances: &Instances, page: SocketAddr) -> String {
    let mut text = String::from("\nHoming is running.\n\n");
    let mut line = |what: &str, address: SocketAddr, more: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {what:<12} http://{address}{more}");
    };
    let listeners: Vec<_> = running.addresses().iter().filter_map(Bind::ip).collect();
    for listener in &listeners {
        line("proxy", *listener, "/");
    }
    line("cluster", page, "/");
    if let Some(admin) = running.admin_address() {
        line("admin", admin, "/status  /metrics");
    }
    for seen in instances.seen() {
        let process = seen.process.map_or_else(String::new, |process| format!("/  (process {process})"));
        line(&seen.id, seen.address, &process);
    }
    let Some(proxy) = listeners.first() else { return text };
    let announced = config.upstreams.iter().all(|upstream| upstream.affinity.announce);
    let then = if announced {
        "The count goes on: the backend had copied the session to the\n     successor that Homing announces."
    } else {
        "The count begins again: with `announce = true`, backends would\n     copy sessions to their successors."
    };
    let _ = write!(
        text,
        "
Three things to try, in another terminal or in a browser at http://{proxy}/

  1. Visit twice. The same backend counts both visits:
       curl -c /tmp/homing-demo.jar -b /tmp/homing-demo.jar http://{proxy}/
       curl -c /tmp/homing-demo.jar -b /tmp/homing-demo.jar http://{proxy}/

  2. Kill the backend that answers you, and visit again. The session moves to
     its successor, once. {then}
       kill -9 $(curl -s -b /tmp/homing-demo.jar http://{proxy}/pid)
       curl -c /tmp/homing-demo.jar -b /tmp/homing-demo.jar http://{proxy}/

  3. Look at the cluster, and add a backend. Existing sessions stay; only new
     ones go there. The page at http://{page}/ starts stopped ones again:
       curl -X POST http://{page}/backends
       curl http://{page}/

Press Ctrl-C to stop.

"
    );
    text
}
