//! One end of a channel, without waiting and without a runtime.
//!
//! An event loop owns it: queue, flush when writable, receive when readable. Neighbours: [`crate::channel`] waits with
//! tokio, [`crate::blocking`] waits in system calls; `inbox` and `outbox` hold what is on its way in and out.

mod error;
mod inbox;
mod native;
mod node;
mod outbox;
mod receive;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::FdFlags;
use rustix::net::{Shutdown, sockopt};
use serde::Serialize;

pub use error::{ChannelError, SendError};
use inbox::Inbox;
use node::Node;
pub use outbox::Flush;
use outbox::{Outbox, SHARE};
pub use receive::Received;

use crate::limits::Limits;
use crate::message::{Format, Incoming, Kind, Message, MessageError, Outgoing};
use crate::sockets::Book;
use crate::wire::native::{Header, write_header};
use crate::wire::{Codec, json};

/// What a peer did that cost it something, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Descriptors that came and that no message asked for; they were closed.
    pub surplus_handles: u64,
    /// Handles that were sent to us and did not arrive.
    pub lost_handles: u64,
    /// Handles of ours that the peer refused for good.
    pub refused_handles: u64,
}

/// Whether more can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Open,
    /// We have closed our side.
    Shut,
    /// The peer is gone, or broke the protocol.
    Failed,
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
    /// What the codecs of Node need beyond the native one.
    node: Option<Box<Node>>,
    /// Messages that were read while something else was waited for.
    parked: VecDeque<Incoming>,
    parked_bytes: usize,
    /// The kernel's buffer for what the peer has not read, as last asked for.
    send_buffer: usize,
    throttled: bool,
    /// The depth of messages is nothing to look at before they are parsed.
    unchecked: bool,
    /// Reading has stopped although there may be more.
    paused: bool,
    life: Life,
    /// What ended the channel while nobody was receiving.
    failure: Option<ChannelError>,
    lost_handles: u64,
}

impl Connection {
    /// Takes over one end of a socket pair; makes it non-blocking and closed on exec. A connection never waits, whatever the
    /// socket's mode is later.
    ///
    /// # Errors
    /// It is not a socket.
    pub fn new(socket: OwnedFd, codec: Codec, limits: Limits) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
        let send_buffer = sockopt::socket_send_buffer_size(&socket)?;
        let limits = limits.sane();
        let node = (codec != Codec::Native).then(|| Box::new(Node::new(limits.unanswered)));
        Ok(Self {
            socket: Arc::new(socket),
            codec,
            limits,
            inbox: Inbox::new(codec),
            outbox: Outbox::default(),
            node,
            parked: VecDeque::new(),
            parked_bytes: 0,
            send_buffer,
            throttled: false,
            unchecked: !json::checks_depth(limits.depth),
            paused: false,
            life: Life::Open,
            failure: None,
            lost_handles: 0,
        })
    }

    /// Makes a message of a value, written as the codec of this connection would have it.
    ///
    /// # Errors
    /// The value refuses to be written.
    pub fn message<T: Serialize + ?Sized>(&self, value: &T) -> Result<Message, MessageError> {
        message(self.codec, value)
    }

    /// Adds a message to what is to be written. Nothing is written before [`Connection::flush`].
    ///
    /// # Errors
    /// The queue is full, the channel is closed, or the message cannot be sent on it; the message comes back.
    pub fn queue(&mut self, outgoing: impl Into<Outgoing>) -> Result<(), SendError> {
        let outgoing = outgoing.into();
        if self.life != Life::Open {
            return Err(SendError::Closed(Box::new(outgoing)));
        }
        let bytes = outgoing.message.bytes().len();
        if bytes > self.limits.frame {
            return Err(SendError::TooLarge { limit: self.limits.frame, outgoing: Box::new(outgoing) });
        }
        if self.is_full(bytes, outgoing.message.handles().len()) {
            return Err(SendError::Full(Box::new(outgoing)));
        }
        if bytes >= SHARE {
            self.grow_send_buffer(bytes);
        }
        match self.codec {
            Codec::Native => self.queue_native(outgoing),
            Codec::Json | Codec::Advanced => self.queue_node(outgoing),
        }
    }

    /// Adds a small message without handles to what is written together anyway, if there is room. This is all there is to do
    /// for most under the native codec; false says nothing about whether it can be queued.
    #[inline(always)]
    pub(crate) fn queue_small(&mut self, kind: Kind, message: &Message) -> bool {
        let bytes = message.bytes().len();
        let is_small =
            self.node.is_none() && bytes < SHARE && bytes <= self.limits.frame && !message.has_beside();
        if !is_small
            || message.format() == Format::V8
            || self.life != Life::Open
            || self.outbox.messages() >= self.limits.queue_messages
            || self.outbox.bytes() + bytes > self.limits.queue_bytes
        {
            return false;
        }
        let header = Header { kind, format: message.format(), handles: 0 };
        self.outbox.push_message(&write_header(&header, bytes as u32), message.bytes(), &[]);
        true
    }

    fn is_full(&self, bytes: usize, handles: usize) -> bool {
        // One message may always wait, whatever its size.
        let (held_bytes, held_handles) = self.held();
        let (waiting, carrying) = (self.outbox.bytes() + held_bytes, self.outbox.handles() + held_handles);
        waiting > 0
            && (self.outbox.messages() + self.held_messages() >= self.limits.queue_messages
                || waiting + bytes > self.limits.queue_bytes
                || (handles > 0 && carrying + handles > self.limits.queue_handles))
    }

    /// Lets the kernel hold a large message whole, and several of those that are less large: it tells of room only when a quarter
    /// is left unread, and then the peer should have something to do until there is more. An unprivileged process gets
    /// as much as `net.core.wmem_max` allows; having less only costs time.
    fn grow_send_buffer(&mut self, bytes: usize) {
        let several = bytes.saturating_mul(4).min(256 << 10);
        let wanted = several.max(bytes.saturating_mul(2).min(4 << 20));
        if wanted <= self.send_buffer {
            return;
        }
        self.send_buffer = wanted;
        if sockopt::set_socket_send_buffer_size_force(&self.socket, wanted).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(&self.socket, wanted);
        }
    }

    /// Writes as much of the queue as the peer's buffer takes, many messages per system call; of a long queue a part
    /// ([`Flush::More`]).
    ///
    /// # Errors
    /// The peer is gone, or the socket failed. What the peer had sent can still be received.
    pub fn flush(&mut self) -> Result<Flush, ChannelError> {
        match self.life {
            Life::Open => {}
            Life::Shut => return Ok(Flush::Done),
            Life::Failed => return Err(ChannelError::PeerGone),
        }
        if self.node.is_some() {
            self.report_closed();
        }
        let result = self.outbox.flush(self.socket.as_fd());
        if self.node.is_some() {
            self.note_written();
        }
        self.throttled = matches!(result, Ok(Flush::Throttled));
        if result.is_ok() && self.is_stuck() {
            self.stop_writing(Life::Failed);
            return Err(ChannelError::PeerGone);
        }
        result.map_err(|error| {
            self.stop_writing(Life::Failed);
            error.into()
        })
    }

    /// Has nothing more written, as if the peer were gone.
    pub(crate) fn give_up(&mut self) {
        if self.life == Life::Open {
            self.stop_writing(Life::Failed);
        }
    }

    /// Nothing can be written any more. Handles that the peer was to confirm are kept for whoever wants them back.
    fn stop_writing(&mut self, life: Life) {
        self.life = life;
        self.throttled = false;
        if self.node.is_none() {
            self.outbox.abandon();
        }
    }

    /// Whether to wait for the socket to become writable and then flush.
    pub fn wants_write(&self) -> bool {
        let due = self.node.as_ref().is_some_and(|node| node.book.is_due());
        (!self.outbox.is_empty() || due || self.is_stuck()) && !self.throttled && self.life == Life::Open
    }

    /// Whether what is queued waits for an answer that the peer, which has closed its side, will not give.
    fn is_stuck(&self) -> bool {
        self.inbox.ended() && self.outbox.is_empty() && self.held() != (0, 0)
    }

    /// Whether the last flush ended with [`Flush::Throttled`] and should be tried again after a delay.
    pub fn is_throttled(&self) -> bool {
        self.throttled
    }

    /// After what delay that should be: a millisecond, and longer with a peer that has stopped reading while a handle waits
    /// for that ([`Connection::send_handles_alone`]).
    pub fn retry_delay(&self) -> Duration {
        self.outbox.retry_delay(Instant::now())
    }

    /// Bytes that wait to be written, those included that wait for the peer to answer a handle first.
    pub fn queued_bytes(&self) -> usize {
        if self.life == Life::Open { self.outbox.bytes() + self.held().0 } else { 0 }
    }

    /// Has this called when the last socket of a Node peer that wants to know is dropped here
    /// ([`OpenSocket`](crate::OpenSocket)), from the thread that dropped it: there is something to flush then. It must not
    /// wait, nor use this connection. A later one replaces it; under the native codec it is never called.
    pub fn on_due(&self, wake: impl Fn() + Send + Sync + 'static) {
        if let Some(node) = &self.node {
            node.book.set_bell(Arc::new(wake));
        }
    }

    /// The open sockets that a Node peer counts, to be told when there is something to report.
    pub(crate) fn book(&self) -> Option<&Arc<Book>> {
        self.node.as_ref().map(|node| &node.book)
    }

    pub(crate) fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    /// Closes our side: the peer sees the end of the channel after what was flushed. Receiving goes on until the peer
    /// closes its side too.
    ///
    /// What is still queued is not sent any more; flush first.
    pub fn shut_down(&mut self) {
        if self.life == Life::Open {
            self.stop_writing(Life::Shut);
        }
        // The peer may be gone already, and then there is nothing to tell.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
    }

    /// Whether a handle waits until the peer has read everything that was sent before it.
    ///
    /// For Deno: a handle that it reads together with an earlier message is lost, and never answered. [`Fork`](crate::Fork)
    /// sets it where the runtime's name begins with `deno`.
    pub fn send_handles_alone(&mut self, alone: bool) {
        self.outbox.set_alone(alone);
    }

    /// The place in what the peer sends that it has come to by now: behind the last byte that is in the socket or here.
    pub(crate) fn arrived(&self) -> u64 {
        // Fails only on what is no socket.
        let unread = rustix::io::ioctl_fionread(&self.socket).unwrap_or(0);
        self.inbox.position() + self.inbox.leftover() as u64 + unread
    }

    /// Whether everything up to this place was received.
    pub(crate) fn has_received(&self, place: u64) -> bool {
        self.parked.is_empty() && self.inbox.position() >= place
    }

    /// The codec both ends use.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// What the peer did wrong without ending the channel.
    pub fn faults(&self) -> Faults {
        Faults {
            surplus_handles: self.inbox.surplus(),
            lost_handles: self.lost_handles,
            refused_handles: self.node.as_ref().map_or(0, |node| node.refused),
        }
    }

    /// Whether the peer has closed its side and everything it sent was received.
    pub fn is_ended(&self) -> bool {
        self.inbox.ended() && self.inbox.leftover() == 0
    }
}

/// A value as a message of a codec.
pub(crate) fn message<T: Serialize + ?Sized>(codec: Codec, value: &T) -> Result<Message, MessageError> {
    if codec == Codec::Advanced { Message::v8(value) } else { Message::json(value) }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
