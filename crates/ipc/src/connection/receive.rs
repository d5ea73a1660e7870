//! The reading half of a connection: from the socket to messages, one at a time or kept for later.

use std::os::fd::AsFd;

use super::inbox::{Fill, Lent};
use super::{ChannelError, Connection, Life};
use crate::message::{Incoming, Message};

/// How often the socket is read in a row without a message coming of it. A peer that sends nothing but what we ignore
/// must not keep us from everything else.
const READS: usize = 64;

/// Bytes read in a row without a message coming of it: a large one that is on its way comes in pieces, and in between
/// whoever owns the connection does something else.
const BYTES: usize = 256 * 1024;

/// What [`Connection::receive`] found.
#[derive(Debug)]
pub enum Received {
    /// A message. There may be more: ask again.
    Message(Incoming),
    /// As much was read as is fair at a time, and no message is complete: ask again after everything else had its turn.
    /// The socket need not become readable for that.
    More,
    /// Nothing complete is there now: ask again when the socket is readable. After a message, this may be what the read
    /// that brought it saw: who stopped there, and watches for changes only (`EPOLLET`), asks once more.
    Blocked,
    /// The peer will send no more.
    Closed,
}

impl Connection {
    /// The next message, read from the socket if none is buffered.
    ///
    /// # Errors
    /// The peer broke the protocol or ended in the middle of a message; the channel is at an end.
    pub fn receive(&mut self) -> Result<Received, ChannelError> {
        let mut bytes = 0;
        for _ in 0..READS {
            if let Some(incoming) = self.receive_buffered()? {
                return Ok(Received::Message(incoming));
            }
            if bytes >= BYTES {
                break;
            }
            match self.read() {
                Ok(Fill::Bytes(count)) => bytes += count,
                Ok(Fill::Empty) => return Ok(Received::Blocked),
                Ok(Fill::End) => return self.end(),
                Err(error) => return Err(self.fail(error)),
            }
        }
        Ok(Received::More)
    }

    /// The next message if it was read already; never touches the socket.
    ///
    /// An event loop that stops receiving before [`Received::Blocked`], to be fair to others, must come back for these:
    /// the socket does not become readable for them.
    ///
    /// # Errors
    /// As [`Connection::receive`].
    pub fn receive_buffered(&mut self) -> Result<Option<Incoming>, ChannelError> {
        if self.is_plain()
            && let Some(message) = self.take_small()
        {
            return Ok(Some(Incoming::User(message)));
        }
        if let Some(incoming) = self.parked.pop_front() {
            self.parked_bytes -= incoming.message().bytes().len();
            return Ok(Some(incoming));
        }
        if self.failure.is_some()
            && let Some(error) = self.failure.take()
        {
            return Err(error);
        }
        let found = self.cut();
        if found.is_err() {
            self.stop_writing(Life::Failed);
        }
        found
    }

    /// Adds the messages for the program that were read already, until there are so many of them. Others are passed over;
    /// an error is kept for [`Connection::receive`].
    pub(crate) fn receive_buffered_many(&mut self, messages: &mut Vec<Message>, most: usize) {
        while messages.len() < most {
            if self.is_plain() {
                while messages.len() < most
                    && let Some(message) = self.take_small()
                {
                    messages.push(message);
                }
                if messages.len() >= most {
                    return;
                }
            }
            match self.receive_buffered() {
                Ok(Some(Incoming::User(message))) => messages.push(message),
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(error) => {
                    self.failure = Some(error);
                    return;
                }
            }
        }
    }

    /// Whether messages lie in the inbox alone, and none has to be looked into.
    #[inline(always)]
    fn is_plain(&self) -> bool {
        self.node.is_none() && self.parked.is_empty() && self.failure.is_none() && self.unchecked
    }

    #[inline(always)]
    fn take_small(&mut self) -> Option<Message> {
        let (format, payload) = self.inbox.take_small(&self.limits)?;
        Some(Message::from_parts(payload, format))
    }

    /// The channel is of no further use, also for writing.
    fn fail(&mut self, error: ChannelError) -> ChannelError {
        self.stop_writing(Life::Failed);
        error
    }

    fn cut(&mut self) -> Result<Option<Incoming>, ChannelError> {
        while let Some(span) = self.inbox.next(self.codec, &self.limits)? {
            let found = if self.node.is_none() { self.take_native(&span) } else { self.take_node(&span) };
            if !matches!(found, Ok(None)) || self.owes_too_much() {
                return found;
            }
        }
        Ok(None)
    }

    fn read(&mut self) -> Result<Fill, ChannelError> {
        if self.owes_too_much() {
            self.flush()?;
            if self.owes_too_much() {
                return Ok(Fill::Empty);
            }
        }
        Ok(self.inbox.fill(self.socket.as_fd())?)
    }

    /// What a thread can wait with in the kernel for input, with nothing else to wait for: it gives it back to
    /// [`Connection::take_back`], and others read nothing until then.
    pub(crate) fn lend(&mut self) -> Option<Lent> {
        if self.owes_too_much() { None } else { self.inbox.lend() }
    }

    /// Takes in what was read meanwhile. An error is kept for [`Connection::receive`].
    pub(crate) fn take_back(&mut self, lent: Lent) {
        if let Err(error) = self.inbox.take_back(lent) {
            self.failure = Some(self.fail(error.into()));
        }
    }

    /// Reads what is there and keeps it for [`Connection::receive`]: for a sender that waits for the peer, which may
    /// itself be waiting for us to read. Stops at the limits of the queue. An error is kept as well.
    pub(crate) fn park(&mut self) {
        for _ in 0..READS {
            if !self.can_park() {
                return;
            }
            let step = match self.cut() {
                Ok(Some(incoming)) => {
                    self.parked_bytes += incoming.message().bytes().len();
                    self.parked.push_back(incoming);
                    continue;
                }
                Ok(None) => self.read(),
                Err(error) => Err(error),
            };
            match step {
                Ok(Fill::Bytes(_)) => {}
                // The end is for the receiver to see.
                Ok(Fill::Empty | Fill::End) => return,
                Err(error) => self.failure = Some(self.fail(error)),
            }
        }
        self.paused = true;
    }

    /// Whether there are bytes of messages that were read and not received.
    pub(crate) fn has_buffered(&self) -> bool {
        !self.parked.is_empty() || self.inbox.leftover() > 0
    }

    /// Whether somebody who receives would find something now.
    pub(crate) fn has_parked(&self) -> bool {
        !self.parked.is_empty() || self.failure.is_some() || self.inbox.ended()
    }

    /// Whether there is room to read ahead, and somebody who may still send.
    pub(crate) fn can_park(&self) -> bool {
        !self.inbox.ended()
            && self.failure.is_none()
            && !self.owes_too_much()
            && self.parked.len() < self.limits.queue_messages
            && self.parked_bytes <= self.limits.queue_bytes
    }

    /// Whether the socket was found empty, so that waiting for it to become readable cannot miss anything. To be asked
    /// after [`Connection::receive`] has said that it is blocked, or has stopped short of that. Says so once: afterwards
    /// the socket is read again.
    pub(crate) fn take_drained(&mut self, blocked: bool) -> bool {
        let paused = std::mem::take(&mut self.paused);
        self.inbox.take_drained() || (blocked && !paused)
    }

    fn end(&mut self) -> Result<Received, ChannelError> {
        match self.inbox.leftover() {
            0 => Ok(Received::Closed),
            bytes => {
                // Said once; from now on the channel is simply closed.
                self.inbox.skip(bytes);
                Err(self.fail(ChannelError::PartialFrame { bytes }))
            }
        }
    }
}
