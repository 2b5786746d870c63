//! A program that runs: what it prints, and its end.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::programs;

/// How long a program may take: an interpreter or a browser has to start.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running program. Dropped, it is killed.
pub(crate) struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Read from the start: who complains a lot must not have to wait.
    complaints: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("start a program");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut stderr = child.stderr.take().expect("its complaints");
        let complaints = tokio::spawn(async move {
            let mut text = Vec::new();
            // A part is better than nothing.
            let _ = stderr.read_to_end(&mut text).await;
            text
        });
        Self { child, lines, complaints: Some(complaints) }
    }

    /// The next line that it prints.
    pub(crate) async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("a line in time");
        match line.expect("text") {
            Some(line) => line,
            None => panic!("it has ended: {}", self.complaints().await),
        }
    }

    /// The port that a server prints first.
    pub(crate) async fn port(&mut self) -> u16 {
        self.line().await.parse().expect("a port")
    }

    /// What it prints until it ends well.
    pub(crate) async fn finish(mut self) -> String {
        let mut text = String::new();
        let ends = async {
            while let Some(line) = self.lines.next_line().await.expect("text") {
                text.push_str(&line);
                text.push('\n');
            }
            let complaints = self.complaints().await;
            (self.child.wait().await.expect("its end"), complaints)
        };
        let (status, complaints) = timeout(PATIENCE, ends).await.expect("an end in time");
        assert!(status.success(), "{status}:\n{text}\n{complaints}");
        text
    }

    async fn complaints(&mut self) -> String {
        let text = match self.complaints.take() {
            Some(reading) => timeout(PATIENCE, reading).await.ok().and_then(Result::ok),
            None => None,
        };
        String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()
    }

    /// What it reports as JSON, at its end.
    pub(crate) async fn report(self) -> Value {
        let text = self.finish().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// A Python script of this folder.
pub(crate) fn python(
    python: &Path,
    script: &str,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Running {
    let mut command = Command::new(python);
    // Unbuffered, and without folders of bytecode among the sources.
    command.args(["-u", "-B"]).arg(programs::scripts().join("python").join(script)).args(args);
    Running::start(&mut command)
}

/// A Node script of this folder.
pub(crate) fn node(
    (node, packages): &(PathBuf, PathBuf),
    script: &str,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Running {
    let mut command = Command::new(node);
    command.arg(programs::scripts().join("node").join(script)).args(args).env("NODE_PATH", packages);
    Running::start(&mut command)
}
