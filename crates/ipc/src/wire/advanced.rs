//! Node's `serialization: 'advanced'`: four bytes of length, then one value as V8 writes it.
//!
//! Neighbours: [`super::v8`] knows the values, [`super::node`] names the messages of the library.

use super::node::{Envelope, Heard, Payload, Wrapping, is_command};
use super::v8::{self, Document, Frame, Object, PREFIX};
use super::{Cut, Span, WireError};
use crate::limits::Limits;

/// Our frames end at multiples of this, filled up with zeros behind the value, which no reader looks at.
///
/// Node 18 never recovers from a read that ends within a frame's length. It reads 64 KiB or what is there, the kernel keeps
/// what we write in parts of a multiple of this, and so a read ends in front of a length, behind it, or far from any.
const ALIGNMENT: usize = PREFIX;

/// The answer to a handle that arrived.
pub(crate) const ACK: &[u8] = b"\0\0\0\x1c\xff\x0fo\"\x03cmd\"\x0fNODE_HANDLE_ACK{\x01\0";
/// The answer to a handle that did not.
pub(crate) const NACK: &[u8] = b"\0\0\0\x1c\xff\x0fo\"\x03cmd\"\x10NODE_HANDLE_NACK{\x01";

/// What stands in front of a payload of this length, and behind it.
pub(crate) fn around(length: usize) -> ([u8; PREFIX], &'static [u8]) {
    let padding = &[0; ALIGNMENT][..length.next_multiple_of(ALIGNMENT) - length];
    // Longer ones than 2³¹ - 4 are refused before.
    (((length + padding.len()) as u32).to_be_bytes(), padding)
}

/// Finds the end of the frame at the front of `bytes`.
pub(crate) fn cut(bytes: &[u8], limits: &Limits) -> Result<Cut, WireError> {
    let padded = v8::Limits { bytes: limits.frame.saturating_add(ALIGNMENT - 1), ..inner_limits(limits) };
    match v8::split_frame(bytes, &padded) {
        Ok(Frame::Whole(payload)) => {
            let total = PREFIX + payload.len();
            Ok(Cut::Frame(Span { payload: PREFIX..total, total }))
        }
        Ok(Frame::Part { needed }) if needed > PREFIX => Ok(Cut::Partial { total: Some(needed) }),
        Ok(Frame::Part { .. }) => Ok(Cut::Partial { total: None }),
        Err(_) => {
            let length = bytes.first_chunk::<PREFIX>().map_or(0, |prefix| u32::from_be_bytes(*prefix));
            Err(WireError::TooLarge { bytes: length as usize, limit: limits.frame })
        }
    }
}

/// What a payload is: for the program, for the library, or no message at all.
///
/// Of a message for the program only the first byte is looked at; whether the rest can be read shows when it is parsed.
/// `has_words` is what [`has_words`] says, if it was asked.
pub(crate) fn read(payload: &[u8], has_words: Option<bool>, limits: &Limits) -> Result<Heard, WireError> {
    match payload.first() {
        None => return Err(WireError::Empty),
        Some(0xFF) => {}
        Some(first) => return Err(WireError::NotV8 { first: *first }),
    }
    let whole = Payload::At(0..payload.len());
    // As Node writes it, or as we do.
    if payload.strip_prefix(&ACK[PREFIX..ACK.len() - 1]).is_some_and(|rest| matches!(rest, [] | [0])) {
        return Ok(Heard::Ack);
    }
    if !has_words.unwrap_or_else(|| self::has_words(payload)) {
        return Ok(Heard::User(whole));
    }
    Ok(match Document::parse_with(payload, &inner_limits(limits)) {
        Ok(document) => read_envelope(document, whole, 0),
        Err(_) => Heard::User(whole),
    })
}

/// Whether a message for the program would be taken for one of the library by a Node peer.
pub(crate) fn is_reserved(payload: &[u8]) -> bool {
    has_words(payload) && v8::Document::parse(payload).is_ok_and(|document| envelope(&document).is_some())
}

/// A cheap look at a payload or a part of it that rules out most messages for the program: text is Latin-1 or UTF-8, or has
/// two bytes per unit.
pub(crate) fn has_words(part: &[u8]) -> bool {
    memchr::memchr_iter(b'N', part)
        .any(|at| part[at..].starts_with(b"NODE_") || part[at..].starts_with(b"N\0O\0D\0E\0_\0"))
}

fn read_envelope(mut document: Document, whole: Payload, wraps: usize) -> Heard {
    match envelope(&document) {
        None => Heard::User(whole),
        Some(envelope) => envelope.read(whole, wraps, |msg: v8::Value| {
            // The message inside may refer to objects around it by number, so it is written anew to stand alone.
            document.set_root(msg);
            match document.to_vec() {
                Ok(payload) => read_envelope(document, Payload::Own(payload.into()), wraps + 1),
                Err(_) => Heard::Unknown,
            }
        }),
    }
}

/// The fields of a message of the library; `None` if it is not one.
fn envelope(document: &Document) -> Option<Envelope<v8::Value>> {
    let root = document.root();
    let text = |name: &str| Some(document.property(root, name)?.as_str()?.to_owned());
    let command = text("cmd").filter(|cmd| is_command(cmd))?;
    Some(Envelope { command, key: text("key"), msg: document.property(root, "msg").cloned() })
}

/// Writes the frame that carries a handle around the program's payload.
///
/// Fails only for payloads that cannot be read as a document.
pub(crate) fn wrap(payload: &[u8], wrapping: &Wrapping<'_>) -> Result<Vec<u8>, v8::Error> {
    let mut document = Document::parse(payload)?;
    let msg = document.root().clone();
    let mut fields =
        vec![("cmd", v8::Value::from("NODE_HANDLE")), ("type", v8::Value::from(wrapping.kind)), ("msg", msg)];
    if let Some(dgram) = wrapping.dgram {
        fields.push(("dgramType", dgram.into()));
    }
    if let Some(key) = wrapping.key {
        fields.push(("key", key.into()));
    }
    let outer = document.add(Object::plain(fields));
    document.set_root(outer);
    let mut frame = Vec::with_capacity(payload.len() + 128);
    frame.extend_from_slice(&[0; PREFIX]);
    document.append_to(&mut frame, &v8::Limits { bytes: usize::MAX, depth: 130, ..v8::Limits::default() })?;
    let (length, padding) = around(frame.len() - PREFIX);
    frame[..PREFIX].copy_from_slice(&length);
    frame.extend_from_slice(padding);
    Ok(frame)
}

fn inner_limits(limits: &Limits) -> v8::Limits {
    v8::Limits { bytes: limits.frame, depth: limits.depth, ..v8::Limits::default() }
}
