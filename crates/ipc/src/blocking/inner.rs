//! How threads share a connection: one waits for input, one for room, the others are told; whoever sends, writes.
//!
//! With nothing to write and no deadline, waiting for input is the read itself: the thread takes the buffer with it, without the
//! lock, and the socket's mode is to wait. All else on the socket says with each call that it does not.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use everycore_sys::socket_pair::{Mode, set_mode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::connection::{ChannelError, Connection, Received, SendError};
use crate::message::{Incoming, Message, Outgoing};
use crate::sockets::Book;
use crate::wire::Codec;

/// How long a thread waits for room before it looks for messages that another one has read.
const GLANCE: Duration = Duration::from_millis(20);

pub(super) struct Inner {
    codec: Codec,
    socket: Arc<OwnedFd>,
    /// The open sockets that a Node peer counts.
    book: Option<Arc<Book>>,
    state: Mutex<State>,
    /// Told after each wait: something may have been read, written or answered.
    progress: Condvar,
}

pub(super) struct State {
    pub(super) connection: Connection,
    /// A thread waits for input; nobody else may, or it would sleep through what the other one reads.
    reading: bool,
    /// A thread waits for the peer to make room; the others are told.
    writing: bool,
    /// The socket's mode is to wait, unless somebody who shares it has changed that.
    blocks: bool,
    /// Threads that wait to be told. Telling nobody would be a system call all the same.
    waiting: usize,
}

impl State {
    /// While another thread waits for input, what it reads is its to read: it would sleep through what others read for it.
    fn receive(&mut self) -> Result<Received, ChannelError> {
        if !self.reading {
            return self.connection.receive();
        }
        let found = self.connection.receive_buffered()?;
        Ok(found.map_or(Received::Blocked, Received::Message))
    }
}

impl Inner {
    pub(super) fn new(connection: Connection) -> Arc<Self> {
        let book = connection.book().cloned();
        // Connections themselves never wait, whatever the mode.
        let blocks = set_mode(connection.socket(), Mode::Blocking).is_ok();
        let state = State { connection, reading: false, writing: false, blocks, waiting: 0 };
        let inner = Arc::new(Self {
            codec: state.connection.codec(),
            socket: Arc::clone(state.connection.socket()),
            book: book.clone(),
            state: Mutex::new(state),
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

    pub(super) fn send(&self, outgoing: Outgoing, deadline: Option<Instant>) -> Result<(), SendError> {
        let carries = !outgoing.message.handles().is_empty();
        let state = self.queue(self.lock(), outgoing, deadline)?;
        self.write_out(state, carries, deadline)
    }

    pub(super) fn send_many(&self, messages: &mut VecDeque<Message>) -> Result<(), SendError> {
        let mut carries = false;
        let mut state = self.lock();
        while let Some(message) = messages.pop_front() {
            carries |= !message.handles().is_empty();
            state = match self.queue(state, message.into(), None) {
                Ok(state) => state,
                Err(error) => {
                    // Those before it are sent. If they cannot be, the error says so already, or the next call will.
                    let _ = self.write_out(self.lock(), carries, None);
                    return Err(error);
                }
            };
        }
        self.write_out(state, carries, None)
    }

    /// Adds a message to what is written, and waits for room.
    fn queue<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        mut outgoing: Outgoing,
        deadline: Option<Instant>,
    ) -> Result<MutexGuard<'a, State>, SendError> {
        loop {
            let full = match state.connection.queue(outgoing) {
                Ok(()) => return Ok(state),
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
    }

    /// Waits until what was queued is written, and handles among it are confirmed.
    fn write_out(
        &self,
        state: MutexGuard<'_, State>,
        carries: bool,
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
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

    pub(super) fn receive(&self, deadline: Option<Instant>) -> Result<Option<Incoming>, ChannelError> {
        let mut state = self.lock();
        loop {
            let received = state.receive();
            if state.connection.wants_write() || state.connection.is_throttled() {
                // Answers to handles, or what could not go a moment ago. A peer that is gone shows in what is received, after everything it sent.
                let _ = state.connection.flush();
            }
            match received? {
                Received::Message(incoming) => return Ok(Some(incoming)),
                Received::Closed => return Ok(None),
                Received::More => {
                    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                        return Err(ChannelError::TimedOut);
                    }
                    // Without waiting, since what was read may be complete: others get their turn.
                    drop(state);
                    std::thread::yield_now();
                    state = self.lock();
                }
                Received::Blocked => state = self.wait(state, Wish::Input, deadline)?,
            }
        }
    }

    /// Adds what was read already, until there are so many.
    pub(super) fn receive_buffered_many(&self, messages: &mut Vec<Message>, most: usize) {
        let mut state = self.lock();
        state.connection.receive_buffered_many(messages, most);
        if state.connection.wants_write() {
            // As in `receive`.
            let _ = state.connection.flush();
        }
        drop(state);
        self.write_what_is_due();
    }

    /// Reports sockets that were closed, unless another thread has the lock: it does so before it lets go for good.
    pub(super) fn write_what_is_due(&self) {
        while self.book.as_ref().is_some_and(|book| book.is_due()) {
            let Ok(mut state) = self.state.try_lock() else { return };
            if state.connection.flush().is_err() || state.connection.wants_write() {
                return;
            }
        }
    }

    /// Writes, and waits for the peer to read and answer, until this holds.
    pub(super) fn wait_until<'a>(
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
            let delay = state.connection.retry_delay();
            timeout = Some(timeout.map_or(delay, |timeout| timeout.min(delay)));
        }
        let reads = !state.reading && (wish == Wish::Input || state.connection.can_park());
        // Who waits for the socket anyway does not rely on others, who may give up: they could not tell.
        let writes = state.connection.wants_write() && (reads || !state.writing);
        if writes && state.reading && wish == Wish::Input {
            // The thread that reads tells of messages only those who do not wait for the socket.
            timeout = Some(timeout.map_or(GLANCE, |timeout| timeout.min(GLANCE)));
        }
        if !reads && !writes {
            return Ok(self.wait_for_others(state, timeout));
        }
        state.reading |= reads;
        state.writing |= writes;
        let lent = if state.blocks && !writes && timeout.is_none() { state.connection.lend() } else { None };
        drop(state);
        let (mut state, waited) = match lent {
            Some(mut lent) => {
                let blocked = lent.fill(self.socket.as_fd());
                let mut state = self.lock();
                state.blocks = blocked;
                state.connection.take_back(lent);
                (state, Ok(()))
            }
            None => {
                let mut interest = PollFlags::empty();
                interest.set(PollFlags::IN, reads);
                interest.set(PollFlags::OUT, writes);
                let polled = wait_for(self.socket.as_fd(), interest, timeout);
                (self.lock(), polled)
            }
        };
        state.reading &= !reads;
        state.writing &= !writes;
        if state.waiting > 0 {
            self.progress.notify_all();
        }
        waited.map_err(|errno| ChannelError::Io(errno.into()))?;
        Ok(state)
    }

    fn wait_for_others<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let mut state = match timeout {
            None => self.progress.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                self.progress.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.waiting -= 1;
        state
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// A message.
    Input,
    /// The queue getting shorter; input only so that the peer does not get stuck.
    Progress,
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

#[cfg(test)]
mod tests {
    use everycore_sys::socket_pair::stream_pair;

    use super::*;
    use crate::limits::Limits;

    #[test]
    fn what_comes_is_left_to_the_thread_that_waits_for_it() {
        let (here, there) = stream_pair().unwrap();
        let here = Inner::new(Connection::new(here, Codec::Native, Limits::default()).unwrap());
        let there = Inner::new(Connection::new(there, Codec::Native, Limits::default()).unwrap());
        for value in 0..3 {
            there.send(Message::json(&value).unwrap().into(), None).unwrap();
        }
        let past = Some(Instant::now());
        here.lock().reading = true;
        assert!(matches!(here.receive(past), Err(ChannelError::TimedOut)));
        here.lock().reading = false;
        assert!(matches!(here.receive(past), Ok(Some(_))));
        // What that thread has read is for anybody.
        here.lock().reading = true;
        for _ in 0..2 {
            assert!(matches!(here.receive(past), Ok(Some(_))));
        }
        assert!(matches!(here.receive(past), Err(ChannelError::TimedOut)));
    }

    #[test]
    fn while_one_thread_waits_with_the_buffer_nobody_else_reads() {
        let (here, there) = stream_pair().unwrap();
        let mut here = Connection::new(here, Codec::Native, Limits::default()).unwrap();
        let mut there = Connection::new(there, Codec::Native, Limits::default()).unwrap();
        let long = vec![7; 100_000];
        for payload in [&long[..10], &long] {
            there.queue(Message::raw(payload.to_vec())).unwrap();
            there.flush().unwrap();
            let mut reads = 0;
            let message = loop {
                let mut lent = here.lend().unwrap();
                assert!(here.lend().is_none());
                assert!(matches!(here.receive(), Ok(Received::Blocked)));
                here.park();
                assert!(!here.has_parked());
                assert!(lent.fill(here.socket().as_fd()), "something is there");
                here.take_back(lent);
                reads += 1;
                if let Some(incoming) = here.receive_buffered().unwrap() {
                    break incoming.into_message();
                }
            };
            assert_eq!(&message.bytes()[..], payload);
            assert_eq!(reads > 1, payload.len() == long.len());
        }
        let mut lent = here.lend().unwrap();
        assert!(!lent.fill(here.socket().as_fd()), "the mode is not to wait");
        here.take_back(lent);
        assert!(matches!(here.receive(), Ok(Received::Blocked)));
        // Dropped, it would stay open as long as a child that another test is just starting has a copy.
        rustix::net::shutdown(there.socket(), rustix::net::Shutdown::Both).unwrap();
        let mut lent = here.lend().unwrap();
        assert!(lent.fill(here.socket().as_fd()));
        here.take_back(lent);
        assert!(matches!(here.receive(), Ok(Received::Closed)));
        assert!(here.lend().is_none());
    }
}
