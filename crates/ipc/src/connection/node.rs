//! A connection to a Node process: its codecs, its handle protocol, its questions about sockets.
//!
//! Everything Node's libraries say to each other is dealt with here, except cluster messages and answers about sockets,
//! which come out as [`Incoming::Internal`]. Neighbours: [`crate::handoff`] decides what may go when,
//! [`crate::sockets`] counts.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use bytes::Bytes;
use rustix::net::{AddressFamily, sockopt};

use super::outbox::{SHARE, WITH_HANDLES};
use super::{ChannelError, Connection, Life, SendError};
use crate::handle::{Handle, HandleKind};
use crate::handoff::{Answer, Handoff, Item, Parcel, Settled};
use crate::message::{Format, Incoming, Kind, Message, Outgoing};
use crate::sockets::Book;
use crate::wire::node::{self, Heard, Inner, Payload, Wrapping};
use crate::wire::{Codec, Span, WireError, advanced, convert, json};

/// Answers that may wait for the peer to read. Beyond, nothing more is read from a peer that only ever sends.
const ANSWERS: usize = 64 * 1024;

/// Messages whose handle was refused for good that are kept for [`Connection::take_undelivered`].
const UNDELIVERED: usize = 256;

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
        }
    }
}

impl Connection {
    pub(super) fn queue_node(&mut self, outgoing: Outgoing) -> Result<(), SendError> {
        let payload = match self.encode(&outgoing) {
            Ok(payload) => payload,
            Err(refusal) => return Err(refusal.into_error(self.codec, outgoing)),
        };
        if outgoing.message.handles().is_empty() {
            self.queue_plain(payload);
            return Ok(());
        }
        // A socket that can block would freeze the Node process that gets it.
        if outgoing
            .message
            .handles()
            .iter()
            .any(|handle| rustix::io::ioctl_fionbio(handle.as_fd(), true).is_err())
        {
            return Err(SendError::Lethal(Box::new(outgoing)));
        }
        let Outgoing { kind, message } = outgoing;
        self.submit(Item::Parcel(Parcel::new(Outgoing {
            kind,
            message: message.with_payload(payload, self.format()),
        })));
        Ok(())
    }

    /// The payload in the peer's codec, once it is sure that the message can be sent.
    fn encode(&self, outgoing: &Outgoing) -> Result<Bytes, Refusal> {
        let Outgoing { kind, message } = outgoing;
        let handle = match message.handles() {
            [] => None,
            [handle] => Some(handle.kind()),
            _ => return Err(Refusal::TooManyHandles),
        };
        if matches!(kind, Kind::Request(_) | Kind::Reply(_)) {
            return Err(Refusal::NotInCodec);
        }
        if handle == Some(HandleKind::Other) {
            return Err(Refusal::Lethal);
        }
        let (payload, format) = (message.bytes().clone(), message.format());
        let (payload, reserved) = match self.codec {
            Codec::Advanced => {
                let payload =
                    convert::to_v8(payload, format, message.is_trusted()).map_err(|_| Refusal::NotInCodec)?;
                if handle.is_some() {
                    // Around a handle the message becomes part of another, and not every one can.
                    let trial = Wrapping { kind: "", dgram: None, key: message.key() };
                    advanced::wrap(&payload, &trial).map_err(|_| Refusal::NotInCodec)?;
                }
                let reserved = *kind == Kind::User && advanced::is_reserved(&payload);
                (payload, reserved)
            }
            _ => {
                let payload = convert::to_line(payload, format, message.is_trusted())
                    .map_err(|_| Refusal::NotInCodec)?;
                let reserved = *kind == Kind::User && json::is_reserved(&payload);
                (payload, reserved)
            }
        };
        if reserved { Err(Refusal::Reserved) } else { Ok(payload) }
    }

    fn queue_plain(&mut self, payload: Bytes) {
        if self.node().handoff.lets_plain_pass() {
            self.push_plain(payload);
        } else {
            self.submit(Item::Plain(payload));
        }
    }

    fn submit(&mut self, item: Item<Bytes, Outgoing>) {
        let (bytes, handles) = size(&item);
        let node = self.node();
        node.held_bytes += bytes;
        node.held_handles += handles;
        let released = node.handoff.submit(item);
        self.release(released);
    }

    /// Moves a message that may go now, and all that may go after it, to what is written.
    fn release(&mut self, mut released: Option<Item<Bytes, Outgoing>>) {
        while let Some(item) = released {
            let (bytes, handles) = size(&item);
            let node = self.node();
            node.held_bytes -= bytes;
            node.held_handles -= handles;
            match item {
                Item::Plain(payload) => self.push_plain(payload),
                Item::Parcel(parcel) => self.push_parcel(parcel),
            }
            released = self.node().handoff.next();
        }
    }

    fn push_plain(&mut self, payload: Bytes) {
        let length = (payload.len() as u32).to_be_bytes();
        let (front, back): (&[u8], &[u8]) = match self.codec {
            Codec::Advanced => (&length, &[]),
            _ => (&[], b"\n"),
        };
        if payload.len() < SHARE {
            return self.outbox.push_message(front, &payload, back);
        }
        self.outbox.begin_message();
        self.outbox.push_slice(front);
        self.outbox.push_bytes(payload);
        self.outbox.push_slice(back);
    }

    fn push_parcel(&mut self, parcel: Parcel<Outgoing>) {
        let mut frame = self.wrap(&parcel.load);
        self.outbox.begin_message();
        if frame.len() > WITH_HANDLES {
            // The descriptor must travel with the last byte, and only a short piece is never cut in two.
            let back = frame.split_off(frame.len() - WITH_HANDLES);
            self.outbox.push_bytes(frame.into());
            frame = back;
        }
        self.outbox.push_parcel(frame, parcel);
    }

    fn wrap(&self, outgoing: &Outgoing) -> Vec<u8> {
        let Outgoing { kind, message } = outgoing;
        let handle = message.handles().first().expect("only messages with a handle are wrapped");
        let user = *kind == Kind::User;
        let name = if user { node::user_type(handle.kind()) } else { node::cluster_type(handle.kind()) };
        let wrapping = Wrapping {
            kind: name.expect("handles without a name are refused when they are queued"),
            dgram: (user && handle.kind() == HandleKind::UdpSocket).then(|| dgram_type(handle.as_fd())),
            key: message.key(),
        };
        match self.codec {
            Codec::Advanced => advanced::wrap(message.bytes(), &wrapping)
                .expect("the payload was wrapped without an error when it was queued"),
            _ => json::wrap(message.bytes(), &wrapping),
        }
    }

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

    /// Deals with a frame; `None` if there is nothing in it for the program or the library above.
    pub(super) fn take_node(&mut self, span: &Span) -> Result<Option<Incoming>, ChannelError> {
        let payload = &self.inbox.bytes()[span.payload.clone()];
        let (heard, mended) = match self.codec {
            Codec::Advanced => (advanced::read(payload, &self.limits)?, None),
            _ => {
                json::check_depth(payload, self.limits.depth)?;
                match json::mend(payload) {
                    None => (json::read(payload)?, None),
                    Some(mended) => (json::read(&mended)?, Some(Bytes::from(mended))),
                }
            }
        };
        if !matches!(heard, Heard::Handle { .. }) {
            self.inbox.close_surplus(self.inbox.position() + span.total as u64);
        }
        let frame = Frame { span, mended };
        match heard {
            Heard::User(payload) => Ok(Some(Incoming::User(self.take_payload(frame, payload)))),
            Heard::Internal(payload) => Ok(Some(Incoming::Internal(self.take_payload(frame, payload)))),
            Heard::Handle { inner, key } => Ok(self.take_handle(frame, inner, key)),
            heard => {
                self.inbox.skip(span.total);
                self.obey(heard)?;
                Ok(None)
            }
        }
    }

    fn take_payload(&mut self, frame: Frame<'_>, payload: Payload) -> Message {
        let bytes = match (payload, frame.mended) {
            (Payload::Own(bytes), _) => {
                self.inbox.skip(frame.span.total);
                bytes
            }
            (Payload::At(range), Some(mended)) => {
                self.inbox.skip(frame.span.total);
                mended.slice(range)
            }
            (Payload::At(range), None) => {
                let start = frame.span.payload.start;
                let payload = start + range.start..start + range.end;
                self.inbox.take(&Span { payload, total: frame.span.total })
            }
        };
        Message::from_parts(bytes, self.format())
    }

    /// How this codec writes payloads.
    fn format(&self) -> Format {
        if self.codec == Codec::Advanced { Format::V8 } else { Format::Json }
    }

    /// A message with a handle is answered whatever it says: once, in order, ahead of everything else.
    fn take_handle(&mut self, frame: Frame<'_>, inner: Inner, key: Option<String>) -> Option<Incoming> {
        let Some(fd) = self.inbox.claim_one(frame.span.total) else {
            self.lost_handles += 1;
            self.inbox.skip(frame.span.total);
            self.answer(Answer::Nack);
            return None;
        };
        self.answer(Answer::Ack);
        let (payload, kind) = match inner {
            Inner::User(payload) => (payload, Kind::User),
            Inner::Internal(payload) => (payload, Kind::Internal),
            Inner::Unknown => {
                self.inbox.skip(frame.span.total);
                self.inbox.count_surplus(1);
                return None;
            }
        };
        let mut message = self.take_payload(frame, payload);
        let handle = Handle::from_fd(fd);
        if let (Some(key), HandleKind::TcpStream | HandleKind::UnixStream) = (key, handle.kind()) {
            message.set_open_socket(self.node().book.open(key));
        }
        message.set_handles(vec![handle]);
        Some(Incoming::new(kind, message))
    }

    fn answer(&mut self, answer: Answer) {
        self.outbox.push_urgent(match (self.codec, answer) {
            (Codec::Advanced, Answer::Ack) => advanced::ACK,
            (Codec::Advanced, Answer::Nack) => advanced::NACK,
            (_, Answer::Ack) => json::ACK,
            (_, Answer::Nack) => json::NACK,
        });
    }

    /// Carries out a message of the library that has neither payload nor handle.
    fn obey(&mut self, heard: Heard) -> Result<(), ChannelError> {
        match heard {
            Heard::Ack => self.answered(Answer::Ack)?,
            Heard::Nack => self.answered(Answer::Nack)?,
            Heard::CountAsked(key) => {
                let count = self.node().book.count(&key);
                self.answer_about("NODE_SOCKET_COUNT", &key, Some(count));
            }
            Heard::CloseAsked(key) => {
                self.node().book.watch(key);
                self.report_closed();
            }
            Heard::Unknown | Heard::User(_) | Heard::Internal(_) | Heard::Handle { .. } => {}
        }
        Ok(())
    }

    fn answered(&mut self, answer: Answer) -> Result<(), WireError> {
        self.note_written();
        let node = self.node();
        match node.handoff.answered(answer).map_err(|_| WireError::SurplusAnswer)? {
            Settled::Arrived(_) => {}
            Settled::Again => {
                // It is held back again, in front.
                if let Some((bytes, handles)) = node.handoff.waiting().next().map(size) {
                    node.held_bytes += bytes;
                    node.held_handles += handles;
                }
            }
            Settled::Refused(outgoing) => {
                node.refused += 1;
                node.undelivered.push_back(outgoing);
                if node.undelivered.len() > UNDELIVERED {
                    node.undelivered.pop_front();
                }
            }
        }
        let released = self.node().handoff.next();
        self.release(released);
        Ok(())
    }

    /// Tells the peer about sockets it sent. Goes ahead of the queue, as answers do, so that it is bounded with them.
    fn answer_about(&mut self, command: &str, key: &str, count: Option<u64>) {
        let mut fields = serde_json::Map::new();
        fields.insert("cmd".into(), command.into());
        fields.insert("key".into(), key.into());
        if let Some(count) = count {
            fields.insert("count".into(), count.into());
        }
        let text = Bytes::from(serde_json::Value::from(fields).to_string());
        let payload = match self.codec {
            Codec::Advanced => convert::to_v8(text, Format::Json, true),
            _ => Ok(text),
        };
        // Only text and a number: there is a form for that.
        let Ok(payload) = payload else { return };
        let mut frame = Vec::with_capacity(payload.len() + 4);
        if self.codec == Codec::Advanced {
            frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        }
        frame.extend_from_slice(&payload);
        if self.codec == Codec::Json {
            frame.push(b'\n');
        }
        self.outbox.push_urgent(&frame);
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
            self.queued = 0;
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

    fn node(&mut self) -> &mut Node {
        self.node.as_mut().expect("only called on connections to Node")
    }
}

/// A frame, and its text when it had to be mended to be valid UTF-8.
struct Frame<'a> {
    span: &'a Span,
    mended: Option<Bytes>,
}

/// Why a message cannot be sent to this peer.
enum Refusal {
    TooManyHandles,
    NotInCodec,
    Lethal,
    Reserved,
}

impl Refusal {
    fn into_error(self, codec: Codec, outgoing: Outgoing) -> SendError {
        let outgoing = Box::new(outgoing);
        match self {
            Self::TooManyHandles => SendError::TooManyHandles { limit: 1, outgoing },
            Self::NotInCodec => SendError::NotInCodec { codec, outgoing },
            Self::Lethal => SendError::Lethal(outgoing),
            Self::Reserved => SendError::Reserved(outgoing),
        }
    }
}

fn size(item: &Item<Bytes, Outgoing>) -> (usize, usize) {
    match item {
        Item::Plain(payload) => (payload.len(), 0),
        Item::Parcel(parcel) => (parcel.load.message.bytes().len(), parcel.load.message.handles().len()),
    }
}

fn dgram_type(socket: BorrowedFd<'_>) -> &'static str {
    match sockopt::socket_domain(socket).map_err(io::Error::from) {
        Ok(AddressFamily::INET6) => "udp6",
        _ => "udp4",
    }
}
