//! Values with parts: arrays, objects, and the variants of enums around them.

use serde::ser::{self, Serialize};

use super::{Serializer, key};
use crate::wire::v8::error::{Error, Result};

/// An array on its way.
pub(in super::super) struct Elements<'s, 'a> {
    serializer: &'s mut Serializer<'a>,
    opening: Opening,
    written: usize,
}

/// How the array was opened.
#[derive(Clone, Copy)]
enum Opening {
    Announced(usize),
    /// Nobody said how long it will be; its opening goes to this place.
    Reserved(usize),
}

impl<'s, 'a> Elements<'s, 'a> {
    #[inline]
    pub(super) fn begin(serializer: &'s mut Serializer<'a>, length: Option<usize>) -> Result<Self> {
        let opening = match length {
            Some(length) => {
                serializer.begin_array(length)?;
                Opening::Announced(length)
            }
            None => {
                serializer.enter()?;
                Opening::Reserved(serializer.out.reserve_opening())
            }
        };
        Ok(Self { serializer, opening, written: 0 })
    }

    #[inline]
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.written += 1;
        value.serialize(&mut *self.serializer)
    }

    #[inline]
    fn finish(self) -> Result<&'s mut Serializer<'a>> {
        match self.opening {
            Opening::Announced(length) if length != self.written => {
                return Err(Error::Unsupported { what: "a sequence of another length than it announced" });
            }
            Opening::Announced(_) => {}
            Opening::Reserved(place) => self.serializer.out.fill_opening(place, self.written),
        }
        self.serializer.end_array(self.written);
        Ok(self.serializer)
    }
}

/// An object on its way. The names of a struct's fields differ by nature; those of a map, and of a
/// struct into which one is flattened, have to be compared.
pub(in super::super) struct Entries<'s, 'a> {
    serializer: &'s mut Serializer<'a>,
    /// Where in the written names this object's begin.
    mark: usize,
    fields: usize,
}

impl<'s, 'a> Entries<'s, 'a> {
    #[inline]
    pub(super) fn begin(serializer: &'s mut Serializer<'a>) -> Result<Self> {
        serializer.begin_object()?;
        let mark = serializer.keys.begin();
        Ok(Self { serializer, mark, fields: 0 })
    }

    #[inline]
    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<()> {
        self.fields += 1;
        self.serializer.out.key_text(name);
        value.serialize(&mut *self.serializer)
    }

    #[inline]
    fn finish(self) -> Result<&'s mut Serializer<'a>> {
        let keys = self.serializer.keys.end(self.mark, &mut self.serializer.out)?;
        self.serializer.end_object(keys + self.fields);
        Ok(self.serializer)
    }
}

/// What stands inside the object that stands for a variant.
pub(in super::super) struct Wrapped<T>(pub(super) T);

impl ser::SerializeSeq for Elements<'_, '_> {
    type Ok = ();
    type Error = Error;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.element(value)
    }

    #[inline]
    fn end(self) -> Result<()> {
        self.finish().map(drop)
    }
}

impl ser::SerializeTuple for Elements<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.element(value)
    }

    fn end(self) -> Result<()> {
        self.finish().map(drop)
    }
}

impl ser::SerializeTupleStruct for Elements<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.element(value)
    }

    fn end(self) -> Result<()> {
        self.finish().map(drop)
    }
}

impl ser::SerializeTupleVariant for Wrapped<Elements<'_, '_>> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.0.element(value)
    }

    fn end(self) -> Result<()> {
        self.0.finish()?.end_object(1);
        Ok(())
    }
}

impl ser::SerializeMap for Entries<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        let serializer = &mut *self.serializer;
        let start = serializer.out.length();
        key.serialize(key::KeySerializer { out: &mut serializer.out })?;
        serializer.keys.push(&mut serializer.out, start);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        value.serialize(&mut *self.serializer)
    }

    fn end(self) -> Result<()> {
        self.finish().map(drop)
    }
}

impl ser::SerializeStruct for Entries<'_, '_> {
    type Ok = ();
    type Error = Error;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<()> {
        self.field(name, value)
    }

    #[inline]
    fn end(self) -> Result<()> {
        self.finish().map(drop)
    }
}

impl ser::SerializeStructVariant for Wrapped<Entries<'_, '_>> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<()> {
        self.0.field(name, value)
    }

    fn end(self) -> Result<()> {
        self.0.finish()?.end_object(1);
        Ok(())
    }
}
