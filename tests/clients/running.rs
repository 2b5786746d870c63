//! A running program and its output.

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

/// How long a program may take, including the start of an interpreter or a browser.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running program. Killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Reads stderr from the start, so that the program never blocks on a full pipe.
    stderr: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("start a program");
        let lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let mut stderr = child.stderr.take().expect("stderr");
        let stderr = tokio::spawn(async move {
            let mut text = Vec::new();
            // Partial output is better than none.
            let _ = stderr.read_to_end(&mut text).await;
            text
        });
        Self { child, lines, stderr: Some(stderr) }
    }

    /// Returns the next line of stdout.
    pub(crate) async fn line(&mut self) -> String {
        let line =
            timeout(PATIENCE, self.lines.next_line()).await.expect("the program printed no line in time");
        match line.expect("UTF-8") {
            Some(line) => line,
            None => panic!("the program ended: {}", self.stderr().await),
        }
    }

    /// Returns the port that a server prints first.
    pub(crate) async fn port(&mut self) -> u16 {
        self.line().await.parse().expect("a port")
    }

    /// Waits for a successful exit and returns the rest of stdout.
    pub(crate) async fn finish(mut self) -> String {
        let mut text = String::new();
        let ends = async {
            while let Some(line) = self.lines.next_line().await.expect("UTF-8") {
                text.push_str(&line);
                text.push('\n');
            }
            let stderr = self.stderr().await;
            (self.child.wait().await.expect("exit status"), stderr)
        };
        let (status, stderr) = timeout(PATIENCE, ends).await.expect("the program did not exit in time");
        assert!(status.success(), "{status}:\n{text}\n{stderr}");
        text
    }

    async fn stderr(&mut self) -> String {
        let text = match self.stderr.take() {
            Some(reading) => timeout(PATIENCE, reading).await.ok().and_then(Result::ok),
            None => None,
        };
        String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()
    }

    /// Waits for a successful exit and parses the rest of stdout as JSON.
    pub(crate) async fn report(self) -> Value {
        let text = self.finish().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// Starts a Python script.
pub(crate) fn python(
    python: &Path,
    script: &str,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Running {
    let mut command = Command::new(python);
    // Unbuffered, and without bytecode caches next to the sources.
    command.args(["-u", "-B"]).arg(programs::scripts().join("python").join(script)).args(args);
    Running::start(&mut command)
}

/// Starts a Node script.
pub(crate) fn node(
    (node, packages): &(PathBuf, PathBuf),
    script: &str,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Running {
    let mut command = Command::new(node);
    command.arg(programs::scripts().join("node").join(script)).args(args).env("NODE_PATH", packages);
    Running::start(&mut command)
}
