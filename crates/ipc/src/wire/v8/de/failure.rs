//! What an `Error` becomes: a map with the fields `name`, `message`, `stack` and `cause`, those that
//! are there.

use std::borrow::Cow;

use serde::de::value::{BorrowedStrDeserializer, CowStrDeserializer};
use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};

use super::{Deserializer, seeded};
use crate::wire::v8::error::{Error, Result};
use crate::wire::v8::object::ErrorKind;
use crate::wire::v8::read::unknown_error_part;
use crate::wire::v8::tag;

/// Reads an error behind its tag.
pub(super) fn read<'de, V: Visitor<'de>>(de: &mut Deserializer<'de, '_>, visitor: V) -> Result<V::Value> {
    let mut parts = Parts { de, next: Part::Name };
    let value = visitor.visit_map(&mut parts)?;
    match parts.next {
        Part::End => Ok(value),
        _ => Err(Error::custom("an error has more parts than expected")),
    }
}

struct Parts<'d, 'de, 'l> {
    de: &'d mut Deserializer<'de, 'l>,
    next: Part,
}

/// What comes next: something of the error's own, or what the wire says.
#[derive(Clone, Copy)]
enum Part {
    Name,
    Text,
    Cause,
    /// Whatever the next letter says.
    Unknown,
    End,
}

impl Parts<'_, '_, '_> {
    fn look(&mut self) -> Result<&'static str> {
        let offset = self.de.input.position();
        let (part, field) = match self.de.input.byte()? {
            tag::ERROR_MESSAGE => (Part::Text, "message"),
            tag::ERROR_STACK => (Part::Text, "stack"),
            tag::ERROR_CAUSE => (Part::Cause, "cause"),
            tag::ERROR_END => (Part::End, ""),
            _ => return Err(unknown_error_part(offset)),
        };
        self.next = part;
        Ok(field)
    }

    /// The error's class, whose letter comes first if there is one.
    fn name(&mut self) -> Result<&'static str> {
        let start = self.de.input.position();
        match ErrorKind::from_letter(self.de.input.byte()?) {
            Some(kind) => Ok(kind.name()),
            None => {
                self.de.input.seek(start);
                Ok(ErrorKind::Error.name())
            }
        }
    }
}

impl<'de> MapAccess<'de> for Parts<'_, 'de, '_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        let field = match self.next {
            Part::Name => "name",
            Part::End => return Ok(None),
            Part::Unknown | Part::Text | Part::Cause => self.look()?,
        };
        if let Part::End = self.next {
            return Ok(None);
        }
        seed.deserialize(BorrowedStrDeserializer::new(field)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value> {
        let part = std::mem::replace(&mut self.next, Part::Unknown);
        let text = match part {
            Part::Name => Cow::Borrowed(self.name()?),
            Part::Text => self.de.string()?,
            Part::Cause | Part::Unknown | Part::End => return seeded(self.de, seed),
        };
        seed.deserialize(CowStrDeserializer::new(text))
    }
}
