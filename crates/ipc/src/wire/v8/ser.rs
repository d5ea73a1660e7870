//! Serde → bytes, without a document in between. The table of what becomes what is in the
//! [module's documentation](super).

use serde::ser::{self, Serialize};

use super::bigint::BigInt;
use super::error::{Error, Result};
use super::input::Input;
use super::key::read_number;
use super::keys::WrittenKeys;
use super::limits::Limits;
use super::output::Output;
use super::tag;
use super::view::ViewKind;
use super::wrap::DATE;
use super::write::typed_array;

mod compound;
mod key;

use compound::{Elements, Entries, Wrapped};

pub(super) fn write<T: Serialize + ?Sized>(value: &T, out: Output<'_>, limits: &Limits) -> Result<()> {
    let mut serializer = Serializer { out, limits, depth: 0, keys: WrittenKeys::default() };
    let written = value.serialize(&mut serializer);
    written.map_err(|error| error.at(serializer.out.length()))
}

pub(super) struct Serializer<'a> {
    out: Output<'a>,
    limits: &'a Limits,
    depth: usize,
    keys: WrittenKeys,
}

impl<'a> Serializer<'a> {
    /// Goes one object deeper.
    #[inline]
    fn enter(&mut self) -> Result<()> {
        if self.depth == self.limits.depth {
            let (offset, allowed) = (self.out.length(), self.limits.depth);
            return Err(Error::Limit { offset, limit: "depth", allowed });
        }
        self.depth += 1;
        self.out.check(self.limits)
    }

    #[inline]
    fn begin_object(&mut self) -> Result<()> {
        self.enter()?;
        self.out.byte(tag::OBJECT);
        Ok(())
    }

    #[inline]
    fn end_object(&mut self, properties: usize) {
        self.depth -= 1;
        self.out.byte(tag::END_OBJECT);
        self.out.count(properties);
    }

    fn begin_array(&mut self, length: usize) -> Result<()> {
        self.enter()?;
        self.out.byte(tag::DENSE_ARRAY);
        self.out.count(length);
        Ok(())
    }

    fn end_array(&mut self, length: usize) {
        self.depth -= 1;
        self.out.byte(tag::END_DENSE_ARRAY);
        self.out.byte(0); // no properties beside the elements
        self.out.count(length);
    }

    /// Opens the object with one property that stands for an enum's variant.
    fn begin_variant(&mut self, variant: &str) -> Result<()> {
        self.begin_object()?;
        self.out.key_text(variant);
        Ok(())
    }

    /// An integer: exactly as a number if numbers can hold it, else as a bigint.
    fn wide_integer(&mut self, value: i128) {
        const SAFE: i128 = 1 << 53;
        match i32::try_from(value) {
            Ok(small) => self.out.int(small),
            Err(_) if (-SAFE..=SAFE).contains(&value) => self.out.double(value as f64),
            Err(_) => self.bigint(&BigInt::from(value)),
        }
    }

    fn bigint(&mut self, value: &BigInt) {
        self.out.byte(tag::BIGINT);
        self.out.bigint(value);
    }

    /// Writes a number as a date.
    fn date<T: Serialize + ?Sized>(&mut self, milliseconds: &T) -> Result<()> {
        let start = self.out.length();
        milliseconds.serialize(&mut *self)?;
        let mut written = Input::bare(self.out.since(start));
        let number = written.peek_value().and_then(|tag| read_number(&mut written, tag));
        let number = number.map_err(|_| Error::Unsupported { what: "a date that is not a number" })?;
        self.out.truncate(start);
        self.out.byte(tag::DATE);
        self.out.bare_double(number);
        Ok(())
    }
}

impl<'s, 'a> ser::Serializer for &'s mut Serializer<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Elements<'s, 'a>;
    type SerializeTuple = Elements<'s, 'a>;
    type SerializeTupleStruct = Elements<'s, 'a>;
    type SerializeTupleVariant = Wrapped<Elements<'s, 'a>>;
    type SerializeMap = Entries<'s, 'a>;
    type SerializeStruct = Entries<'s, 'a>;
    type SerializeStructVariant = Wrapped<Entries<'s, 'a>>;

    #[inline]
    fn serialize_bool(self, value: bool) -> Result<()> {
        self.out.byte(if value { tag::TRUE } else { tag::FALSE });
        Ok(())
    }

    fn serialize_i8(self, value: i8) -> Result<()> {
        self.serialize_i32(value.into())
    }

    fn serialize_i16(self, value: i16) -> Result<()> {
        self.serialize_i32(value.into())
    }

    #[inline]
    fn serialize_i32(self, value: i32) -> Result<()> {
        self.out.int(value);
        Ok(())
    }

    #[inline]
    fn serialize_i64(self, value: i64) -> Result<()> {
        match i32::try_from(value) {
            Ok(small) => self.out.int(small),
            Err(_) => self.wide_integer(value.into()),
        }
        Ok(())
    }

    fn serialize_i128(self, value: i128) -> Result<()> {
        self.wide_integer(value);
        Ok(())
    }

    fn serialize_u8(self, value: u8) -> Result<()> {
        self.serialize_i32(value.into())
    }

    fn serialize_u16(self, value: u16) -> Result<()> {
        self.serialize_i32(value.into())
    }

    fn serialize_u32(self, value: u32) -> Result<()> {
        self.serialize_i64(value.into())
    }

    #[inline]
    fn serialize_u64(self, value: u64) -> Result<()> {
        match i32::try_from(value) {
            Ok(small) => self.out.int(small),
            Err(_) => self.wide_integer(value.into()),
        }
        Ok(())
    }

    fn serialize_u128(self, value: u128) -> Result<()> {
        match i128::try_from(value) {
            Ok(value) => self.wide_integer(value),
            Err(_) => self.bigint(&BigInt::from(value)),
        }
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result<()> {
        self.serialize_f64(value.into())
    }

    #[inline]
    fn serialize_f64(self, value: f64) -> Result<()> {
        self.out.number(value);
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<()> {
        self.out.text(value.encode_utf8(&mut [0; 4]));
        Ok(())
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<()> {
        self.out.text(value);
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<()> {
        typed_array(&mut self.out, ViewKind::Buffer, value)
    }

    #[inline]
    fn serialize_none(self) -> Result<()> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<()> {
        value.serialize(self)
    }

    #[inline]
    fn serialize_unit(self) -> Result<()> {
        self.out.byte(tag::NULL);
        Ok(())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<()> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _name: &'static str, _index: u32, variant: &'static str) -> Result<()> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<()> {
        if name == DATE { self.date(value) } else { value.serialize(self) }
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<()> {
        self.begin_variant(variant)?;
        value.serialize(&mut *self)?;
        self.end_object(1);
        Ok(())
    }

    #[inline]
    fn serialize_seq(self, length: Option<usize>) -> Result<Self::SerializeSeq> {
        Elements::begin(self, length)
    }

    fn serialize_tuple(self, length: usize) -> Result<Self::SerializeTuple> {
        Elements::begin(self, Some(length))
    }

    fn serialize_tuple_struct(
        self,
        _name: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleStruct> {
        Elements::begin(self, Some(length))
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleVariant> {
        self.begin_variant(variant)?;
        Ok(Wrapped(Elements::begin(self, Some(length))?))
    }

    fn serialize_map(self, _length: Option<usize>) -> Result<Self::SerializeMap> {
        Entries::begin(self)
    }

    #[inline]
    fn serialize_struct(self, _name: &'static str, _length: usize) -> Result<Self::SerializeStruct> {
        Entries::begin(self)
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<Self::SerializeStructVariant> {
        self.begin_variant(variant)?;
        Ok(Wrapped(Entries::begin(self)?))
    }
}
