//! What has been read and not yet handed out: bytes of partial frames, and descriptors waiting for theirs.
//!
//! The kernel delivers the descriptors of one `sendmsg` with its first byte, and never reads past its end. A sender
//! that keeps the rules writes no further than the end of the frame they belong to; so they belong to the frame in which
//! the read that brought them ended. Neighbour: [`crate::wire`] cuts the frames.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};

use bytes::{Bytes, BytesMut};
use everycore_sys::scm_rights;

use crate::limits::Limits;
use crate::message::Format;
use crate::wire::native::{self, HEADER};
use crate::wire::{self, Codec, Cut, Span, WireError, memory};

/// Bytes asked of the kernel at a time; more while a large frame is on its way. Room for a 64 KiB message in one read.
const READ: usize = 80 * 1024;

/// The most that is asked for at a time, so that nothing else waits for a large frame longer than it takes to copy this.
const STEP: usize = 256 * 1024;

/// Payloads shorter than this are copied, so that a program that keeps one does not keep the whole buffer. A small
/// allocation costs no more than sharing.
const COPY: usize = 4 * 1024;

/// Buffers larger than this are not kept to be used again.
const KEEP: usize = 3 << 19;

/// A frame of a codec of Node that is longer than this is searched for words of the library as it comes: all at once would take
/// longer than anybody should wait for it.
const SEARCH: usize = 2 << 20;

/// Bytes of what was searched that are searched again with what comes next: a word may lie in both.
const OVERLAP: usize = 16;

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
    /// So many bytes.
    Bytes(usize),
    /// Nothing there now.
    Empty,
    /// The peer will send no more.
    End,
}

/// The buffer of an inbox with a thread that waits in the kernel, and what came of that.
#[derive(Debug)]
pub(crate) struct Lent {
    buffer: BytesMut,
    room: Range<usize>,
    received: io::Result<scm_rights::RecvMsg>,
    fds: Vec<OwnedFd>,
}

impl Lent {
    /// Reads once, and waits for something to read if the socket's mode is to wait. False: it is not.
    pub(crate) fn fill(&mut self, socket: BorrowedFd<'_>) -> bool {
        self.received =
            scm_rights::receive_waiting(socket, &mut self.buffer[self.room.clone()], &mut self.fds);
        !matches!(&self.received, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// The descriptors that came with a frame.
#[derive(Debug, Default)]
pub(crate) struct Claimed {
    pub(crate) fds: VecDeque<OwnedFd>,
    pub(crate) truncated: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// Bytes received, between `start` and `end`. All of it is initialized, so that reading into it needs no care.
    buffer: BytesMut,
    /// Where the first frame that was not handed out begins.
    start: usize,
    end: usize,
    /// How much of that frame was searched for its end.
    scanned: usize,
    /// The whole length of that frame, when it is known.
    total: Option<usize>,
    /// Whether a text may have a word of the library in it; `None` where nobody needs to know.
    words: Option<fn(&[u8]) -> bool>,
    /// How much of that frame was searched for such words, and whether one was found.
    searched: usize,
    found: bool,
    /// The position of `start` in the stream.
    position: u64,
    /// Buffers that became messages, to be used again when those are gone.
    used: [Bytes; 2],
    batches: VecDeque<Batch>,
    /// The last read emptied the socket, so another one now would be in vain.
    emptied: bool,
    /// A thread waits with the buffer for it to be filled.
    is_lent: bool,
    ended: bool,
    surplus: u64,
}

impl Inbox {
    pub(crate) fn new(codec: Codec) -> Self {
        let words: Option<fn(&[u8]) -> bool> = match codec {
            Codec::Native => None,
            Codec::Json => Some(wire::json::has_words),
            Codec::Advanced => Some(wire::advanced::has_words),
        };
        let mut inbox = Self::default();
        inbox.words = words;
        inbox
    }

    /// Whether the frame at the front may have a word of the library in it, when that was searched for.
    pub(crate) fn has_words(&self, total: usize) -> Option<bool> {
        (self.searched >= total).then_some(self.found)
    }

    /// Searches what has come of a long frame.
    fn search(&mut self) {
        let held = self.leftover();
        if held < SEARCH || self.found {
            self.searched = if self.found { held } else { self.searched };
            return;
        }
        if let Some(words) = self.words {
            let from = self.start + self.searched.saturating_sub(OVERLAP);
            self.found = words(&self.buffer[from..self.end]);
            self.searched = held;
        }
    }

    /// Finds the next complete frame.
    #[inline(always)]
    pub(crate) fn next(&mut self, codec: Codec, limits: &Limits) -> Result<Option<Span>, WireError> {
        let bytes = self.bytes();
        if self.total.is_some_and(|total| bytes.len() < total) || bytes.len() <= self.scanned {
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

    /// The bytes from the front of the next frame on; none while the buffer is lent.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Takes the frame at the front out and returns its payload.
    #[inline(always)]
    pub(crate) fn take(&mut self, span: &Span) -> Bytes {
        let length = span.payload.len();
        let behind = self.leftover() - span.total;
        if length >= COPY && length >= behind {
            // Cheaper to copy what is behind the frame than the frame itself: the buffer becomes the message.
            return self.give_away(span);
        }
        let payload = Bytes::copy_from_slice(&self.bytes()[span.payload.clone()]);
        self.skip(span.total);
        payload
    }

    /// Takes the frame at the front out, when it is a small one of the native codec that brings no descriptors. Most are, and
    /// this is all there is to do for them; `None` says nothing about what is there.
    #[inline(always)]
    pub(crate) fn take_small(&mut self, limits: &Limits) -> Option<(Format, Bytes)> {
        let frame = self.bytes();
        let (format, length) = native::small(frame.first_chunk()?)?;
        let (from, to) = (HEADER, HEADER + length);
        if length >= COPY || length > limits.frame || !self.batches.is_empty() {
            return None;
        }
        let payload = Bytes::copy_from_slice(frame.get(from..to)?);
        self.skip(to);
        Some((format, payload))
    }

    fn give_away(&mut self, span: &Span) -> Bytes {
        let frame = self.start..self.start + span.total;
        let rest = frame.end..self.end;
        let mut next = BytesMut::new();
        if !rest.is_empty() {
            next = self.fresh_buffer(READ.max(rest.len()));
            next[..rest.len()].copy_from_slice(&self.buffer[rest.clone()]);
        }
        let whole = memory::shared(std::mem::replace(&mut self.buffer, next));
        if whole.len() <= KEEP {
            self.used.swap(0, 1);
            self.used[0] = whole.clone();
        }
        (self.start, self.end) = (0, rest.len());
        self.position += span.total as u64;
        self.forget_scan();
        whole.slice(frame.start + span.payload.start..frame.start + span.payload.end)
    }

    /// A buffer of at least this size: one whose message is gone, or a new one.
    fn fresh_buffer(&mut self, size: usize) -> BytesMut {
        for used in &mut self.used {
            if used.len() >= size && used.is_unique() {
                match std::mem::take(used).try_into_mut() {
                    Ok(buffer) => return buffer,
                    Err(still_used) => *used = still_used,
                }
            }
        }
        BytesMut::zeroed(size)
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
        self.searched = 0;
        self.found = false;
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
        let fd = batch.fds.pop_front();
        if batch.fds.is_empty() && !batch.truncated {
            self.batches.pop_front();
        }
        fd
    }

    /// Closes descriptors that came with frames which did not ask for any, up to this position in the stream.
    pub(crate) fn close_surplus(&mut self, position: u64) {
        while self.batches.front().is_some_and(|batch| batch.end <= position) {
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
        self.end - self.start
    }

    /// Reads once.
    pub(crate) fn fill(&mut self, socket: BorrowedFd<'_>) -> io::Result<Fill> {
        if self.ended {
            return Ok(Fill::End);
        }
        if self.is_lent || std::mem::take(&mut self.emptied) {
            return Ok(Fill::Empty);
        }
        let room = self.make_room();
        let mut fds = Vec::new();
        let received = scm_rights::receive(socket, &mut self.buffer[self.end..self.end + room], &mut fds);
        self.take_in(received, room, fds)
    }

    /// The buffer, for a thread that waits in the kernel for what it is to be filled with. Until it is back nothing else is read.
    pub(crate) fn lend(&mut self) -> Option<Lent> {
        if self.ended || self.is_lent {
            return None;
        }
        let room = self.make_room();
        self.emptied = false;
        self.is_lent = true;
        let buffer = std::mem::take(&mut self.buffer);
        let received = Err(io::ErrorKind::WouldBlock.into());
        Some(Lent { buffer, room: self.end..self.end + room, received, fds: Vec::new() })
    }

    /// Takes the buffer back, with what was read.
    pub(crate) fn take_back(&mut self, lent: Lent) -> io::Result<Fill> {
        if !std::mem::take(&mut self.is_lent) {
            // It is that of another connection, which was exchanged for this one meanwhile.
            return Ok(Fill::Empty);
        }
        self.buffer = lent.buffer;
        self.take_in(lent.received, lent.room.len(), lent.fds)
    }

    /// Notes what was read behind what is in the buffer.
    fn take_in(
        &mut self,
        received: io::Result<scm_rights::RecvMsg>,
        room: usize,
        fds: Vec<OwnedFd>,
    ) -> io::Result<Fill> {
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
        self.end += received.bytes;
        self.search();
        if fds.is_empty() && !received.truncated {
            self.emptied = received.bytes < room;
        } else {
            let end = self.position + self.leftover() as u64;
            self.keep(Batch { end, fds: fds.into(), truncated: received.truncated });
        }
        Ok(Fill::Bytes(received.bytes))
    }

    /// An honest peer attaches descriptors once per frame, and a read brings at most one batch; so besides this one only
    /// that of the frame which was incomplete before can be waiting. More would let it fill our descriptor table.
    fn keep(&mut self, batch: Batch) {
        if self.batches.len() < 2 {
            self.batches.push_back(batch);
        } else {
            self.surplus += batch.fds.len() as u64;
        }
    }

    /// Makes room behind what is in the buffer and says how much to read: to the end of the frame when that is far, so
    /// that a large payload ends where the buffer ends and need not be copied; else what there is. A step at most.
    fn make_room(&mut self) -> usize {
        let held = self.leftover();
        let room = self.buffer.len() - self.end;
        let missing = self.total.map_or(0, |total| total - held);
        if held == 0 {
            (self.start, self.end) = (0, 0);
            if !(READ..=KEEP).contains(&self.buffer.len()) {
                self.buffer = self.fresh_buffer(READ);
            }
        } else if missing > 0 && held + missing > READ {
            self.resize(held + missing);
            return missing.min(STEP);
        } else if held >= READ {
            // A large frame of a codec of lines, whose length is not known. Memory of this size moves without a copy, and
            // only what is read next is cleared: nobody waits for all of it.
            if room < STEP / 2 {
                self.buffer.resize(self.end + STEP, 0);
            }
        } else if room < missing.max(READ / 2) {
            self.resize(READ);
        }
        (self.buffer.len() - self.end).min(STEP)
    }

    /// Makes sure that the buffer has this much from the start of the frame on.
    fn resize(&mut self, size: usize) {
        if self.start + size <= self.buffer.len() {
            return;
        }
        let held = self.leftover();
        if size <= self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
        } else {
            let mut next = self.fresh_buffer(size);
            next[..held].copy_from_slice(&self.buffer[self.start..self.end]);
            self.buffer = next;
        }
        (self.start, self.end) = (0, held);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        if self.buffer.len() >= memory::HUGE {
            memory::release(std::mem::take(&mut self.buffer));
        }
    }
}
