//! [`Stream`]: a connection a worker serves.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::load::Lease;
use super::socket::{Family, Socket};
use crate::address::BoundAddress;

/// The most that is received by one call before the reactor knows the connection.
const SCRATCH: usize = 16 * 1024;

/// System calls made before the reactor has to know the connection, ready or not: tokio keeps count of what one task does
/// in a turn, and lets others have theirs, only for what goes through its reactor.
const DIRECT: u8 = 32;

/// Who asks for less gets it out of what a larger read has found: HTTP servers look at the first 24 bytes alone.
const SMALL: usize = 64;

thread_local! {
    /// Where bytes arrive before they are copied to whoever asked: cheaper than to clear a buffer the size of which
    /// a request never fills.
    static ARRIVALS: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// A connection handed to this worker or accepted by it: TCP, or a Unix stream.
///
/// It reads and writes with tokio's traits; in a program without a runtime it is a
/// [`BlockingStream`](crate::BlockingStream). It is known to tokio's reactor only from the first time that it would block, so a short connection costs five system
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
///
/// Under hyper it is wrapped like tokio's own:
///
/// ```ignore
/// while let Ok((stream, _)) = listener.accept().await {
///     let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
///     tokio::spawn(connection);
/// }
/// ```
pub struct Stream {
    // Before the lease: closed first, counted as closed then.
    pub(super) socket: Socket,
    pub(super) lease: Lease,
    peer: BoundAddress,
    look: Look,
    /// Received and not given out yet.
    pub(super) ahead: Bytes,
    /// System calls that are left of [`DIRECT`].
    direct: u8,
    /// The end of writing was put off to the end of the loop's turn.
    fin_due: bool,
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
        Self {
            socket: Socket::new(fd, family),
            lease,
            peer,
            look: Look::First,
            ahead: Bytes::new(),
            direct: DIRECT,
            fin_due: false,
        }
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

    /// Shuts down one direction, or both.
    ///
    /// # Errors
    /// As `shutdown`; a peer that has gone is none.
    pub fn shutdown_now(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
    }

    /// Receives for a caller that has this much room; what is more than that stays ahead. Returns how much there is.
    fn receive(&mut self, room: usize, give: impl FnOnce(&[u8])) -> io::Result<usize> {
        let want = if room < SMALL { SCRATCH } else { room.min(SCRATCH) };
        ARRIVALS.with_borrow_mut(|arrivals| {
            let count = self.socket.receive(&mut arrivals[..want])?;
            // At the end of file a look costs nothing and finds the end again.
            self.look = if (1..want).contains(&count) { Look::Drained } else { Look::More };
            let given = count.min(room);
            give(&arrivals[..given]);
            if count > given {
                self.ahead = Bytes::copy_from_slice(&arrivals[given..count]);
            }
            self.lease.progress();
            Ok(given)
        })
    }

    /// Gives out what was received ahead.
    fn take_ahead(&mut self, room: usize) -> Bytes {
        self.ahead.split_to(room.min(self.ahead.len()))
    }

    /// Reads without the reactor; `Pending` only after the waker was called or the socket was registered.
    fn poll_read_direct(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.end_writing()?;
        let worn_out = self.is_worn_out();
        match self.look {
            _ if worn_out => {}
            Look::First | Look::More => {
                match self.receive(buffer.remaining(), |bytes| buffer.put_slice(bytes)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return Poll::Ready(result.map(drop)),
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

    /// Reads what is there, for a caller that waits by other means.
    pub(crate) fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ahead.is_empty() {
            return self.socket.receive(buffer);
        }
        let bytes = self.take_ahead(buffer.len());
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    /// Writes what there is room for, for a caller that waits by other means.
    pub(crate) fn write_now(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let result = self.socket.send(buffers);
        self.has_written(*result.as_ref().unwrap_or(&0));
        result
    }

    /// See [`Lease::first_turn_over`].
    pub(crate) fn first_turn_over(&mut self) {
        self.lease.first_turn_over();
    }

    /// Counts a system call; true when there have been enough.
    fn is_worn_out(&mut self) -> bool {
        self.direct = self.direct.saturating_sub(1);
        self.direct == 0
    }

    /// Carries out a shutdown that was put off: the stream was not dropped after all.
    pub(super) fn end_writing(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.fin_due) {
            true => self.socket.shutdown(Shutdown::Write),
            false => Ok(()),
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
        if !this.ahead.is_empty() {
            buffer.put_slice(&this.take_ahead(buffer.remaining()));
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
        this.end_writing()?;
        if this.socket.is_direct() && this.is_worn_out() {
            this.socket.register()?;
        }
        if this.socket.is_direct() {
            match this.write_now(buffers) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => this.socket.register()?,
                result => return Poll::Ready(result),
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

    /// Within the worker's own loop the end goes out with the loop's turn; sooner, if the stream is dropped or read.
    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.fin_due = self.socket.finish_writing()?;
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("peer", &self.peer).field("look", &self.look).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
