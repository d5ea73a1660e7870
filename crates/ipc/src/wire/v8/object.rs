//! The kinds of object a channel carries.

use std::fmt;
use std::str::FromStr;

use super::bigint::BigInt;
use super::key::Key;
use super::text::JsString;
use super::value::{ObjectId, Value};
use super::view::ViewKind;

/// Names and values of properties, in order. Written, no name may occur twice.
pub type Properties = Vec<(Key, Value)>;

/// An object of a [`Document`](super::Document).
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// `{…}`, and what class instances travel as.
    Plain(Properties),
    /// `[…]`; `None` is a hole. What an array has besides its elements is in `properties`.
    Array {
        /// The elements, in order.
        elements: Vec<Option<Value>>,
        /// The properties with a name.
        properties: Properties,
    },
    /// An array that Node did not keep dense: most of the indices below `length` may be holes. (Node
    /// also writes a full array this way if it was ever made with holes, as `new Array(n)` is.)
    SparseArray {
        /// One more than the last index, hole or not.
        length: u32,
        /// The elements that are there, and the properties with a name.
        entries: Properties,
    },
    /// A `Map`, in order.
    Map(Vec<(Value, Value)>),
    /// A `Set`, in order.
    Set(Vec<Value>),
    /// A `Date`: milliseconds since 1970, NaN if invalid.
    Date(f64),
    /// A `RegExp`. A Node peer fails on a source that is no valid pattern.
    RegExp {
        /// The text between the slashes.
        source: JsString,
        /// The letters behind them.
        flags: RegExpFlags,
    },
    /// A `Boolean` object.
    Boolean(bool),
    /// A `Number` object.
    Number(f64),
    /// A `BigInt` object.
    BigInt(BigInt),
    /// A `String` object.
    String(JsString),
    /// An `ArrayBuffer`.
    ArrayBuffer {
        /// What it holds.
        bytes: Vec<u8>,
        /// For a resizable one, how far it may grow. Node 18 cannot read resizable ones.
        max_length: Option<u32>,
    },
    /// A typed array, `DataView` or Node `Buffer` with its bytes, as Node writes it: what else is in
    /// the buffer behind it does not travel.
    TypedArray {
        /// Which of them.
        kind: ViewKind,
        /// What it shows, little-endian; a whole number of elements.
        bytes: Vec<u8>,
    },
    /// A typed array as a view on an [`Object::ArrayBuffer`] that travels with it.
    View {
        /// The buffer.
        buffer: ObjectId,
        /// Which kind of view; a `Buffer` becomes a `Uint8Array`.
        kind: ViewKind,
        /// Where in the buffer it starts, in bytes.
        offset: u32,
        /// How much of it it shows, in bytes.
        length: u32,
        /// Whether it ends where a resizable buffer ends.
        tracks_length: bool,
    },
    /// An object of Node's native side, of which only the properties travel: they are in the object
    /// that this names.
    Native(ObjectId),
    /// An `Error`.
    Error(Box<ErrorObject>),
}

impl Object {
    /// A Node `Buffer` of these bytes.
    pub fn buffer(bytes: impl Into<Vec<u8>>) -> Self {
        Self::TypedArray { kind: ViewKind::Buffer, bytes: bytes.into() }
    }

    /// An array of these values, without holes.
    pub fn array(elements: impl IntoIterator<Item = Value>) -> Self {
        Self::Array { elements: elements.into_iter().map(Some).collect(), properties: Vec::new() }
    }

    /// A plain object of these properties.
    pub fn plain<K: Into<Key>, V: Into<Value>>(properties: impl IntoIterator<Item = (K, V)>) -> Self {
        Self::Plain(properties.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }

    /// The properties with a name or index, for the kinds that have any beside their elements.
    pub fn properties(&self) -> &[(Key, Value)] {
        match self {
            Self::Plain(properties)
            | Self::Array { properties, .. }
            | Self::SparseArray { entries: properties, .. } => properties,
            _ => &[],
        }
    }
}

/// What travels of an `Error`. Properties of its own and the name of a derived class do not.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ErrorObject {
    /// Which of the built-in classes.
    pub kind: ErrorKind,
    /// Its message.
    pub message: Option<JsString>,
    /// Its stack trace as text.
    pub stack: Option<JsString>,
    /// Why it happened. Node up to 20 fails on an error that is its own cause.
    pub cause: Option<Value>,
}

/// The built-in classes of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs, reason = "JavaScript's own names, without `Error` at the end")]
pub enum ErrorKind {
    #[default]
    Error,
    Eval,
    Range,
    Reference,
    Syntax,
    Type,
    Uri,
}

impl ErrorKind {
    /// The class's name in JavaScript.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "Error",
            Self::Eval => "EvalError",
            Self::Range => "RangeError",
            Self::Reference => "ReferenceError",
            Self::Syntax => "SyntaxError",
            Self::Type => "TypeError",
            Self::Uri => "URIError",
        }
    }

    /// The letter that stands for it on the wire; the plain class has none.
    pub(super) fn letter(self) -> Option<u8> {
        LETTERS.iter().find(|known| known.0 == self).map(|known| known.1)
    }

    pub(super) fn from_letter(letter: u8) -> Option<Self> {
        LETTERS.iter().find(|known| known.1 == letter).map(|known| known.0)
    }
}

const LETTERS: [(ErrorKind, u8); 6] = [
    (ErrorKind::Eval, b'E'),
    (ErrorKind::Range, b'R'),
    (ErrorKind::Reference, b'F'),
    (ErrorKind::Syntax, b'S'),
    (ErrorKind::Type, b'T'),
    (ErrorKind::Uri, b'U'),
];

/// The flags of a regular expression.
///
/// ```
/// # use everycore_ipc::v8::RegExpFlags;
/// let flags: RegExpFlags = "ig".parse().unwrap();
/// assert_eq!(flags.to_string(), "gi");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct RegExpFlags(u16);

/// The letters in the order JavaScript shows them, with their bits on the wire.
const FLAGS: [(char, u16); 8] =
    [('d', 128), ('g', 1), ('i', 2), ('m', 4), ('s', 32), ('u', 16), ('v', 256), ('y', 8)];
const UNICODE_AND_SETS: u16 = 16 | 256;

impl RegExpFlags {
    pub(super) fn from_bits(bits: u32) -> Option<Self> {
        let known = FLAGS.iter().fold(0, |all, flag| all | flag.1);
        let bits = u16::try_from(bits).ok()?;
        (bits & !known == 0 && bits & UNICODE_AND_SETS != UNICODE_AND_SETS).then_some(Self(bits))
    }

    pub(super) fn bits(self) -> u32 {
        self.0.into()
    }
}

/// Letters that are no set of flags: unknown, twice the same, or both `u` and `v`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidFlags;

impl fmt::Display for InvalidFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the flags of a regular expression; use some of `dgimsuvy`, not both of `u` and `v`")
    }
}

impl std::error::Error for InvalidFlags {}

impl FromStr for RegExpFlags {
    type Err = InvalidFlags;

    fn from_str(letters: &str) -> Result<Self, InvalidFlags> {
        let mut bits = 0;
        for letter in letters.chars() {
            let (_, bit) = FLAGS.iter().find(|flag| flag.0 == letter).ok_or(InvalidFlags)?;
            if bits & bit != 0 {
                return Err(InvalidFlags);
            }
            bits |= bit;
        }
        Self::from_bits(bits.into()).ok_or(InvalidFlags)
    }
}

impl fmt::Display for RegExpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        FLAGS.iter().filter(|flag| self.0 & flag.1 != 0).try_for_each(|flag| write!(f, "{}", flag.0))
    }
}
