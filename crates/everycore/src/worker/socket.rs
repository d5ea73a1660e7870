//! An accepted connection and the few system calls made on it: directly while that does not block, and through tokio's
//! reactor from the first time it would.
//!
//! A short connection is over before it ever blocks, so it never costs an `epoll_ctl`. Neighbour:
//! [`Stream`](crate::Stream) decides when to register.

use std::io::{self, IoSlice};
use std::net::{Shutdown, TcpStream as StdTcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::fin;

/// What kind of connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Tcp,
    Unix,
}

/// See the module.
#[derive(Debug)]
pub(crate) enum Socket {
    /// No reactor knows it. Shared only with the list of shutdowns that were put off, and weakly.
    Direct { fd: Arc<OwnedFd>, family: Family },
    /// Watched by the reactor it was registered with.
    Tcp(TcpStream),
    /// As `Tcp`.
    Unix(UnixStream),
    /// It could not be registered, and went with the attempt.
    Lost,
}

impl Socket {
    pub(crate) fn new(fd: OwnedFd, family: Family) -> Self {
        Self::Direct { fd: Arc::new(fd), family }
    }

    pub(crate) fn is_direct(&self) -> bool {
        matches!(self, Self::Direct { .. })
    }

    /// Registers with the current runtime's reactor; does nothing if that has been done.
    pub(crate) fn register(&mut self) -> io::Result<()> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(io::Error::other("an asynchronous read or write outside of a tokio runtime"));
        }
        match std::mem::replace(self, Self::Lost) {
            Self::Direct { fd, family: Family::Tcp } => {
                *self = Self::Tcp(TcpStream::from_std(alone(fd)?.into())?);
            }
            Self::Direct { fd, family: Family::Unix } => {
                *self = Self::Unix(UnixStream::from_std(alone(fd)?.into())?);
            }
            registered => *self = registered,
        }
        Ok(())
    }

    /// The descriptor alone, out of the reactor.
    pub(crate) fn into_fd(self) -> io::Result<OwnedFd> {
        match self {
            Self::Direct { fd, .. } => alone(fd),
            Self::Tcp(stream) => Ok(stream.into_std()?.into()),
            Self::Unix(stream) => Ok(stream.into_std()?.into()),
            Self::Lost => Err(lost()),
        }
    }

    pub(crate) fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        match self {
            Self::Direct { fd, .. } => Ok((**fd).as_fd()),
            Self::Tcp(stream) => Ok(stream.as_fd()),
            Self::Unix(stream) => Ok(stream.as_fd()),
            Self::Lost => Err(lost()),
        }
    }

    pub(crate) fn family(&self) -> Family {
        match self {
            Self::Direct { family, .. } => *family,
            Self::Tcp(_) => Family::Tcp,
            Self::Unix(_) | Self::Lost => Family::Unix,
        }
    }

    /// Receives without waiting and without any reactor.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let fd = self.fd()?;
        loop {
            match rustix::net::recv(fd, &mut *buffer, RecvFlags::DONTWAIT) {
                Err(Errno::INTR) => {}
                result => return Ok(result?.0),
            }
        }
    }

    /// Sends without waiting and without any reactor. A peer that has gone is an error, never a signal.
    pub(crate) fn send(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let fd = self.fd()?;
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            let sent = match buffers {
                [one] => rustix::net::send(fd, one, flags),
                many => rustix::net::sendmsg(fd, many, &mut SendAncillaryBuffer::default(), flags),
            };
            match sent {
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    /// Says that we send no more. Of a peer that has gone there is nothing left to tell.
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        match rustix::net::shutdown(self.fd()?, how) {
            Ok(()) | Err(Errno::NOTCONN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Says that we send no more: at once, or, if that is as good, at the end of the loop's turn. True in the second case.
    pub(crate) fn finish_writing(&self) -> io::Result<bool> {
        match self {
            Self::Direct { fd, .. } if fin::put_off(fd) => Ok(true),
            _ => self.shutdown(Shutdown::Write).map(|()| false),
        }
    }

    pub(crate) fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        match self.family() {
            Family::Tcp => Ok(sockopt::set_tcp_nodelay(self.fd()?, nodelay)?),
            Family::Unix => Ok(()),
        }
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Direct { .. } | Self::Lost => Poll::Ready(Err(lost())),
        }
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            Self::Direct { .. } | Self::Lost => Poll::Ready(Err(lost())),
        }
    }
}

/// The descriptor out of its shared place.
fn alone(fd: Arc<OwnedFd>) -> io::Result<OwnedFd> {
    // Shared at this very moment means that another thread carries out a shutdown.
    Arc::try_unwrap(fd).or_else(|fd| fd.try_clone())
}

fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the connection could not be watched and was given up")
}

impl From<StdTcpStream> for Socket {
    fn from(stream: StdTcpStream) -> Self {
        Self::new(stream.into(), Family::Tcp)
    }
}

impl From<StdUnixStream> for Socket {
    fn from(stream: StdUnixStream) -> Self {
        Self::new(stream.into(), Family::Unix)
    }
}
