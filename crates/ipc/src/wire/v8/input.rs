//! The bytes being read and how far reading has come: the small parts every value is made of.

use super::error::{Error, Result};
use super::limits::Limits;
use super::tag;

/// A position in a payload.
#[derive(Clone, Debug)]
pub(super) struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
    version: u8,
}

impl<'a> Input<'a> {
    /// Checks the size and the header and stands before the root value.
    pub(super) fn new(bytes: &'a [u8], limits: &Limits) -> Result<Self> {
        if bytes.len() > limits.longest() {
            return Err(Error::Limit { offset: 0, limit: "bytes", allowed: limits.longest() });
        }
        let mut input = Self { bytes, at: 0, version: 0 };
        if bytes.first() != Some(&tag::HEADER) {
            return Err(Error::NoHeader);
        }
        input.at = 1;
        let found = input.varint()?;
        input.version = u8::try_from(found)
            .ok()
            .filter(|version| (tag::OLDEST_VERSION..=tag::VERSION).contains(version))
            .ok_or(Error::Version { found })?;
        Ok(input)
    }

    /// Bytes of the newest version without a header.
    pub(super) fn bare(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, version: tag::VERSION }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Goes to a position that was read from before.
    pub(super) fn seek(&mut self, position: usize) {
        self.at = position;
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    pub(super) fn has_view_flags(&self) -> bool {
        self.version >= tag::VERSION_WITH_VIEW_FLAGS
    }

    /// The next tag, behind any padding, without taking it. Leaves the position on the tag.
    #[inline]
    pub(super) fn peek(&mut self) -> Result<u8> {
        match self.bytes.get(self.at) {
            Some(&tag) if tag != tag::PADDING => Ok(tag),
            _ => self.peek_behind_padding(),
        }
    }

    #[cold]
    fn peek_behind_padding(&mut self) -> Result<u8> {
        let padding = self.rest().iter().take_while(|byte| **byte == tag::PADDING).count();
        self.at += padding;
        self.bytes.get(self.at).copied().ok_or_else(|| self.truncated())
    }

    /// The next tag that starts a value: padding and object counts, which carry nothing, are skipped.
    /// Leaves the position on the tag.
    #[inline]
    pub(super) fn peek_value(&mut self) -> Result<u8> {
        match self.bytes.get(self.at) {
            Some(&tag) if tag != tag::PADDING && tag != tag::OBJECT_COUNT => Ok(tag),
            _ => self.peek_behind_counts(),
        }
    }

    #[cold]
    fn peek_behind_counts(&mut self) -> Result<u8> {
        loop {
            let tag = self.peek()?;
            if tag != tag::OBJECT_COUNT {
                return Ok(tag);
            }
            self.at += 1;
            self.varint()?;
        }
    }

    /// Takes the byte that [`peek`](Self::peek) showed.
    #[inline]
    pub(super) fn advance(&mut self) {
        self.at += 1;
    }

    /// Takes the next tag if it is this one.
    #[inline]
    pub(super) fn take_if(&mut self, wanted: u8) -> Result<bool> {
        let found = self.peek()? == wanted;
        self.at += usize::from(found);
        Ok(found)
    }

    /// Whether this tag is next; the end of the input is no tag. Leaves the position on the tag.
    #[inline]
    pub(super) fn is_next(&mut self, wanted: u8) -> bool {
        matches!(self.peek(), Ok(tag) if tag == wanted)
    }

    #[inline]
    pub(super) fn byte(&mut self) -> Result<u8> {
        let byte = *self.bytes.get(self.at).ok_or_else(|| self.truncated())?;
        self.at += 1;
        Ok(byte)
    }

    /// An unsigned number of up to 32 bits. Bits beyond that are dropped, as V8 drops them.
    #[inline]
    pub(super) fn varint(&mut self) -> Result<u32> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(u32::from(first));
        }
        self.long_varint(first)
    }

    fn long_varint(&mut self, first: u8) -> Result<u32> {
        let mut value = u32::from(first & 0x7f);
        let mut shift = 7;
        loop {
            let byte = self.byte()?;
            if shift < u32::BITS {
                value |= u32::from(byte & 0x7f) << shift;
            }
            if byte < 0x80 {
                return Ok(value);
            }
            shift = u32::BITS.min(shift + 7);
        }
    }

    /// A number whose sign is kept in its lowest bit.
    #[inline]
    pub(super) fn zigzag(&mut self) -> Result<i32> {
        let raw = self.varint()?;
        Ok(((raw >> 1) as i32) ^ -((raw & 1) as i32))
    }

    #[inline]
    pub(super) fn double(&mut self) -> Result<f64> {
        let (bytes, _) = self.rest().split_first_chunk().ok_or_else(|| self.truncated())?;
        let value = f64::from_le_bytes(*bytes);
        self.at += 8;
        Ok(value)
    }

    /// The next `length` bytes.
    #[inline]
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let taken = self.rest().get(..length).ok_or_else(|| self.truncated())?;
        self.at += length;
        Ok(taken)
    }

    /// A length and that many bytes.
    #[inline]
    pub(super) fn sized(&mut self) -> Result<&'a [u8]> {
        let length = self.varint()?;
        self.take(length as usize)
    }

    /// A count that each cost the sender at least one byte, so that one beyond the end is a lie.
    #[inline]
    pub(super) fn count(&mut self) -> Result<u32> {
        let offset = self.at;
        let count = self.varint()?;
        if count as usize > self.remaining() {
            return Err(Error::Malformed { offset, what: "more elements are announced than bytes are left" });
        }
        Ok(count)
    }

    /// Takes a closing count and compares it with what was seen.
    #[inline]
    pub(super) fn expect_count(&mut self, seen: usize) -> Result<()> {
        let offset = self.at;
        if self.varint()? as usize != seen {
            return Err(Error::Malformed {
                offset,
                what: "the closing count differs from the entries before it",
            });
        }
        Ok(())
    }

    /// Takes a closing length and compares it with the opening one.
    #[inline]
    pub(super) fn expect_length(&mut self, opening: u32) -> Result<()> {
        let offset = self.at;
        if self.varint()? != opening {
            return Err(Error::Malformed {
                offset,
                what: "an array's closing length differs from the opening one",
            });
        }
        Ok(())
    }

    /// The error for a tag that starts no value; it was seen and not taken.
    pub(super) fn unknown_tag(&self, tag: u8) -> Error {
        Error::UnknownTag { offset: self.at, tag }
    }

    pub(super) fn truncated(&self) -> Error {
        Error::Truncated { offset: self.bytes.len() }
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }
}
