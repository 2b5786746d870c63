//! Child processes that never outlive the benchmark.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{interrupt, procfs};

/// Time for a process to exit before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// A child process. Dropping it stops it and all its descendants.
///
/// Start it from the main thread only: the kernel terminates a child when the thread
/// that started it exits.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: PathBuf,
    stop: Signal,
}

/// The CPUs on which a process may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cpu {
    /// Any CPU.
    Any,
    /// This CPU only.
    Only(usize),
}

impl Process {
    /// Starts `command`. Its stdout and stderr go to the file `output`.
    ///
    /// `stop` is the signal for a graceful shutdown.
    pub fn spawn(command: &Command, cpu: Cpu, output: &Path, stop: Signal) -> Result<Self> {
        let log = File::create(output).with_context(|| format!("create {}", output.display()))?;
        let child = confined(command, cpu)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self { child, output: output.to_owned(), stop })
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns its output so far.
    pub fn printed(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Sends a signal to it.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("send a signal to a child process")
    }

    /// Returns an error with its output if it has exited.
    pub fn alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("exited early ({status}):\n{}", self.printed());
        }
        Ok(())
    }

    /// Waits for it to exit.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let mut ended = None;
        interrupt::until(patience, || {
            ended = self.child.try_wait()?;
            Ok(ended.is_some())
        })?;
        ended.with_context(|| format!("still running after {patience:?}"))
    }

    /// Shuts it down gracefully. Returns false if it had to be killed.
    pub fn stop(&mut self) -> Result<bool> {
        self.stop_within(PATIENCE)
    }

    fn stop_within(&mut self, patience: Duration) -> Result<bool> {
        if self.child.try_wait()?.is_some() {
            return Ok(true);
        }
        let tree = procfs::tree(self.pid())?;
        self.signal(self.stop)?;
        let graceful = self.exits_within(patience);
        // A master that was killed or crashed leaves its workers behind.
        for left in tree.into_iter().chain(procfs::tree(self.pid())?).filter(|instance| instance.lives()) {
            let pid = i32::try_from(left.pid).ok().and_then(Pid::from_raw);
            // It may have exited since the check.
            let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
        }
        self.child.wait()?;
        Ok(graceful)
    }

    /// Not interruptible, because an interrupted run calls this to clean up.
    fn exits_within(&mut self, patience: Duration) -> bool {
        let step = Duration::from_millis(5);
        for _ in 0..patience.as_millis() / step.as_millis() {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            interrupt::nap(step);
        }
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("homing-bench: {error:#}");
        }
    }
}

/// Wraps `command` so that the kernel terminates it with this process, and pins it to its CPU.
fn confined(command: &Command, cpu: Cpu) -> Command {
    let mut words: Vec<&OsStr> = ["setpriv", "--pdeathsig", "TERM", "--"].map(OsStr::new).to_vec();
    let list;
    if let Cpu::Only(number) = cpu {
        list = number.to_string();
        words.extend(["taskset", "-c", &list].map(OsStr::new));
    }
    words.push(command.get_program());
    words.extend(command.get_args());
    let mut confined = Command::new(words[0]);
    confined.args(&words[1..]);
    confined
}

/// Returns a free address on this loopback IP.
///
/// Each server in a run has its own IP, so that the ephemeral port of a client cannot take
/// the address of a server that is down for a moment.
pub fn free_address(ip: [u8; 4]) -> Result<SocketAddr> {
    Ok(TcpListener::bind(SocketAddr::from((ip, 0)))?.local_addr()?)
}

/// Returns true if the program is in `PATH`.
pub fn installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

/// Runs `command` and returns the first line of its output.
pub fn first_line(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_owned();
    let output = command.output().with_context(|| format!("run {}", program.display()))?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_stops_the_child_and_its_descendants() {
        let dir = tempfile::tempdir().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 60 & echo $!; wait"]);
        let process = Process::spawn(&shell, Cpu::Any, &dir.path().join("out"), Signal::TERM).unwrap();
        assert!(interrupt::until(PATIENCE, || Ok(process.printed().contains('\n'))).unwrap());
        let grandchild: u32 = process.printed().trim().parse().unwrap();
        let tree = procfs::tree(process.pid()).unwrap();
        assert!(tree.iter().any(|instance| instance.pid == grandchild));
        drop(process);
        let gone = || Ok(tree.iter().all(|instance| !instance.lives()));
        assert!(interrupt::until(PATIENCE, gone).unwrap(), "still running: {tree:?}");
    }

    #[test]
    fn child_that_ignores_the_signal_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' WINCH; echo ready; while :; do sleep 0.05; done"]);
        let mut process = Process::spawn(&shell, Cpu::Any, &dir.path().join("out"), Signal::WINCH).unwrap();
        assert!(interrupt::until(PATIENCE, || Ok(process.printed().contains("ready"))).unwrap());
        assert!(process.alive().is_ok());
        assert!(!process.stop_within(Duration::from_millis(100)).unwrap());
        assert!(process.alive().is_err());
    }
}
