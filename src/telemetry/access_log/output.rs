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

    /// Writes as much as possible. Returns how many bytes were written, and the error that stopped it.
    pub(super) fn write(&mut self, text: &[u8]) -> (usize, io::Result<()>) {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                let (written, done) = write(&mut stdout, text);
                (written, done.and_then(|()| stdout.flush()))
            }
            Self::Stderr => write(&mut io::stderr().lock(), text),
            Self::File(file) => write(file, text),
            #[cfg(test)]
            Self::Test(output) => write(output, text),
        }
    }
}

fn write(out: &mut impl Write, text: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < text.len() {
        match out.write(&text[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(n) => written += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// An output that a test can read, and block by holding the lock.
#[cfg(test)]
#[derive(Debug, Clone, Default)]
pub(super) struct TestOutput {
    pub(super) written: std::sync::Arc<parking_lot::Mutex<Vec<u8>>>,
    /// How many bytes it takes before the disk is full.
    pub(super) room: std::sync::Arc<parking_lot::Mutex<Option<usize>>>,
}

#[cfg(test)]
impl Write for TestOutput {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut room = self.room.lock();
        let taken = room.map_or(text.len(), |room| room.min(text.len()));
        if taken == 0 && !text.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        *room = room.map(|room| room - taken);
        self.written.lock().extend_from_slice(&text[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
