//! What the clones of a channel and its flusher share: the connection under a lock, and who is told of what.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;

use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::pace::{Pace, Timer};
use crate::connection::{ChannelError, Connection, Flush, Received, SendError};
use crate::message::{Incoming, Kind, Message, Outgoing};
use crate::wire::Codec;

/// Bytes queued within one turn from which on they are written without waiting for its end.
const EARLY: usize = 64 * 1024;

/// The same, as far as it is sure that one more small message is still within it.
const KEPT: usize = EARLY - 16 * 1024;

/// Messages of a batch that are taken under one lock, and count as one thing that a task does.
const AT_ONCE: usize = 64;

/// Messages that together count as one thing that a task does.
const MESSAGES: u32 = 8;

pub(super) struct Inner {
    codec: Codec,
    socket: Arc<OwnedFd>,
    ready: OnceLock<AsyncFd<Arc<OwnedFd>>>,
    state: Mutex<State>,
    pub(super) timer: Timer,
    /// The queue got shorter, or the channel ended.
    pub(super) room: Notify,
    /// The flusher read messages for a receiver.
    pub(super) parked: Notify,
    /// There is something for the flusher to do.
    pub(super) work: Notify,
    pub(super) flusher_runs: AtomicBool,
    /// Those who wait to receive.
    receivers: AtomicU32,
    /// Messages sent and received, for [`Inner::is_due`].
    messages: AtomicU32,
}

pub(super) struct State {
    pub(super) connection: Connection,
    /// A message was written in this turn of the runtime; what follows waits for the end of the turn.
    pub(super) turn: bool,
    /// The peer's buffer was full: the flusher waits for room, and until then trying is in vain.
    blocked: bool,
    /// No clone of the channel is left.
    pub(super) dropped: bool,
    pub(super) pace: Pace,
    /// The runtime that the socket was registered in is gone, and with it what can be waited for.
    pub(super) adrift: bool,
    /// Where the flusher runs.
    pub(super) runtime: Option<Handle>,
}

impl State {
    /// Nothing is written any more.
    pub(super) fn drift(&mut self) {
        self.adrift = true;
        self.connection.give_up();
    }

    #[inline(always)]
    fn try_keep(&mut self, kind: Kind, message: &Message) -> bool {
        let queued = self.connection.queued_bytes();
        let keeps = if self.blocked { !self.pace.is_ahead(queued) } else { self.turn && queued < KEPT };
        keeps && self.connection.queue_small(kind, message)
    }
}

impl Inner {
    pub(super) fn new(connection: Connection) -> Arc<Self> {
        let inner = Self {
            codec: connection.codec(),
            socket: Arc::clone(connection.socket()),
            ready: OnceLock::new(),
            state: Mutex::new(State {
                connection,
                turn: false,
                blocked: false,
                dropped: false,
                adrift: false,
                pace: Pace::new(),
                runtime: None,
            }),
            timer: Timer::new(),
            room: Notify::new(),
            parked: Notify::new(),
            work: Notify::new(),
            flusher_runs: AtomicBool::new(false),
            receivers: AtomicU32::new(0),
            messages: AtomicU32::new(0),
        };
        let inner = Arc::new(inner);
        let due = Arc::downgrade(&inner);
        inner.lock().connection.on_due(move || {
            if let Some(inner) = due.upgrade() {
                inner.work.notify_one();
            }
        });
        inner
    }

    pub(super) fn codec(&self) -> Codec {
        self.codec
    }

    pub(super) fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was held happened between two steps that each leave the connection whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket in the runtime of whoever waits for it first.
    pub(super) fn ready(&self) -> Result<&AsyncFd<Arc<OwnedFd>>, ChannelError> {
        if let Some(ready) = self.ready.get() {
            return Ok(ready);
        }
        if Handle::try_current().is_err() {
            return Err(ChannelError::NoRuntime);
        }
        // Under the lock, so that the socket is registered once.
        let _state = self.lock();
        if self.ready.get().is_none() {
            #[expect(
                deprecated,
                reason = "its successor is unsafe; an owned descriptor keeps the promise it wants"
            )]
            let registered = AsyncFd::new(Arc::clone(&self.socket))?;
            let _ = self.ready.set(registered);
        }
        Ok(self.ready.get().expect("it was just set"))
    }

    /// Whether the next message is one that counts as much as a system call in what a task may do before others get their
    /// turn: one of [`MESSAGES`], since most cost none.
    pub(super) fn is_due(&self) -> bool {
        // Two at once may count as one: it need not be exact, and an exact count would cost as much as the message.
        let count = self.messages.load(Ordering::Relaxed).wrapping_add(1);
        self.messages.store(count, Ordering::Relaxed);
        count.is_multiple_of(MESSAGES)
    }

    /// Sends if nothing is to be done for it in this turn but to keep it.
    #[inline(always)]
    pub(super) fn try_keep(&self, outgoing: &Outgoing) -> bool {
        self.lock().try_keep(outgoing.kind, &outgoing.message)
    }

    /// Sends those at the front for which nothing else is to be done, a number at a time.
    pub(super) fn keep_many(&self, messages: &mut VecDeque<Message>) {
        let mut state = self.lock();
        for _ in 0..AT_ONCE {
            match messages.front() {
                Some(message) if state.try_keep(Kind::User, message) => drop(messages.pop_front()),
                _ => return,
            }
        }
    }

    /// Sends if there is room. For whoever `can_wait`, there is none either while a peer that reads has enough to read.
    pub(super) fn try_send(&self, outgoing: Outgoing, can_wait: bool) -> Result<(), SendError> {
        // Each is an open descriptor of ours until it is written.
        let carries = !outgoing.message.handles().is_empty();
        let mut state = self.lock();
        if can_wait && state.pace.is_ahead(state.connection.queued_bytes()) {
            return Err(SendError::Full(Box::new(outgoing)));
        }
        let queued = match state.connection.queue(outgoing) {
            Err(SendError::Full(back)) => {
                self.write(&mut state)?;
                state.connection.queue(*back)
            }
            queued => queued,
        };
        let early = state.turn && !carries && state.connection.queued_bytes() < EARLY;
        if queued.is_ok() && (early || state.blocked) {
            return Ok(());
        }
        let wake = !std::mem::replace(&mut state.turn, true);
        let written = self.write(&mut state);
        drop(state);
        if wake || !matches!(written, Ok(Flush::Done)) {
            self.work.notify_one();
        }
        queued?;
        written?;
        Ok(())
    }

    /// Receives, and settles what is known about the socket's readiness.
    pub(super) fn receive(&self, guard: Option<&mut Readable<'_>>) -> Result<Received, ChannelError> {
        let mut state = self.lock();
        let received = state.connection.receive();
        let drained = state.connection.take_drained(matches!(received, Ok(Received::Blocked)));
        if let Some(guard) = guard.filter(|_| drained) {
            guard.clear_ready();
        }
        // Who looked here before this read, and at the socket after it, would sleep through what is left.
        let leaves = matches!(received, Ok(Received::Message(_))) && state.connection.has_buffered();
        let wake = self.after_reading(&mut state);
        drop(state);
        if wake {
            self.work.notify_one();
        }
        if leaves && self.receivers.load(Ordering::Relaxed) > 1 {
            self.parked.notify_waiters();
        }
        received
    }

    /// Receives what was read already.
    pub(super) fn receive_buffered(&self) -> Result<Option<Incoming>, ChannelError> {
        let mut state = self.lock();
        let unanswered = state.connection.unanswered();
        let found = state.connection.receive_buffered();
        let is_due = state.connection.wants_write() || state.connection.unanswered() != unanswered;
        let wake = self.codec != Codec::Native && is_due && self.after_reading(&mut state);
        drop(state);
        if wake {
            self.work.notify_one();
        }
        found
    }

    /// Adds what was read already, until there are so many.
    pub(super) fn receive_buffered_many(&self, messages: &mut Vec<Message>, most: usize) {
        let mut state = self.lock();
        state.connection.receive_buffered_many(messages, most);
        let wake = self.after_reading(&mut state);
        drop(state);
        if wake {
            self.work.notify_one();
        }
    }

    /// Writes what reading has made due, such as answers to handles; true if the flusher has to go on with it.
    pub(super) fn after_reading(&self, state: &mut State) -> bool {
        // A peer that is gone shows in what is received, after everything it sent.
        let unwritten =
            !state.blocked && state.connection.wants_write() && !matches!(self.write(state), Ok(Flush::Done));
        if state.connection.codec() != Codec::Native {
            // An answer of the peer may be what a sender waits for.
            self.room.notify_waiters();
        }
        unwritten
    }

    /// Writes what is queued, and tells those who wait for the queue to get shorter.
    pub(super) fn write(&self, state: &mut State) -> Result<Flush, ChannelError> {
        let had = state.connection.queued_bytes();
        let written = if state.adrift { Err(ChannelError::NoRuntime) } else { state.connection.flush() };
        state.blocked = matches!(written, Ok(Flush::Blocked));
        if written.is_err() || state.connection.queued_bytes() < had {
            state.pace.note_read();
            self.room.notify_waiters();
            if state.connection.codec() != Codec::Native {
                // Reading may have stopped until the answers so far were written.
                self.parked.notify_waiters();
            }
        }
        written
    }
}

/// Somebody who waits to receive.
pub(super) struct Receiver<'a>(&'a Inner);

impl<'a> Receiver<'a> {
    /// To be made before one looks whether there is something.
    pub(super) fn new(inner: &'a Inner) -> Self {
        // Whoever reads after that look has the lock after it, and so sees this.
        inner.receivers.fetch_add(1, Ordering::Relaxed);
        Self(inner)
    }
}

impl Drop for Receiver<'_> {
    fn drop(&mut self) {
        self.0.receivers.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) type Readable<'a> = AsyncFdReadyGuard<'a, Arc<OwnedFd>>;

/// Waits until the socket is readable; `None` when the other thing happened first.
pub(super) async fn readable_unless<'a, T: AsRawFd>(
    ready: &'a AsyncFd<T>,
    mut other: Pin<&mut Notified<'_>>,
) -> Result<Option<AsyncFdReadyGuard<'a, T>>, ChannelError> {
    let mut readable = pin!(ready.readable());
    let guard = poll_fn(|context| match other.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(Ok(None)),
        Poll::Pending => readable.as_mut().poll(context).map_ok(Some),
    });
    Ok(guard.await?)
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("socket", &self.socket).finish_non_exhaustive()
    }
}
