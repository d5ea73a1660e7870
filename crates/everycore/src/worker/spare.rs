//! The spare descriptor: what keeps a connection from being lost when this process runs out of descriptors.
//!
//! A connection that is handed over while there is no room for its descriptor is destroyed by the kernel: the record
//! arrives alone. So when descriptors get scarce, one is held in reserve and given up just before each receive. While
//! none can be held, nothing is received; the primary takes back what it finds unread and gives it to another worker.
//!
//! Scarce means that a received descriptor had a number close to the limit, since the kernel gives out the lowest that
//! is free. That costs no system call while there is plenty. What is left is a program that fills its whole table
//! between two connections: it can lose the second, which is counted and told.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Descriptors below the limit from which on they are scarce.
const MARGIN: u64 = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Spare {
    scarce: AtomicBool,
    /// The number from which on they are.
    border: AtomicU64,
    reserve: Mutex<Option<OwnedFd>>,
}

impl Spare {
    /// Nothing is scarce yet; whether that is true shows with the first descriptor received.
    pub(crate) fn new() -> Self {
        Self { scarce: AtomicBool::new(false), border: AtomicU64::new(border()), reserve: Mutex::new(None) }
    }

    /// Makes room for one descriptor. `anything` is what to duplicate in order to try.
    ///
    /// # Errors
    /// There is none: do not receive.
    pub(crate) fn make_room<Fd: AsFd>(&self, anything: Fd) -> io::Result<()> {
        if self.is_scarce() && self.lock().take().is_none() {
            drop(anything.as_fd().try_clone_to_owned()?);
        }
        Ok(())
    }

    /// Fills the reserve again, if there is a need for one.
    pub(crate) fn restore<Fd: AsFd>(&self, anything: Fd) {
        if self.is_scarce() {
            *self.lock() = anything.as_fd().try_clone_to_owned().ok();
        }
    }

    /// Learns from a descriptor that was received, or from one that was not: `None`.
    pub(crate) fn learn(&self, received: Option<BorrowedFd<'_>>) {
        let number = received.map_or(u64::MAX, |fd| u64::from(fd.as_raw_fd().unsigned_abs()));
        if self.is_scarce() {
            let border = border();
            self.border.store(border, Ordering::Relaxed);
            // Only well below the border, or it would change with every connection.
            if number < border.saturating_sub(MARGIN) {
                self.scarce.store(false, Ordering::Relaxed);
                *self.lock() = None;
            }
        } else if number >= self.border.load(Ordering::Relaxed) {
            self.scarce.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_scarce(&self) -> bool {
        self.scarce.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<OwnedFd>> {
        self.reserve.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn border() -> u64 {
    let limit = everycore_sys::limits::nofile_limit().soft.unwrap_or(u64::MAX);
    limit.saturating_sub(MARGIN).max(limit / 2)
}
