//! Typed arrays: which there are, how each is named on the wire, and what their elements are.
//!
//! Node's channel writes a typed array as a host object with the bytes it shows. V8 by itself writes the
//! buffer and then a view on it; Node never does, but reads it, and so does this codec.

use super::error::{Error, Result};
use super::input::Input;
use super::{number, tag};

/// The kinds of typed array, with `DataView` and Node's `Buffer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "JavaScript's own names")]
pub enum ViewKind {
    Int8,
    Uint8,
    Uint8Clamped,
    Int16,
    Uint16,
    Int32,
    Uint32,
    Float32,
    Float64,
    DataView,
    /// Node's `Buffer`: how bytes are written from Rust.
    Buffer,
    BigInt64,
    BigUint64,
    /// Known to Node from version 24 on; an older peer fails on it.
    Float16,
}

/// Each kind at the place of its number in a host object, with its letter in a native view and the
/// size of its elements. A `Buffer` has no letter of its own: natively it is a `Uint8Array`.
const KINDS: [(ViewKind, u8, usize); 14] = [
    (ViewKind::Int8, b'b', 1),
    (ViewKind::Uint8, b'B', 1),
    (ViewKind::Uint8Clamped, b'C', 1),
    (ViewKind::Int16, b'w', 2),
    (ViewKind::Uint16, b'W', 2),
    (ViewKind::Int32, b'd', 4),
    (ViewKind::Uint32, b'D', 4),
    (ViewKind::Float32, b'f', 4),
    (ViewKind::Float64, b'F', 8),
    (ViewKind::DataView, b'?', 1),
    (ViewKind::Buffer, b'B', 1),
    (ViewKind::BigInt64, b'q', 8),
    (ViewKind::BigUint64, b'Q', 8),
    (ViewKind::Float16, b'h', 2),
];

impl ViewKind {
    /// Bytes per element; 1 where there are no elements.
    pub fn element_size(self) -> usize {
        KINDS[self as usize].2
    }

    pub(super) fn host_number(self) -> u8 {
        self as u8
    }

    pub(super) fn letter(self) -> u8 {
        KINDS[self as usize].1
    }

    fn from_host_number(number: u32) -> Option<Self> {
        KINDS.get(number as usize).map(|kind| kind.0)
    }

    fn from_letter(letter: u8) -> Option<Self> {
        KINDS.iter().find(|kind| kind.1 == letter).map(|kind| kind.0)
    }
}

/// A typed array in a payload: its kind and the bytes it shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) kind: ViewKind,
    pub(super) bytes: &'a [u8],
}

/// Reads the body of a host object that is a typed array.
pub(super) fn read_host<'a>(input: &mut Input<'a>) -> Result<View<'a>> {
    let offset = input.position();
    let kind = ViewKind::from_host_number(input.varint()?)
        .ok_or(Error::Malformed { offset, what: "a typed array of a kind that does not exist" })?;
    let offset = input.position();
    let bytes = input.sized()?;
    if !bytes.len().is_multiple_of(kind.element_size()) {
        return Err(Error::Malformed {
            offset,
            what: "a typed array's bytes are no whole number of elements",
        });
    }
    Ok(View { kind, bytes })
}

/// An array buffer in a payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffer<'a> {
    pub(super) bytes: &'a [u8],
    /// How far a resizable one may grow.
    pub(super) max_length: Option<u32>,
}

/// Reads the buffer whose tag was just taken.
pub(super) fn read_buffer<'a>(input: &mut Input<'a>, tag: u8) -> Result<Buffer<'a>> {
    let offset = input.position();
    let length = input.varint()?;
    let max_length = if tag == tag::RESIZABLE_BUFFER { Some(input.varint()?) } else { None };
    if max_length.is_some_and(|max| length > max) {
        return Err(Error::Malformed { offset, what: "a resizable buffer is longer than it may become" });
    }
    Ok(Buffer { bytes: input.take(length as usize)?, max_length })
}

/// The body of a native view: which part of its buffer it shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) kind: ViewKind,
    pub(super) offset: u32,
    pub(super) length: u32,
    /// The view ends where the resizable buffer ends, and moves with it.
    pub(super) tracks_length: bool,
}

impl Window {
    /// Reads the view that follows a buffer, behind its tag, and checks that it lies inside.
    pub(super) fn read(input: &mut Input<'_>, buffer: Buffer<'_>) -> Result<Self> {
        let start = input.position();
        let malformed = |what| Error::Malformed { offset: start, what };
        let kind = u8::try_from(input.varint()?).ok().and_then(ViewKind::from_letter);
        let kind = kind.ok_or(malformed("a view of a kind that does not exist"))?;
        let (offset, length) = (input.varint()?, input.varint()?);
        let flags = if input.has_view_flags() { input.varint()? } else { 0 };
        let resizable = flags & tag::VIEW_OF_RESIZABLE != 0;
        if resizable != buffer.max_length.is_some() {
            return Err(malformed("a view and its buffer disagree on being resizable"));
        }
        let window = Self { kind, offset, length, tracks_length: flags & tag::VIEW_TRACKS_LENGTH != 0 };
        window.on(buffer).map_err(malformed)
    }

    /// The same view with the length it has on this buffer, if it fits there.
    pub(super) fn on(mut self, buffer: Buffer<'_>) -> Result<Self, &'static str> {
        let size = self.kind.element_size() as u32;
        let whole = buffer.bytes.len() as u32; // a payload is shorter than 2^31 bytes
        let left = whole.checked_sub(self.offset).ok_or("a view starts behind its buffer")?;
        if self.length > left {
            return Err("a view ends behind its buffer");
        }
        if self.tracks_length && buffer.max_length.is_none() {
            return Err("a view follows the length of a buffer that cannot be resized");
        }
        if self.tracks_length {
            self.length = left - left % size;
        }
        if !self.offset.is_multiple_of(size) || !self.length.is_multiple_of(size) {
            return Err("a view does not start or end between two elements");
        }
        Ok(self)
    }

    /// The bytes it shows of its buffer; none if it reaches outside.
    pub(super) fn of<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        let start = self.offset as usize;
        buffer.get(start..start + self.length as usize).unwrap_or_default()
    }
}

/// One element of a typed array.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Element {
    Signed(i64),
    Unsigned(u64),
    Float(f64),
}

impl Element {
    /// The element these bytes are, `kind.element_size()` of them.
    #[inline]
    pub(super) fn decode(kind: ViewKind, bytes: &[u8]) -> Self {
        match kind {
            ViewKind::Uint8 | ViewKind::Uint8Clamped | ViewKind::DataView | ViewKind::Buffer => {
                Self::Unsigned(u8::from_le_bytes(array(bytes)).into())
            }
            ViewKind::Uint16 => Self::Unsigned(u16::from_le_bytes(array(bytes)).into()),
            ViewKind::Uint32 => Self::Unsigned(u32::from_le_bytes(array(bytes)).into()),
            ViewKind::BigUint64 => Self::Unsigned(u64::from_le_bytes(array(bytes))),
            ViewKind::Int8 => Self::Signed(i8::from_le_bytes(array(bytes)).into()),
            ViewKind::Int16 => Self::Signed(i16::from_le_bytes(array(bytes)).into()),
            ViewKind::Int32 => Self::Signed(i32::from_le_bytes(array(bytes)).into()),
            ViewKind::BigInt64 => Self::Signed(i64::from_le_bytes(array(bytes))),
            ViewKind::Float16 => Self::Float(number::from_half(u16::from_le_bytes(array(bytes)))),
            ViewKind::Float32 => Self::Float(f32::from_le_bytes(array(bytes)).into()),
            ViewKind::Float64 => Self::Float(f64::from_le_bytes(array(bytes))),
        }
    }
}

/// The first `N` bytes, with zeros for missing ones, of which there are none here.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
}
