//! Numbers, in the forms that types want them.

use serde::de::{Error as _, Visitor};

use super::Deserializer;
use crate::wire::v8::error::{Error, Result};
use crate::wire::v8::number::{self, Integer};
use crate::wire::v8::{bigint, tag};

impl<'de> Deserializer<'de, '_> {
    /// For a type that wants an integer: takes any number that is one, however large.
    pub(super) fn integer<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value> {
        match self.input.peek_value()? {
            tag::DOUBLE | tag::NUMBER_OBJECT => {
                self.input.advance();
                let value = self.input.double()?;
                match number::wide_integer(value) {
                    Some(Integer::Unsigned(value)) => visitor.visit_u64(value),
                    Some(Integer::Signed(value)) => visitor.visit_i64(value),
                    None => visitor.visit_f64(value),
                }
            }
            _ => self.anything(visitor),
        }
    }

    /// For a type that wants a float.
    pub(super) fn float<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value> {
        match self.input.peek_value()? {
            tag::DOUBLE | tag::NUMBER_OBJECT => {
                self.input.advance();
                visitor.visit_f64(self.input.double()?)
            }
            _ => self.anything(visitor),
        }
    }

    /// Reads a bigint behind its tag.
    pub(super) fn bigint<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value> {
        let (negative, digits) = bigint::read_digits(&mut self.input)?;
        let used = digits.iter().rposition(|digit| *digit != 0).map_or(0, |last| last + 1);
        let mut bytes = [0; 16];
        let Some(room) = bytes.get_mut(..used) else {
            return Err(Error::custom("a bigint has more than 128 bits"));
        };
        room.copy_from_slice(&digits[..used]);
        let magnitude = u128::from_le_bytes(bytes);
        if !negative {
            return match u64::try_from(magnitude) {
                Ok(value) => visitor.visit_u64(value),
                Err(_) => visitor.visit_u128(magnitude),
            };
        }
        let value = 0_i128.checked_sub_unsigned(magnitude);
        let value = value.ok_or_else(|| Error::custom("a bigint has more than 128 bits"))?;
        match i64::try_from(value) {
            Ok(value) => visitor.visit_i64(value),
            Err(_) => visitor.visit_i128(value),
        }
    }
}

/// A double that is an integer is shown as one: JavaScript knows no difference, and a type that wants a
/// float takes integers too.
pub(super) fn visit<'de, V: Visitor<'de>>(value: f64, visitor: V) -> Result<V::Value> {
    match number::safe_integer(value) {
        Some(value @ 0..) => visitor.visit_u64(value as u64),
        Some(value) => visitor.visit_i64(value),
        None => visitor.visit_f64(value),
    }
}
