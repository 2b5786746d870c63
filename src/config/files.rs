//! The files that a configuration names: the ring's seed, the cookie's keys.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::affinity::Seed;
use crate::secret::{SecretKey, parse_keys};
use crate::tls;

/// A larger file holds no secret of ours.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// Reads a whole file.
type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// Where files are, and how they are read.
pub(super) struct Files<'a> {
    base: &'a Path,
    read: ReadFile<'a>,
    /// Are the files of `tls` read too?
    tls: bool,
    named: RefCell<Vec<PathBuf>>,
}

impl<'a> Files<'a> {
    /// Files relative to `base`, read by `read`.
    pub(super) fn new(base: &'a Path, read: ReadFile<'a>) -> Self {
        Self { base, read, tls: true, named: RefCell::new(Vec::new()) }
    }

    /// Without touching the files of `tls`: no stand-in would do for all of them.
    pub(super) fn without_tls(self) -> Self {
        Self { tls: false, ..self }
    }

    /// Lets `load` read the files of `tls`; `None` if they are not to be touched.
    pub(super) fn with_tls<T>(&self, load: impl FnOnce(tls::ReadFile<'_>) -> T) -> Option<T> {
        let read = |path: &Path| {
            let content = tls::read(path)?;
            self.note(path.to_owned());
            Ok(content)
        };
        self.tls.then(|| load(&read))
    }

    /// Where a file is that the configuration calls `path`.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.base.join(path)
    }

    /// The files read so far.
    pub(super) fn named(&self) -> Vec<PathBuf> {
        self.named.borrow().clone()
    }

    /// The seed in this file: a hash of its text, so that any secret will do.
    pub(super) fn seed(&self, path: &str) -> Result<Seed, String> {
        let bytes = self.content(path)?;
        let secret = bytes.trim_ascii();
        if secret.is_empty() {
            return Err("the file is empty".to_owned());
        }
        Ok(Seed(xxh3_64(secret)))
    }

    /// The keys in this file, the sealing one first.
    pub(super) fn keys(&self, path: &str) -> Result<Vec<SecretKey>, String> {
        let bytes = self.content(path)?;
        let text = str::from_utf8(&bytes).map_err(|_| "the file is no text".to_owned())?;
        parse_keys(text).map_err(|error| error.to_string())
    }

    fn content(&self, path: &str) -> Result<Vec<u8>, String> {
        let path = self.resolve(path);
        let content = (self.read)(&path).map_err(|error| format!("cannot read it: {error}"))?;
        self.note(path);
        Ok(content)
    }

    fn note(&self, path: PathBuf) {
        let mut named = self.named.borrow_mut();
        if !named.contains(&path) {
            named.push(path);
        }
    }
}

/// Reads a small regular file.
pub(super) fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    read_regular(path, MAX_SECRET_BYTES)
}

/// Reads a regular file of at most `limit` bytes: a device or a pipe might
/// never end.
pub(super) fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut content = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_does_not_depend_on_the_newline_at_the_end() {
        let seed = |content: &'static [u8]| {
            let read = move |_: &Path| Ok(content.to_vec());
            Files::new(Path::new(""), &read).seed("x")
        };
        assert_eq!(seed(b"secret"), seed(b"secret\n"));
        assert_ne!(seed(b"secret"), seed(b"Secret"));
        assert!(seed(b" \n").is_err());
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("big");
        std::fs::write(&path, vec![b'x'; 11]).unwrap();
        assert_eq!(read_regular(&path, 11).unwrap().len(), 11);
        assert!(read_regular(&path, 10).is_err());
        assert!(read_regular(directory.path(), 10).is_err());
        assert!(read_regular(Path::new("/dev/zero"), 10).is_err());
    }
}
