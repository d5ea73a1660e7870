//! A channel for programs without a runtime: calls wait in `poll`, or in the read itself.
//!
//! Threads may send and receive at once on the same channel. One thread at a time waits for input; the others are told
//! when it has found something. Neighbours: [`crate::Connection`] does the work, [`crate::Channel`] is the same face
//! for tokio.

mod inner;

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use inner::Inner;

use crate::connection::{ChannelError, Connection, SendError, message};
use crate::handle::Handle;
use crate::message::{Incoming, Message, MessageError, Outgoing};

/// A two-way stream of messages to another process, for blocking code.
///
/// Dropping it closes the channel; the peer sees the end after everything that was sent.
///
/// It puts the socket into blocking mode, for everybody who shares that, and works as well if somebody changes it back.
///
/// ```
/// use everycore_ipc::{Codec, Connection, Limits, blocking::Channel};
/// let (here, there) = everycore_sys::socket_pair::stream_pair()?;
/// let here = Channel::new(Connection::new(here, Codec::Native, Limits::default())?);
/// let there = Channel::new(Connection::new(there, Codec::Native, Limits::default())?);
/// let echo = std::thread::spawn(move || {
///     while let Some(message) = there.recv().unwrap() {
///         there.send_message(message).unwrap();
///     }
/// });
/// here.send("hi there")?;
/// assert_eq!(here.recv()?.unwrap().parse::<String>()?, "hi there");
/// here.disconnect()?;
/// assert!(here.recv()?.is_none());
/// # echo.join().unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Channel {
    inner: Arc<Inner>,
}

impl Channel {
    /// Waits on behalf of this connection from now on.
    pub fn new(connection: Connection) -> Self {
        Self { inner: Inner::new(connection) }
    }

    /// Sends a value; returns when it is written to the socket.
    ///
    /// # Errors
    /// The value cannot be written, or the channel is closed or fails.
    pub fn send<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), SendError> {
        self.send_message(self.message(value)?)
    }

    /// Sends a value, with a handle.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub fn send_with<T: Serialize + ?Sized>(
        &self,
        value: &T,
        handle: impl Into<Handle>,
    ) -> Result<(), SendError> {
        self.send_message(self.message(value)?.with_handle(handle))
    }

    /// Makes a message of a value, written as the codec of this channel would have it.
    ///
    /// # Errors
    /// The value refuses to be written.
    pub fn message<T: Serialize + ?Sized>(&self, value: &T) -> Result<Message, MessageError> {
        message(self.inner.codec(), value)
    }

    /// Sends a message; returns when it is written to the socket, and when it carries a handle for a Node peer, when the
    /// peer has confirmed that.
    ///
    /// # Errors
    /// The message cannot be sent on this channel, or the channel is closed or fails.
    pub fn send_message(&self, message: impl Into<Outgoing>) -> Result<(), SendError> {
        self.send_deadline(message, None)
    }

    /// Sends messages in their order and takes them out of `messages`, many in one system call; returns as
    /// [`Channel::send_message`] does.
    ///
    /// # Errors
    /// As [`Channel::send_message`], of the first that cannot be sent; those behind it are still in `messages`.
    pub fn send_many(&self, messages: &mut VecDeque<Message>) -> Result<(), SendError> {
        self.inner.send_many(messages)
    }

    /// Sends a message, and gives up waiting for the peer to read at the deadline.
    ///
    /// # Errors
    /// As [`Channel::send_message`], and [`SendError::Full`] with the message when there was no room for it before the
    /// deadline. A message that found room and is not written by then goes out with the next calls.
    pub fn send_deadline(
        &self,
        message: impl Into<Outgoing>,
        deadline: impl Into<Option<Instant>>,
    ) -> Result<(), SendError> {
        self.inner.send(message.into(), deadline.into())
    }

    /// Waits until everything queued is written.
    ///
    /// # Errors
    /// The peer is gone, or [`ChannelError::TimedOut`].
    pub fn flush(&self, deadline: impl Into<Option<Instant>>) -> Result<(), ChannelError> {
        let written = |connection: &Connection| connection.queued_bytes() == 0;
        self.inner.wait_until(self.inner.lock(), written, deadline.into())
    }

    /// Waits for the next message for the program; `None` when the peer has closed the channel. Internal messages,
    /// requests and replies are passed over; [`Channel::recv_any`] returns them too.
    ///
    /// # Errors
    /// The peer broke the protocol or ended in the middle of a message.
    pub fn recv(&self) -> Result<Option<Message>, ChannelError> {
        self.recv_deadline(None)
    }

    /// Waits for the next message for the program until the deadline.
    ///
    /// # Errors
    /// As [`Channel::recv`], and [`ChannelError::TimedOut`].
    pub fn recv_deadline(
        &self,
        deadline: impl Into<Option<Instant>>,
    ) -> Result<Option<Message>, ChannelError> {
        let deadline = deadline.into();
        loop {
            match self.recv_any(deadline)? {
                Some(Incoming::User(message)) => return Ok(Some(message)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// Waits for messages for the program, and adds those that have come to `messages`, `limit` at most; gives how many. 0 when
    /// the peer has closed the channel. For many small messages this costs less than [`Channel::recv`] for each.
    ///
    /// # Errors
    /// As [`Channel::recv`], told when all that came before was given out.
    pub fn recv_many(&self, messages: &mut Vec<Message>, limit: usize) -> Result<usize, ChannelError> {
        let before = messages.len();
        if limit == 0 {
            return Ok(0);
        }
        let Some(first) = self.recv()? else { return Ok(0) };
        messages.push(first);
        self.inner.receive_buffered_many(messages, before.saturating_add(limit));
        Ok(messages.len() - before)
    }

    /// Waits for the next message of any kind; `None` when the peer has closed the channel.
    ///
    /// # Errors
    /// As [`Channel::recv_deadline`].
    pub fn recv_any(&self, deadline: impl Into<Option<Instant>>) -> Result<Option<Incoming>, ChannelError> {
        let received = self.inner.receive(deadline.into());
        self.inner.write_what_is_due();
        received
    }

    /// Ends our side: everything queued is written and handles are confirmed by the peer, where it does that; then the
    /// peer sees the end. Receiving goes on until the peer has
    /// ended its side too.
    ///
    /// # Errors
    /// None when the peer is gone already; the socket failed.
    pub fn disconnect(&self) -> Result<(), ChannelError> {
        self.disconnect_deadline(None)
    }

    /// Like [`Channel::disconnect`], and gives up on what is not written at the deadline.
    ///
    /// # Errors
    /// As [`Channel::disconnect`], and [`ChannelError::TimedOut`]; our side is closed all the same.
    pub fn disconnect_deadline(&self, deadline: impl Into<Option<Instant>>) -> Result<(), ChannelError> {
        let done = |connection: &Connection| connection.queued_bytes() == 0 && !connection.awaits_answers();
        let result = self.inner.wait_until(self.inner.lock(), done, deadline.into());
        self.inner.lock().connection.shut_down();
        match result {
            Err(ChannelError::PeerGone) => Ok(()),
            result => result,
        }
    }

    /// Looks at the connection underneath, such as for its limits or faults.
    pub fn with_connection<T>(&self, look: impl FnOnce(&mut Connection) -> T) -> T {
        look(&mut self.inner.lock().connection)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.socket().as_fd()
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("socket", self.inner.socket()).finish_non_exhaustive()
    }
}
