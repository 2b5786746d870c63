//! A connected TCP or Unix domain socket.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix domain socket.
    Unix(UnixStream),
}

impl From<TcpStream> for Socket {
    /// Sets `TCP_NODELAY`. If that fails, the socket still works, only slower.
    fn from(socket: TcpStream) -> Self {
        let _ = socket.set_nodelay(true);
        Self::Tcp(socket)
    }
}

impl From<UnixStream> for Socket {
    fn from(socket: UnixStream) -> Self {
        Self::Unix(socket)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

impl Socket {
    /// Makes closing the socket reset the connection. Unix domain sockets have no reset and close
    /// normally.
    pub fn reset_on_close(&self) {
        if let Self::Tcp(socket) = self {
            // Fails only if the connection is already gone.
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }

    /// Returns the address of the other end; `None` for a Unix domain socket.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.peer_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Returns the local IP address and port. `None` for a Unix domain socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Ready when there is something to read: bytes, EOF or an error.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => socket.poll_read_ready(cx),
            Self::Unix(socket) => socket.poll_read_ready(cx),
        }
    }

    /// Writes as many bytes as possible without waiting. Returns their number.
    ///
    /// # Errors
    /// I/O errors, including `WouldBlock`.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write(bytes),
            Self::Unix(socket) => socket.try_write(bytes),
        }
    }

    /// Peeks at the received bytes once there are more than `known` of them. Returns their number. It
    /// is at most `known`, or 0, if the peer has closed its side.
    pub fn poll_peek(&self, cx: &mut Context<'_>, into: &mut [u8], known: usize) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            let mut peek = || {
                let (peeked, _) = recv(self.as_fd(), &mut *into, RecvFlags::PEEK)?;
                // tokio waits for more only after `WouldBlock`, but not for a peer that sends no more.
                let same = peeked > 0 && peeked <= known;
                if same && !has_ended(self)? { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(peeked) }
            };
            let peeked = match self {
                Self::Tcp(socket) => socket.try_io(Interest::READABLE, &mut peek),
                Self::Unix(socket) => socket.try_io(Interest::READABLE, &mut peek),
            };
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                peeked => return Poll::Ready(peeked),
            }
        }
    }
}

/// Watches a socket whose peer has ended its sending side. The socket stays readable from then on,
/// so only the readiness of a second descriptor tells when the peer is gone for good.
#[derive(Debug)]
pub(crate) struct ResetWatch(Socket);

impl ResetWatch {
    /// Starts to watch. `None` if no descriptor is left.
    pub(crate) fn new(socket: &Socket) -> Option<Self> {
        let descriptor = socket.as_fd().try_clone_to_owned().ok()?;
        let socket = match socket {
            Socket::Tcp(_) => Socket::Tcp(TcpStream::from_std(descriptor.into()).ok()?),
            Socket::Unix(_) => Socket::Unix(UnixStream::from_std(descriptor.into()).ok()?),
        };
        Some(Self(socket))
    }

    /// Ready when the peer has reset the connection or, on a Unix domain socket, closed it.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let not_yet = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let mut now = Context::from_waker(Waker::noop());
        loop {
            let writable = match &self.0 {
                Socket::Tcp(socket) => socket.poll_write_ready(cx),
                Socket::Unix(socket) => socket.poll_write_ready(cx),
            };
            if ready!(writable).is_err() {
                return Poll::Ready(());
            }
            let readiness = match &self.0 {
                Socket::Tcp(socket) => pin!(socket.ready(Interest::WRITABLE)).poll(&mut now),
                Socket::Unix(socket) => pin!(socket.ready(Interest::WRITABLE)).poll(&mut now),
            };
            if matches!(readiness, Poll::Ready(Ok(ready)) if ready.is_write_closed()) {
                return Poll::Ready(());
            }
            // It is only writable. Clears that, to wait for the next event.
            let _ = match &self.0 {
                Socket::Tcp(socket) => socket.try_io(Interest::WRITABLE, not_yet),
                Socket::Unix(socket) => socket.try_io(Interest::WRITABLE, not_yet),
            };
        }
    }
}

/// Returns true if the peer has closed its side.
fn has_ended(socket: &Socket) -> io::Result<bool> {
    let mut polled = [PollFd::new(socket, PollFlags::RDHUP)];
    poll(&mut polled, Some(&Timespec::default()))?;
    Ok(polled[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR))
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn reset_watch_tells_a_half_close_from_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let (mut unix, theirs) = UnixStream::pair().unwrap();
        tcp.shutdown().await.unwrap();
        unix.shutdown().await.unwrap();
        let watches = [Socket::from(accepted), Socket::from(theirs)].map(|mut socket| async move {
            assert_eq!(tokio::io::AsyncReadExt::read(&mut socket, &mut [0]).await.unwrap(), 0);
            let watch = ResetWatch::new(&socket).unwrap();
            for _ in 0..3 {
                tokio::task::yield_now().await;
                let early = std::future::poll_fn(|cx| Poll::Ready(watch.poll(cx))).await;
                assert!(early.is_pending(), "a half-close was taken for the end");
            }
            (socket, watch)
        });
        let [tcp_watch, unix_watch] = watches;
        let ((mut socket, watch), (_other, other_watch)) = (tcp_watch.await, unix_watch.await);
        // The peer still reads.
        socket.write_all(b"x").await.unwrap();
        assert_eq!(tokio::io::AsyncReadExt::read(&mut tcp, &mut [0; 8]).await.unwrap(), 1);
        Socket::from(tcp).reset_on_close();
        drop(unix);
        std::future::poll_fn(|cx| watch.poll(cx)).await;
        std::future::poll_fn(|cx| other_watch.poll(cx)).await;
    }

    #[tokio::test]
    async fn peek_waits_for_new_bytes_and_consumes_none() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut theirs = Socket::from(theirs);
        let mut seen = [0; 8];
        ours.write_all(b"ab").await.unwrap();
        let n = std::future::poll_fn(|cx| theirs.poll_peek(cx, &mut seen, 0)).await.unwrap();
        assert_eq!(&seen[..n], b"ab");
        let more = std::future::poll_fn(|cx| Poll::Ready(theirs.poll_peek(cx, &mut seen, 2)));
        assert!(more.await.is_pending(), "did not wait for new bytes");
        let (n, _) = tokio::join!(
            std::future::poll_fn(|cx| theirs.poll_peek(cx, &mut seen, 2)),
            ours.write_all(b"c"),
        );
        assert_eq!(&seen[..n.unwrap()], b"abc");
        let mut read = [0; 3];
        tokio::io::AsyncReadExt::read_exact(&mut theirs, &mut read).await.unwrap();
        assert_eq!(&read, b"abc");
        ours.write_all(b"de").await.unwrap();
        ours.shutdown().await.unwrap();
        let n = std::future::poll_fn(|cx| theirs.poll_peek(cx, &mut seen, 2)).await.unwrap();
        assert_eq!(n, 2, "waited for a peer that sends no more");
        tokio::io::AsyncReadExt::read_exact(&mut theirs, &mut read[..2]).await.unwrap();
        drop(ours);
        let n = std::future::poll_fn(|cx| theirs.poll_peek(cx, &mut seen, 0)).await.unwrap();
        assert_eq!(n, 0);
    }
}
