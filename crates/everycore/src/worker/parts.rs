//! What a [`Stream`] becomes when its program serves the socket by other means.

use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use everycore_sys::socket_pair::{Mode, set_mode};
use tokio::net::TcpStream;

use super::load::Lease;
use super::socket::Family;
use super::stream::Stream;

/// What a [`Stream`] is made of; see [`Stream::into_parts`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Parts {
    /// The socket, non-blocking and in no reactor.
    pub socket: OwnedFd,
    /// Bytes that were received and not read by the program. Empty unless it has read fewer than 64 bytes at a time.
    pub ahead: Bytes,
    /// The connection's place in the counters: keep it for as long as the connection is served.
    pub lease: Lease,
}

impl Stream {
    /// Takes it apart: the socket out of any reactor, what was received ahead, and the place in the counters.
    ///
    /// # Errors
    /// The socket cannot be taken out of the reactor.
    pub fn into_parts(mut self) -> io::Result<Parts> {
        self.end_writing()?;
        Ok(Parts { socket: self.socket.into_fd()?, ahead: self.ahead, lease: self.lease })
    }

    /// The connection as `std` knows it, in blocking mode. The primary takes it for closed from now on; a lease keeps it
    /// counted: [`into_parts`](Self::into_parts).
    ///
    /// # Errors
    /// It is a Unix stream, bytes were received ahead, or it cannot be made blocking.
    pub fn into_std(self) -> io::Result<StdTcpStream> {
        self.is_plain_tcp()?;
        let parts = self.into_parts()?;
        // The primary has closed its copy, so nobody else sees the mode change.
        set_mode(&parts.socket, Mode::Blocking)?;
        Ok(parts.socket.into())
    }

    /// The connection as tokio knows it. The primary takes it for closed from now on, as with [`into_std`](Self::into_std).
    ///
    /// # Errors
    /// It is a Unix stream, bytes were received ahead, or the reactor has no room.
    pub fn into_tokio(self) -> io::Result<TcpStream> {
        self.is_plain_tcp()?;
        TcpStream::from_std(self.into_parts()?.socket.into())
    }

    pub(super) fn is_plain_tcp(&self) -> io::Result<()> {
        let why = if self.socket.family() != Family::Tcp {
            "a Unix stream is no TCP stream; use into_parts"
        } else if !self.ahead.is_empty() {
            "bytes were received ahead that would be lost; use into_parts"
        } else {
            return Ok(());
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, why))
    }
}
