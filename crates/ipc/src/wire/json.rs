//! Node's default codec: one JSON text per line.
//!
//! Lines are told apart by the newline alone, so bytes are looked at once as they come. Text is parsed only when a
//! program asks for it, or when it may concern the library: `cmd` begins with `NODE_`. Neighbour: [`super::node`] names
//! the messages of the library.

mod fields;
mod read;
mod text;
mod write;

use std::borrow::Cow;
use std::fmt;

use memchr::memmem;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::node::{Envelope, Heard, Payload, Wrapping, is_command};
use super::{Cut, Span, WireError};
use crate::limits::Limits;
pub(crate) use read::from_str;
pub(crate) use write::write;

/// The answer to a handle that arrived.
pub(crate) const ACK: &[u8] = b"{\"cmd\":\"NODE_HANDLE_ACK\"}\n";
/// The answer to a handle that did not.
pub(crate) const NACK: &[u8] = b"{\"cmd\":\"NODE_HANDLE_NACK\"}\n";

/// From this length on preparing a search for words is cheaper than stopping at each of their first letters.
const LONG: usize = 1024;

/// Finds the end of the line at the front of `bytes`; the first `scanned` of them hold none.
pub(crate) fn cut(bytes: &[u8], scanned: usize, limits: &Limits) -> Result<Cut, WireError> {
    let end = memchr::memchr(b'\n', &bytes[scanned..]).map(|found| scanned + found);
    let length = end.unwrap_or(bytes.len());
    if length > limits.frame {
        return Err(WireError::TooLarge { bytes: length, limit: limits.frame });
    }
    Ok(match end {
        Some(end) => Cut::Frame(Span { payload: 0..end, total: end + 1 }),
        None => Cut::Partial { total: None },
    })
}

/// The line as valid UTF-8, with U+FFFD in place of what is not, as Node reads it.
pub(crate) fn to_utf8(line: &[u8]) -> Cow<'_, [u8]> {
    // Nearly always it is valid, and finding that out is much faster than looking for what is not.
    match std::str::from_utf8(line) {
        Ok(_) => Cow::Borrowed(line),
        Err(_) => Cow::Owned(String::from_utf8_lossy(line).into_owned().into_bytes()),
    }
}

/// What a line is, which need not be UTF-8. One that is not and may concern the library comes back mended, and what was
/// read lies in that; other text is mended when it is parsed. `has_words` is what [`has_words`] says, if it was asked.
pub(crate) fn hear(line: &[u8], has_words: Option<bool>) -> Result<(Heard, Option<Vec<u8>>), WireError> {
    // Otherwise this is the one look at all of a long line.
    if has_words == Some(false) || !may_be_internal(line) {
        return Ok((read_as(line, false)?, None));
    }
    match to_utf8(line) {
        Cow::Borrowed(line) => Ok((read_as(line, true)?, None)),
        Cow::Owned(mended) => Ok((read(&mended)?, Some(mended))),
    }
}

/// What a line is: for the program, for the library, or no message at all.
///
/// Only the first character of a message for the program is looked at; whether the rest is JSON shows when it is
/// parsed.
pub(crate) fn read(line: &[u8]) -> Result<Heard, WireError> {
    read_as(line, may_be_internal(line))
}

fn read_as(line: &[u8], may_be_internal: bool) -> Result<Heard, WireError> {
    if line == &ACK[..ACK.len() - 1] {
        return Ok(Heard::Ack);
    }
    match first_character(line) {
        None => return Err(WireError::Empty),
        Some(b'{') if may_be_internal => {}
        Some(b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
            return Ok(Heard::User(Payload::At(0..line.len())));
        }
        Some(first) => return Err(WireError::NotJson { first }),
    }
    Ok(read_envelope(line, 0, 0))
}

/// Whether a message for the program would be taken for one of the library by a Node peer.
pub(crate) fn is_reserved(payload: &[u8]) -> bool {
    may_be_internal(payload) && envelope(payload).is_some()
}

/// Whether a text is one line, and nobody can take it for a message of Node's library.
pub(crate) fn is_plain(text: &[u8]) -> bool {
    memchr::memchr(b'\n', text).is_none() && !is_reserved(text)
}

fn first_character(line: &[u8]) -> Option<u8> {
    line.iter().copied().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

/// Whether a part of a line has `NODE_` in it, or may spell it with escapes.
pub(crate) fn has_words(part: &[u8]) -> bool {
    memmem::find(part, b"NODE_").is_some() || memmem::find(part, b"\\u").is_some()
}

/// A cheap look that rules out most messages for the program: a command of the library is in an object and has `NODE_` in
/// it, or spells it with escapes.
fn may_be_internal(line: &[u8]) -> bool {
    if first_character(line) != Some(b'{') {
        return false;
    }
    if line.len() >= LONG {
        return fields::may_be_command(line).unwrap_or_else(|| has_words(line));
    }
    let mut rest = line;
    while let Some(found) = memchr::memchr2(b'N', b'\\', rest) {
        rest = &rest[found..];
        if rest.starts_with(b"NODE_") || rest.starts_with(b"\\u") {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

/// Reads the text at `offset` of a line as a message of the library; anything else is for the program.
fn read_envelope(text: &[u8], offset: usize, wraps: usize) -> Heard {
    let whole = Payload::At(offset..offset + text.len());
    match envelope(text) {
        None => Heard::User(whole),
        Some(envelope) => envelope.read(whole, wraps, |msg: &RawValue| {
            let msg = msg.get().as_bytes();
            read_envelope(msg, offset + position(msg, text), wraps + 1)
        }),
    }
}

/// The fields of a message of the library; `None` if it is not one.
fn envelope(text: &[u8]) -> Option<Envelope<&RawValue>> {
    let fields = serde_json::from_slice::<Fields<'_>>(text).ok()?;
    let command = string(fields.cmd).filter(|cmd| is_command(cmd))?;
    Some(Envelope { command, key: string(fields.key), msg: fields.msg })
}

/// Of a field that occurs twice the last counts.
#[derive(Default)]
struct Fields<'a> {
    cmd: Option<&'a RawValue>,
    msg: Option<&'a RawValue>,
    key: Option<&'a RawValue>,
}

/// Where `part` begins inside `whole`.
fn position(part: &[u8], whole: &[u8]) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

fn string(value: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(value?.get()).ok()
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(name) = map.next_key::<Name>()? {
                    match name {
                        Name::Cmd => fields.cmd = Some(map.next_value()?),
                        Name::Msg => fields.msg = Some(map.next_value()?),
                        Name::Key => fields.key = Some(map.next_value()?),
                        Name::Other => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

enum Name {
    Cmd,
    Msg,
    Key,
    Other,
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(match name {
                    "cmd" => Name::Cmd,
                    "msg" => Name::Msg,
                    "key" => Name::Key,
                    _ => Name::Other,
                })
            }
        }

        deserializer.deserialize_identifier(Text)
    }
}

/// The most that `serde_json` reads, so that a limit above it needs no look at the text.
const PARSERS_DEPTH: usize = 127;

/// Whether a limit needs a look at all.
pub(crate) fn checks_depth(limit: usize) -> bool {
    limit < PARSERS_DEPTH
}

/// Refuses text that is nested deeper than a limit below the parser's own.
pub(crate) fn check_depth(text: &[u8], limit: usize) -> Result<(), WireError> {
    if checks_depth(limit) && is_deeper(text, limit) { Err(WireError::TooDeep { limit }) } else { Ok(()) }
}

/// Whether arrays and objects are nested deeper than this. Says nothing about whether the text is JSON.
fn is_deeper(text: &[u8], limit: usize) -> bool {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => at = end_of_string(text, at),
            _ => {}
        }
        if depth > limit {
            return true;
        }
        at += 1;
    }
    false
}

/// The position of the quote that ends the string beginning at `start`.
fn end_of_string(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(found) = text.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        match text[at + found] {
            b'"' => return at + found,
            _ => at += found + 2,
        }
    }
    text.len()
}

/// Replaces escaped surrogates that have no partner, which JavaScript allows and Rust text cannot hold, by U+FFFD.
/// `None` when there are none.
pub(crate) fn mend_surrogates(text: &[u8]) -> Option<Vec<u8>> {
    let mut mended = None::<Vec<u8>>;
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &text[at..]) {
        at += found;
        match unit(text, at) {
            Some(0xD800..=0xDBFF) if matches!(unit(text, at + 6), Some(0xDC00..=0xDFFF)) => at += 12,
            Some(0xD800..=0xDFFF) => {
                mended.get_or_insert_with(|| text.to_vec())[at..at + 6].copy_from_slice(b"\\ufffd");
                at += 6;
            }
            _ => at += 2,
        }
        if at >= text.len() {
            break;
        }
    }
    mended
}

/// The UTF-16 unit written as `\uXXXX` at this place.
fn unit(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let digits =
        std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
}

/// Writes the line that carries a handle around the program's payload, up to and with the newline.
pub(crate) fn wrap(payload: &[u8], wrapping: &Wrapping<'_>) -> Vec<u8> {
    let mut line = Vec::with_capacity(payload.len() + 128);
    line.extend_from_slice(b"{\"cmd\":\"NODE_HANDLE\",\"type\":\"");
    line.extend_from_slice(wrapping.kind.as_bytes());
    line.extend_from_slice(b"\",\"msg\":");
    line.extend_from_slice(payload);
    if let Some(dgram) = wrapping.dgram {
        line.extend_from_slice(b",\"dgramType\":\"");
        line.extend_from_slice(dgram.as_bytes());
        line.push(b'"');
    }
    if let Some(key) = wrapping.key {
        line.extend_from_slice(b",\"key\":");
        line.extend_from_slice(serde_json::Value::from(key).to_string().as_bytes());
    }
    line.extend_from_slice(b"}\n");
    line
}
