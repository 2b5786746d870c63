//! Files that settings name: patterns, and whether anything has changed.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};

/// Reads a whole file, within a limit of the reader's.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// More files than this are a pattern gone wrong.
const MAX_FILES: usize = 10_000;

/// A larger file holds no certificates.
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

/// The files that `pattern` stands for: itself, or, where its last part has a
/// `*`, those of its directory that fit, by name. Hidden files only fit a
/// pattern that begins with a dot.
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

/// Does `name` fit a pattern in which `*` stands for anything?
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
            // The star takes one more.
            p = after_star;
            n = at + 1;
            retry = Some((after_star, n));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// What a file looks like from outside; another look means another content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    path: PathBuf,
    seen: Option<(SystemTime, u64, u64, u64)>,
}

impl Stamp {
    /// A look at each; a symlink is followed, so that one that is turned
    /// elsewhere counts as a change.
    pub(super) fn of(paths: impl IntoIterator<Item = PathBuf>) -> Vec<Self> {
        let look = |path: PathBuf| {
            let meta = std::fs::metadata(&path).ok();
            let seen = meta.and_then(|m| Some((m.modified().ok()?, m.len(), m.ino(), m.dev())));
            Self { path, seen }
        };
        paths.into_iter().map(look).collect()
    }
}

/// A digest of contents, each told apart from the next.
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
    fn a_star_stands_for_anything() {
        for (pattern, name) in [("*.pem", "a.pem"), ("*", ""), ("a*b*c", "aXbXbc"), ("**", "x"), ("a", "a")] {
            assert!(matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in [("*.pem", "a.pem.bak"), ("a*b", "ac"), ("a", "ab"), ("ab", "a"), ("*a", "")] {
            assert!(!matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_gives_the_files_that_fit_in_order_and_no_hidden_ones() {
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
    fn a_file_that_was_written_or_replaced_looks_different() {
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
