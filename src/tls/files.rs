//! Reads TLS files, expands patterns and detects changes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};

/// Reads a whole file, up to the reader's size limit.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// Maximum number of files a pattern may match.
const MAX_FILES: usize = 10_000;

/// Maximum size of a file.
const MAX_BYTES: u64 = 8 << 20;

/// Reads a regular file of bounded size.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut content = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {MAX_BYTES} bytes")));
    }
    Ok(content)
}

/// Expands `pattern` to the files that match it, sorted by name. Only the file name
/// may contain `*`; without one, the pattern is a plain path. Hidden files only match
/// a pattern that starts with a dot.
pub(super) fn expand(pattern: &Path) -> io::Result<Vec<PathBuf>> {
    let name = pattern.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !name.contains('*') {
        return Ok(vec![pattern.to_owned()]);
    }
    let directory = pattern.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or_else(|| Path::new("."));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let fits = entry.file_name().to_str().is_some_and(|found| {
            (!found.starts_with('.') || name.starts_with('.')) && matches(name.as_bytes(), found.as_bytes())
        });
        if fits && std::fs::metadata(entry.path()).is_ok_and(|meta| meta.is_file()) {
            files.push(entry.path());
        }
        if files.len() > MAX_FILES {
            return Err(io::Error::other(format!("more than {MAX_FILES} files")));
        }
    }
    files.sort();
    Ok(files)
}

/// Returns the path of the key file next to a certificate: `x.key` for `x.pem`.
pub(super) fn key_file_of(certificate: &Path) -> PathBuf {
    certificate.with_extension("key")
}

/// Returns true if a PEM file has an encrypted private key.
pub(super) fn has_encrypted_key(content: &[u8]) -> bool {
    let has = |needle: &[u8]| memchr::memmem::find(content, needle).is_some();
    has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED")
}

/// Returns true if `name` matches `pattern`. `*` matches any bytes.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut retry) = (0, 0, None);
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            p += 1;
            n += 1;
        } else if let Some((after_star, at)) = retry {
            // Let the star match one more byte.
            p = after_star;
            n = at + 1;
            retry = Some((after_star, n));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// The metadata of a file. A different stamp means the content may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    path: PathBuf,
    seen: Option<(SystemTime, u64, u64, u64)>,
}

impl Stamp {
    /// Takes the stamps of files. Follows symlinks, so that a changed target counts as
    /// a change.
    pub(super) fn of(paths: impl IntoIterator<Item = PathBuf>) -> Vec<Self> {
        let look = |path: PathBuf| {
            let meta = std::fs::metadata(&path).ok();
            let seen = meta.and_then(|m| Some((m.modified().ok()?, m.len(), m.ino(), m.dev())));
            Self { path, seen }
        };
        paths.into_iter().map(look).collect()
    }
}

/// A digest of several contents. Each is prefixed with its length.
pub(super) struct Fingerprint(Context);

impl Fingerprint {
    pub(super) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub(super) fn add(&mut self, content: &[u8]) {
        self.0.update(&(content.len() as u64).to_be_bytes());
        self.0.update(content);
    }

    pub(super) fn finish(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.finish().as_ref());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_matches_any_bytes() {
        for (pattern, name) in [("*.pem", "a.pem"), ("*", ""), ("a*b*c", "aXbXbc"), ("**", "x"), ("a", "a")] {
            assert!(matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in [("*.pem", "a.pem.bak"), ("a*b", "ac"), ("a", "ab"), ("ab", "a"), ("*a", "")] {
            assert!(!matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
    }

    #[test]
    fn pattern_expands_to_sorted_visible_files() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.pem", "a.pem", ".c.pem", "d.key"] {
            std::fs::write(directory.path().join(name), "x").unwrap();
        }
        std::fs::create_dir(directory.path().join("e.pem")).unwrap();
        let names = |pattern: &str| {
            let found = expand(&directory.path().join(pattern)).unwrap();
            found.iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names("*.pem"), ["a.pem", "b.pem"]);
        assert_eq!(names(".*"), [".c.pem"]);
        assert_eq!(names("missing.pem"), ["missing.pem"]);
        assert!(expand(&directory.path().join("none/*.pem")).is_err());
    }

    #[test]
    fn stamp_changes_when_a_file_is_written_or_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let look = || Stamp::of([path.clone()]);
        let missing = look();
        std::fs::write(&path, "1").unwrap();
        let written = look();
        assert_ne!(missing, written);
        assert_eq!(written, look());
        std::fs::write(directory.path().join("b"), "2").unwrap();
        std::fs::rename(directory.path().join("b"), &path).unwrap();
        assert_ne!(written, look());
    }
}
