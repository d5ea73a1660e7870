//! What is to be written: encoded bytes in pieces, some with descriptors.
//!
//! Small messages are gathered into one piece, large payloads are kept as they are and never copied. A piece with
//! descriptors goes out by itself, complete, and ends with its message. Neighbour: [`crate::wire`] encodes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use bytes::Bytes;
use everycore_sys::{scm_rights, socket_pair};
use rustix::io::Errno;

use crate::handle::Handle;
use crate::handoff::Parcel;
use crate::message::Outgoing;
use crate::wire::memory;

/// A piece that gathers small messages is closed at this size.
const GATHER: usize = 64 * 1024;

/// Payloads from this size on are not copied.
pub(crate) const SHARE: usize = 8 * 1024;

/// The most bytes that travel with descriptors. The kernel cuts such a piece at 36,544 bytes, and only the first part
/// would have them.
pub(crate) const WITH_HANDLES: usize = 32 * 1024;

/// What a Node process reads at once. It gives a descriptor to the first message that ends in the same read or a later
/// one, and forgets the descriptor when a read brings another before: so none of ours may arrive before its message ends.
const READ: usize = 64 * 1024;

/// Pieces given to the kernel in one call.
const SLICES: usize = 32;

/// Bytes written in one flush, more or less: a peer that reads as fast as we write must not keep us from everything else.
const TURN: usize = 256 * 1024;

/// How long to wait before descriptors are tried again after the kernel had too many on their way, and between two looks at
/// what the peer has read.
const RETRY: Duration = Duration::from_millis(1);

/// The same with a peer that has stopped.
const RETRY_STOPPED: Duration = Duration::from_millis(50);

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

/// The descriptors of a piece.
#[derive(Debug)]
enum Cargo {
    None,
    /// Closed when they are gone.
    Handles(Vec<Handle>),
    /// Kept until the peer has answered.
    Parcel(Parcel<Outgoing>),
}

impl Cargo {
    fn handles(&self) -> &[Handle] {
        match self {
            Self::None => &[],
            Self::Handles(handles) => handles,
            Self::Parcel(parcel) => parcel.load.message.handles(),
        }
    }
}

#[derive(Debug)]
struct Piece {
    data: Data,
    cargo: Cargo,
    /// It begins with the first byte of a message, so something else may go before it.
    starts: bool,
    /// It went ahead of the queue, and what is queued later must not join it.
    urgent: bool,
    /// Messages of the queue that begin in it.
    messages: usize,
}

/// How far a flush came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Everything is written.
    Done,
    /// The peer's buffer is full: flush again when the socket is writable.
    Blocked,
    /// As much was written as is fair at a time: flush again after everything else had its turn. The socket may be
    /// writable all the while.
    More,
    /// Too many descriptors are on their way (`ETOOMANYREFS`), the kernel is short of memory (`ENOBUFS`), or a handle
    /// waits for the peer to have read ([`Connection::send_handles_alone`](crate::Connection::send_handles_alone)): flush
    /// again after a short delay, about a millisecond.
    /// The socket may well be writable, so waiting for that would spin.
    Throttled,
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pieces: VecDeque<Piece>,
    /// How much of the front piece is written.
    written: usize,
    /// Bytes written since the last descriptor, which is where a Node process's reading has stopped for sure.
    plain: usize,
    /// The front piece's descriptor goes with its last byte alone, which no read can cut in two.
    apart: bool,
    /// A descriptor waits until the peer has read everything in front of it.
    alone: bool,
    /// When the peer was first seen to have read everything that is written.
    clear: Option<Instant>,
    /// Since when the peer has not, with a descriptor waiting for that.
    unread: Option<Instant>,
    bytes: usize,
    handles: usize,
    messages: usize,
    urgent: usize,
    /// The next byte pushed is the first of a message.
    at_start: bool,
    parcels: Vec<Parcel<Outgoing>>,
    spare: Vec<u8>,
}

impl Outbox {
    /// Says that what is pushed next begins a message.
    pub(crate) fn begin_message(&mut self) {
        self.at_start = true;
    }

    /// Adds bytes, copied.
    pub(crate) fn push_slice(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            // A piece without bytes could never be written.
            return;
        }
        self.bytes += bytes.len();
        self.gathering().extend_from_slice(bytes);
    }

    /// Adds a small message whole, copied.
    pub(crate) fn push_message(&mut self, front: &[u8], payload: &[u8], back: &[u8]) {
        self.begin_message();
        let length = front.len() + payload.len() + back.len();
        self.bytes += length;
        let gathered = self.gathering();
        gathered.reserve(length);
        gathered.extend_from_slice(front);
        gathered.extend_from_slice(payload);
        gathered.extend_from_slice(back);
    }

    /// Adds bytes, kept as they are when large.
    pub(crate) fn push_bytes(&mut self, bytes: Bytes) {
        if bytes.len() < SHARE {
            return self.push_slice(&bytes);
        }
        self.push(Data::Shared(bytes), Cargo::None);
    }

    /// Adds the end of a message, with descriptors. At most [`WITH_HANDLES`] bytes.
    pub(crate) fn push_with_handles(&mut self, bytes: Vec<u8>, handles: Vec<Handle>) {
        debug_assert!(bytes.len() <= WITH_HANDLES, "a piece with descriptors must go out in one");
        self.push(Data::Own(bytes), Cargo::Handles(handles));
    }

    /// Adds the end of a message, with descriptors that come back in [`Outbox::take_written`].
    pub(crate) fn push_parcel(&mut self, bytes: Vec<u8>, parcel: Parcel<Outgoing>) {
        debug_assert!(bytes.len() <= WITH_HANDLES, "a piece with descriptors must go out in one");
        self.push(Data::Own(bytes), Cargo::Parcel(parcel));
    }

    fn push(&mut self, data: Data, cargo: Cargo) {
        self.bytes += data.as_slice().len();
        self.handles += cargo.handles().len();
        let starts = std::mem::take(&mut self.at_start);
        let messages = usize::from(starts);
        self.messages += messages;
        self.pieces.push_back(Piece { data, cargo, starts, urgent: false, messages });
    }

    /// Adds a whole message that goes ahead of every other not begun yet, and behind those that went ahead before.
    pub(crate) fn push_urgent(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        self.urgent += bytes.len();
        let first = usize::from(self.written > 0);
        let before = |piece: &Piece| piece.starts && !piece.urgent;
        let found = self.pieces.iter().skip(first).position(before);
        let at = found.map_or(self.pieces.len(), |found| first + found);
        if at > first
            && let Piece { data: Data::Own(gathered), urgent: true, .. } = &mut self.pieces[at - 1]
        {
            gathered.extend_from_slice(bytes);
            return;
        }
        let data = Data::Own(bytes.to_vec());
        let piece = Piece { data, cargo: Cargo::None, starts: true, urgent: true, messages: 0 };
        self.pieces.insert(at, piece);
    }

    /// The piece that gathers small messages.
    fn gathering(&mut self) -> &mut Vec<u8> {
        let open = matches!(
            self.pieces.back(),
            Some(Piece { data: Data::Own(bytes), cargo: Cargo::None, urgent: false, .. }) if bytes.len() < GATHER
        );
        let starts = std::mem::take(&mut self.at_start);
        if !open {
            let data = Data::Own(std::mem::take(&mut self.spare));
            let piece = Piece { data, cargo: Cargo::None, starts, urgent: false, messages: 0 };
            self.pieces.push_back(piece);
        }
        let piece = self.pieces.back_mut().expect("an open piece was just made sure of");
        piece.messages += usize::from(starts);
        self.messages += usize::from(starts);
        match &mut piece.data {
            Data::Own(bytes) => bytes,
            Data::Shared(_) => unreachable!("an open piece owns its bytes"),
        }
    }

    /// The messages with descriptors that are written to their end, in order.
    pub(crate) fn take_written(&mut self) -> Vec<Parcel<Outgoing>> {
        std::mem::take(&mut self.parcels)
    }

    /// Gives up everything, and returns the messages with descriptors that wait for an answer or were not written.
    pub(crate) fn abandon(&mut self) -> Vec<Parcel<Outgoing>> {
        let mut parcels = self.take_written();
        parcels.extend(self.pieces.drain(..).filter_map(|piece| {
            if let Data::Shared(bytes) = piece.data {
                give_up(bytes);
            }
            match piece.cargo {
                Cargo::Parcel(parcel) => Some(parcel),
                _ => None,
            }
        }));
        *self = Self::default();
        parcels
    }

    /// Whether a descriptor is sent only when the peer has read everything in front of it.
    pub(crate) fn set_alone(&mut self, alone: bool) {
        self.alone = alone;
    }

    /// Bytes that went ahead of the queue and are not written.
    pub(crate) fn urgent(&self) -> usize {
        self.urgent
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Messages in pieces that are not wholly written, but for those that went ahead.
    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    pub(crate) fn handles(&self) -> usize {
        self.handles
    }

    /// Writes as much as the peer's buffer takes, and [`TURN`] allows.
    pub(crate) fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<Flush> {
        let mut written = 0;
        while !self.pieces.is_empty() {
            if written >= TURN {
                return Ok(Flush::More);
            }
            if self.must_wait(socket)? {
                return Ok(Flush::Throttled);
            }
            self.set_apart();
            match self.write_once(socket) {
                Ok(count) => {
                    written += count;
                    self.advance(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Flush::Blocked),
                Err(error) if is_throttle(&error) => return Ok(Flush::Throttled),
                Err(error) => return Err(error),
            }
        }
        Ok(Flush::Done)
    }

    /// Before a piece with a descriptor is begun: whether the peer might read it together with what is in front of it.
    fn must_wait(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        let carries = self.pieces.front().is_some_and(|piece| !piece.cargo.handles().is_empty());
        if !self.alone || !carries || self.plain == 0 || self.written > 0 {
            return Ok(false);
        }
        let unread = socket_pair::unread_by_peer(socket)?;
        Ok(self.waits_for_reader(unread, Instant::now()))
    }

    /// Whether a descriptor still waits now that this much is unread.
    fn waits_for_reader(&mut self, unread: usize, now: Instant) -> bool {
        if unread > 0 {
            self.clear = None;
            self.unread.get_or_insert(now);
            return true;
        }
        self.unread = None;
        // Seen twice, since the peer may be about to look for more in the call that took the last of it.
        if now.duration_since(*self.clear.get_or_insert(now)) < RETRY {
            return true;
        }
        (self.plain, self.clear) = (0, None);
        false
    }

    /// How long to wait after [`Flush::Throttled`]: longer the longer the peer has stopped.
    pub(crate) fn retry_delay(&self, now: Instant) -> Duration {
        self.unread.map_or(RETRY, |since| now.duration_since(since).clamp(RETRY, RETRY_STOPPED))
    }

    /// Before the front piece is begun: whether a read of Node's could end within it.
    fn set_apart(&mut self) {
        if self.written == 0 {
            let carries = |piece: &&Piece| matches!(piece.cargo, Cargo::Parcel(_));
            let length = self.pieces.front().filter(carries).map_or(0, |piece| piece.data.as_slice().len());
            self.apart = length > 0 && self.plain + length > READ;
        }
    }

    /// One system call: the front piece with its descriptors, or all plain pieces in front of the next with some.
    fn write_once(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let front = self.pieces.front().expect("asked to write only while there is something");
        let rest = first(&front.data.as_slice()[self.written..], TURN);
        let mut unsent = if self.written == 0 { front.cargo.handles() } else { &[] };
        if self.apart {
            match rest.split_last() {
                Some((_, front)) if !front.is_empty() => return scm_rights::send(socket, front, &[]),
                _ => unsent = front.cargo.handles(),
            }
        }
        if !unsent.is_empty() {
            let fds: Vec<BorrowedFd<'_>> = unsent.iter().map(AsFd::as_fd).collect();
            return scm_rights::send(socket, rest, &fds);
        }
        if self.pieces.len() == 1 {
            return scm_rights::send(socket, rest, &[]);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        slices[0] = IoSlice::new(rest);
        let (mut count, mut room) = (1, TURN - rest.len());
        for piece in
            self.pieces.iter().skip(1).take(SLICES - 1).take_while(|piece| piece.cargo.handles().is_empty())
        {
            if room == 0 {
                break;
            }
            let bytes = first(piece.data.as_slice(), room);
            slices[count] = IoSlice::new(bytes);
            count += 1;
            room -= bytes.len();
        }
        scm_rights::send_vectored(socket, &slices[..count], &[])
    }

    /// Drops what is written. Descriptors are gone with the first byte of their piece, so those that need not be kept
    /// are closed here then.
    fn advance(&mut self, mut count: usize) {
        self.bytes -= count;
        self.plain += count;
        (self.clear, self.unread) = (None, None);
        while count > 0 {
            let front = self.pieces.front_mut().expect("no more is written than was there");
            if let Cargo::Handles(handles) = &mut front.cargo {
                self.handles -= handles.len();
                front.cargo = Cargo::None;
            }
            let left = front.data.as_slice().len() - self.written;
            if count < left {
                self.written += count;
                return;
            }
            count -= left;
            self.written = 0;
            if let Some(piece) = self.pieces.pop_front() {
                self.retire(piece);
            }
        }
    }

    fn retire(&mut self, piece: Piece) {
        self.messages -= piece.messages;
        if piece.urgent {
            self.urgent -= piece.data.as_slice().len();
        }
        if let Cargo::Parcel(parcel) = piece.cargo {
            self.plain = 0;
            self.handles -= parcel.load.message.handles().len();
            self.parcels.push(parcel);
        }
        match piece.data {
            Data::Own(bytes) => self.recycle(bytes),
            Data::Shared(bytes) => give_up(bytes),
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

impl Drop for Outbox {
    fn drop(&mut self) {
        for piece in self.pieces.drain(..) {
            if let Data::Shared(bytes) = piece.data {
                give_up(bytes);
            }
        }
    }
}

/// Drops a payload, without keeping anybody waiting if this is the last of a huge one.
fn give_up(bytes: Bytes) {
    if bytes.len() >= memory::HUGE && bytes.is_unique() {
        memory::release(bytes);
    }
}

/// At most this many of these bytes.
fn first(bytes: &[u8], most: usize) -> &[u8] {
    &bytes[..bytes.len().min(most)]
}

fn is_throttle(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::TOOMANYREFS | Errno::NOBUFS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_has_stopped_is_looked_at_less_often_and_one_that_reads_soon() {
        let mut outbox = Outbox::default();
        let begin = Instant::now();
        let (mut now, mut looks) = (begin, 0);
        while now < begin + Duration::from_secs(10) {
            assert!(outbox.waits_for_reader(10, now));
            now += outbox.retry_delay(now);
            looks += 1;
        }
        assert!((200..210).contains(&looks), "{looks} looks");
        assert!(outbox.waits_for_reader(0, now));
        assert_eq!(outbox.retry_delay(now), RETRY);
        assert!(outbox.waits_for_reader(0, now + RETRY / 2), "too soon to say");
        assert!(!outbox.waits_for_reader(0, now + RETRY));
        assert!(outbox.waits_for_reader(0, now + RETRY), "what was seen before counts once");
    }
}
