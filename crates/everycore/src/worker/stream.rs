//! [`Stream`]: a connection a worker serves.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream as StdTcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use everycore_sys::socket_pair::{Mode, set_mode};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::driver::timespec;
use super::load::Lease;
use super::socket::{Family, Socket};
use crate::address::BoundAddress;

/// The most that is received by one call before the reactor knows the connection. The buffer has to be zeroed first,
/// which for more than a request's worth would cost more than it saves.
const FIRST_READ: usize = 4096;

/// A connection handed to this worker or accepted by it: TCP, or a Unix stream.
///
/// It reads and writes with tokio's traits, and with those of `std` in a program without a runtime: there calls wait.
/// It is known to tokio's reactor only from the first time that it would block, so a short connection costs five system
/// calls. The first wait has to happen within a runtime with I/O enabled; whose it is stays so.
///
/// While it lives, the primary counts the connection as this worker's. Take it apart with
/// [`into_parts`](Self::into_parts) to serve the socket by other means.
///
/// ```no_run
/// use tokio::io::AsyncWriteExt;
///
/// async fn greet(mut stream: everycore::Stream) -> std::io::Result<()> {
///     stream.set_nodelay(true)?;
///     stream.write_all(b"hi there\n").await?;
///     stream.shutdown().await
/// }
/// ```
pub struct Stream {
    // Before the lease: closed first, counted as closed then.
    socket: Socket,
    lease: Lease,
    peer: BoundAddress,
    look: Look,
    timeout: Option<Duration>,
}

/// What is known of the bytes that wait to be read, until the reactor takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Nothing has been read.
    First,
    /// The last read filled its buffer: there may be more.
    More,
    /// The last read found less than it had room for: there was nothing more.
    Drained,
    /// As `Drained`, and somebody wanted to read nevertheless and was put off by one turn.
    PutOff,
}

impl Stream {
    pub(crate) fn new(fd: OwnedFd, peer: Option<SocketAddr>, lease: Lease) -> Self {
        let (family, peer) = match peer {
            Some(address) => (Family::Tcp, BoundAddress::Tcp(address)),
            // Empty, so that it allocates nothing: clients of a Unix socket have no name.
            None => (Family::Unix, BoundAddress::Unix(Default::default())),
        };
        Self { socket: Socket::new(fd, family), lease, peer, look: Look::First, timeout: None }
    }

    /// Who connected, as the kernel told the one who accepted; asks nobody. Clients of a Unix socket have an empty path.
    pub fn peer_addr(&self) -> &BoundAddress {
        &self.peer
    }

    /// The address the client connected to.
    ///
    /// # Errors
    /// As `getsockname`.
    pub fn local_addr(&self) -> io::Result<BoundAddress> {
        let address = socket2::SockRef::from(&self.socket.fd()?).local_addr()?;
        match (address.as_socket(), address.as_pathname()) {
            (Some(address), _) => Ok(BoundAddress::Tcp(address)),
            (None, path) => Ok(BoundAddress::Unix(path.unwrap_or(std::path::Path::new("")).to_owned())),
        }
    }

    /// Sends small pieces at once (`TCP_NODELAY`). Does nothing on a Unix stream, which always does.
    ///
    /// # Errors
    /// As `setsockopt`.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.socket.set_nodelay(nodelay)
    }

    /// The socket itself, for options: `socket2::SockRef::from(&stream.fd()?)`. Do not read or write with it.
    ///
    /// # Errors
    /// The connection was lost because the reactor had no room for it.
    pub fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.socket.fd()
    }

    /// Bounds how long a blocking read or write waits; `None`, the default, waits without end. Asynchronous calls are
    /// not concerned.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// Shuts down one direction, or both.
    ///
    /// # Errors
    /// As `shutdown`; a peer that has gone is none.
    pub fn shutdown_now(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
    }

    /// The socket and its place in the counters. The socket is non-blocking and in no reactor; keep the lease for as long
    /// as it is served, or the primary takes the connection for closed.
    ///
    /// # Errors
    /// The socket cannot be taken out of the reactor.
    pub fn into_parts(self) -> io::Result<(OwnedFd, Lease)> {
        Ok((self.socket.into_fd()?, self.lease))
    }

    /// The connection as `std` knows it, in blocking mode. The primary takes it for closed from now on; a lease keeps it
    /// counted: [`into_parts`](Self::into_parts).
    ///
    /// # Errors
    /// It is a Unix stream, or cannot be made blocking.
    pub fn into_std(self) -> io::Result<StdTcpStream> {
        let family = self.socket.family();
        let (fd, _lease) = self.into_parts()?;
        if family != Family::Tcp {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a Unix stream is no TCP stream; use into_parts",
            ));
        }
        // The primary has closed its copy, so nobody else sees the mode change.
        set_mode(&fd, Mode::Blocking)?;
        Ok(fd.into())
    }

    /// The connection as tokio knows it. The primary takes it for closed from now on, as with [`into_std`](Self::into_std).
    ///
    /// # Errors
    /// It is a Unix stream, or the reactor has no room.
    pub fn into_tokio(mut self) -> io::Result<tokio::net::TcpStream> {
        self.socket.register()?;
        match self.socket {
            Socket::Tcp(stream) => Ok(stream),
            Socket::Direct { .. } | Socket::Unix(_) | Socket::Lost => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a Unix stream is no TCP stream; use into_parts",
            )),
        }
    }

    /// Notes what a read has found.
    fn has_read(&mut self, count: usize, room: usize) {
        // At the end of file a look costs nothing and finds the end again.
        self.look = if (1..room).contains(&count) { Look::Drained } else { Look::More };
        self.lease.progress();
    }

    /// Reads without the reactor; `Pending` only after the waker was called or the socket was registered.
    fn poll_read_direct(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.look {
            Look::First | Look::More => {
                let room = buffer.remaining().min(FIRST_READ);
                match self.socket.receive(buffer.initialize_unfilled_to(room)) {
                    Ok(count) => {
                        buffer.advance(count);
                        self.has_read(count, room);
                        return Poll::Ready(Ok(()));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            // HTTP servers look for an early end before they answer. In a short connection the answer is all there is to
            // come: by the next turn there is no connection left to look at.
            Look::Drained => {
                self.look = Look::PutOff;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Look::PutOff => {}
        }
        // Either nothing came with the connection or it was answered, or its program waits for something else: the
        // first turn is over.
        self.lease.first_turn_over();
        self.socket.register()?;
        self.socket.poll_read(cx, buffer)
    }

    /// Waits, as a thread, for the socket to become readable or writable.
    fn wait(&mut self, what: PollFlags) -> io::Result<()> {
        if what == PollFlags::IN {
            self.lease.first_turn_over();
        }
        let timeout = self.timeout.map(timespec);
        let mut fds = [PollFd::from_borrowed_fd(self.socket.fd()?, what)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn has_written(&mut self, count: usize) {
        if count > 0 {
            self.lease.first_turn_over();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if this.socket.is_direct() {
            return this.poll_read_direct(cx, buffer);
        }
        ready!(this.socket.poll_read(cx, buffer))?;
        this.lease.progress();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.socket.is_direct() {
            match this.socket.send(buffers) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => this.socket.register()?,
                result => {
                    this.has_written(*result.as_ref().unwrap_or(&0));
                    return Poll::Ready(result);
                }
            }
        }
        let count = ready!(this.socket.poll_write(cx, buffers))?;
        this.has_written(count);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shutdown(Shutdown::Write))
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.socket.receive(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::IN)?,
                result => return result,
            }
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            match self.socket.send(buffers) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                result => {
                    self.has_written(*result.as_ref().unwrap_or(&0));
                    return result;
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("peer", &self.peer).field("look", &self.look).finish_non_exhaustive()
    }
}
