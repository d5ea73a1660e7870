//! How many descriptors this process may open.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A limit on open descriptors; `None` stands for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorLimit {
    /// The limit that counts at present.
    pub soft: Option<u64>,
    /// How far the soft one may be raised without privileges.
    pub hard: Option<u64>,
}

/// Reads the limit on open descriptors.
pub fn nofile_limit() -> DescriptorLimit {
    let limit = getrlimit(Resource::Nofile);
    DescriptorLimit { soft: limit.current, hard: limit.maximum }
}

/// Raises the soft limit on open descriptors to the hard one and returns the limit that counts now.
///
/// Descriptors in flight to workers count against it, too. Children inherit the raised limit.
///
/// # Errors
/// The kernel refuses, which without a security module it does not.
pub fn raise_nofile_limit() -> io::Result<DescriptorLimit> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(nofile_limit())
}
