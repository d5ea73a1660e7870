//! Types for two things that serde has no word for in plain types: bytes, and points in time.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

/// Bytes that travel as a Node `Buffer`; a plain `Vec<u8>` would become an array of numbers. Any typed
/// array, `ArrayBuffer` or array of numbers can be read as one.
///
/// ```
/// # use everycore_ipc::v8::{self, Buffer};
/// let bytes = v8::to_vec(&Buffer::from(b"hey".as_slice())).unwrap();
/// assert_eq!(bytes, b"\xff\x0f\x5c\x00\x0a\x03hey");
/// assert_eq!(v8::from_slice::<Buffer>(&bytes).unwrap().0, b"hey");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Buffer(pub Vec<u8>);

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Buffer {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl Serialize for Buffer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Buffer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(BufferVisitor)
    }
}

struct BufferVisitor;

impl<'de> Visitor<'de> for BufferVisitor {
    type Value = Buffer;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Buffer, E> {
        Ok(bytes.into())
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Buffer, E> {
        Ok(Buffer(bytes))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Buffer, A::Error> {
        let mut bytes = Vec::with_capacity(elements.size_hint().unwrap_or(0).min(4096));
        while let Some(byte) = elements.next_element()? {
            bytes.push(byte);
        }
        Ok(Buffer(bytes))
    }
}

/// A point in time that travels as a JavaScript `Date`: milliseconds since 1970, NaN for an invalid one.
/// To other formats than this one it is a number.
///
/// ```
/// # use everycore_ipc::v8::{self, Date};
/// let bytes = v8::to_vec(&Date(1.0)).unwrap();
/// assert_eq!(bytes[2], b'D');
/// assert_eq!(v8::from_slice::<Date>(&bytes).unwrap(), Date(1.0));
/// assert_eq!(v8::from_slice::<f64>(&bytes).unwrap(), 1.0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Date(pub f64);

/// The name by which the serializer knows a date.
pub(super) const DATE: &str = "$everycore::v8::Date";

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(DATE, &self.0)
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer).map(Self)
    }
}
