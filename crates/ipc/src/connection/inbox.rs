//! What has been read and not yet handed out: bytes of partial frames, and descriptors waiting for theirs.
//!
//! The kernel delivers the descriptors of one `sendmsg` with its first byte, and never reads past its end. A sender
//! that keeps the rules writes no further than the end of the frame they belong to; so they belong to the frame in which
//! the read that brought them ended. Neighbour: [`crate::wire`] cuts the frames.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use bytes::Bytes;
use everycore_sys::scm_rights;

use crate::limits::Limits;
use crate::wire::{self, Codec, Cut, Span, WireError};

/// Bytes asked of the kernel at a time; more while a large frame is on its way. Room for a 64 KiB message in one read.
const READ: usize = 80 * 1024;

/// Payloads shorter than this are copied, so that a program that keeps one does not keep the whole buffer.
const COPY: usize = 4 * 1024;

/// Descriptors of one `sendmsg`, and where they were in the stream.
#[derive(Debug)]
struct Batch {
    /// The position after the read that brought them: inside their frame, or at its end.
    end: u64,
    fds: VecDeque<OwnedFd>,
    /// Some of them did not arrive: this process has no room for more.
    truncated: bool,
}

/// What one attempt to read brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Some bytes.
    Bytes,
    /// Nothing there now.
    Empty,
    /// The peer will send no more.
    End,
}

/// The descriptors that came with a frame.
#[derive(Debug, Default)]
pub(crate) struct Claimed {
    pub(crate) fds: VecDeque<OwnedFd>,
    pub(crate) truncated: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Inbox {
    buffer: Vec<u8>,
    /// Where the first frame that was not handed out begins.
    start: usize,
    /// How much of that frame was searched for its end.
    scanned: usize,
    /// The whole length of that frame, when it is known.
    total: Option<usize>,
    /// The position of `start` in the stream.
    position: u64,
    batches: VecDeque<Batch>,
    /// The last read emptied the socket, so another one now would be in vain.
    emptied: bool,
    ended: bool,
    surplus: u64,
}

impl Inbox {
    /// Finds the next complete frame.
    pub(crate) fn next(&mut self, codec: Codec, limits: &Limits) -> Result<Option<Span>, WireError> {
        let bytes = &self.buffer[self.start..];
        if self.total.is_some_and(|total| bytes.len() < total) || bytes.len() == self.scanned {
            return Ok(None);
        }
        match wire::cut(codec, bytes, self.scanned, limits)? {
            Cut::Frame(span) => Ok(Some(span)),
            Cut::Partial { total } => {
                self.scanned = bytes.len();
                self.total = total;
                Ok(None)
            }
        }
    }

    /// The bytes from the front of the next frame on.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Takes the frame at the front out and returns its payload.
    pub(crate) fn take(&mut self, span: &Span) -> Bytes {
        let length = span.payload.len();
        let behind = self.buffer.len() - self.start - span.total;
        if length < COPY || length < behind {
            let payload = Bytes::copy_from_slice(&self.bytes()[span.payload.clone()]);
            self.skip(span.total);
            return payload;
        }
        // Cheaper to copy what is behind the frame than the frame itself: it becomes the message.
        let rest = self.buffer[self.start + span.total..].to_vec();
        let whole = Bytes::from(std::mem::replace(&mut self.buffer, rest));
        let payload = whole.slice(self.start + span.payload.start..self.start + span.payload.end);
        self.start = 0;
        self.position += span.total as u64;
        self.forget_scan();
        payload
    }

    /// Drops the frame at the front.
    pub(crate) fn skip(&mut self, total: usize) {
        self.start += total;
        self.position += total as u64;
        self.forget_scan();
    }

    fn forget_scan(&mut self) {
        self.scanned = 0;
        self.total = None;
    }

    /// Takes all descriptors that belong to the frame at the front, which is `total` bytes long.
    pub(crate) fn claim(&mut self, total: usize) -> Claimed {
        let end = self.position + total as u64;
        self.close_surplus(self.position);
        match self.batches.front() {
            Some(batch) if batch.end <= end => {
                let batch = self.batches.pop_front().expect("the front was just seen");
                Claimed { fds: batch.fds, truncated: batch.truncated }
            }
            _ => Claimed::default(),
        }
    }

    /// Takes one descriptor that belongs to the frame at the front, which is `total` bytes long.
    pub(crate) fn claim_one(&mut self, total: usize) -> Option<OwnedFd> {
        let end = self.position + total as u64;
        self.close_surplus(self.position);
        let batch = self.batches.front_mut().filter(|batch| batch.end <= end)?;
        batch.fds.pop_front()
    }

    /// Closes descriptors that came with frames which did not ask for any, up to this position in the stream.
    pub(crate) fn close_surplus(&mut self, position: u64) {
        let is_over = |batch: &Batch| batch.end <= position || (batch.fds.is_empty() && !batch.truncated);
        while self.batches.front().is_some_and(is_over) {
            let batch = self.batches.pop_front().expect("the front was just seen");
            self.surplus += batch.fds.len() as u64;
        }
    }

    /// The position in the stream of the next frame to hand out.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// How many descriptors came that no message asked for.
    pub(crate) fn surplus(&self) -> u64 {
        self.surplus
    }

    /// Counts descriptors that were closed because their message did not ask for them.
    pub(crate) fn count_surplus(&mut self, count: usize) {
        self.surplus += count as u64;
    }

    /// Whether the peer has ended its side.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Whether the last read emptied the socket; the next one will look all the same.
    pub(crate) fn take_drained(&mut self) -> bool {
        std::mem::take(&mut self.emptied)
    }

    /// Bytes of an incomplete frame.
    pub(crate) fn leftover(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Reads once.
    pub(crate) fn fill(&mut self, socket: BorrowedFd<'_>) -> io::Result<Fill> {
        if self.ended {
            return Ok(Fill::End);
        }
        if std::mem::take(&mut self.emptied) {
            return Ok(Fill::Empty);
        }
        let room = self.make_room();
        let old = self.buffer.len();
        let mut fds = Vec::new();
        self.buffer.resize(old + room, 0);
        let received = scm_rights::receive(socket, &mut self.buffer[old..], &mut fds);
        self.buffer.truncate(old + received.as_ref().map_or(0, |received| received.bytes));
        let received = match received {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Fill::Empty),
            // It went away without reading everything we sent. What it had sent was delivered before this.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                self.ended = true;
                return Ok(Fill::End);
            }
            Err(error) => return Err(error),
        };
        if received.bytes == 0 {
            self.ended = true;
            return Ok(Fill::End);
        }
        if fds.is_empty() && !received.truncated {
            self.emptied = received.bytes < room;
        } else {
            let end = self.position + self.leftover() as u64;
            self.keep(Batch { end, fds: fds.into(), truncated: received.truncated });
        }
        Ok(Fill::Bytes)
    }

    /// An honest peer attaches descriptors once per frame, so no more than one batch can be waiting for a frame that
    /// is still incomplete. More would let it fill our descriptor table.
    fn keep(&mut self, batch: Batch) {
        if self.batches.len() < 2 {
            self.batches.push_back(batch);
        } else {
            self.surplus += batch.fds.len() as u64;
        }
    }

    /// Makes room in the buffer and says how much to read: to the end of the frame when that is far, so that a large
    /// payload ends where the buffer ends and need not be copied.
    fn make_room(&mut self) -> usize {
        let held = self.buffer.len() - self.start;
        if held == 0 {
            self.buffer.clear();
            self.start = 0;
        }
        let missing = self.total.map_or(0, |total| total - held);
        if missing > READ || held >= READ {
            // A frame larger than a read. Under line codecs its length is unknown, and the buffer doubles.
            let room = if missing > 0 { missing } else { held };
            self.buffer.reserve_exact(room);
            return room;
        }
        if self.buffer.capacity() - self.buffer.len() < READ / 2 {
            self.buffer.drain(..self.start);
            self.start = 0;
            self.buffer.reserve_exact(READ.max(missing));
        }
        self.buffer.capacity() - self.buffer.len()
    }
}
