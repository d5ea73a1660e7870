//! What the primary and a Rust worker say to each other, as typed values and as bytes.
//!
//! Pure. The values travel as JSON in *internal* frames of the control channel; users' messages are frames of
//! another kind and never pass through here. Descriptors ride beside the frame: a `Welcome` brings the page of
//! counters and the wake-up event, a granted listener brings its hand-off channel or the listening socket.
//! Nothing a worker sends is trusted: whatever does not decode is an error that costs that worker its channel.
//!
//! `to_worker` and `from_worker` have the two directions, `address` and `fields` what both are made of, `record` what
//! travels with each handed-over connection.

mod address;
mod fields;
mod from_worker;
pub(crate) mod record;
#[cfg(test)]
mod tests;
mod to_worker;

use std::fmt;

pub(crate) use from_worker::{FromWorker, Wanted};
pub(crate) use to_worker::{ToWorker, Welcome};

/// Spoken in `Welcome` and `Hello`; both ends refuse a version they do not know.
pub(crate) const VERSION: u64 = 1;

/// Names the inherited channel: `FD,IDENTITY`, the latter as `everycore_sys::inherit::identity` tells it: a stale
/// variable in some grandchild names a descriptor that is something else, and is harmless.
pub(crate) const CHANNEL_VARIABLE: &str = "EVERYCORE_CHANNEL";

/// How connections of a granted listener reach the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The handle is the reading end of a hand-off channel: one record and one connection per message.
    HandOff,
    /// The handle is the listening socket itself.
    Shared,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::HandOff => "hand-off",
            Self::Shared => "shared",
        }
    }

    fn from_name(name: &str) -> Result<Self, ProtocolError> {
        match name {
            "hand-off" => Ok(Self::HandOff),
            "shared" => Ok(Self::Shared),
            other => Err(ProtocolError(format!("unknown mode '{other}'"))),
        }
    }
}

/// Why a `Listen` failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenFailure {
    /// The error number, as `errno` counts; 0 where no system call failed.
    pub(crate) errno: i32,
    /// One line for people: what happened, to which address, who holds it.
    pub(crate) message: String,
}

/// A frame that is not part of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProtocolError(pub(crate) String);

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a cluster message: {}", self.0)
    }
}

impl std::error::Error for ProtocolError {}
