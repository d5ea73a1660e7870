//! Frames from a Node process: for the program, or obeyed here.

use bytes::Bytes;

use super::{MARK, size};
use crate::connection::{ChannelError, Connection};
use crate::handle::{Handle, HandleKind};
use crate::handoff::{Answer, Settled};
use crate::message::{Format, Incoming, Kind, Message};
use crate::wire::convert::{self, Trust};
use crate::wire::node::{Heard, Inner, Payload};
use crate::wire::{Codec, Span, WireError, advanced, json};

/// Messages whose handle was refused for good that are kept for [`Connection::take_undelivered`].
const UNDELIVERED: usize = 256;

impl Connection {
    /// Deals with a frame; `None` if there is nothing in it for the program or the library above.
    pub(in crate::connection) fn take_node(&mut self, span: &Span) -> Result<Option<Incoming>, ChannelError> {
        let span = &self.without_mark(span);
        let has_words = self.inbox.has_words(span.total);
        let payload = &self.inbox.bytes()[span.payload.clone()];
        let (heard, mended) = match self.codec {
            Codec::Advanced => (advanced::read(payload, has_words, &self.limits)?, None),
            _ => {
                json::check_depth(payload, self.limits.depth)?;
                let (heard, mended) = json::hear(payload, has_words)?;
                (heard, mended.map(Bytes::from))
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

    /// The frame without what Bun puts in front of it.
    fn without_mark(&mut self, span: &Span) -> Span {
        let mut span = span.clone();
        if self.codec == Codec::Json && self.inbox.bytes()[span.payload.clone()].first() == Some(&MARK) {
            span.payload.start += 1;
            self.node().marks = true;
        }
        span
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
    pub(super) fn answer_about(&mut self, command: &str, key: &str, count: Option<u64>) {
        let mut fields = serde_json::Map::new();
        fields.insert("cmd".into(), command.into());
        fields.insert("key".into(), key.into());
        if let Some(count) = count {
            fields.insert("count".into(), count.into());
        }
        let text = Bytes::from(serde_json::Value::from(fields).to_string());
        let payload = match self.codec {
            Codec::Advanced => convert::to_v8(text, Format::Json, Trust::Own),
            _ => Ok(text),
        };
        // Only text and a number: there is a form for that.
        let Ok(payload) = payload else { return };
        let (length, padding) = advanced::around(payload.len());
        let (front, back): (&[u8], &[u8]) = match self.codec {
            Codec::Advanced => (&length, padding),
            _ => (&[], b"\n"),
        };
        let frame = [front, &payload[..], back].concat();
        self.outbox.push_urgent(&frame);
    }
}

/// A frame, and its text when it had to be mended to be valid UTF-8.
struct Frame<'a> {
    span: &'a Span,
    mended: Option<Bytes>,
}
