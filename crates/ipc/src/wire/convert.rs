//! Payloads from one format to another, for a message that goes to a peer of another codec than it came from.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::IgnoredAny;

use super::{json, v8};
use crate::message::Format;

/// Why a payload cannot be written in the codec of the peer.
#[derive(Debug)]
pub(crate) enum ConvertError {
    /// The codec has no form for it.
    NoForm,
    /// It is not what its format says.
    Malformed(Box<dyn std::error::Error + Send + Sync>),
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for ConvertError {
    fn from(error: E) -> Self {
        Self::Malformed(Box::new(error))
    }
}

impl fmt::Display for ConvertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoForm => f.write_str("the codec has no form for this payload"),
            Self::Malformed(error) => error.fmt(f),
        }
    }
}

/// Who wrote a payload, and so what need not be looked for in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Somebody else: it may be anything.
    #[default]
    Foreign,
    /// This process: it is what its format says, JSON perhaps with line breaks.
    Own,
    /// This process, and nobody can take it for a message of Node's library. JSON is in one line.
    Plain,
}

/// A payload as one line of JSON, without its newline.
pub(crate) fn to_line(payload: Bytes, format: Format, trust: Trust) -> Result<Bytes, ConvertError> {
    match format {
        Format::Json if trust == Trust::Plain => Ok(payload),
        Format::Json if trust == Trust::Own && memchr::memchr(b'\n', &payload).is_none() => Ok(payload),
        Format::Json => check_line(payload),
        Format::V8 => Ok(serde_json::to_vec(&v8::from_slice::<serde_json::Value>(&payload)?)?.into()),
        Format::Raw => Err(ConvertError::NoForm),
    }
}

/// A payload as V8 writes it. Raw bytes become a `Buffer`. A payload in that format is checked when it is foreign.
pub(crate) fn to_v8(payload: Bytes, format: Format, trust: Trust) -> Result<Bytes, ConvertError> {
    match format {
        Format::V8 => {
            if trust == Trust::Foreign {
                v8::Document::parse(&payload)?;
            }
            Ok(payload)
        }
        Format::Raw => Ok(v8::to_vec(&v8::Buffer(payload.into()))?.into()),
        Format::Json => {
            let value: serde_json::Value = parse_json(&payload)?;
            Ok(v8::to_vec(&value)?.into())
        }
    }
}

/// From this length on JSON is read here; shorter text `serde_json` reads as fast.
const LONG: usize = 1024;

/// Reads JSON. What JavaScript allows and Rust text cannot hold becomes U+FFFD: bytes that are not UTF-8, which Node reads
/// so as well, and surrogates without a partner.
pub(crate) fn parse_json<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    if text.len() >= LONG
        && let Ok(text) = std::str::from_utf8(text)
        && let Ok(value) = json::from_str(text)
    {
        return Ok(value);
    }
    let error = match serde_json::from_slice(text) {
        Err(error) if error.is_syntax() => error,
        result => return result,
    };
    let valid = json::to_utf8(text);
    match (json::mend_surrogates(&valid), valid) {
        (Some(mended), _) => serde_json::from_slice(&mended),
        (None, Cow::Owned(valid)) => serde_json::from_slice(&valid),
        (None, Cow::Borrowed(_)) => Err(error),
    }
}

/// Checks that a payload is JSON, and takes line breaks out, which in JSON can only stand between values.
fn check_line(payload: Bytes) -> Result<Bytes, ConvertError> {
    let text = json::to_utf8(&payload);
    serde_json::from_slice::<IgnoredAny>(&text)?;
    if memchr::memchr(b'\n', &text).is_none() {
        return Ok(match text {
            Cow::Borrowed(_) => payload,
            Cow::Owned(text) => text.into(),
        });
    }
    Ok(text.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }).collect::<Vec<u8>>().into())
}
