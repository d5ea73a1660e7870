//! JSON text as values, with long strings looked at in large steps; `serde_json` looks at one byte after the other.
//!
//! What this cannot read, `serde_json` reads once more from the start: so nothing here says what is wrong with a text, and
//! what is rare may be refused, as long as all that is accepted means what it means there. Neighbours: `super::super::convert`
//! decides who reads, `text` finds the ends of strings.

mod access;
mod key;

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};

use super::text::plain_length;
use access::{Elements, Entries, Variant};

/// The text is to be read by `serde_json`.
#[derive(Debug)]
pub(crate) struct Refused;

type Result<T> = std::result::Result<T, Refused>;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this JSON is not read here")
    }
}

impl std::error::Error for Refused {}

impl de::Error for Refused {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// Arrays and objects in each other, as many as `serde_json` reads.
const DEPTH: usize = 127;

/// Digits that any 64 bits hold.
const DIGITS: usize = 18;

/// How `serde_json` marks text that is to be kept as it is.
const RAW: &str = "$serde_json::private::RawValue";

/// Reads a value that is all of a text.
pub(crate) fn from_str<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T> {
    let mut reader = Reader { text, at: 0, depth: 0, refused: false };
    let value = T::deserialize(&mut reader)?;
    match reader.peek() {
        None if !reader.refused => Ok(value),
        _ => Err(Refused),
    }
}

struct Reader<'de> {
    text: &'de str,
    at: usize,
    depth: usize,
    /// Something was refused, and who reads need not have passed that on: `serde_json` may have got further, or less far.
    refused: bool,
}

impl<'de> Reader<'de> {
    #[cold]
    fn refuse(&mut self) -> Refused {
        self.refused = true;
        Refused
    }

    /// What was not read yet.
    fn rest(&self) -> &'de [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// The next byte that is no space.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.rest();
        let space = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).count();
        self.at += space;
        rest.get(space).copied()
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.peek() != Some(byte) {
            return Err(self.refuse());
        }
        self.at += 1;
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<()> {
        if !self.rest().starts_with(word.as_bytes()) {
            return Err(self.refuse());
        }
        self.at += word.len();
        Ok(())
    }

    fn null(&mut self) -> Result<()> {
        self.peek();
        self.word("null")
    }

    fn boolean(&mut self) -> Result<bool> {
        match self.peek() {
            Some(b't') => self.word("true").map(|()| true),
            _ => self.word("false").map(|()| false),
        }
    }

    fn string(&mut self) -> Result<Cow<'de, str>> {
        self.expect(b'"')?;
        let plain = self.plain()?;
        let mut own = match self.special()? {
            b'"' => return Ok(Cow::Borrowed(plain)),
            _ => plain.to_owned(),
        };
        loop {
            own.push(self.escaped()?);
            own.push_str(self.plain()?);
            if self.special()? == b'"' {
                return Ok(Cow::Owned(own));
            }
        }
    }

    /// What stands here without an escape.
    fn plain(&mut self) -> Result<&'de str> {
        let rest = self.text.get(self.at..).ok_or_else(|| self.refuse())?;
        let plain = rest.get(..plain_length(rest.as_bytes())).ok_or_else(|| self.refuse())?;
        self.at += plain.len();
        Ok(plain)
    }

    /// The quote or backslash at which plain text ended.
    fn special(&mut self) -> Result<u8> {
        let byte = self.rest().first().copied().filter(|byte| matches!(byte, b'"' | b'\\'));
        let byte = byte.ok_or_else(|| self.refuse())?;
        self.at += 1;
        Ok(byte)
    }

    /// What is spelled behind a backslash. Surrogates without a partner are no characters.
    fn escaped(&mut self) -> Result<char> {
        let byte = self.rest().first().copied().ok_or_else(|| self.refuse())?;
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.unit()?;
                if !(0xD800..0xDC00).contains(&unit) {
                    return char::from_u32(unit).ok_or_else(|| self.refuse());
                }
                self.word("\\u")?;
                let low = self.unit()?.checked_sub(0xDC00).filter(|low| *low < 0x400);
                low.and_then(|low| char::from_u32(0x10000 + ((unit - 0xD800) << 10) + low))
                    .ok_or_else(|| self.refuse())?
            }
            _ => return Err(self.refuse()),
        })
    }

    /// Four hexadecimal digits.
    fn unit(&mut self) -> Result<u32> {
        let digits = self.rest().get(..4).ok_or_else(|| self.refuse())?;
        let unit =
            digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?));
        let unit = unit.ok_or_else(|| self.refuse())?;
        self.at += 4;
        Ok(unit)
    }

    /// The text of a number, which may be none.
    fn digits(&mut self) -> &'de str {
        let length = self
            .rest()
            .iter()
            .take_while(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
            .count();
        let digits = self.text.get(self.at..self.at + length).unwrap_or_default();
        self.at += length;
        digits
    }

    fn value<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value> {
        match self.peek() {
            Some(b'"') => self.text_value(visitor),
            Some(b'{') => self.object(visitor),
            Some(b'[') => self.array(visitor),
            Some(b'-' | b'0'..=b'9') => {
                self.number(visitor, |reader, visitor| reader.deserialize_any(visitor))
            }
            Some(b't' | b'f') => visitor.visit_bool(self.boolean()?),
            Some(b'n') => {
                self.null()?;
                visitor.visit_unit()
            }
            _ => Err(self.refuse()),
        }
    }

    fn number<V: Visitor<'de>>(&mut self, visitor: V, other: impl Other<'de, V>) -> Result<V::Value> {
        let value = number(self.digits(), visitor, other);
        value.map_err(|_| self.refuse())
    }

    fn text_value<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value> {
        match self.string()? {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_str(&text),
        }
    }

    fn array<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value> {
        self.nested(b'[', b']', |reader| visitor.visit_seq(Elements::new(reader)))
    }

    fn object<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value> {
        self.nested(b'{', b'}', |reader| visitor.visit_map(Entries::new(reader)))
    }

    /// Reads something between brackets; all of it, or it is refused.
    fn nested<T>(&mut self, open: u8, close: u8, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.expect(open)?;
        if self.depth == DEPTH {
            return Err(self.refuse());
        }
        self.depth += 1;
        let value = read(self).map_err(|_| self.refuse())?;
        self.depth -= 1;
        self.expect(close)?;
        Ok(value)
    }
}

/// How `serde_json` reads a number: of 32 bits it rounds one to those at once.
trait Other<'de, V: Visitor<'de>>: FnOnce(&mut Theirs<'de>, V) -> serde_json::Result<V::Value> {}

impl<'de, V: Visitor<'de>, F: FnOnce(&mut Theirs<'de>, V) -> serde_json::Result<V::Value>> Other<'de, V>
    for F
{
}

type Theirs<'de> = serde_json::Deserializer<serde_json::de::StrRead<'de>>;

/// A number: whole ones that are not long here, all others as `serde_json` reads them.
fn number<'de, V: Visitor<'de>>(text: &'de str, visitor: V, other: impl Other<'de, V>) -> Result<V::Value> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let is_plain =
        (1..=DIGITS).contains(&digits.len()) && !(digits.starts_with('0') && (digits.len() > 1 || negative));
    let whole = if is_plain { whole(digits) } else { None };
    match whole {
        Some(number) if negative => visitor.visit_i64(-number.cast_signed()),
        Some(number) => visitor.visit_u64(number),
        None => {
            let mut reader = serde_json::Deserializer::from_str(text);
            let value = other(&mut reader, visitor).map_err(|_| Refused)?;
            reader.end().map_err(|_| Refused)?;
            Ok(value)
        }
    }
}

fn whole(digits: &str) -> Option<u64> {
    digits
        .bytes()
        .try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0')))
}

macro_rules! numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            match self.peek() {
                Some(b'-' | b'0'..=b'9') => self.number(visitor, |reader, visitor| reader.$method(visitor)),
                _ => Err(self.refuse()),
            }
        }
    )*};
}

macro_rules! refused {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
            Err(self.refuse())
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = Refused;

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_f32 deserialize_f64
    }

    refused! { deserialize_i128 deserialize_u128 deserialize_bytes deserialize_byte_buf }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.value(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_bool(self.boolean()?)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.text_value(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.text_value(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.text_value(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.text_value(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.peek() == Some(b'n') {
            self.null()?;
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.null()?;
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value> {
        if name == RAW {
            return Err(self.refuse());
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.array(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.array(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.array(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.object(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self.peek() {
            Some(b'[') => self.array(visitor),
            _ => self.object(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self.peek() {
            Some(b'{') => self.nested(b'{', b'}', |reader| visitor.visit_enum(Variant::WithContent(reader))),
            Some(b'"') => visitor.visit_enum(Variant::Alone(self)),
            _ => Err(self.refuse()),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.value(de::IgnoredAny)?;
        visitor.visit_unit()
    }
}

#[cfg(test)]
mod tests;
