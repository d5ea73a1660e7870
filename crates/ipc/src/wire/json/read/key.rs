//! The name of an entry, read as whatever the map has for keys.

use std::borrow::Cow;

use serde::de::value::CowStrDeserializer;
use serde::de::{Deserializer, Visitor};

use super::{RAW, Reader, Refused, Result, number};

pub(super) struct Key<'a, 'de> {
    pub(super) name: Cow<'de, str>,
    /// Is to know what was refused.
    pub(super) reader: &'a mut Reader<'de>,
}

impl<'de> Key<'_, 'de> {
    /// The name as it stands in the text. One with escapes in it is neither a number nor a boolean.
    fn literal(&mut self) -> Result<&'de str> {
        match self.name {
            Cow::Borrowed(name) => Ok(name),
            Cow::Owned(_) => Err(self.reader.refuse()),
        }
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value> {
            let name = self.literal()?;
            if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(self.reader.refuse());
            }
            number(name, visitor, |reader, visitor| reader.$method(visitor)).map_err(|_| self.reader.refuse())
        }
    )*};
}

macro_rules! names {
    ($($method:ident($($argument:ty),*))*) => {$(
        fn $method<V: Visitor<'de>>(self, $(_: $argument,)* visitor: V) -> Result<V::Value> {
            self.deserialize_any(visitor)
        }
    )*};
}

macro_rules! refused {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
            Err(self.reader.refuse())
        }
    )*};
}

impl<'de> Deserializer<'de> for Key<'_, 'de> {
    type Error = Refused;

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_f32 deserialize_f64
    }

    refused! { deserialize_i128 deserialize_u128 deserialize_bytes deserialize_byte_buf }

    names! {
        deserialize_char()
        deserialize_str()
        deserialize_string()
        deserialize_identifier()
        deserialize_ignored_any()
        deserialize_unit()
        deserialize_unit_struct(&'static str)
        deserialize_seq()
        deserialize_tuple(usize)
        deserialize_tuple_struct(&'static str, usize)
        deserialize_map()
        deserialize_struct(&'static str, &'static [&'static str])
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.name {
            Cow::Borrowed(name) => visitor.visit_borrowed_str(name),
            Cow::Owned(name) => visitor.visit_str(&name),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value> {
        match self.literal()? {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(self.reader.refuse()),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value> {
        if name == RAW { Err(self.reader.refuse()) } else { visitor.visit_newtype_struct(self) }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_enum(CowStrDeserializer::new(self.name))
    }
}
