//! Reads the files that a configuration names: the ring's seed, the cookie's keys.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::diagnostics::Complaint;
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
    /// Whether to read the files of `tls` too, and to look at the permissions of secrets.
    tls: bool,
    named: RefCell<Vec<PathBuf>>,
    /// The files of `tls` that hold private keys.
    private: RefCell<Vec<PathBuf>>,
}

impl<'a> Files<'a> {
    /// Resolves files relative to `base` and reads them with `read`.
    pub(super) fn new(base: &'a Path, read: ReadFile<'a>) -> Self {
        Self { base, read, tls: true, named: RefCell::default(), private: RefCell::default() }
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
            if memchr::memmem::find(&content, b"PRIVATE KEY-----").is_some() {
                self.private.borrow_mut().push(path.to_owned());
            }
            Ok(content)
        };
        self.private.borrow_mut().clear();
        self.tls.then(|| load(&read))
    }

    /// Resolves a path of the configuration.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.base.join(path)
    }

    /// Takes the files with private keys that `tls` has read, each with how it is exposed.
    pub(super) fn exposed_keys(&self) -> Vec<Exposed> {
        // Tools that renew certificates write keys behind symlinks.
        let paths = self.private.take();
        paths.into_iter().filter_map(|path| self.exposed(path, true)).collect()
    }

    /// Returns how a secret of Homing's own is exposed to other users.
    pub(super) fn exposed_secret(&self, path: &str) -> Option<Exposed> {
        self.exposed(self.resolve(path), false)
    }

    fn exposed(&self, path: PathBuf, may_link: bool) -> Option<Exposed> {
        let why = self.tls.then(|| exposure(&path, may_link))??;
        Some(Exposed { path, why })
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

/// A secret that other users can read or replace.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exposed {
    path: PathBuf,
    why: String,
}

impl Exposed {
    /// Returns the warning, without a location.
    pub(super) fn warning(&self) -> Complaint {
        Complaint::warning(format!("secret {} {}", self.path.display(), self.why)).help(format!(
            "make it a file of the user that Homing runs as, with mode 0600 (or of root, with mode 0640): \
             chmod 600 {}",
            self.path.display()
        ))
    }
}

/// Returns how a file is exposed to users other than root and this process's. Files that cannot be
/// looked at are not: reading them reports that.
fn exposure(path: &Path, may_link: bool) -> Option<String> {
    // Owner read and write, group read.
    const FINE: u32 = 0o750;
    let own = rustix::process::geteuid().as_raw();
    let foreign = |owner: u32| owner != own && owner != 0;
    let link = std::fs::symlink_metadata(path).ok()?;
    if link.is_symlink() && !may_link {
        return Some("is a symlink; who may change the link or its directory chooses the secret".to_owned());
    }
    let file = std::fs::metadata(path).ok()?;
    for found in [&link, &file] {
        if foreign(found.uid()) {
            return Some(format!("belongs to another user (uid {})", found.uid()));
        }
    }
    let mode = file.mode() & 0o777;
    if mode & !FINE == 0 {
        return None;
    }
    let others = mode & 0o007;
    let whose = if others == 0 { "can be changed by its group" } else { "is accessible to all users" };
    Some(format!("{whose} (mode 0{mode:03o})"))
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
    fn secrets_that_other_users_can_read_or_replace_are_exposed() {
        use std::os::unix::fs::{PermissionsExt, chown, symlink};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "secret").unwrap();
        for (mode, words) in [
            (0o600, None),
            (0o400, None),
            (0o640, None),
            (0o440, None),
            (0o644, Some("accessible to all users (mode 0644)")),
            (0o604, Some("accessible to all users")),
            (0o666, Some("accessible to all users")),
            (0o602, Some("accessible to all users")),
            (0o660, Some("changed by its group (mode 0660)")),
        ] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let why = exposure(&path, false);
            assert_eq!(why.is_some(), words.is_some(), "{mode:o}: {why:?}");
            assert!(words.is_none_or(|words| why.unwrap().contains(words)), "{mode:o}");
        }
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(exposure(&link, true).is_some_and(|why| why.contains("by its group")), "of the target");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(exposure(&link, true), None);
        assert!(exposure(&link, false).is_some_and(|why| why.contains("symlink")));
        assert_eq!(exposure(Path::new("/nonexistent"), false), None);
        // Only root may give a file away.
        if chown(&path, Some(12_345), None).is_ok() {
            assert!(exposure(&path, false).is_some_and(|why| why.contains("another user (uid 12345)")));
        }
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
