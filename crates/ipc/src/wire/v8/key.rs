//! Property names. JavaScript spells array indices as numbers on the wire and everything else as
//! strings; here each name has one form, so that equal names compare equal.

use std::fmt;

use super::error::{Error, Result};
use super::input::Input;
use super::text::{self, JsString};
use super::{number, tag};

/// The name of a property: an array index or a string. A string that spells an index *is* that index.
///
/// ```
/// # use everycore_ipc::v8::Key;
/// assert_eq!(Key::from("7"), Key::from(7));
/// assert_eq!(Key::from("07").index(), None);
/// assert_eq!(Key::from(7).to_string(), "7");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Repr);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    Index(u32),
    Name(JsString),
}

/// One below 2³² − 1, which is the largest length of an array.
const MAX_INDEX: u32 = u32::MAX - 1;

impl Key {
    /// The index, if the name is one: 0 to 2³² − 2.
    pub fn index(&self) -> Option<u32> {
        match self.0 {
            Repr::Index(index) => Some(index),
            Repr::Name(_) => None,
        }
    }

    /// The name, if it is no index.
    pub fn name(&self) -> Option<&JsString> {
        match &self.0 {
            Repr::Index(_) => None,
            Repr::Name(name) => Some(name),
        }
    }

    /// Reads a name, its tag included.
    pub(super) fn read(input: &mut Input<'_>) -> Result<Self> {
        let tag = input.peek_value()?;
        if text::is_string(tag) {
            input.advance();
            return Ok(JsString::read(input, tag)?.into());
        }
        Ok(Self::from_number(read_number(input, tag)?))
    }

    fn from_number(value: f64) -> Self {
        let index = value as u32;
        if f64::from(index) == value && index <= MAX_INDEX {
            return Self(Repr::Index(index));
        }
        Self(Repr::Name(number::text(value).into()))
    }
}

/// Passes over a name, its tag included.
pub(super) fn skip(input: &mut Input<'_>) -> Result<()> {
    let tag = input.peek_value()?;
    if text::is_string(tag) {
        input.advance();
        return text::skip(input, tag);
    }
    read_number(input, tag).map(drop)
}

/// Reads a name that is spelled as a number; its tag was seen and not taken.
pub(super) fn read_number(input: &mut Input<'_>, tag: u8) -> Result<f64> {
    let offset = input.position();
    input.advance();
    match tag {
        tag::INT32 => input.zigzag().map(f64::from),
        tag::UINT32 => input.varint().map(f64::from),
        tag::DOUBLE => input.double(),
        _ => Err(Error::Malformed { offset, what: "a property name is neither a string nor a number" }),
    }
}

/// The index that a text spells, if it spells one the way JavaScript does.
#[inline]
pub(super) fn index(text: &str) -> Option<u32> {
    match text.as_bytes() {
        [b'0'] => Some(0),
        [b'1'..=b'9', rest @ ..] if rest.len() < 10 && rest.iter().all(u8::is_ascii_digit) => {
            text.parse().ok().filter(|index| *index <= MAX_INDEX)
        }
        _ => None,
    }
}

impl From<u32> for Key {
    fn from(value: u32) -> Self {
        if value > MAX_INDEX {
            return Self(Repr::Name(value.to_string().into()));
        }
        Self(Repr::Index(value))
    }
}

impl From<JsString> for Key {
    fn from(name: JsString) -> Self {
        match name.as_str().and_then(index) {
            Some(index) => Self(Repr::Index(index)),
            None => Self(Repr::Name(name)),
        }
    }
}

impl From<&str> for Key {
    fn from(name: &str) -> Self {
        JsString::from(name).into()
    }
}

impl From<String> for Key {
    fn from(name: String) -> Self {
        JsString::from(name).into()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Index(index) => index.fmt(f),
            Repr::Name(name) => f.write_str(&name.to_string_lossy()),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Index(index) => index.fmt(f),
            Repr::Name(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_indices_are_indices() {
        for (text, expected) in [
            ("0", Some(0)),
            ("10", Some(10)),
            ("4294967294", Some(MAX_INDEX)),
            ("4294967295", None),
            ("4294967296", None),
            ("99999999999", None),
            ("00", None),
            ("-1", None),
            ("1.0", None),
            ("+1", None),
            ("", None),
        ] {
            assert_eq!(Key::from(text).index(), expected, "{text}");
        }
        assert_eq!(Key::from(u32::MAX).to_string(), "4294967295");
    }

    #[test]
    fn a_number_is_the_name_it_spells() {
        assert_eq!(Key::from_number(3.0), Key::from(3));
        assert_eq!(Key::from_number(-1.0), Key::from("-1"));
        assert_eq!(Key::from_number(1.5), Key::from("1.5"));
        assert_eq!(Key::from_number(-0.0), Key::from("0"));
        assert_eq!(Key::from_number(4294967295.0), Key::from("4294967295"));
    }
}
