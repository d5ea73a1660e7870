//! Why a child could not be started.

use std::ffi::OsString;
use std::fmt;
use std::io;

use everycore_sys::SpawnError;

/// Why a child could not be started. Nothing is left of the attempt.
#[non_exhaustive]
pub enum ForkError {
    /// The program could not be started; the source says at which step.
    Program {
        /// As it was asked for.
        program: OsString,
        /// What went wrong.
        source: SpawnError,
    },
    /// Its channel or pipes could not be made.
    Plumbing {
        /// As it was asked for.
        program: OsString,
        /// Mostly: out of descriptors.
        source: io::Error,
    },
    /// The same descriptor number was asked for twice, or a number below 0.
    Descriptor {
        /// As it was asked for.
        program: OsString,
        /// The number.
        number: i32,
    },
}

impl fmt::Debug for ForkError {
    /// As a `main` that returns it prints it: for people, with the causes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::causes::write(self, f)
    }
}

impl fmt::Display for ForkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program { program, .. } => write!(f, "cannot start {}", program.display()),
            Self::Plumbing { program, .. } => {
                write!(f, "cannot make the channel and pipes of {}", program.display())
            }
            Self::Descriptor { program, number } => write!(
                f,
                "cannot start {}: descriptor {number} is asked for twice, or is no number a descriptor can have",
                program.display()
            ),
        }
    }
}

impl std::error::Error for ForkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Program { source, .. } => Some(source),
            Self::Plumbing { source, .. } => Some(source),
            Self::Descriptor { .. } => None,
        }
    }
}
