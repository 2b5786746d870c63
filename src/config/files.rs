//! Reads the files that a configuration names: the ring's seed, the cookie's keys.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::affinity::Seed;
use crate::secret::{SecretKey, parse_keys};
use crate::tls;

/// Maximum size of a seed or key file.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// Reads a whole file.
type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// Resolves and reads the files of a configuration.
pub(super) struct Files<'a> {
    base: &'a Path,
    read: ReadFile<'a>,
    /// Whether to read the files of `tls` too.
    tls: bool,
    named: RefCell<Vec<PathBuf>>,
}

impl<'a> Files<'a> {
    /// Resolves files relative to `base` and reads them with `read`.
    pub(super) fn new(base: &'a Path, read: ReadFile<'a>) -> Self {
        Self { base, read, tls: true, named: RefCell::new(Vec::new()) }
    }

    /// Disables reading the files of `tls`, which no single stand-in can replace.
    pub(super) fn without_tls(self) -> Self {
        Self { tls: false, ..self }
    }

    /// Calls `load` to read the files of `tls`. Returns `None` if that is disabled.
    pub(super) fn with_tls<T>(&self, load: impl FnOnce(tls::ReadFile<'_>) -> T) -> Option<T> {
        let read = |path: &Path| {
            let content = tls::read(path)?;
            self.note(path.to_owned());
            Ok(content)
        };
        self.tls.then(|| load(&read))
    }

    /// Resolves a path of the configuration.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.base.join(path)
    }

    /// Returns the files read so far.
    pub(super) fn named(&self) -> Vec<PathBuf> {
        self.named.borrow().clone()
    }

    /// Reads the seed from a file. It is a hash of the content, so any secret works.
    pub(super) fn seed(&self, path: &str) -> Result<Seed, String> {
        let bytes = self.content(path)?;
        let secret = bytes.trim_ascii();
        if secret.is_empty() {
            return Err("file is empty".to_owned());
        }
        Ok(Seed(xxh3_64(secret)))
    }

    /// Reads the keys from a file. The first one seals.
    pub(super) fn keys(&self, path: &str) -> Result<Vec<SecretKey>, String> {
        let bytes = self.content(path)?;
        let text = str::from_utf8(&bytes).map_err(|_| "file is not valid UTF-8".to_owned())?;
        parse_keys(text).map_err(|error| error.to_string())
    }

    fn content(&self, path: &str) -> Result<Vec<u8>, String> {
        let path = self.resolve(path);
        let content = (self.read)(&path).map_err(|error| error.to_string())?;
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

/// Reads a regular file of at most `limit` bytes. Other files are errors: a device
/// or a pipe may never end.
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
    fn seed_ignores_a_trailing_newline() {
        let seed = |content: &'static [u8]| {
            let read = move |_: &Path| Ok(content.to_vec());
            Files::new(Path::new(""), &read).seed("x")
        };
        assert_eq!(seed(b"secret"), seed(b"secret\n"));
        assert_ne!(seed(b"secret"), seed(b"Secret"));
        assert!(seed(b" \n").is_err());
    }

    #[test]
    fn reads_only_regular_files_of_bounded_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("big");
        std::fs::write(&path, vec![b'x'; 11]).unwrap();
        assert_eq!(read_regular(&path, 11).unwrap().len(), 11);
        assert!(read_regular(&path, 10).is_err());
        assert!(read_regular(directory.path(), 10).is_err());
        assert!(read_regular(Path::new("/dev/zero"), 10).is_err());
    }
}
