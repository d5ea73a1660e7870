//! What becomes a map, a struct or a variant: objects and `Map`s.

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer as _, EnumAccess, Error as _, MapAccess, VariantAccess,
    Visitor,
};

use super::name::{Name, is_name};
use super::{Deserializer, seeded};
use crate::wire::v8::error::{Error, Result};
use crate::wire::v8::tag;

/// Reads an object behind its tag. A property that is `undefined` is passed over as if it were absent.
#[inline]
pub(super) fn read<'de, V: Visitor<'de>>(de: &mut Deserializer<'de, '_>, visitor: V) -> Result<V::Value> {
    let mut properties = Properties { de, count: 0 };
    let value = visitor.visit_map(&mut properties)?;
    let count = properties.count;
    end(de, tag::END_OBJECT, count)?;
    Ok(value)
}

/// Reads a `Map` behind its tag. A key that could be a property's name is read as one.
pub(super) fn read_map<'de, V: Visitor<'de>>(de: &mut Deserializer<'de, '_>, visitor: V) -> Result<V::Value> {
    let mut entries = Entries { de, count: 0 };
    let value = visitor.visit_map(&mut entries)?;
    let count = entries.count;
    end(de, tag::END_MAP, count)?;
    Ok(value)
}

/// Reads an object with one property, which is the variant's name, behind its tag.
pub(super) fn read_variant<'de, V: Visitor<'de>>(
    de: &mut Deserializer<'de, '_>,
    visitor: V,
) -> Result<V::Value> {
    let value = visitor.visit_enum(Variant { de })?;
    end(de, tag::END_OBJECT, 1)?;
    Ok(value)
}

fn end(de: &mut Deserializer<'_, '_>, tag: u8, count: usize) -> Result<()> {
    if !de.input.take_if(tag)? {
        return Err(Error::custom("an object has more properties than expected"));
    }
    de.input.expect_count(count)
}

struct Properties<'d, 'de, 'l> {
    de: &'d mut Deserializer<'de, 'l>,
    count: usize,
}

impl<'de> MapAccess<'de> for Properties<'_, 'de, '_> {
    type Error = Error;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        while self.de.input.peek()? != tag::END_OBJECT {
            self.count += 1;
            let name = Name::read(&mut self.de.input)?;
            if self.de.input.peek_value()? != tag::UNDEFINED {
                return seed.deserialize(name).map(Some);
            }
            self.de.input.advance();
        }
        Ok(None)
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value> {
        seeded(self.de, seed)
    }
}

struct Entries<'d, 'de, 'l> {
    de: &'d mut Deserializer<'de, 'l>,
    count: usize,
}

impl<'de> MapAccess<'de> for Entries<'_, 'de, '_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        if self.de.input.peek()? == tag::END_MAP {
            return Ok(None);
        }
        self.count += 2;
        match self.de.input.peek_value()? {
            tag if is_name(tag) => seed.deserialize(Name::read(&mut self.de.input)?).map(Some),
            _ => seeded(self.de, seed).map(Some),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value> {
        seeded(self.de, seed)
    }
}

struct Variant<'d, 'de, 'l> {
    de: &'d mut Deserializer<'de, 'l>,
}

impl<'de> EnumAccess<'de> for Variant<'_, 'de, '_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self)> {
        let name = Name::read(&mut self.de.input)?;
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de, '_> {
    type Error = Error;

    fn unit_variant(self) -> Result<()> {
        <()>::deserialize(self.de)
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value> {
        seeded(self.de, seed)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value> {
        self.de.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.de.deserialize_map(visitor)
    }
}
