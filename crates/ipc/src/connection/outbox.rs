//! What is to be written: encoded bytes in pieces, some with descriptors.
//!
//! Small messages are gathered into one piece, large payloads are kept as they are and never copied. A piece with
//! descriptors goes out by itself, complete, and ends with its message. Neighbour: [`crate::wire`] encodes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};

use bytes::Bytes;
use everycore_sys::scm_rights;
use rustix::io::Errno;

use crate::handle::Handle;

/// A piece that gathers small messages is closed at this size.
const GATHER: usize = 64 * 1024;

/// Payloads from this size on are not copied.
pub(crate) const SHARE: usize = 8 * 1024;

/// The most bytes that travel with descriptors. The kernel cuts such a piece at 36,544 bytes, and only the first part
/// would have them.
pub(crate) const WITH_HANDLES: usize = 32 * 1024;

/// Pieces given to the kernel in one call.
const SLICES: usize = 32;

#[derive(Debug)]
enum Data {
    Own(Vec<u8>),
    Shared(Bytes),
}

impl Data {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

#[derive(Debug)]
struct Piece {
    data: Data,
    handles: Vec<Handle>,
}

/// How far a flush came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Everything is written.
    Done,
    /// The peer's buffer is full: flush again when the socket is writable.
    Blocked,
    /// Too many descriptors are on their way (`ETOOMANYREFS`): flush again after a short delay, about a millisecond.
    /// The socket may well be writable, so waiting for that would spin.
    Throttled,
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pieces: VecDeque<Piece>,
    /// How much of the front piece is written.
    written: usize,
    bytes: usize,
    handles: usize,
    spare: Vec<u8>,
}

impl Outbox {
    /// Adds bytes, copied.
    pub(crate) fn push_slice(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        self.gathering().extend_from_slice(bytes);
    }

    /// Adds bytes, kept as they are when large.
    pub(crate) fn push_bytes(&mut self, bytes: Bytes) {
        if bytes.len() < SHARE {
            return self.push_slice(&bytes);
        }
        self.bytes += bytes.len();
        self.pieces.push_back(Piece { data: Data::Shared(bytes), handles: Vec::new() });
    }

    /// Adds the end of a message, with descriptors. At most [`WITH_HANDLES`] bytes.
    pub(crate) fn push_with_handles(&mut self, bytes: Vec<u8>, handles: Vec<Handle>) {
        debug_assert!(bytes.len() <= WITH_HANDLES, "a piece with descriptors must go out in one");
        self.bytes += bytes.len();
        self.handles += handles.len();
        self.pieces.push_back(Piece { data: Data::Own(bytes), handles });
    }

    /// The piece that gathers small messages.
    fn gathering(&mut self) -> &mut Vec<u8> {
        let open = matches!(
            self.pieces.back(),
            Some(Piece { data: Data::Own(bytes), handles }) if handles.is_empty() && bytes.len() < GATHER
        );
        if !open {
            let data = Data::Own(std::mem::take(&mut self.spare));
            self.pieces.push_back(Piece { data, handles: Vec::new() });
        }
        match &mut self.pieces.back_mut().expect("an open piece was just made sure of").data {
            Data::Own(bytes) => bytes,
            Data::Shared(_) => unreachable!("an open piece owns its bytes"),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn handles(&self) -> usize {
        self.handles
    }

    /// Writes as much as the peer's buffer takes.
    pub(crate) fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<Flush> {
        while !self.pieces.is_empty() {
            match self.write_once(socket) {
                Ok(count) => self.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Flush::Blocked),
                Err(error) if Errno::from_io_error(&error) == Some(Errno::TOOMANYREFS) => {
                    return Ok(Flush::Throttled);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Flush::Done)
    }

    /// One system call: the front piece with its descriptors, or all plain pieces in front of the next with some.
    fn write_once(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let front = self.pieces.front().expect("asked to write only while there is something");
        let rest = &front.data.as_slice()[self.written..];
        if !front.handles.is_empty() {
            let fds: Vec<BorrowedFd<'_>> = front.handles.iter().map(AsFd::as_fd).collect();
            return scm_rights::send(socket, rest, &fds);
        }
        if self.pieces.len() == 1 {
            return scm_rights::send(socket, rest, &[]);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        slices[0] = IoSlice::new(rest);
        let mut count = 1;
        for piece in self.pieces.iter().skip(1).take(SLICES - 1).take_while(|piece| piece.handles.is_empty())
        {
            slices[count] = IoSlice::new(piece.data.as_slice());
            count += 1;
        }
        scm_rights::send_vectored(socket, &slices[..count], &[])
    }

    /// Drops what is written. Descriptors are gone with the first byte of their piece, so they are closed here then.
    fn advance(&mut self, mut count: usize) {
        self.bytes -= count;
        while count > 0 {
            let front = self.pieces.front_mut().expect("no more is written than was there");
            self.handles -= front.handles.len();
            front.handles.clear();
            let left = front.data.as_slice().len() - self.written;
            if count < left {
                self.written += count;
                return;
            }
            count -= left;
            self.written = 0;
            if let Some(Piece { data: Data::Own(bytes), .. }) = self.pieces.pop_front() {
                self.recycle(bytes);
            }
        }
    }

    /// Keeps the memory of a written piece for the next one.
    fn recycle(&mut self, mut bytes: Vec<u8>) {
        if bytes.capacity() > self.spare.capacity() && bytes.capacity() <= 2 * GATHER {
            bytes.clear();
            self.spare = bytes;
        }
    }
}
