//! The `homing` program, run as a child process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;

use crate::harness::{ProxyBuilder, eventually, in_time};

/// A running `homing run`; killed when dropped.
pub(super) struct Program {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Program {
    pub(super) fn start(builder: &ProxyBuilder) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("proxy.toml");
        std::fs::write(&file, builder.toml()).expect("write");
        let mut command = Command::new(env!("CARGO_BIN_EXE_homing"));
        command.args(["run", "--config"]).arg(&file).env_remove("HOMING_LOG");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn homing");
        let (sender, lines) = mpsc::unbounded_channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("stdout")), Box::new(child.stderr.take().expect("stderr"))];
        for stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Self { child, lines, file, _folder: folder }
    }

    /// Returns the next output line that contains `what`.
    pub(super) async fn line_with(&mut self, what: &str) -> String {
        loop {
            match in_time(what, self.lines.recv()).await {
                Some(line) if line.contains(what) => return line,
                Some(_) => {}
                None => panic!("the program exited without printing {what}"),
            }
        }
    }

    /// Returns the address of the listener.
    pub(super) async fn address(&mut self) -> SocketAddr {
        let line = self.line_with("listening").await;
        let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next());
        address.and_then(|address| address.parse().ok()).expect("an address")
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("send signal");
    }

    /// Reloads with another configuration by SIGHUP.
    pub(super) async fn reload(&mut self, builder: &ProxyBuilder) {
        std::fs::write(&self.file, builder.toml()).expect("write");
        self.signal(Signal::HUP);
        let line = self.line_with("reload").await;
        assert!(line.contains("configuration reloaded"), "{line}");
    }

    /// Waits for the program to exit and returns its exit code.
    pub(super) async fn exited(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("the program exits", async || {
            status = self.child.try_wait().expect("exit status");
            status.is_some()
        })
        .await;
        status.and_then(|status| status.code())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
