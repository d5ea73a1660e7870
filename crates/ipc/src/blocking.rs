//! A channel for programs without a runtime: calls wait in `poll`.
//!
//! Threads may send and receive at once on the same channel. One thread at a time waits for input; the others are told
//! when it has found something. Neighbours: [`crate::Connection`] does the work, [`crate::Channel`] is the same face
//! for tokio.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;

use crate::connection::{ChannelError, Connection, Received, SendError, message};
use crate::handle::Handle;
use crate::message::{Incoming, Message, MessageError, Outgoing};
use crate::sockets::Book;
use crate::wire::Codec;

/// How long to wait before descriptors are tried again after the kernel had too many on their way.
const THROTTLE: Duration = Duration::from_millis(1);

/// A two-way stream of messages to another process, for blocking code.
///
/// Dropping it closes the channel; the peer sees the end after everything that was sent.
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

struct Inner {
    codec: Codec,
    socket: Arc<OwnedFd>,
    /// The open sockets that a Node peer counts.
    book: Option<Arc<Book>>,
    state: Mutex<State>,
    /// Told after each wait: something may have been read, written or answered.
    progress: Condvar,
}

struct State {
    connection: Connection,
    /// A thread waits for input; nobody else may, or it would sleep through what the other one reads.
    reading: bool,
}

impl Channel {
    /// Waits on behalf of this connection from now on.
    pub fn new(connection: Connection) -> Self {
        let book = connection.book().cloned();
        let inner = Arc::new(Inner {
            codec: connection.codec(),
            socket: Arc::clone(connection.socket()),
            book: book.clone(),
            state: Mutex::new(State { connection, reading: false }),
            progress: Condvar::new(),
        });
        if let Some(book) = book {
            let inner = Arc::downgrade(&inner);
            book.set_bell(Arc::new(move || {
                if let Some(inner) = inner.upgrade() {
                    inner.write_what_is_due();
                }
            }));
        }
        Self { inner }
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
        message(self.inner.codec, value)
    }

    /// Sends a message; returns when it is written to the socket, and when it carries a handle for a Node peer, when the
    /// peer has confirmed that.
    ///
    /// # Errors
    /// The message cannot be sent on this channel, or the channel is closed or fails.
    pub fn send_message(&self, message: impl Into<Outgoing>) -> Result<(), SendError> {
        self.send_deadline(message, None)
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

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was held happened between two steps that each leave the connection whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, mut outgoing: Outgoing, deadline: Option<Instant>) -> Result<(), SendError> {
        let carries = !outgoing.message.handles().is_empty();
        let mut state = self.lock();
        loop {
            let full = match state.connection.queue(outgoing) {
                Ok(()) => break,
                Err(SendError::Full(back)) => back,
                Err(error) => return Err(error),
            };
            state = match self.push_on(state, deadline) {
                Ok(state) => state,
                Err(ChannelError::TimedOut) => return Err(SendError::Full(full)),
                Err(error) => return Err(error.into()),
            };
            outgoing = *full;
        }
        // Our copy of a socket is closed with the peer's answer, so somebody has to read it.
        let done = |connection: &Connection| {
            connection.queued_bytes() == 0 && !(carries && connection.awaits_answers())
        };
        match self.wait_until(state, done, deadline) {
            // It is queued, and will go out.
            Err(ChannelError::TimedOut) => Ok(()),
            result => Ok(result?),
        }
    }

    fn receive(&self, deadline: Option<Instant>) -> Result<Option<Incoming>, ChannelError> {
        let mut state = self.lock();
        loop {
            let received = state.connection.receive();
            if state.connection.wants_write() {
                // Answers to handles. A peer that is gone shows in what is received, after everything it sent.
                let _ = state.connection.flush();
            }
            match received? {
                Received::Message(incoming) => return Ok(Some(incoming)),
                Received::Closed => return Ok(None),
                Received::Blocked => state = self.wait(state, Wish::Input, deadline)?,
            }
        }
    }

    /// Reports sockets that were closed, unless another thread has the lock: it does so before it lets go for good.
    fn write_what_is_due(&self) {
        while self.book.as_ref().is_some_and(|book| book.is_due()) {
            let Ok(mut state) = self.state.try_lock() else { return };
            if state.connection.flush().is_err() || state.connection.wants_write() {
                return;
            }
        }
    }

    /// Writes, and waits for the peer to read and answer, until this holds.
    fn wait_until<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        done: impl Fn(&Connection) -> bool,
        deadline: Option<Instant>,
    ) -> Result<(), ChannelError> {
        loop {
            state.connection.flush()?;
            if done(&state.connection) {
                break;
            }
            state = self.push_on(state, deadline)?;
        }
        drop(state);
        self.write_what_is_due();
        Ok(())
    }

    /// Waits until the queue may move, and moves it. Input is kept aside meanwhile: it may have an answer that is waited
    /// for, and the peer may be waiting for us to read.
    fn push_on<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        deadline: Option<Instant>,
    ) -> Result<MutexGuard<'a, State>, ChannelError> {
        state.connection.flush()?;
        if state.connection.queued_bytes() == 0 && !state.connection.awaits_answers() {
            return Ok(state);
        }
        state = self.wait(state, Wish::Progress, deadline)?;
        if !state.reading {
            state.connection.park();
        }
        state.connection.flush()?;
        Ok(state)
    }

    /// Lets go of the lock until the socket or another thread has news.
    fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        wish: Wish,
        deadline: Option<Instant>,
    ) -> Result<MutexGuard<'a, State>, ChannelError> {
        let mut timeout = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => return Err(ChannelError::TimedOut),
            timeout => timeout,
        };
        if state.connection.is_throttled() {
            timeout = Some(timeout.map_or(THROTTLE, |timeout| timeout.min(THROTTLE)));
        }
        let mut interest = PollFlags::empty();
        if state.connection.wants_write() {
            interest |= PollFlags::OUT;
        }
        let reads = !state.reading && (wish == Wish::Input || state.connection.can_park());
        if reads {
            interest |= PollFlags::IN;
        }
        if interest.is_empty() {
            return Ok(self.wait_for_others(state, timeout));
        }
        state.reading |= reads;
        drop(state);
        let polled = wait_for(self.socket.as_fd(), interest, timeout);
        let mut state = self.lock();
        if reads {
            state.reading = false;
        }
        self.progress.notify_all();
        polled.map_err(|errno| ChannelError::Io(errno.into()))?;
        Ok(state)
    }

    fn wait_for_others<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        match timeout {
            None => self.progress.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                self.progress.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// A message.
    Input,
    /// The queue getting shorter; input only so that the peer does not get stuck.
    Progress,
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.socket.as_fd()
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("socket", &self.inner.socket).finish_non_exhaustive()
    }
}

fn wait_for(socket: BorrowedFd<'_>, interest: PollFlags, timeout: Option<Duration>) -> Result<(), Errno> {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    match poll(&mut [PollFd::from_borrowed_fd(socket, interest)], timeout.as_ref()) {
        // A signal: the caller looks again, and waits again with what is left of the time.
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}
