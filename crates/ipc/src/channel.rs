//! A channel for tokio: sending and receiving wait, and both ends may be used at once.
//!
//! Writes are gathered within one turn of the runtime: the first message of a turn goes out at once, what follows in
//! the same turn goes out together at its end, by a task of the channel's own (`flusher`). Neighbours:
//! [`crate::Connection`] does the work, [`crate::blocking`] is the same face without a runtime.

mod flusher;
mod inner;
mod pace;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::pin;
use std::sync::Arc;

use rustix::net::Shutdown;
use serde::Serialize;
use tokio::task::coop::consume_budget;
use tokio::task::yield_now;

use inner::{Inner, Receiver, readable_unless};

use crate::connection::{ChannelError, Connection, Flush, Received, SendError, message};
use crate::handle::Handle;
use crate::message::{Incoming, Message, MessageError, Outgoing};

/// A two-way stream of messages to another process, for tokio.
///
/// Clones are the same channel; when the last is dropped what was sent is written as far as the peer's buffer takes it
/// and the channel is closed. It can be made outside a runtime and binds to the one it is first awaited in.
///
/// ```
/// use everycore_ipc::{Channel, Codec, Connection, Limits};
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// let (here, there) = everycore_sys::socket_pair::stream_pair()?;
/// let here = Channel::new(Connection::new(here, Codec::Native, Limits::default())?);
/// let there = Channel::new(Connection::new(there, Codec::Native, Limits::default())?);
/// here.send("hi there").await?;
/// assert_eq!(there.recv().await?.unwrap().parse::<String>()?, "hi there");
/// here.disconnect().await?;
/// assert!(there.recv().await?.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Channel {
    owner: Arc<Owner>,
}

/// What the clones of a channel share. The channel's own task shares `Inner` only, so it does not keep it open.
#[derive(Debug)]
struct Owner {
    inner: Arc<Inner>,
}

impl Channel {
    /// Waits on behalf of this connection from now on.
    pub fn new(connection: Connection) -> Self {
        Self { owner: Arc::new(Owner { inner: Inner::new(connection) }) }
    }

    /// Sends a value. Waits while the queue to the peer is full; with 256 KiB in it also while the peer goes on reading, and if
    /// that pauses for some milliseconds the queue is filled.
    ///
    /// When it returns, the message is written or will be at the end of this turn of the runtime; a program that exits
    /// right away calls [`Channel::flush`] first.
    ///
    /// # Errors
    /// The value cannot be written, or the channel is closed or fails.
    pub async fn send<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), SendError> {
        self.send_message(self.message(value)?).await
    }

    /// Sends a value, with a handle.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub async fn send_with<T: Serialize + ?Sized>(
        &self,
        value: &T,
        handle: impl Into<Handle>,
    ) -> Result<(), SendError> {
        let message = self.message(value)?.with_handle(handle);
        self.send_message(message).await
    }

    /// Makes a message of a value, written as the codec of this channel would have it.
    ///
    /// # Errors
    /// The value refuses to be written.
    pub fn message<T: Serialize + ?Sized>(&self, value: &T) -> Result<Message, MessageError> {
        message(self.owner.inner.codec(), value)
    }

    /// Sends a message. Waits as [`Channel::send`] does.
    ///
    /// Dropping the future before it is done means the message was not sent, and its handles are closed.
    ///
    /// # Errors
    /// The message cannot be sent on this channel, or the channel is closed or fails.
    pub async fn send_message(&self, message: impl Into<Outgoing>) -> Result<(), SendError> {
        let inner = &self.owner.inner;
        if inner.is_due() {
            consume_budget().await;
        }
        Inner::ensure_flusher(inner)?;
        let outgoing = message.into();
        if inner.try_keep(&outgoing) {
            return Ok(());
        }
        let mut outgoing = match inner.try_send(outgoing, true) {
            Err(SendError::Full(back)) => *back,
            result => return result,
        };
        loop {
            Inner::ensure_flusher(inner)?;
            let mut room = pin!(inner.room.notified());
            room.as_mut().enable();
            match inner.try_send(outgoing, true) {
                Err(SendError::Full(back)) => outgoing = *back,
                result => return result,
            }
            inner.wait_for_room(room).await;
        }
    }

    /// Sends messages in their order and takes them out of `messages`. Waits as [`Channel::send`] does. For many small ones this
    /// costs less than sending each.
    ///
    /// Dropping the future before it is done means that those left in `messages` were not sent, and perhaps the one before
    /// them.
    ///
    /// ```
    /// # use everycore_ipc::{Channel, SendError};
    /// # async fn count(channel: Channel) -> Result<(), SendError> {
    /// let mut messages = (0..1000).map(|n| channel.message(&n)).collect::<Result<_, _>>()?;
    /// channel.send_many(&mut messages).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Channel::send_message`], of the first that cannot be sent; those behind it are still in `messages`.
    pub async fn send_many(&self, messages: &mut VecDeque<Message>) -> Result<(), SendError> {
        let inner = &self.owner.inner;
        Inner::ensure_flusher(inner)?;
        while !messages.is_empty() {
            consume_budget().await;
            inner.keep_many(messages);
            if let Some(next) = messages.pop_front() {
                self.send_message(next).await?;
            }
        }
        Ok(())
    }

    /// Sends a message if there is room for it in the queue now, without waiting.
    ///
    /// # Errors
    /// As [`Channel::send_message`], and [`SendError::Full`].
    pub fn try_send(&self, message: impl Into<Outgoing>) -> Result<(), SendError> {
        let inner = &self.owner.inner;
        Inner::ensure_flusher(inner)?;
        inner.try_send(message.into(), false)
    }

    /// Waits for the next message for the program; `None` when the peer has closed the channel. Internal messages,
    /// requests and replies are passed over; [`Channel::recv_any`] returns them too.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// The peer broke the protocol or ended in the middle of a message.
    pub async fn recv(&self) -> Result<Option<Message>, ChannelError> {
        loop {
            match self.recv_any().await? {
                Some(Incoming::User(message)) => return Ok(Some(message)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// Waits for messages for the program, and adds those that have come to `messages`, `limit` at most; gives how many. 0 when
    /// the peer has closed the channel. For many small messages this costs less than [`Channel::recv`] for each.
    ///
    /// Dropping the future loses nothing. An error is told when all that came before it was given out.
    ///
    /// ```
    /// # use everycore_ipc::{Channel, ChannelError};
    /// # async fn sum(channel: Channel) -> Result<u64, ChannelError> {
    /// let (mut messages, mut sum) = (Vec::new(), 0);
    /// while channel.recv_many(&mut messages, 1000).await? > 0 {
    ///     sum += messages.drain(..).filter_map(|message| message.parse::<u64>().ok()).sum::<u64>();
    /// }
    /// # Ok(sum)
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Channel::recv`].
    pub async fn recv_many(&self, messages: &mut Vec<Message>, limit: usize) -> Result<usize, ChannelError> {
        let before = messages.len();
        if limit == 0 {
            return Ok(0);
        }
        consume_budget().await;
        let Some(first) = self.recv().await? else { return Ok(0) };
        messages.push(first);
        self.owner.inner.receive_buffered_many(messages, before.saturating_add(limit));
        Ok(messages.len() - before)
    }

    /// Waits for the next message of any kind; `None` when the peer has closed the channel.
    ///
    /// # Errors
    /// As [`Channel::recv`].
    pub async fn recv_any(&self) -> Result<Option<Incoming>, ChannelError> {
        let inner = &self.owner.inner;
        if inner.is_due() {
            // Before anything is taken: a future that is dropped here loses nothing.
            consume_budget().await;
        }
        if let Some(incoming) = inner.receive_buffered()? {
            return Ok(Some(incoming));
        }
        let ready = inner.ready()?;
        Inner::ensure_flusher(inner)?;
        let _receiver = Receiver::new(inner);
        loop {
            let mut parked = pin!(inner.parked.notified());
            parked.as_mut().enable();
            if let Some(incoming) = inner.receive_buffered()? {
                return Ok(Some(incoming));
            }
            let mut guard = readable_unless(ready, parked.as_mut()).await?;
            match inner.receive(guard.as_mut())? {
                Received::Message(incoming) => return Ok(Some(incoming)),
                Received::Closed => return Ok(None),
                Received::Blocked => {}
                Received::More => yield_now().await,
            }
        }
    }

    /// Waits until everything sent so far is written to the socket.
    ///
    /// # Errors
    /// The peer is gone, or the socket failed.
    pub async fn flush(&self) -> Result<(), ChannelError> {
        self.wait_until(|connection| connection.queued_bytes() == 0).await
    }

    /// Ends our side: everything queued is written and handles are confirmed by the peer, where it does that; then the
    /// peer sees the end. Receiving goes on until the peer has ended its side too.
    ///
    /// # Errors
    /// The socket failed. A peer that is gone already is no error.
    pub async fn disconnect(&self) -> Result<(), ChannelError> {
        let done = |connection: &Connection| connection.queued_bytes() == 0 && !connection.awaits_answers();
        let result = self.wait_until(done).await;
        self.owner.inner.lock().connection.shut_down();
        match result {
            Err(ChannelError::PeerGone) => Ok(()),
            result => result,
        }
    }

    async fn wait_until(&self, done: impl Fn(&Connection) -> bool) -> Result<(), ChannelError> {
        let inner = &self.owner.inner;
        loop {
            Inner::ensure_flusher(inner)?;
            let mut room = pin!(inner.room.notified());
            room.as_mut().enable();
            {
                let mut state = inner.lock();
                inner.write(&mut state)?;
                if done(&state.connection) {
                    return Ok(());
                }
            }
            inner.work.notify_one();
            room.await;
        }
    }

    /// Looks at the connection underneath, such as for its limits or faults.
    pub fn with_connection<T>(&self, look: impl FnOnce(&mut Connection) -> T) -> T {
        look(&mut self.owner.inner.lock().connection)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        state.dropped = true;
        while let Ok(Flush::More) = state.connection.flush() {}
        state.connection.shut_down();
        drop(state);
        // The flusher may hold the socket until it has looked; the peer need not wait for that.
        let _ = rustix::net::shutdown(self.inner.socket(), Shutdown::Both);
        self.inner.work.notify_one();
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.owner.inner.socket().as_fd()
    }
}
