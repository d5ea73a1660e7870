//! Connections that Node's primary has sent in messages on the control channel, until the program takes them.
//!
//! Node's primary keeps its copy of a connection until it hears what became of it, and sends this worker no other one
//! before. So the answer is given when the program takes the connection, and not when it arrives: a worker that is
//! busy gets no more, and what it has not taken when it leaves is refused and goes to another. Neighbours:
//! `under_node` reads the messages, [`Source`](super::source::Source) is what a listener sees.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use everycore_sys::eventfd::EventFd;

use super::link::Link;
use super::load::Load;
use super::source::Found;
use super::stream::Stream;

/// What waits on one listener.
pub(crate) struct Deliveries {
    queue: Mutex<VecDeque<Delivery>>,
    /// Readable while something is in the queue.
    bell: EventFd,
    /// Where clients of a Unix socket have no name.
    is_unix: bool,
}

/// One connection and the answer that is owed for it.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) socket: OwnedFd,
    pub(crate) answer: Answer,
}

/// What Node's primary waits for. Dropped, it says no.
pub(crate) struct Answer {
    link: Arc<Link>,
    seq: Option<i64>,
}

impl Answer {
    pub(crate) fn new(link: Arc<Link>, seq: i64) -> Self {
        Self { link, seq: Some(seq) }
    }

    fn accepted(mut self) {
        if let Some(seq) = self.seq.take() {
            self.link.answer(seq, true);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(seq) = self.seq.take() {
            self.link.answer(seq, false);
        }
    }
}

impl Deliveries {
    pub(crate) fn new(is_unix: bool) -> io::Result<Self> {
        Ok(Self { queue: Mutex::default(), bell: EventFd::new()?, is_unix })
    }

    pub(crate) fn push(&self, delivery: Delivery) {
        let mut queue = self.lock();
        queue.push_back(delivery);
        // Under the lock, so that whoever finds nothing silences no ring of later. It cannot fail on an eventfd.
        let _ = self.bell.ring();
    }

    /// Takes the oldest and says so to the primary.
    pub(crate) fn take(&self, load: &Arc<Load>) -> Found {
        let Delivery { socket, answer } = {
            let mut queue = self.lock();
            match queue.pop_front() {
                Some(delivery) => delivery,
                None => {
                    let _ = self.bell.silence();
                    return Found::Nothing;
                }
            }
        };
        let lease = load.take();
        let peer = if self.is_unix { None } else { Some(peer(&socket)) };
        answer.accepted();
        Found::Connection(Stream::new(socket, peer, lease))
    }

    /// Takes out everything, for others to serve.
    pub(crate) fn clear(&self) -> VecDeque<Delivery> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Delivery>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client that is gone already has no address any more. The program finds out by its first read.
fn peer(socket: &OwnedFd) -> SocketAddr {
    let address = rustix::net::getpeername(socket).ok().flatten();
    address
        .and_then(|address| SocketAddr::try_from(address).ok())
        .unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into())
}

impl AsFd for Deliveries {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl std::fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deliveries").field("waiting", &self.lock().len()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Answer").field(&self.seq).finish()
    }
}
