//! Child processes that never outlive the run.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{interrupt, procfs};

/// How long a process may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// A child process; ended, with all its descendants, when dropped.
///
/// To be started from the main thread only: the kernel ends a child when the
/// thread that started it ends.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: PathBuf,
    stop: Signal,
}

/// Where a process may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cpu {
    /// Wherever the kernel likes.
    Any,
    /// On this CPU alone.
    Only(usize),
}

impl Process {
    /// Starts `command`; what it prints goes to the file `output`.
    ///
    /// `stop` is the signal that ends it in good order.
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

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn printed(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("signal a child")
    }

    /// An error, with what it printed, if it has ended.
    pub fn alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("ended early ({status}):\n{}", self.printed());
        }
        Ok(())
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let mut ended = None;
        interrupt::until(patience, || {
            ended = self.child.try_wait()?;
            Ok(ended.is_some())
        })?;
        ended.with_context(|| format!("still running after {patience:?}"))
    }

    /// Ends it in good order: true unless it had to be killed.
    pub fn stop(&mut self) -> Result<bool> {
        self.stop_within(PATIENCE)
    }

    fn stop_within(&mut self, patience: Duration) -> Result<bool> {
        if self.child.try_wait()?.is_some() {
            return Ok(true);
        }
        let tree = procfs::tree(self.pid())?;
        self.signal(self.stop)?;
        let in_order = self.ends_within(patience);
        // A master that was killed, or that died, leaves its workers behind.
        for left in tree.into_iter().chain(procfs::tree(self.pid())?).filter(|instance| instance.lives()) {
            let pid = i32::try_from(left.pid).ok().and_then(Pid::from_raw);
            // It may have ended since the look.
            let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
        }
        self.child.wait()?;
        Ok(in_order)
    }

    /// Not interruptible: this is what an interrupted run does.
    fn ends_within(&mut self, patience: Duration) -> bool {
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

/// `command` so that the kernel ends it with us, on its CPU.
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

/// An address at this loopback IP that nobody listens on right now.
///
/// Each server of a run has an IP of its own, so that no client's ephemeral
/// port can take the place of a server that is down for a moment.
pub fn free_address(ip: [u8; 4]) -> Result<SocketAddr> {
    Ok(TcpListener::bind(SocketAddr::from((ip, 0)))?.local_addr()?)
}

/// Is there such a program?
pub fn installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

/// The first line that `command` prints.
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
    fn a_child_and_its_own_child_end_with_the_drop() {
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
        assert!(interrupt::until(PATIENCE, gone).unwrap(), "left behind: {tree:?}");
    }

    #[test]
    fn one_that_ignores_the_signal_is_killed() {
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
