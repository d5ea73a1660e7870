//! Listening sockets of slots that have no worker now, which this worker accepts from as well: policy `reuseport`.
//!
//! The kernel goes on giving such a socket its share of the connections. Neighbours: `source` takes from them, the primary
//! says which, and when their own worker is back.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use everycore_sys::accept::{Accepted, accept};
use rustix::event::epoll;

/// See the module. By slot.
#[derive(Debug, Default)]
pub(crate) struct Adopted {
    sockets: Mutex<BTreeMap<u32, OwnedFd>>,
    /// How many they are: mostly none, and then nobody takes the lock.
    count: AtomicUsize,
    /// Counts the looks, so that every other one begins here.
    looks: AtomicUsize,
}

impl Adopted {
    /// Accepts from this socket too; it is watched in `set`.
    ///
    /// # Errors
    /// It cannot be watched.
    pub(crate) fn add(&self, slot: u32, socket: OwnedFd, set: impl AsFd) -> io::Result<()> {
        let mut sockets = self.lock();
        epoll::add(&set, &socket, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        if let Some(before) = sockets.insert(slot, socket) {
            let _ = epoll::delete(&set, &before);
        }
        self.count.store(sockets.len(), Ordering::Relaxed);
        Ok(())
    }

    /// Its own worker is back.
    pub(crate) fn remove(&self, slot: u32, set: impl AsFd) {
        let mut sockets = self.lock();
        if let Some(socket) = sockets.remove(&slot) {
            // Before it is closed: others hold the socket open, and the set would go on watching it.
            let _ = epoll::delete(&set, &socket);
        }
        self.count.store(sockets.len(), Ordering::Relaxed);
    }

    /// Whether the next look should begin with these, so that a crowd on this worker's own socket hides nobody.
    pub(crate) fn are_next(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
            && !self.looks.fetch_add(1, Ordering::Relaxed).is_multiple_of(2)
    }

    /// Takes one connection.
    ///
    /// # Errors
    /// As [`accept`].
    pub(crate) fn accept(&self) -> io::Result<Option<Accepted>> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Ok(None);
        }
        for socket in self.lock().values() {
            if let Some(accepted) = accept(socket)? {
                return Ok(Some(accepted));
            }
        }
        Ok(None)
    }

    /// A panic elsewhere cannot leave the map half-changed.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, OwnedFd>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
