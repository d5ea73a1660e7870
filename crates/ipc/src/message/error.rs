//! Why a value and a message do not go together.

use std::fmt;

use crate::wire::v8;

/// Why a value cannot become a message, or a message cannot become a value.
#[non_exhaustive]
pub enum MessageError {
    /// The value cannot be written as a message.
    Unwritable(Cause),
    /// The payload is raw bytes; use [`Message::bytes`](crate::Message::bytes).
    Raw {
        /// How many.
        bytes: usize,
    },
    /// The payload is not what its format says, or is nested more than 128 deep.
    Malformed(Cause),
    /// The payload is well-formed and does not fit the type.
    WrongType(Cause),
}

/// What the codec says about it.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

impl MessageError {
    pub(super) fn json(error: serde_json::Error) -> Self {
        match error.classify() {
            serde_json::error::Category::Data => Self::WrongType(error.into()),
            _ => Self::Malformed(error.into()),
        }
    }

    pub(super) fn v8(error: v8::Error) -> Self {
        match error {
            v8::Error::Mismatch { .. } => Self::WrongType(error.into()),
            _ => Self::Malformed(error.into()),
        }
    }
}

impl fmt::Debug for MessageError {
    /// As a `main` that returns it prints it: for people, with the causes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::causes::write(self, f)
    }
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unwritable(_) => f.write_str("the value cannot be written as a message"),
            Self::Raw { bytes } => {
                write!(f, "the message is {bytes} raw bytes, not a value; read them with bytes()")
            }
            Self::Malformed(_) => f.write_str("the message is malformed"),
            Self::WrongType(_) => f.write_str("the message does not fit the type asked for"),
        }
    }
}

impl std::error::Error for MessageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unwritable(error) | Self::Malformed(error) | Self::WrongType(error) => Some(&**error),
            Self::Raw { .. } => None,
        }
    }
}
