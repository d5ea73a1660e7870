//! Values as JSON text, byte for byte as `serde_json` writes them.
//!
//! That looks at text one byte after the other; long strings are most of what large messages are made of, so here they
//! are looked at in larger steps. Numbers are still written by `serde_json`.

use serde::ser::{self, Error as _, Serialize, Serializer};
use serde_json::Error;

use super::text::plain_length;
use crate::wire::memory::{self, LARGE};

type Result<T = ()> = std::result::Result<T, Error>;

/// A value as JSON.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) text: Vec<u8>,
    /// It is one line, and without a `cmd`: nobody can take it for a message of Node's library.
    pub(crate) is_plain: bool,
}

/// Writes a value as JSON.
pub(crate) fn write<T: Serialize + ?Sized>(value: &T) -> Result<Written> {
    let mut writer = Writer { out: Vec::with_capacity(128), is_plain: true };
    value.serialize(&mut writer)?;
    Ok(Written { text: writer.out, is_plain: writer.is_plain })
}

/// How `serde_json` marks text that is JSON already and is to be passed on as it is: any value, or a number that it keeps as
/// text where a program has asked for that (`arbitrary_precision`).
const VERBATIM: [&str; 2] = ["$serde_json::private::RawValue", "$serde_json::private::Number"];

/// Room for what ends a message behind its last long text.
const MARGIN: usize = 128;

struct Writer {
    out: Vec<u8>,
    /// As in [`Written`].
    is_plain: bool,
}

impl Writer {
    fn text(&mut self, text: &str) {
        self.is_plain &= text != "cmd";
        self.reserve(text.len() + 2);
        self.out.push(b'"');
        let mut rest = text.as_bytes();
        loop {
            let (plain, special) = rest.split_at(plain_length(rest));
            self.out.extend_from_slice(plain);
            let Some((byte, behind)) = special.split_first() else { break };
            self.escape(*byte);
            rest = behind;
        }
        self.out.push(b'"');
    }

    /// Makes room for this much more.
    fn reserve(&mut self, more: usize) {
        if more >= LARGE && self.out.capacity() - self.out.len() < more {
            // One long text takes what it needs; with many, each growth doubles what there is.
            let grown = if self.out.capacity() < LARGE { 0 } else { 2 * self.out.capacity() };
            let mut larger = memory::buffer(grown.max(self.out.len() + more + MARGIN));
            larger.extend_from_slice(&self.out);
            memory::keep(std::mem::replace(&mut self.out, larger));
        } else {
            self.out.reserve(more);
        }
    }

    fn escape(&mut self, byte: u8) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let short = match byte {
            b'"' | b'\\' => byte,
            0x08 => b'b',
            b'\t' => b't',
            b'\n' => b'n',
            0x0C => b'f',
            b'\r' => b'r',
            _ => {
                self.out.extend_from_slice(b"\\u00");
                self.out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
                return;
            }
        };
        self.out.extend_from_slice(&[b'\\', short]);
    }

    fn number<T: Serialize>(&mut self, number: T) -> Result {
        serde_json::to_writer(&mut self.out, &number)
    }

    /// The name of a variant before what is in it.
    fn variant(&mut self, name: &str) {
        self.out.push(b'{');
        self.text(name);
        self.out.push(b':');
    }

    fn open(&mut self, begin: u8, end: &'static [u8]) -> Many<'_> {
        self.out.push(begin);
        Many { writer: self, first: true, end }
    }
}

/// Elements or fields, with commas between them.
struct Many<'a> {
    writer: &'a mut Writer,
    first: bool,
    end: &'static [u8],
}

impl Many<'_> {
    fn separate(&mut self) {
        if !std::mem::take(&mut self.first) {
            self.writer.out.push(b',');
        }
    }

    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        self.separate();
        value.serialize(&mut *self.writer)
    }

    fn key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result {
        self.separate();
        let start = self.writer.out.len();
        key.serialize(&mut *self.writer)?;
        match self.writer.out.get(start) {
            Some(b'"') => {}
            // Numbers and booleans become names.
            Some(b'-' | b'0'..=b'9' | b't' | b'f') => {
                self.writer.out.insert(start, b'"');
                self.writer.out.push(b'"');
            }
            _ => return Err(Error::custom("key must be a string")),
        }
        Ok(())
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        self.writer.out.push(b':');
        value.serialize(&mut *self.writer)
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result {
        if VERBATIM.contains(&name) {
            // What is in it is not known.
            self.writer.is_plain = false;
            if let serde_json::Value::String(text) = serde_json::to_value(value)? {
                self.writer.out.extend_from_slice(text.as_bytes());
            }
            return Ok(());
        }
        self.separate();
        self.writer.text(name);
        self.value(value)
    }

    fn finish(self) -> Result {
        self.writer.out.extend_from_slice(self.end);
        Ok(())
    }
}

macro_rules! numbers {
    ($($method:ident($type:ty))*) => {$(
        fn $method(self, value: $type) -> Result {
            self.number(value)
        }
    )*};
}

impl<'a> Serializer for &'a mut Writer {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Many<'a>;
    type SerializeTuple = Many<'a>;
    type SerializeTupleStruct = Many<'a>;
    type SerializeTupleVariant = Many<'a>;
    type SerializeMap = Many<'a>;
    type SerializeStruct = Many<'a>;
    type SerializeStructVariant = Many<'a>;

    numbers! {
        serialize_bool(bool)
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64) serialize_i128(i128)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64) serialize_u128(u128)
        serialize_f32(f32) serialize_f64(f64)
    }

    fn serialize_char(self, value: char) -> Result {
        self.text(value.encode_utf8(&mut [0; 4]));
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Result {
        self.text(value);
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result {
        self.collect_seq(value)
    }

    fn serialize_none(self) -> Result {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result {
        self.out.extend_from_slice(b"null");
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result {
        self.variant(variant);
        value.serialize(&mut *self)?;
        self.out.push(b'}');
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Many<'a>> {
        Ok(self.open(b'[', b"]"))
    }

    fn serialize_tuple(self, _: usize) -> Result<Many<'a>> {
        Ok(self.open(b'[', b"]"))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Many<'a>> {
        Ok(self.open(b'[', b"]"))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Many<'a>> {
        self.variant(variant);
        Ok(self.open(b'[', b"]}"))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Many<'a>> {
        Ok(self.open(b'{', b"}"))
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Many<'a>> {
        if VERBATIM.contains(&name) {
            return Ok(Many { writer: self, first: true, end: b"" });
        }
        Ok(self.open(b'{', b"}"))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Many<'a>> {
        self.variant(variant);
        Ok(self.open(b'{', b"}}"))
    }
}

macro_rules! elements {
    ($($trait:ident::$method:ident)*) => {$(
        impl ser::$trait for Many<'_> {
            type Ok = ();
            type Error = Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
                self.element(value)
            }

            fn end(self) -> Result {
                self.finish()
            }
        }
    )*};
}

elements! {
    SerializeSeq::serialize_element
    SerializeTuple::serialize_element
    SerializeTupleStruct::serialize_field
    SerializeTupleVariant::serialize_field
}

macro_rules! fields {
    ($($trait:ident)*) => {$(
        impl ser::$trait for Many<'_> {
            type Ok = ();
            type Error = Error;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result {
                self.field(name, value)
            }

            fn end(self) -> Result {
                self.finish()
            }
        }
    )*};
}

fields! { SerializeStruct SerializeStructVariant }

impl ser::SerializeMap for Many<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result {
        self.key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        self.value(value)
    }

    fn end(self) -> Result {
        self.finish()
    }
}

#[cfg(test)]
mod tests;
