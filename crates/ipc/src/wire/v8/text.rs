//! Strings as JavaScript has them: sequences of 16-bit units, nearly always well-formed text.

use std::borrow::Cow;
use std::fmt;

use super::error::{Error, Result};
use super::input::Input;
use super::tag;

/// A JavaScript string. Nearly always text; a string that has half of a surrogate pair alone is not,
/// and is kept all the same.
///
/// ```
/// # use everycore_ipc::v8::JsString;
/// assert_eq!(JsString::from("héllo").as_str(), Some("héllo"));
/// let broken = JsString::from_utf16(vec![0x61, 0xd800]);
/// assert_eq!(broken.as_str(), None);
/// assert_eq!(broken.to_string_lossy(), "a\u{fffd}");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct JsString(Repr);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    Text(String),
    /// Only ever units that are no text, so that equal strings have equal forms.
    Units(Vec<u16>),
}

impl JsString {
    /// The string of these UTF-16 units.
    pub fn from_utf16(units: Vec<u16>) -> Self {
        match String::from_utf16(&units) {
            Ok(text) => Self(Repr::Text(text)),
            Err(_) => Self(Repr::Units(units)),
        }
    }

    /// The string, unless it contains a lone surrogate.
    pub fn as_str(&self) -> Option<&str> {
        match &self.0 {
            Repr::Text(text) => Some(text),
            Repr::Units(_) => None,
        }
    }

    /// The string with U+FFFD in place of each lone surrogate.
    pub fn to_string_lossy(&self) -> Cow<'_, str> {
        match &self.0 {
            Repr::Text(text) => Cow::Borrowed(text),
            Repr::Units(units) => Cow::Owned(String::from_utf16_lossy(units)),
        }
    }

    /// The string's UTF-16 units.
    pub fn to_utf16(&self) -> Vec<u16> {
        match &self.0 {
            Repr::Text(text) => text.encode_utf16().collect(),
            Repr::Units(units) => units.clone(),
        }
    }

    /// The units of a string that is no text.
    pub(super) fn units(&self) -> Option<&[u16]> {
        match &self.0 {
            Repr::Text(_) => None,
            Repr::Units(units) => Some(units),
        }
    }

    /// Reads the string whose tag was just taken.
    pub(super) fn read(input: &mut Input<'_>, tag: u8) -> Result<Self> {
        if tag == tag::UTF16 {
            return Ok(Self::from_utf16(units(input)?.collect()));
        }
        Ok(Self(Repr::Text(read_text(input, tag)?.into_owned())))
    }
}

impl From<&str> for JsString {
    fn from(text: &str) -> Self {
        Self(Repr::Text(text.to_owned()))
    }
}

impl From<String> for JsString {
    fn from(text: String) -> Self {
        Self(Repr::Text(text))
    }
}

impl PartialEq<str> for JsString {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == Some(other)
    }
}

impl PartialEq<&str> for JsString {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == Some(*other)
    }
}

impl fmt::Debug for JsString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Text(text) => text.fmt(f),
            Repr::Units(units) => write!(f, "{:?} (lone surrogates)", String::from_utf16_lossy(units)),
        }
    }
}

/// Whether a tag starts a string.
pub(super) fn is_string(tag: u8) -> bool {
    matches!(tag, tag::LATIN1 | tag::UTF16 | tag::UTF8)
}

/// Reads the string whose tag was just taken as text, borrowed where its bytes are text already. What
/// is no text becomes U+FFFD.
#[inline]
pub(super) fn read_text<'a>(input: &mut Input<'a>, tag: u8) -> Result<Cow<'a, str>> {
    if tag == tag::LATIN1 {
        let bytes = input.sized()?;
        if bytes.is_ascii()
            && let Ok(text) = std::str::from_utf8(bytes)
        {
            return Ok(Cow::Borrowed(text));
        }
        return Ok(Cow::Owned(bytes.iter().copied().map(char::from).collect()));
    }
    if tag == tag::UTF8 {
        return Ok(String::from_utf8_lossy(input.sized()?));
    }
    let decoded = char::decode_utf16(units(input)?);
    Ok(Cow::Owned(decoded.map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()))
}

/// Passes over the string whose tag was just taken.
pub(super) fn skip(input: &mut Input<'_>, tag: u8) -> Result<()> {
    if tag == tag::UTF16 { units(input).map(drop) } else { input.sized().map(drop) }
}

fn units<'a>(input: &mut Input<'a>) -> Result<impl Iterator<Item = u16> + use<'a>> {
    let offset = input.position();
    let bytes = input.sized()?;
    let (pairs, odd) = bytes.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(Error::Malformed { offset, what: "a UTF-16 string has an odd number of bytes" });
    }
    Ok(pairs.iter().map(|pair| u16::from_le_bytes(*pair)))
}
