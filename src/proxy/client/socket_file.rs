//! The file of a Unix domain socket: creates it, sets its mode, replaces a stale one, and removes
//! it on exit.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

/// The file of a listening socket. Removed on drop, unless another file has replaced it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

impl SocketFile {
    /// Listens on `path`. The permission bits `mode` control who may connect. Replaces a stale
    /// socket file, whose process is gone.
    ///
    /// # Errors
    /// I/O errors. `AddrInUse` if another process listens on `path`, `AlreadyExists` if `path` is
    /// not a socket.
    pub(crate) fn listen(path: &Path, mode: u32, backlog: i32) -> io::Result<(UnixListener, Self)> {
        remove_stale(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        let file = Self { path: path.to_owned(), identity: identity(&fs::symlink_metadata(path)?) };
        // Before clients can connect.
        file.set_mode(mode)?;
        listen(&socket, backlog)?;
        Ok((UnixListener::from(socket), file))
    }

    /// Changes the permission bits, which control who may connect.
    ///
    /// # Errors
    /// I/O errors of chmod(2).
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        fs::set_permissions(&self.path, Permissions::from_mode(mode))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have replaced the file.
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove socket file");
        }
    }
}

/// Identifies a file: device, inode and, if the file system records it, the creation time, because
/// inode numbers are reused.
type Identity = (u64, u64, Option<SystemTime>);

fn identity(file: &Metadata) -> Identity {
    (file.dev(), file.ino(), file.created().ok())
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists and is not a socket"));
    }
    // Nonblocking: a live owner may be too busy to accept.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Err(rustix::io::Errno::CONNREFUSED) => fs::remove_file(path),
        // Removed in the meantime.
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn listening(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
        SocketFile::listen(path, 0o600, 8)
    }

    #[test]
    fn only_stale_socket_files_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let (listener, file) = listening(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(listening(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        let (_second, second_file) = listening(&path).unwrap();
        drop(file);
        assert!(path.exists(), "the first owner removed the second one's file");
        UnixStream::connect(&path).unwrap();
        drop(second_file);
        assert!(!path.exists());
    }

    #[test]
    fn other_files_are_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        fs::write(&path, "dear").unwrap();
        assert_eq!(listening(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "dear");
    }
}
