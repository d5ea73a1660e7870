//! Listening sockets of slots that have no worker now, which this worker accepts from as well: policy `reuseport`.
//!
//! The kernel goes on giving such a socket its share of the connections. Neighbours: `source` takes from them, the primary
//! says which, and when their own worker is back.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
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
    /// The slot that gave the last connection: the next look begins behind it.
    last: AtomicU32,
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

    /// Takes one connection, of each slot in turn.
    ///
    /// # Errors
    /// As [`accept`].
    pub(crate) fn accept(&self) -> io::Result<Option<Accepted>> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Ok(None);
        }
        let sockets = self.lock();
        let last = self.last.load(Ordering::Relaxed);
        let behind = sockets.range((Bound::Excluded(last), Bound::Unbounded));
        for (slot, socket) in behind.chain(sockets.range(..=last)) {
            if let Some(accepted) = accept(socket)? {
                self.last.store(*slot, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_crowd_on_one_socket_hides_no_other() {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let adopted = Adopted::default();
        let mut clients = Vec::new();
        for slot in [3, 5, 9] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap();
            clients.extend((0..2).map(|_| TcpStream::connect(address).unwrap()));
            adopted.add(slot, listener.into(), &set).unwrap();
        }
        let mut slots = Vec::new();
        while adopted.accept().unwrap().is_some() {
            slots.push(adopted.last.load(Ordering::Relaxed));
        }
        assert_eq!(slots, [3, 5, 9, 3, 5, 9]);
    }
}
