//! A connection to a Node process: its codecs, its handle protocol, its questions about sockets.
//!
//! Everything Node's libraries say to each other is dealt with here, except cluster messages and answers about sockets,
//! which come out as [`crate::Incoming::Internal`]. Neighbours: [`crate::handoff`] decides what may go when,
//! [`crate::sockets`] counts.

mod receive;
mod send;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::{Connection, Life};
use crate::handoff::{Handoff, Item};
use crate::message::{Format, Outgoing};
use crate::sockets::Book;
use crate::wire::Codec;

/// Answers that may wait for the peer to read. Beyond, nothing more is read from a peer that only ever sends.
const ANSWERS: usize = 64 * 1024;

/// Bun puts this in front of its libraries' messages, where Node tells them by their `cmd` alone.
const MARK: u8 = 2;

/// What a connection to Node has beyond any other.
#[derive(Debug)]
pub(super) struct Node {
    handoff: Handoff<Bytes, Outgoing>,
    /// Bytes and handles that the handoff holds back.
    held_bytes: usize,
    held_handles: usize,
    undelivered: VecDeque<Outgoing>,
    pub(super) refused: u64,
    pub(super) book: Arc<Book>,
    /// The peer marks its libraries' messages, and expects that of ours.
    marks: bool,
}

impl Node {
    pub(super) fn new(window: usize) -> Self {
        Self {
            handoff: Handoff::new(window),
            held_bytes: 0,
            held_handles: 0,
            undelivered: VecDeque::new(),
            refused: 0,
            book: Arc::new(Book::default()),
            marks: false,
        }
    }
}

impl Connection {
    /// Handles that are written to their end are waiting for their answers from now on.
    pub(super) fn note_written(&mut self) {
        let written = self.outbox.take_written();
        let node = self.node();
        for parcel in written {
            node.handoff.written(parcel);
        }
    }

    /// Queues what the program's closing of sockets has made due.
    pub(super) fn report_closed(&mut self) {
        for key in self.node().book.take_due() {
            self.answer_about("NODE_SOCKET_ALL_CLOSED", &key, None);
        }
    }

    /// Whether nothing more should be read before the answers so far are written.
    pub(super) fn owes_too_much(&self) -> bool {
        self.outbox.urgent() > ANSWERS
    }

    /// Whether the peer has shown to be Bun, by how its `json` messages look. It cannot take handles in messages of the
    /// library.
    pub fn is_bun(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.marks)
    }

    /// How this codec writes payloads.
    fn format(&self) -> Format {
        if self.codec == Codec::Advanced { Format::V8 } else { Format::Json }
    }

    /// Takes the messages whose handles the peer has refused for good; once the channel has ended, also those whose
    /// handles it did not confirm. Empty under the native codec, where nothing is confirmed.
    pub fn take_undelivered(&mut self) -> Vec<Outgoing> {
        let ended = self.life != Life::Open || self.inbox.ended();
        if self.node.is_none() {
            return Vec::new();
        }
        let mut messages: Vec<Outgoing> = self.node().undelivered.drain(..).collect();
        if ended {
            self.note_written();
            let unwritten = self.outbox.abandon();
            let node = self.node();
            (node.held_bytes, node.held_handles) = (0, 0);
            messages.extend(node.handoff.give_back(unwritten));
        }
        messages
    }

    /// Handles that were sent, or may be sent now, and that the peer has neither confirmed nor refused. Always 0 under
    /// the native codec, where nothing is confirmed.
    pub fn unanswered(&self) -> usize {
        self.node.as_ref().map_or(0, |node| node.handoff.in_flight())
    }

    /// Whether answers of the peer to handles are waited for, and may still come.
    pub(crate) fn awaits_answers(&self) -> bool {
        self.unanswered() > 0 && self.life == Life::Open && !self.inbox.ended()
    }

    /// Bytes and handles held back until the peer has answered.
    pub(super) fn held(&self) -> (usize, usize) {
        self.node.as_ref().map_or((0, 0), |node| (node.held_bytes, node.held_handles))
    }

    /// Messages held back until the peer has answered.
    pub(super) fn held_messages(&self) -> usize {
        self.node.as_ref().map_or(0, |node| node.handoff.waiting().len())
    }

    fn node(&mut self) -> &mut Node {
        self.node.as_mut().expect("only called on connections to Node")
    }
}

fn size(item: &Item<Bytes, Outgoing>) -> (usize, usize) {
    match item {
        Item::Plain(payload) => (payload.len(), 0),
        Item::Parcel(parcel) => (parcel.load.message.bytes().len(), parcel.load.message.handles().len()),
    }
}
