//! Where connections come from: a hand-off channel from the primary, messages of a primary that is Node, or a listener
//! shared with the other workers.
//!
//! One connection per call, and none of it waits. Neighbour: [`Listener`](crate::Listener) waits.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use everycore_sys::accept::{Accepted, FairAccept, is_exhaustion};
use everycore_sys::scm_rights;

use super::adopted::Adopted;
use super::deliveries::Deliveries;
use super::drain::{Drain, Hold};
use super::load::Load;
use super::spare::Spare;
use super::stream::Stream;
use crate::protocol::record;

/// What a grant brings.
#[derive(Debug)]
pub(crate) enum Means {
    /// The reading end of a hand-off channel.
    HandOff(OwnedFd),
    /// The listening socket, or a UDP socket.
    Shared(OwnedFd),
    /// A queue that the control channel fills.
    Delivered(Arc<Deliveries>),
}

/// See the module.
#[derive(Debug)]
pub(crate) enum Source {
    HandOff(HandOff),
    Delivered(Delivered),
    Shared(Shared),
}

/// A listener of several workers, or this slot's own, and those it has adopted.
#[derive(Debug)]
pub(crate) struct Shared {
    own: FairAccept,
    adopted: Adopted,
}

/// The queue that the control channel fills.
#[derive(Debug)]
pub(crate) struct Delivered {
    deliveries: Arc<Deliveries>,
    _hold: Hold,
}

/// The reading end of a hand-off channel.
#[derive(Debug)]
pub(crate) struct HandOff {
    channel: OwnedFd,
    spare: Spare,
    /// The last look has found a connection.
    took: AtomicBool,
    _hold: Hold,
}

/// What one look has found.
#[derive(Debug)]
pub(crate) enum Found {
    /// A connection, counted as taken.
    Connection(Stream),
    /// None at present.
    Nothing,
    /// There will be no more.
    End,
    /// This process is out of descriptors: wait, what is there stays where it is.
    Exhausted,
    /// A connection came for which this process had no descriptor left: it is lost.
    Lost,
}

impl Source {
    pub(crate) fn new(means: Means, drain: &Arc<Drain>) -> io::Result<Self> {
        match means {
            Means::HandOff(channel) => {
                let (spare, took) = (Spare::new(), AtomicBool::new(false));
                Ok(Self::HandOff(HandOff { channel, spare, took, _hold: drain.hold() }))
            }
            Means::Delivered(deliveries) => {
                Ok(Self::Delivered(Delivered { deliveries, _hold: drain.hold() }))
            }
            Means::Shared(listener) => {
                Ok(Self::Shared(Shared { own: FairAccept::new(listener)?, adopted: Adopted::default() }))
            }
        }
    }

    /// Takes connections of another slot as well, whose worker is missing.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub(crate) fn adopt(&self, slot: u32, socket: OwnedFd) -> io::Result<()> {
        match self {
            Self::HandOff(_) | Self::Delivered(_) => Ok(()),
            Self::Shared(shared) => shared.adopted.add(slot, socket, &shared.own),
        }
    }

    /// That worker is there again.
    pub(crate) fn release(&self, slot: u32) {
        if let Self::Shared(shared) = self {
            shared.adopted.remove(slot, &shared.own);
        }
    }

    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }

    /// Waits as one of many threads, until a connection may be there or `also` is readable. Only for a shared listener is
    /// it better than `poll`, which wakes every thread of every worker for each connection; false for any other.
    ///
    /// # Errors
    /// The source cannot be watched.
    pub(crate) fn wait_in_turn(&self, also: BorrowedFd<'_>) -> io::Result<bool> {
        match self {
            Self::HandOff(_) | Self::Delivered(_) => Ok(false),
            // What was adopted is in the same set.
            Self::Shared(shared) => shared.own.wait_also(also).map(|()| true),
        }
    }

    /// Takes one connection.
    ///
    /// # Errors
    /// The source is no source at all.
    pub(crate) fn take(&self, load: &Arc<Load>) -> io::Result<Found> {
        match self {
            Self::HandOff(channel) => channel.take(load),
            Self::Delivered(queue) => Ok(queue.deliveries.take(load)),
            Self::Shared(shared) => match shared.accept() {
                Ok(Some(accepted)) => {
                    Ok(Found::Connection(Stream::new(accepted.socket, accepted.peer, load.take())))
                }
                Ok(None) => Ok(Found::Nothing),
                Err(error) if is_exhaustion(&error) => Ok(Found::Exhausted),
                Err(error) => Err(error),
            },
        }
    }
}

impl Shared {
    fn accept(&self) -> io::Result<Option<Accepted>> {
        if self.adopted.are_next()
            && let Some(accepted) = self.adopted.accept()?
        {
            return Ok(Some(accepted));
        }
        match self.own.accept()? {
            None => self.adopted.accept(),
            accepted => Ok(accepted),
        }
    }
}

impl HandOff {
    fn take(&self, load: &Arc<Load>) -> io::Result<Found> {
        // Else every connection that comes alone would cost a second look. Whoever comes back without having taken one
        // was woken, by the end of the channel if by no connection, and only a look tells.
        if self.took.swap(false, Ordering::Relaxed) && load.has_taken_all() {
            return Ok(Found::Nothing);
        }
        if self.spare.make_room(&self.channel).is_err() {
            return Ok(Found::Exhausted);
        }
        let mut buffer = [0; record::LEN];
        let received = scm_rights::receive_one(&self.channel, &mut buffer);
        if let Ok(Some((_, fd))) = &received {
            self.spare.learn(fd.as_ref().map(AsFd::as_fd));
        }
        self.spare.restore(&self.channel);
        match received {
            Ok(Some((length, Some(fd)))) => {
                // The kernel has dequeued it: from here on the connection is ours alone.
                let lease = load.take();
                self.took.store(true, Ordering::Relaxed);
                // Only the primary writes here, and only whole records.
                let peer: Option<SocketAddr> = record::decode(&buffer[..length]).flatten();
                Ok(Found::Connection(Stream::new(fd, peer, lease)))
            }
            Ok(Some((_, None))) => {
                drop(load.take());
                Ok(Found::Lost)
            }
            Ok(None) => Ok(Found::End),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Found::Nothing),
            // A primary that has died with unread words of ours: what it had sent was read before this came up.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Found::End),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Source {
    /// Readable while a connection waits.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::HandOff(channel) => channel.channel.as_fd(),
            Self::Delivered(queue) => queue.deliveries.as_fd(),
            Self::Shared(shared) => shared.own.as_fd(),
        }
    }
}

impl AsRawFd for Source {
    /// For the reactor, which asks for it in this form.
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
