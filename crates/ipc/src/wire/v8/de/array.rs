//! What becomes a sequence: arrays of both forms, sets, typed arrays.

use serde::de::value::UnitDeserializer;
use serde::de::{DeserializeSeed, Error as _, IntoDeserializer, SeqAccess, Visitor};

use super::{Deserializer, seeded};
use crate::wire::v8::error::{Error, Result};
use crate::wire::v8::key::{self, Key};
use crate::wire::v8::tag;
use crate::wire::v8::view::{Element, View};

/// Reads a dense array behind its tag.
pub(super) fn read_dense<'de, V: Visitor<'de>>(
    de: &mut Deserializer<'de, '_>,
    visitor: V,
) -> Result<V::Value> {
    let length = de.input.count()?;
    let mut elements = Dense { de, left: length };
    let value = visitor.visit_seq(&mut elements)?;
    if elements.left > 0 {
        return Err(too_long(length));
    }
    skip_properties(de, tag::END_DENSE_ARRAY, 0)?;
    de.input.expect_length(length)?;
    Ok(value)
}

/// Reads a sparse array behind its tag. Its elements have to be in order, which is how V8 writes them.
pub(super) fn read_sparse<'de, V: Visitor<'de>>(
    de: &mut Deserializer<'de, '_>,
    visitor: V,
) -> Result<V::Value> {
    let length = de.input.varint()?;
    let mut elements = Sparse { de, length, next: 0, pending: None, entries: 0 };
    elements.find_element()?;
    let value = visitor.visit_seq(&mut elements)?;
    if elements.next < length {
        return Err(too_long(length));
    }
    let entries = elements.entries;
    de.input.advance();
    de.input.expect_count(entries)?;
    de.input.expect_length(length)?;
    Ok(value)
}

/// Reads a set behind its tag.
pub(super) fn read_set<'de, V: Visitor<'de>>(de: &mut Deserializer<'de, '_>, visitor: V) -> Result<V::Value> {
    let mut items = Items { de, count: 0 };
    let value = visitor.visit_seq(&mut items)?;
    let count = items.count;
    if !de.input.take_if(tag::END_SET)? {
        return Err(too_long(count as u32));
    }
    de.input.expect_count(count)?;
    Ok(value)
}

/// Reads a typed array as its elements.
pub(super) fn read_view<'de, V: Visitor<'de>>(view: View<'de>, visitor: V) -> Result<V::Value> {
    let mut elements = Elements(view);
    let value = visitor.visit_seq(&mut elements)?;
    if elements.0.bytes.is_empty() { Ok(value) } else { Err(too_long(view.bytes.len() as u32)) }
}

fn too_long(length: u32) -> Error {
    Error::invalid_length(length as usize, &"fewer elements")
}

/// What an array has besides its elements has no place in a sequence.
fn skip_properties(de: &mut Deserializer<'_, '_>, end: u8, mut count: usize) -> Result<()> {
    while !de.input.take_if(end)? {
        key::skip(&mut de.input)?;
        de.skip()?;
        count += 1;
    }
    de.input.expect_count(count)
}

struct Dense<'d, 'de, 'l> {
    de: &'d mut Deserializer<'de, 'l>,
    left: u32,
}

impl<'de> SeqAccess<'de> for Dense<'_, 'de, '_> {
    type Error = Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        if self.de.input.take_if(tag::HOLE)? {
            return hole(seed);
        }
        seeded(self.de, seed).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left as usize)
    }
}

struct Sparse<'d, 'de, 'l> {
    de: &'d mut Deserializer<'de, 'l>,
    length: u32,
    next: u32,
    /// The index of the next element that is there; its name has been read. At the end, none.
    pending: Option<u32>,
    entries: usize,
}

impl Sparse<'_, '_, '_> {
    /// Goes to the next element, over properties that are none. Leaves the position on its value, or on
    /// the tag that ends the array.
    fn find_element(&mut self) -> Result<()> {
        self.pending = None;
        while self.de.input.peek()? != tag::END_SPARSE_ARRAY {
            let offset = self.de.input.position();
            self.entries += 1;
            let Some(index) = Key::read(&mut self.de.input)?.index() else {
                self.de.skip()?;
                continue;
            };
            if index < self.next || index >= self.length {
                return Err(Error::Malformed { offset, what: "an array's elements are out of order" });
            }
            self.pending = Some(index);
            break;
        }
        Ok(())
    }
}

impl<'de> SeqAccess<'de> for Sparse<'_, 'de, '_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        if self.next == self.length {
            return Ok(None);
        }
        let index = self.next;
        self.next += 1;
        if self.pending != Some(index) {
            self.de.charge(1)?;
            return hole(seed);
        }
        let value = seeded(self.de, seed)?;
        self.find_element()?;
        Ok(Some(value))
    }
}

struct Items<'d, 'de, 'l> {
    de: &'d mut Deserializer<'de, 'l>,
    count: usize,
}

impl<'de> SeqAccess<'de> for Items<'_, 'de, '_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        if self.de.input.peek()? == tag::END_SET {
            return Ok(None);
        }
        self.count += 1;
        seeded(self.de, seed).map(Some)
    }
}

struct Elements<'de>(View<'de>);

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        let View { kind, bytes } = self.0;
        let Some((element, rest)) = bytes.split_at_checked(kind.element_size()) else { return Ok(None) };
        self.0.bytes = rest;
        let value = match Element::decode(kind, element) {
            Element::Signed(value) => seed.deserialize(value.into_deserializer()),
            Element::Unsigned(value) => seed.deserialize(value.into_deserializer()),
            Element::Float(value) => seed.deserialize(value.into_deserializer()),
        };
        value.map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.bytes.len() / self.0.kind.element_size())
    }
}

/// A place where no element is, which reads as nothing.
fn hole<'de, S: DeserializeSeed<'de>>(seed: S) -> Result<Option<S::Value>> {
    seed.deserialize(UnitDeserializer::new()).map(Some)
}
