//! The output of the access log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use crate::model::LogOutput;

/// The destination of lines. Unbuffered, because the writer writes large chunks.
#[derive(Debug)]
pub(super) enum Output {
    Stdout,
    Stderr,
    File(File),
    #[cfg(test)]
    Test(TestOutput),
}

impl Output {
    /// Opens the output. A file is opened for appending. Only its owner and group can read it, because it
    /// contains client addresses.
    pub(super) fn open(target: &LogOutput) -> io::Result<Self> {
        Ok(match target {
            LogOutput::Stdout => Self::Stdout,
            LogOutput::Stderr => Self::Stderr,
            LogOutput::File(path) => {
                Self::File(OpenOptions::new().append(true).create(true).mode(0o640).open(path)?)
            }
        })
    }

    pub(super) fn write(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(text)?;
                stdout.flush()
            }
            Self::Stderr => io::stderr().lock().write_all(text),
            Self::File(file) => file.write_all(text),
            #[cfg(test)]
            Self::Test(output) => output.write_all(text),
        }
    }
}

/// An output that a test can read, and block by holding the lock.
#[cfg(test)]
#[derive(Debug, Clone, Default)]
pub(super) struct TestOutput {
    pub(super) written: std::sync::Arc<parking_lot::Mutex<Vec<u8>>>,
    pub(super) broken: bool,
}

#[cfg(test)]
impl Write for TestOutput {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if self.broken {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.written.lock().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
