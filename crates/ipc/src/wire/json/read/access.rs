//! What is between brackets: elements, entries, and what an enum's variant has.

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};

use super::key::Key;
use super::{Reader, Refused, Result};

/// What stands between commas.
pub(super) struct Elements<'a, 'de> {
    reader: &'a mut Reader<'de>,
    first: bool,
}

impl<'a, 'de> Elements<'a, 'de> {
    pub(super) fn new(reader: &'a mut Reader<'de>) -> Self {
        Self { reader, first: true }
    }
}

impl<'de> Reader<'de> {
    /// Whether there is one more before the bracket; goes past the comma.
    fn more(&mut self, first: &mut bool, close: u8) -> Result<bool> {
        match (self.peek(), std::mem::take(first)) {
            (Some(byte), _) if byte == close => Ok(false),
            (Some(_), true) => Ok(true),
            (Some(b','), false) => {
                self.at += 1;
                // A comma is not the last.
                if self.peek() == Some(close) { Err(self.refuse()) } else { Ok(true) }
            }
            _ => Err(self.refuse()),
        }
    }
}

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        if !self.reader.more(&mut self.first, b']')? {
            return Ok(None);
        }
        seed.deserialize(&mut *self.reader).map(Some)
    }
}

/// Names and values.
pub(super) struct Entries<'a, 'de> {
    reader: &'a mut Reader<'de>,
    first: bool,
}

impl<'a, 'de> Entries<'a, 'de> {
    pub(super) fn new(reader: &'a mut Reader<'de>) -> Self {
        Self { reader, first: true }
    }
}

impl<'de> MapAccess<'de> for Entries<'_, 'de> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        if !self.reader.more(&mut self.first, b'}')? {
            return Ok(None);
        }
        let name = self.reader.string()?;
        seed.deserialize(Key { name, reader: &mut *self.reader }).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        self.reader.expect(b':')?;
        seed.deserialize(&mut *self.reader)
    }
}

/// A variant of an enum.
pub(super) enum Variant<'a, 'de> {
    /// Its name.
    Alone(&'a mut Reader<'de>),
    /// An object of one entry.
    WithContent(&'a mut Reader<'de>),
}

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = Refused;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(mut self, seed: V) -> Result<(V::Value, Self)> {
        let value = match &mut self {
            Self::Alone(reader) => seed.deserialize(&mut **reader)?,
            Self::WithContent(reader) => {
                let name = reader.string()?;
                let value = seed.deserialize(Key { name, reader })?;
                reader.expect(b':')?;
                value
            }
        };
        Ok((value, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Refused;

    fn unit_variant(self) -> Result<()> {
        match self {
            Self::Alone(_) => Ok(()),
            Self::WithContent(reader) => reader.null(),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        match self {
            Self::Alone(reader) => Err(reader.refuse()),
            Self::WithContent(reader) => seed.deserialize(reader),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        match self {
            Self::Alone(reader) => Err(reader.refuse()),
            Self::WithContent(reader) => reader.deserialize_seq(visitor),
        }
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self {
            Self::Alone(reader) => Err(reader.refuse()),
            Self::WithContent(reader) => reader.deserialize_struct("", fields, visitor),
        }
    }
}
