//! Messages as bytes, and bytes as messages.
//!
//! Pure: nothing here reads, writes or holds a descriptor. A codec finds out where a frame ends; the connection keeps
//! the bytes of a partial one. Neighbours: [`crate::connection`] feeds it.

pub(crate) mod advanced;
pub(crate) mod convert;
pub(crate) mod json;
pub(crate) mod memory;
pub(crate) mod native;
pub(crate) mod node;
pub mod v8;

use std::fmt;
use std::ops::Range;

use crate::limits::Limits;

/// How the two ends of a channel write messages. Both must use the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Node's default: one line of JSON per message.
    Json,
    /// Node's `serialization: 'advanced'`: length and V8-serialized value.
    Advanced,
    /// Between Rust programs: a small binary header and an opaque payload.
    Native,
}

/// Where a frame lies in the bytes received so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Complete.
    Frame(Span),
    /// More bytes are needed; how long the whole frame is, when that is known already.
    Partial { total: Option<usize> },
}

/// A complete frame at the front of the bytes received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The payload inside the frame.
    pub(crate) payload: Range<usize>,
    /// The length of the whole frame.
    pub(crate) total: usize,
}

/// Finds the end of the frame at the front of `bytes`. `scanned` bytes were looked at before, in vain.
#[inline(always)]
pub(crate) fn cut(codec: Codec, bytes: &[u8], scanned: usize, limits: &Limits) -> Result<Cut, WireError> {
    match codec {
        Codec::Native => native::cut(bytes, limits),
        Codec::Json => json::cut(bytes, scanned, limits),
        Codec::Advanced => advanced::cut(bytes, limits),
    }
}

/// What is wrong with the bytes a peer sent. The process lives; only this channel is at an end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireError {
    /// A message is larger than [`Limits::frame`].
    TooLarge {
        /// Its length in bytes, or how much of it there was when the limit was passed.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A native frame says it is something this version does not know.
    UnknownFrame {
        /// The kind in its header.
        kind: u8,
        /// The flags in its header.
        flags: u8,
    },
    /// A line or frame with nothing in it. It would end a Node process.
    Empty,
    /// A line that cannot be JSON.
    NotJson {
        /// Its first byte.
        first: u8,
    },
    /// A frame that is not in V8's format.
    NotV8 {
        /// Its first byte.
        first: u8,
    },
    /// Arrays and objects in a message are nested deeper than [`Limits::depth`].
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// The peer answered a handle that it was never sent. It would end a Node process.
    SurplusAnswer,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { bytes, limit } => {
                write!(f, "a message of {bytes} bytes exceeds the limit of {limit} bytes")
            }
            Self::UnknownFrame { kind, flags } => {
                write!(
                    f,
                    "a frame of unknown kind {kind} with flags {flags:#04x}; do both ends have the same version?"
                )
            }
            Self::Empty => f.write_str("an empty message"),
            Self::NotJson { first } => {
                write!(f, "a line that begins with '{}' and so is not JSON", first.escape_ascii())
            }
            Self::NotV8 { first } => {
                write!(f, "a frame that begins with byte {first:#04x} and so is not in V8's format")
            }
            Self::TooDeep { limit } => write!(f, "a message is nested deeper than the limit of {limit}"),
            Self::SurplusAnswer => f.write_str("an answer to a handle that was never sent"),
        }
    }
}

impl std::error::Error for WireError {}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::Advanced => "advanced",
            Self::Native => "native",
        })
    }
}
