//! Property names as the keys of maps: text in general, numbers and booleans for maps that want those.

use std::borrow::Cow;

use serde::de::value::CowStrDeserializer;
use serde::de::{self, Visitor};

use super::visit_text;
use crate::wire::v8::error::{Error, Result};
use crate::wire::v8::input::Input;
use crate::wire::v8::key::read_number;
use crate::wire::v8::number::{self, Integer};
use crate::wire::v8::tag;
use crate::wire::v8::text::{self, read_text};

/// A property name as the wire spells it.
pub(super) enum Name<'de> {
    Text(Cow<'de, str>),
    Number(f64),
}

/// Whether a tag starts what can be a name.
pub(super) fn is_name(tag: u8) -> bool {
    text::is_string(tag) || matches!(tag, tag::INT32 | tag::UINT32 | tag::DOUBLE)
}

impl<'de> Name<'de> {
    /// Reads a name, its tag included.
    #[inline]
    pub(super) fn read(input: &mut Input<'de>) -> Result<Self> {
        let tag = input.peek_value()?;
        if text::is_string(tag) {
            input.advance();
            return read_text(input, tag).map(Self::Text);
        }
        read_number(input, tag).map(Self::Number)
    }

    fn into_text(self) -> Cow<'de, str> {
        match self {
            Self::Text(text) => text,
            Self::Number(value) => Cow::Owned(number::text(value)),
        }
    }

    fn integer<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let integer = match &self {
            Self::Number(value) => number::wide_integer(*value),
            Self::Text(text) => {
                let unsigned = text.parse().map(Integer::Unsigned);
                unsigned.or_else(|_| text.parse().map(Integer::Signed)).ok()
            }
        };
        match integer {
            Some(Integer::Unsigned(value)) => visitor.visit_u64(value),
            Some(Integer::Signed(value)) => visitor.visit_i64(value),
            None => self.wide(visitor),
        }
    }

    /// An integer of more than 64 bits, or none at all.
    fn wide<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let text = self.into_text();
        if let Ok(value) = text.parse() {
            visitor.visit_u128(value)
        } else if let Ok(value) = text.parse() {
            visitor.visit_i128(value)
        } else {
            visit_text(text, visitor)
        }
    }

    fn float<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self {
            Self::Number(value) => visitor.visit_f64(value),
            Self::Text(text) => match text.parse() {
                Ok(value) => visitor.visit_f64(value),
                Err(_) => visit_text(text, visitor),
            },
        }
    }
}

macro_rules! forward {
    ($to:ident: $($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            self.$to(visitor)
        })*
    };
}

impl<'de> de::Deserializer<'de> for Name<'de> {
    type Error = Error;

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visit_text(self.into_text(), visitor)
    }

    forward!(integer: deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128);
    forward!(float: deserialize_f32 deserialize_f64);

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.into_text() {
            text if text == "true" => visitor.visit_bool(true),
            text if text == "false" => visitor.visit_bool(false),
            text => visit_text(text, visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_enum(CowStrDeserializer::new(self.into_text()))
    }

    serde::forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier
        ignored_any
    }
}
