//! One end of a channel, without waiting and without a runtime.
//!
//! An event loop owns it: queue, flush when writable, receive when readable. Neighbours: [`crate::channel`] waits with
//! tokio, [`crate::blocking`] waits with `poll`; `inbox` and `outbox` hold what is on its way in and out.

mod error;
mod inbox;
mod outbox;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::FdFlags;
use rustix::net::{Shutdown, sockopt};

pub use error::{ChannelError, SendError};
use inbox::{Fill, Inbox};
pub use outbox::Flush;
use outbox::{Outbox, SHARE, WITH_HANDLES};

use crate::handle::Handle;
use crate::limits::Limits;
use crate::message::{Incoming, Message, Outgoing};
use crate::wire::native::{self, HEADER, Header};
use crate::wire::{Codec, Span, WireError};

/// What [`Connection::receive`] found.
#[derive(Debug)]
pub enum Received {
    /// A message. There may be more: ask again.
    Message(Incoming),
    /// Nothing complete is there now: ask again when the socket is readable.
    Blocked,
    /// The peer will send no more.
    Closed,
}

/// What a peer did that cost it something, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Descriptors that came and that no message asked for; they were closed.
    pub surplus_handles: u64,
    /// Handles that were sent to us and did not arrive.
    pub lost_handles: u64,
}

/// One end of a channel: a connected Unix stream socket that carries messages and handles.
///
/// ```
/// use everycore_ipc::{Codec, Connection, Incoming, Limits, Message, Received};
/// let (here, there) = everycore_sys::socket_pair::stream_pair()?;
/// let mut here = Connection::new(here, Codec::Native, Limits::default())?;
/// let mut there = Connection::new(there, Codec::Native, Limits::default())?;
///
/// here.queue(Message::json("hi there")?)?;
/// here.flush()?;
/// let Received::Message(Incoming::User(message)) = there.receive()? else { panic!("nothing came") };
/// assert_eq!(message.parse::<String>()?, "hi there");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Connection {
    socket: Arc<OwnedFd>,
    codec: Codec,
    limits: Limits,
    inbox: Inbox,
    outbox: Outbox,
    /// Messages that were read while something else was waited for.
    parked: VecDeque<Incoming>,
    parked_bytes: usize,
    /// Messages in the outbox, counted down to 0 when it is empty.
    queued: usize,
    /// The kernel's buffer for what the peer has not read, as last asked for.
    send_buffer: usize,
    throttled: bool,
    /// Nothing more can be written: we have closed our side, or the peer is gone.
    shut: bool,
    lost_handles: u64,
}

impl Connection {
    /// Takes over one end of a socket pair; makes it non-blocking and closed on exec.
    ///
    /// # Errors
    /// It is not a socket.
    pub fn new(socket: OwnedFd, codec: Codec, limits: Limits) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
        let send_buffer = sockopt::socket_send_buffer_size(&socket)?;
        let limits = Limits { frame: limits.frame.min(u32::MAX as usize), ..limits };
        Ok(Self {
            socket: Arc::new(socket),
            codec,
            limits,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            parked: VecDeque::new(),
            parked_bytes: 0,
            queued: 0,
            send_buffer,
            throttled: false,
            shut: false,
            lost_handles: 0,
        })
    }

    /// Adds a message to what is to be written. Nothing is written before [`Connection::flush`].
    ///
    /// # Errors
    /// The queue is full, the channel is closed, or the message cannot be sent on it; the message comes back.
    pub fn queue(&mut self, outgoing: impl Into<Outgoing>) -> Result<(), SendError> {
        let outgoing = outgoing.into();
        if self.shut {
            return Err(SendError::Closed(Box::new(outgoing)));
        }
        let bytes = outgoing.message.bytes().len();
        if bytes > self.limits.frame {
            return Err(SendError::TooLarge { limit: self.limits.frame, outgoing: Box::new(outgoing) });
        }
        if self.is_full(bytes, outgoing.message.handles().len()) {
            return Err(SendError::Full(Box::new(outgoing)));
        }
        match self.codec {
            Codec::Native => self.queue_native(outgoing)?,
            codec => return Err(SendError::NotInCodec { codec, outgoing: Box::new(outgoing) }),
        }
        self.queued += 1;
        Ok(())
    }

    fn is_full(&self, bytes: usize, handles: usize) -> bool {
        // One message may always wait, whatever its size.
        let (waiting, held) = (self.outbox.bytes(), self.outbox.handles());
        waiting > 0
            && (self.queued >= self.limits.queue_messages
                || waiting + bytes > self.limits.queue_bytes
                || (handles > 0 && held + handles > self.limits.queue_handles))
    }

    fn queue_native(&mut self, outgoing: Outgoing) -> Result<(), SendError> {
        let limit = everycore_sys::scm_rights::MAX_DESCRIPTORS;
        let Outgoing { kind, mut message } = outgoing;
        if message.handles().len() > limit {
            return Err(SendError::TooManyHandles { limit, outgoing: Box::new(Outgoing { kind, message }) });
        }
        let handles = message.take_handles();
        let header = Header { kind, format: message.format(), handles: handles.len() as u16 };
        let payload = message.into_bytes();
        let head = native::write_header(&header, payload.len() as u32);
        if payload.len() >= SHARE {
            self.grow_send_buffer(payload.len());
        }
        if handles.is_empty() {
            self.outbox.push_slice(&head);
            self.outbox.push_bytes(payload);
        } else if HEADER + payload.len() <= WITH_HANDLES {
            let mut frame = Vec::with_capacity(HEADER + payload.len());
            frame.extend_from_slice(&head);
            frame.extend_from_slice(&payload);
            self.outbox.push_with_handles(frame, handles);
        } else {
            let front = payload.len() - WITH_HANDLES;
            self.outbox.push_slice(&head);
            self.outbox.push_bytes(payload.slice(..front));
            self.outbox.push_with_handles(payload[front..].to_vec(), handles);
        }
        Ok(())
    }

    /// Lets the kernel hold a large message whole, so that the peer is woken less often. An unprivileged process gets
    /// as much as `net.core.wmem_max` allows; having less only costs time.
    fn grow_send_buffer(&mut self, bytes: usize) {
        let wanted = bytes.saturating_mul(2).min(4 << 20);
        if wanted <= self.send_buffer {
            return;
        }
        self.send_buffer = wanted;
        if sockopt::set_socket_send_buffer_size_force(&self.socket, wanted).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(&self.socket, wanted);
        }
    }

    /// Writes as much of the queue as the peer's buffer takes, many messages per system call.
    ///
    /// # Errors
    /// The peer is gone, or the socket failed. What the peer had sent can still be received.
    pub fn flush(&mut self) -> Result<Flush, ChannelError> {
        let result = self.outbox.flush(self.socket.as_fd());
        self.throttled = matches!(result, Ok(Flush::Throttled));
        if self.outbox.is_empty() {
            self.queued = 0;
        }
        result.map_err(|error| {
            self.shut = true;
            self.outbox = Outbox::default();
            error.into()
        })
    }

    /// Whether to wait for the socket to become writable and then flush.
    pub fn wants_write(&self) -> bool {
        !self.outbox.is_empty() && !self.throttled
    }

    /// Whether the last flush ended with [`Flush::Throttled`] and should be tried again after a delay.
    pub fn is_throttled(&self) -> bool {
        self.throttled
    }

    /// Bytes that wait to be written.
    pub fn queued_bytes(&self) -> usize {
        self.outbox.bytes()
    }

    /// The next message, read from the socket if none is buffered.
    ///
    /// # Errors
    /// The peer broke the protocol or ended in the middle of a message; the channel is at an end.
    pub fn receive(&mut self) -> Result<Received, ChannelError> {
        loop {
            if let Some(incoming) = self.receive_buffered()? {
                return Ok(Received::Message(incoming));
            }
            match self.inbox.fill(self.socket.as_fd())? {
                Fill::Bytes => {}
                Fill::Empty => return Ok(Received::Blocked),
                Fill::End => return self.end(),
            }
        }
    }

    /// The next message if it was read already; never touches the socket.
    ///
    /// An event loop that stops receiving before [`Received::Blocked`], to be fair to others, must come back for these:
    /// the socket does not become readable for them.
    ///
    /// # Errors
    /// As [`Connection::receive`].
    pub fn receive_buffered(&mut self) -> Result<Option<Incoming>, ChannelError> {
        if let Some(incoming) = self.parked.pop_front() {
            self.parked_bytes -= incoming.message().bytes().len();
            return Ok(Some(incoming));
        }
        self.cut()
    }

    fn cut(&mut self) -> Result<Option<Incoming>, ChannelError> {
        match self.inbox.next(self.codec, &self.limits)? {
            Some(span) => Ok(Some(self.take_native(&span)?)),
            None => Ok(None),
        }
    }

    /// Reads what is there and keeps it for [`Connection::receive`]: for a sender that waits for the peer, which may
    /// itself be waiting for us to read. Stops at the limits of the queue; true when something was read.
    pub(crate) fn park(&mut self) -> Result<bool, ChannelError> {
        let mut progress = false;
        while self.can_park() {
            if let Some(incoming) = self.cut()? {
                self.parked_bytes += incoming.message().bytes().len();
                self.parked.push_back(incoming);
                continue;
            }
            match self.inbox.fill(self.socket.as_fd())? {
                Fill::Bytes => progress = true,
                // The end is for the receiver to see.
                Fill::Empty | Fill::End => break,
            }
        }
        Ok(progress)
    }

    /// Whether there is room to read ahead, and somebody who may still send.
    pub(crate) fn can_park(&self) -> bool {
        !self.inbox.ended()
            && self.parked.len() < self.limits.queue_messages
            && self.parked_bytes <= self.limits.queue_bytes
    }

    /// Whether the last read emptied the socket, so that waiting for it to become readable cannot miss anything. Says so
    /// once: afterwards the socket is read again.
    pub(crate) fn take_drained(&mut self) -> bool {
        self.inbox.take_drained()
    }

    pub(crate) fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    fn end(&mut self) -> Result<Received, ChannelError> {
        match self.inbox.leftover() {
            0 => Ok(Received::Closed),
            bytes => {
                // Said once; from now on the channel is simply closed.
                self.inbox.skip(bytes);
                Err(ChannelError::PartialFrame { bytes })
            }
        }
    }

    fn take_native(&mut self, span: &Span) -> Result<Incoming, WireError> {
        let header = native::read_header(self.inbox.bytes())?;
        let claimed = if header.handles > 0 { self.inbox.claim(span.total) } else { Default::default() };
        let mut message = Message::from_parts(self.inbox.take(span), header.format);
        self.inbox.close_surplus(self.inbox.position());
        if header.handles > 0 {
            if claimed.fds.len() == usize::from(header.handles) && !claimed.truncated {
                message.set_handles(claimed.fds.into_iter().map(Handle::from_fd).collect());
            } else {
                // One off would be worse than none: whatever came is closed.
                self.inbox.count_surplus(claimed.fds.len());
                message.set_lost_handles(header.handles);
                self.lost_handles += u64::from(header.handles);
            }
        }
        Ok(Incoming::new(header.kind, message))
    }

    /// Closes our side: the peer sees the end of the channel after what was flushed. Receiving goes on until the peer
    /// closes its side too.
    ///
    /// What is still queued is dropped; flush first.
    pub fn shut_down(&mut self) {
        self.shut = true;
        self.outbox = Outbox::default();
        // The peer may be gone already, and then there is nothing to tell.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
    }

    /// The codec both ends use.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// What the peer did wrong without ending the channel.
    pub fn faults(&self) -> Faults {
        Faults { surplus_handles: self.inbox.surplus(), lost_handles: self.lost_handles }
    }

    /// Whether the peer has closed its side and everything it sent was received.
    pub fn is_ended(&self) -> bool {
        self.inbox.ended() && self.inbox.leftover() == 0
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
