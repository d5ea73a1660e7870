//! What the primary keeps of one worker: its process, its channel, and its side of the hand-off.
//!
//! Holds descriptors and bytes; decides nothing. A member exists from the order to spawn it until the core says
//! `Forget`. Workers come in two kinds: `library` for those that use this library, `node` for real Node.

mod library;
mod node;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use everycore_core::{Counters, ListenerKey};
use everycore_ipc::{ChannelError, Connection, Flush, Handle, Message, Outgoing, SendError};
use everycore_sys::PidFd;
use serde_json::Value;

pub(crate) use library::Library;
pub(crate) use node::{Answer, Node};

use super::event::WorkerInfo;
use super::handle::Queued;
use super::handoff::{Arrival, Back, HandOff};
use super::requests::Requests;
use crate::protocol::ToWorker;

/// One worker, seen from the primary's loop.
pub(crate) struct Member {
    pub(crate) info: WorkerInfo,
    pub(crate) process: Option<PidFd>,
    pub(crate) link: Option<Link>,
    /// It has said hello: it is there, and its channel's end means its own.
    pub(crate) joined: bool,
    pub(crate) requests: Requests,
    /// It has asked for the shared secrets, and which was current when it was last told.
    pub(crate) secrets: Option<Option<u32>>,
    pub(crate) side: Side,
}

/// How a worker is handed connections.
pub(crate) enum Side {
    /// By record channels and a page of counters.
    Library(Library),
    /// By messages on its channel.
    Node(Node),
}

/// At which count a worker is to ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Of connections through their first turn; also when its loop sleeps.
    Ready(u64),
    /// Of closed connections: it is full, and nothing else makes room.
    Closed(u64),
}

/// How much of what was queued has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// All that there was, or that the worker has room for.
    All,
    /// There is more, and room for it: others first.
    Some,
}

/// The channel to a worker.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    /// Shared with the handles so that `send` can refuse.
    pub(crate) queued: Arc<Queued>,
    /// Whether the loop is told when there is room to write.
    pub(crate) watches_writes: bool,
}

impl Member {
    pub(crate) fn new(info: WorkerInfo, link: Link, side: Side) -> Self {
        Self {
            info,
            process: None,
            link: Some(link),
            joined: false,
            requests: Requests::default(),
            secrets: None,
            side,
        }
    }

    /// Whether it is, or was, handed connections of any listener.
    pub(crate) fn is_served_by_hand(&self) -> bool {
        match &self.side {
            Side::Library(library) => library.has_served(),
            // Each answer is a turn.
            Side::Node(node) => node.has_keys() || node.counters().turn > 0,
        }
    }

    /// Whether it says in its counters that it is alive, also where nothing is handed to it.
    pub(crate) fn tells_of_itself(&self) -> bool {
        self.joined && matches!(self.side, Side::Library(_))
    }

    /// Whether it was granted this listener for hand-off and still has it.
    pub(crate) fn holds(&self, key: ListenerKey) -> bool {
        match &self.side {
            Side::Library(library) => library.holds(key),
            Side::Node(node) => node.holds(key),
        }
    }

    /// Its counters, read as the hints they are.
    pub(crate) fn counters(&mut self) -> Counters {
        match &mut self.side {
            Side::Library(library) => library.counters(),
            Side::Node(node) => node.counters(),
        }
    }

    /// Whether connections were handed over that it has not taken, as far as its counters tell.
    pub(crate) fn has_untaken(&mut self) -> bool {
        match &mut self.side {
            Side::Library(library) => library.has_untaken(),
            Side::Node(node) => node.has_unanswered(),
        }
    }

    /// Whether it is a Node worker that the loop must not keep waiting while it gathers.
    pub(crate) fn is_urgent(&self) -> bool {
        match &self.side {
            Side::Library(_) => false,
            Side::Node(node) => node.is_urgent(),
        }
    }

    /// When a worker that refused a connection may be offered another.
    pub(crate) fn sulks_until(&self) -> Option<Instant> {
        match &self.side {
            Side::Library(_) => None,
            Side::Node(node) => node.sulks_until(),
        }
    }

    /// Puts a connection into the next flush; gives it back if the worker no longer serves that listener.
    pub(crate) fn hand(&mut self, arrival: Arrival) -> Result<(), Arrival> {
        match &mut self.side {
            Side::Library(library) => library.hand(arrival),
            Side::Node(node) => node.hand(arrival),
        }
    }

    /// Sends what `hand` gathered; gives back what did not fit. Our copies of what is `gone` are to be closed. `seq` numbers
    /// Node's messages.
    pub(crate) fn flush_handoffs(&mut self, seq: &mut i64, gone: &mut Vec<OwnedFd>) -> Vec<Arrival> {
        match &mut self.side {
            Side::Library(library) => library.flush(gone),
            Side::Node(node) => node.flush(self.link.as_mut(), seq),
        }
    }

    /// Takes back what it has not taken from any listener, as far as that can be taken back from a live worker.
    pub(crate) fn withdraw(&mut self) -> Back {
        match &mut self.side {
            Side::Library(library) => library.withdraw(),
            Side::Node(node) => Back { arrivals: node.withdraw(self.link.is_none()), lost: 0 },
        }
    }

    /// Ends the hand-off of one listener; gives out the channel, with what was not read.
    pub(crate) fn close_handoff(&mut self, key: ListenerKey) -> Option<HandOff> {
        match &mut self.side {
            Side::Library(library) => library.close(key),
            Side::Node(node) => {
                node.close(key);
                None
            }
        }
    }

    /// So many came back from a channel that was given out.
    pub(crate) fn gave_back(&mut self, count: u64) {
        match &mut self.side {
            Side::Library(library) => library.gave_back(count),
            Side::Node(_) => {}
        }
    }

    /// Ends all hand-off: the channels, with what was not read.
    pub(crate) fn remains(&mut self) -> Vec<HandOff> {
        match &mut self.side {
            Side::Library(library) => library.remains(),
            Side::Node(_) => Vec::new(),
        }
    }

    /// Asks a starved primary's question: ring when there is room again.
    pub(crate) fn wish(&mut self, wish: Wish) {
        match &mut self.side {
            Side::Library(library) => library.wish(wish),
            // Its answers come on the channel, which always wakes the primary.
            Side::Node(_) => {}
        }
    }

    /// Takes the wish back.
    pub(crate) fn unwish(&mut self) {
        match &mut self.side {
            Side::Library(library) => library.unwish(),
            Side::Node(_) => {}
        }
    }

    /// Tells the library at the other end; the bytes go with the next flush.
    pub(crate) fn tell(&mut self, message: &ToWorker, handles: Vec<OwnedFd>) -> Result<(), SendError> {
        let mut frame = Message::raw(message.encode());
        for handle in handles {
            frame = frame.with_handle(Handle::from_fd(handle));
        }
        self.queue(Outgoing::internal(frame))
    }

    /// Tells Node's cluster module at the other end; the bytes go with the next flush.
    pub(crate) fn tell_node(&mut self, message: &Value, handle: Option<OwnedFd>) -> Result<(), SendError> {
        let mut frame = Message::json(message).unwrap_or_default();
        if let Some(handle) = handle {
            frame = frame.with_handle(Handle::from_fd(handle));
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
    pub(crate) fn new(connection: Connection, queued: Arc<Queued>) -> Self {
        Self { connection, queued, watches_writes: false }
    }

    /// Writes what is queued, as far as the worker reads. The wish to be told of room may have changed.
    pub(crate) fn flush(&mut self) -> Result<Written, ChannelError> {
        let flush = self.connection.flush()?;
        self.queued.unread(self.connection.queued_bytes());
        // With too many descriptors on their way there is no waiting for room: `is_throttled` has the loop try again soon.
        self.watches_writes = flush == Flush::Blocked;
        Ok(if flush == Flush::More { Written::Some } else { Written::All })
    }
}
