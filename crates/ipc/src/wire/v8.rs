//! V8's serialization format, as Node's channel uses it with `serialization: 'advanced'`.
//!
//! Bytes ↔ values, nothing else: no descriptor, no I/O, no state between two messages. Its neighbours are
//! the other codecs; the channel above cuts a stream into frames ([`split_frame`]) and decides what a
//! message means. Reads versions 13 to 15 of the format and writes 15, which Node 18 to 26 read and write.
//!
//! There are two ways in and out:
//!
//! * [`Document`] keeps everything: every kind of object, which places hold *the same* object, cycles.
//! * [`to_vec`] and [`from_slice`] go from and to any type that serde knows, without a document in between.
//!
//! ```
//! use std::collections::BTreeMap;
//! use everycore_ipc::v8;
//!
//! let message = BTreeMap::from([("act", "online")]);
//! let payload = v8::to_vec(&message).unwrap();
//! assert_eq!(payload, b"\xff\x0fo\"\x03act\"\x06online{\x01");
//! assert_eq!(v8::from_slice::<BTreeMap<&str, &str>>(&payload).unwrap(), message);
//! ```
//!
//! # Types on the way out
//!
//! | Rust | JavaScript |
//! |---|---|
//! | `bool`, strings, `char` | boolean, string |
//! | integers within ±2⁵³, floats | number |
//! | larger integers | bigint: exact, where a number would be rounded |
//! | `()`, `None`, unit struct | `null` |
//! | sequences, tuples | array |
//! | structs; maps with keys of text, numbers, booleans | object; two equal keys are an error |
//! | unit variant; other variants | its name; `{name: content}` |
//! | bytes, [`Buffer`] | `Buffer` |
//! | [`Date`] | `Date` |
//!
//! # Types on the way in
//!
//! | JavaScript | shown to the type as |
//! |---|---|
//! | `null`, `undefined`, hole | unit, `None`; a *property* that is `undefined` is absent |
//! | number | integer if it is one, else `f64` |
//! | bigint | integer, up to 128 bits |
//! | string | text; half a surrogate pair becomes U+FFFD |
//! | object | map; `{name: content}` is also a variant, as a string is |
//! | `Map` | map; keys that are text or numbers are read as property names are |
//! | array, `Set` | sequence; an array's own properties are passed over |
//! | typed array, `ArrayBuffer`, `Buffer`, `DataView` | bytes if the type asks for them, else sequence |
//! | `Date` | number, milliseconds since 1970 |
//! | `RegExp` | text `/source/flags` |
//! | `Error` | map of `name`, `message`, `stack`, `cause` |
//! | `Boolean`, `Number`, `BigInt`, `String` objects | what they wrap |
//! | the same object again | a copy, charged to [`Limits::expansion`]; inside itself an error |
//!
//! # What a Node peer cannot take
//!
//! A Node process that fails to read a message throws inside its channel, which usually ends it. What can
//! be checked is checked when writing (repeated names, an array's `length`, parts of elements); what is
//! left to the caller are the source of a regular expression, [`ViewKind::Float16`] before Node 24,
//! resizable buffers before Node 20, and errors that are their own cause before Node 22.

mod bigint;
mod de;
mod document;
mod error;
mod frame;
#[doc(hidden)]
pub mod fuzz;
mod input;
mod key;
mod keys;
mod limits;
mod number;
mod object;
mod output;
mod read;
mod scan;
mod ser;
mod tag;
mod text;
mod value;
mod view;
mod wrap;
mod write;

pub use bigint::{BigInt, OutOfRange};
pub use document::Document;
pub use error::Error;
pub use frame::{Frame, PREFIX, split_frame};
pub use key::Key;
pub use limits::Limits;
pub use object::{ErrorKind, ErrorObject, InvalidFlags, Object, Properties, RegExpFlags};
pub use text::JsString;
pub use value::{ObjectId, Value};
pub use view::ViewKind;
pub use wrap::{Buffer, Date};

use serde::{Deserialize, Serialize};

/// Reads a payload into a type under the default limits. Bytes behind the value are ignored, as Node
/// ignores them.
///
/// # Errors
/// The payload is malformed, exceeds a limit, or does not fit the type.
pub fn from_slice<'de, T: Deserialize<'de>>(payload: &'de [u8]) -> Result<T, Error> {
    from_slice_with(payload, &Limits::default())
}

/// Reads a payload into a type under these limits.
///
/// # Errors
/// The payload is malformed, exceeds a limit, or does not fit the type.
pub fn from_slice_with<'de, T: Deserialize<'de>>(payload: &'de [u8], limits: &Limits) -> Result<T, Error> {
    de::read(payload, limits)
}

/// Writes a value's payload under the default limits.
///
/// # Errors
/// The value has no form in this format, or exceeds a limit.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(128);
    append_to(&mut out, value, &Limits::default())?;
    Ok(out)
}

/// Writes a value's payload behind what is in `out`; after an error `out` is as it was.
///
/// # Errors
/// The value has no form in this format, or exceeds a limit.
pub fn append_to<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T, limits: &Limits) -> Result<(), Error> {
    frame::append(out, limits, |out| ser::write(value, out, limits))
}

/// Writes a value's frame, length and payload, behind what is in `out`; after an error `out` is as it
/// was.
///
/// One buffer for both parts matters: Node 18 never gets over a read that ends inside the length.
///
/// # Errors
/// The value has no form in this format, or exceeds a limit.
pub fn append_frame<T: Serialize + ?Sized>(
    out: &mut Vec<u8>,
    value: &T,
    limits: &Limits,
) -> Result<(), Error> {
    frame::append_framed(out, limits, |out| ser::write(value, out, limits))
}
