//! The bytes being written: the small parts every value is made of.

use super::bigint::BigInt;
use super::error::{Error, Result};
use super::key::{self, Key};
use super::limits::Limits;
use super::text::JsString;
use super::{number, tag};

/// A payload that grows behind what a buffer already holds.
#[derive(Debug)]
pub(super) struct Output<'a> {
    bytes: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Output<'a> {
    /// Starts a payload with the header.
    pub(super) fn new(bytes: &'a mut Vec<u8>) -> Self {
        let start = bytes.len();
        bytes.extend_from_slice(&[tag::HEADER, tag::VERSION]);
        Self { bytes, start }
    }

    /// How long the payload is so far.
    #[inline]
    pub(super) fn length(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Fails once the payload has become longer than allowed.
    pub(super) fn check(&self, limits: &Limits) -> Result<()> {
        let (offset, allowed) = (self.length(), limits.longest());
        if offset > allowed { Err(Error::Limit { offset, limit: "bytes", allowed }) } else { Ok(()) }
    }

    /// What has been written since the payload had this length.
    pub(super) fn since(&mut self, length: usize) -> &mut [u8] {
        self.bytes.get_mut(self.start + length..).unwrap_or_default()
    }

    /// Takes back what has been written since the payload had this length.
    pub(super) fn truncate(&mut self, length: usize) {
        self.bytes.truncate(self.start + length);
    }

    #[inline]
    pub(super) fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    #[inline]
    pub(super) fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// A length or count. One beyond 32 bits belongs to a payload that is too long anyway.
    #[inline]
    pub(super) fn count(&mut self, count: usize) {
        self.varint(u32::try_from(count).unwrap_or(u32::MAX));
    }

    #[inline]
    pub(super) fn sized(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    #[inline]
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    #[inline]
    pub(super) fn int(&mut self, value: i32) {
        self.byte(tag::INT32);
        self.varint(((value << 1) ^ (value >> 31)) as u32);
    }

    #[inline]
    pub(super) fn double(&mut self, value: f64) {
        self.byte(tag::DOUBLE);
        self.bare_double(value);
    }

    /// A double without a tag, as it stands inside other values.
    #[inline]
    pub(super) fn bare_double(&mut self, value: f64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// A number in the form V8 gives it.
    #[inline]
    pub(super) fn number(&mut self, value: f64) {
        match number::small_integer(value) {
            Some(integer) => self.int(integer),
            None => self.double(value),
        }
    }

    /// Text. ASCII goes out as Latin-1, which it is; the rest as UTF-8, which Node reads and never writes.
    #[inline]
    pub(super) fn text(&mut self, text: &str) {
        self.byte(if text.is_ascii() { tag::LATIN1 } else { tag::UTF8 });
        self.sized(text.as_bytes());
    }

    pub(super) fn string(&mut self, string: &JsString) {
        let Some(units) = string.units() else {
            return self.text(string.as_str().unwrap_or_default());
        };
        self.byte(tag::UTF16);
        self.count(units.len() * 2);
        self.bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
    }

    /// A bigint's body, without its tag.
    pub(super) fn bigint(&mut self, value: &BigInt) {
        self.digits(value.is_negative(), value.words());
    }

    /// A bigint's body from its words, the lowest first, the highest not zero.
    pub(super) fn digits(&mut self, negative: bool, words: &[u64]) {
        self.count((words.len() * 8) << 1 | usize::from(negative));
        self.bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }

    /// A property name. Equal names come out as equal bytes.
    pub(super) fn key(&mut self, key: &Key) {
        match (key.index(), key.name()) {
            (Some(index), _) => self.index(index),
            (None, Some(name)) => self.string(name),
            (None, None) => {}
        }
    }

    /// A property name from its text.
    #[inline]
    pub(super) fn key_text(&mut self, text: &str) {
        match key::index(text) {
            Some(index) => self.index(index),
            None => self.text(text),
        }
    }

    pub(super) fn index(&mut self, index: u32) {
        self.number(index.into());
    }

    /// Leaves room for the opening of an array whose length is not known yet; gives its place.
    pub(super) fn reserve_opening(&mut self) -> usize {
        let place = self.length();
        self.bytes.extend_from_slice(&[tag::PADDING; OPENING]);
        place
    }

    /// Fills the room with the array's tag and length, at its end: padding may precede any tag.
    pub(super) fn fill_opening(&mut self, place: usize, length: usize) {
        let mut opening = Vec::with_capacity(OPENING);
        let mut written = Output { start: 0, bytes: &mut opening };
        written.byte(tag::DENSE_ARRAY);
        written.count(length);
        if let Some(room) = self.since(place).get_mut(..OPENING) {
            room[OPENING - opening.len()..].copy_from_slice(&opening);
        }
    }
}

/// A tag and the longest length.
const OPENING: usize = 6;
