//! What the primary keeps of one worker: its process, channel, page of counters and hand-off channels.
//!
//! Holds descriptors and bytes; decides nothing. A member exists from the order to spawn it until the core says
//! `Forget`.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use everycore_core::{Counters, ListenerKey};
use everycore_ipc::{Connection, Flush, Handle, Message, Outgoing, SendError};
use everycore_sys::PidFd;
use everycore_sys::counters::PrimaryPage;
use everycore_sys::eventfd::EventFd;

use super::event::WorkerInfo;
use super::handoff::{Arrival, HandOff};
use super::requests::Requests;
use crate::protocol::ToWorker;

/// One worker, seen from the primary's loop.
pub(crate) struct Member {
    pub(crate) info: WorkerInfo,
    pub(crate) process: Option<PidFd>,
    pub(crate) link: Option<Link>,
    pub(crate) page: PrimaryPage,
    /// Rung by the worker when the starved primary asked for it.
    pub(crate) bell: EventFd,
    /// It uses the library: its `Hello` has come.
    pub(crate) joined: bool,
    pub(crate) requests: Requests,
    pub(crate) handoffs: BTreeMap<ListenerKey, HandOff>,
    /// Connections handed over and not given back, as the page's counters count them.
    sent: u64,
}

/// The channel to a worker.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    /// User bytes queued, shared with the handles so that `send` can refuse.
    pub(crate) queued: Arc<AtomicUsize>,
    /// Whether the loop is told when there is room to write.
    pub(crate) watches_writes: bool,
}

impl Member {
    pub(crate) fn new(info: WorkerInfo, page: PrimaryPage, bell: EventFd) -> Self {
        Self {
            info,
            process: None,
            link: None,
            page,
            bell,
            joined: false,
            requests: Requests::default(),
            handoffs: BTreeMap::new(),
            sent: 0,
        }
    }

    /// Its counters, read as the hints they are.
    pub(crate) fn counters(&mut self) -> Counters {
        let read = self.page.read(self.sent);
        Counters { taken: read.taken, ready: read.ready, closed: read.closed, turn: read.turn, awake: read.awake }
    }

    /// Whether connections were handed over that it has not taken, as far as its counters tell.
    pub(crate) fn has_untaken(&mut self) -> bool {
        self.page.read(self.sent).taken < self.sent
    }

    /// Puts a connection into the next flush; gives it back if the worker no longer serves that listener.
    pub(crate) fn hand(&mut self, arrival: Arrival) -> Result<(), Arrival> {
        match self.handoffs.get_mut(&arrival.on) {
            Some(channel) => {
                channel.push(arrival);
                self.sent += 1;
                Ok(())
            }
            None => Err(arrival),
        }
    }

    /// Sends what `hand` gathered; gives back what did not fit.
    pub(crate) fn flush_handoffs(&mut self) -> Vec<Arrival> {
        let mut left = Vec::new();
        for channel in self.handoffs.values_mut() {
            left.append(&mut channel.flush());
        }
        self.sent -= left.len() as u64;
        left
    }

    /// Takes back what it has not read from any listener.
    pub(crate) fn withdraw(&mut self) -> Vec<Arrival> {
        let mut back = Vec::new();
        for channel in self.handoffs.values_mut() {
            back.append(&mut channel.read_back());
        }
        self.sent -= back.len() as u64;
        back
    }

    /// Ends one hand-off channel and takes back what was in it.
    pub(crate) fn close_handoff(&mut self, key: ListenerKey) -> Vec<Arrival> {
        let back = self.handoffs.remove(&key).map(|mut channel| channel.read_back()).unwrap_or_default();
        self.sent -= back.len() as u64;
        back
    }

    /// Tells the library at the other end; the bytes go with the next flush.
    pub(crate) fn tell(&mut self, message: &ToWorker, handles: Vec<OwnedFd>) -> Result<(), SendError> {
        let mut frame = Message::raw(message.encode());
        for handle in handles {
            frame = frame.with_handle(Handle::Other(handle));
        }
        self.queue(Outgoing::internal(frame))
    }

    /// Queues anything; without a channel it is dropped, as for a worker that is gone.
    pub(crate) fn queue(&mut self, outgoing: Outgoing) -> Result<(), SendError> {
        match &mut self.link {
            Some(link) => link.connection.queue(outgoing),
            None => Ok(()),
        }
    }
}

impl Link {
    pub(crate) fn new(connection: Connection, queued: Arc<AtomicUsize>) -> Self {
        Self { connection, queued, watches_writes: false }
    }

    /// Writes what is queued, as far as the worker reads. True when the wish to be told of room has changed.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        let blocked = match self.connection.flush() {
            Ok(Flush::Done) => false,
            Ok(Flush::Blocked) => true,
            // Too many descriptors on their way: `is_throttled` has the loop try again soon.
            Ok(Flush::Throttled) => false,
            Err(error) => return Err(io::Error::other(error)),
        };
        self.queued.store(self.connection.queued_bytes(), Ordering::Relaxed);
        let changed = blocked != self.watches_writes;
        self.watches_writes = blocked;
        Ok(changed)
    }
}
