//! The bell a worker rings to wake its primary.
//!
//! The primary watches it edge-triggered and never reads it: each ring is one edge. Neighbour: [`crate::counters`]
//! says when a ring is wanted.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::EventfdFlags;
use rustix::io::Errno;

/// A counter in the kernel that makes its watchers wake when it is raised. Non-blocking, closed on exec.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// Makes a new one, not rung.
    ///
    /// # Errors
    /// The process or the system is out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(rustix::event::eventfd(0, flags)?))
    }

    /// Wakes whoever watches it. Ringing a bell that nobody reads is not an error.
    ///
    /// # Errors
    /// The descriptor behind it is not an eventfd.
    pub fn ring(&self) -> io::Result<()> {
        match rustix::io::write(&self.0, &1u64.to_ne_bytes()) {
            // Full: it has been rung 2^64 - 2 times without a reader, and still is ringing.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes back all rings; true when there was one. Only needed by a watcher that is level-triggered.
    ///
    /// # Errors
    /// The descriptor behind it is not an eventfd.
    pub fn silence(&self) -> io::Result<bool> {
        match rustix::io::read(&self.0, &mut [0u8; 8]) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl From<OwnedFd> for EventFd {
    /// Takes a descriptor that was received or inherited.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<EventFd> for OwnedFd {
    fn from(bell: EventFd) -> Self {
        bell.0
    }
}

impl AsRawFd for EventFd {
    /// For event loops that want the number, such as tokio's.
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
