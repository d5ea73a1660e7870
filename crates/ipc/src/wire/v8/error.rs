//! What can be wrong with a message, and where.

use std::fmt;

/// Why bytes could not be read as a value, or a value could not be written.
///
/// When reading, every variant says at which byte of the payload (header included, length prefix not).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The payload ends inside a value, or a length in it reaches past the end.
    Truncated {
        /// Where the missing bytes would start.
        offset: usize,
    },
    /// The payload does not start with the format's header.
    NoHeader,
    /// The payload is written in a format version other than 13, 14 or 15.
    Version {
        /// The version found.
        found: u32,
    },
    /// A byte that starts no value, or none that can cross a channel.
    UnknownTag {
        /// Where the byte is.
        offset: usize,
        /// The byte.
        tag: u8,
    },
    /// A part of a value contradicts another, or is out of its range.
    Malformed {
        /// Where the part starts.
        offset: usize,
        /// Which rule it breaks.
        what: &'static str,
    },
    /// A back-reference to an object that has not begun yet.
    Reference {
        /// Where the reference is.
        offset: usize,
        /// The object it names.
        id: u32,
    },
    /// A back-reference to an object that contains it: no Rust value can hold that, only a
    /// [`Document`](super::Document).
    Cycle {
        /// Where the reference is.
        offset: usize,
    },
    /// One of the [`Limits`](super::Limits) is exceeded.
    Limit {
        /// Where reading or writing stopped.
        offset: usize,
        /// Which limit, as it is named in [`Limits`](super::Limits).
        limit: &'static str,
        /// What it is set to.
        allowed: usize,
    },
    /// The same property name occurs twice in an object that is being written. A Node peer would refuse the
    /// message, and die of it if it does not expect that.
    DuplicateKey {
        /// Where the second one would be.
        offset: usize,
    },
    /// A value that this format, or a Node peer, has no form for.
    Unsupported {
        /// What the value is.
        what: &'static str,
    },
    /// The message is well formed but is not what the type expects, or the type refused to be written.
    Mismatch {
        /// How far reading had come, or how much was written.
        offset: usize,
        /// The type's own words.
        message: String,
    },
}

impl Error {
    /// Where in the payload reading or writing stopped, if the error is about a place.
    pub fn offset(&self) -> Option<usize> {
        match self {
            Self::NoHeader | Self::Version { .. } => Some(0),
            Self::Unsupported { .. } => None,
            Self::Truncated { offset }
            | Self::UnknownTag { offset, .. }
            | Self::Malformed { offset, .. }
            | Self::Reference { offset, .. }
            | Self::Cycle { offset }
            | Self::Limit { offset, .. }
            | Self::DuplicateKey { offset }
            | Self::Mismatch { offset, .. } => Some(*offset),
        }
    }

    /// Adds the place to an error made by a type, which cannot know it.
    pub(super) fn at(mut self, place: usize) -> Self {
        if let Self::Mismatch { offset, .. } = &mut self {
            *offset = place;
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { offset } => write!(f, "the message ends inside a value at byte {offset}"),
            Self::NoHeader => write!(f, "the message does not start with the bytes of V8's format"),
            Self::Version { found } => {
                write!(f, "the message is in version {found} of V8's format; 13 to 15 can be read")
            }
            Self::UnknownTag { offset, tag } => {
                write!(
                    f,
                    "byte {offset} of the message is 0x{tag:02x}, which starts no value a channel carries"
                )
            }
            Self::Malformed { offset, what } => {
                write!(f, "the message is malformed at byte {offset}: {what}")
            }
            Self::Reference { offset, id } => {
                write!(f, "byte {offset} of the message refers to object {id}, which has not begun yet")
            }
            Self::Cycle { offset } => write!(
                f,
                "byte {offset} of the message refers to an object around it; read it as a document instead"
            ),
            Self::Limit { offset, limit, allowed } => {
                write!(f, "the message exceeds the limit `{limit}` of {allowed} at byte {offset}")
            }
            Self::DuplicateKey { offset } => {
                write!(f, "an object has the same property twice (at byte {offset}); give it once")
            }
            Self::Unsupported { what } => write!(f, "{what} cannot be written in V8's format"),
            Self::Mismatch { offset, message } => {
                write!(f, "{message} (at byte {offset} of the message)")
            }
        }
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Mismatch { offset: 0, message: message.to_string() }
    }
}

impl serde::ser::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Mismatch { offset: 0, message: message.to_string() }
    }
}

/// What every function of this codec returns.
pub(super) type Result<T, E = Error> = std::result::Result<T, E>;
