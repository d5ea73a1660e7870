//! [`Listener`]: the connections of one address, whoever accepts them.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::futures::OwnedNotified;

use super::Core;
use super::blocking::BlockingStream;
use super::drain::Why;
use super::driver::{timespec, watch};
use super::listener_stream::ListenerStream;
use super::registration::{Claim, Grant};
use super::source::{Found, Source};
use super::stream::Stream;
use super::trouble::Trouble;
use crate::address::BoundAddress;

/// The first pause when descriptors have run out; it doubles up to [`LONGEST_REST`].
const SHORTEST_REST: Duration = Duration::from_millis(10);

/// See [`SHORTEST_REST`].
const LONGEST_REST: Duration = Duration::from_secs(1);

/// How many connections are still accepted on a shared listener after the primary's death: whoever waits there is
/// served, and a crowd that never ends does not keep the worker.
const LEFTOVERS: usize = 4096;

/// The connections of one address, on their way to this worker.
///
/// The primary hands each over, or all workers accept on one socket: the program sees no difference. A connection is
/// *taken*, and this worker's alone, from the moment that [`accept`](Self::accept) gives it out; what was not taken
/// when the worker leaves or dies goes to another one.
///
/// When the worker begins to drain, `accept` gives out what is left to it and then fails for good, so that a loop like
/// this one comes to its end:
///
/// ```no_run
/// # async fn serve(mut listener: everycore::Listener) {
/// while let Ok((stream, peer)) = listener.accept().await {
///     tokio::spawn(async move { drop((stream, peer)) });
/// }
/// # }
/// ```
///
/// Dropping it tells the primary that this worker serves the address no more. The socket itself lives on with the
/// primary and the other workers; it is never shut down.
pub struct Listener {
    open: Option<Open>,
    address: BoundAddress,
    core: Arc<Core>,
    /// Resolves when the drain begins.
    begun: Pin<Box<OwnedNotified>>,
    rest: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    next_rest: Duration,
    /// The lack of descriptors has been told, and was not over since.
    told: AtomicBool,
    leftovers: AtomicUsize,
    /// The other addresses of its name.
    others: Vec<Listener>,
    /// Which address is looked at first; the next one each time, so that a busy one does not hide the others.
    first: usize,
}

/// What is given up when the listener ends, in this order.
struct Open {
    /// Only an asynchronous program watches; its first `accept` begins it.
    watched: Option<AsyncFd<Arc<Source>>>,
    source: Arc<Source>,
    _claim: Claim,
}

impl Listener {
    /// Opens what was granted and tells the primary that the program accepts.
    pub(crate) fn new(core: Arc<Core>, grant: Grant) -> io::Result<Self> {
        let Grant { means, address, claim, more: _ } = grant;
        let source = Arc::new(Source::new(means, &core.link.drain)?);
        claim.registration.listening(&source);
        Ok(Self {
            open: Some(Open { watched: None, source, _claim: claim }),
            address,
            begun: Box::pin(core.link.drain.notified()),
            core,
            rest: None,
            next_rest: SHORTEST_REST,
            told: AtomicBool::new(false),
            leftovers: AtomicUsize::new(LEFTOVERS),
            others: Vec::new(),
            first: 0,
        })
    }

    /// Serves another address too.
    pub(crate) fn join(&mut self, other: Self) {
        self.others.push(other);
    }

    /// Takes the next connection, and who it comes from.
    ///
    /// May be cancelled at any time, as in a `select!`: a connection is taken only when it is given out. When this
    /// process is out of descriptors it waits until there is room.
    ///
    /// # Errors
    /// The worker drains and nothing is left ([`is_ended`](Self::is_ended)), or the descriptor cannot be watched.
    pub async fn accept(&mut self) -> io::Result<(Stream, BoundAddress)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// The poll form of [`accept`](Self::accept).
    ///
    /// # Errors
    /// As `accept`.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, BoundAddress)>> {
        if self.others.is_empty() {
            return self.poll_one(cx);
        }
        let count = self.others.len() + 1;
        let first = (self.first + 1) % count;
        self.first = first;
        for place in (0..count).map(|step| (first + step) % count) {
            let (one, is_over) = match place.checked_sub(1) {
                None => (self.poll_one(cx), self.open.is_none()),
                Some(place) => {
                    let other = &mut self.others[place];
                    (other.poll_one(cx), other.open.is_none())
                }
            };
            match one {
                // The others may still have connections.
                Poll::Ready(Err(_)) if is_over && !self.is_ended() => {}
                Poll::Ready(found) => return Poll::Ready(found),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    fn poll_one(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, BoundAddress)>> {
        loop {
            if self.open.is_none() {
                return Poll::Ready(Err(ended()));
            }
            let draining = self.core.link.drain.has_begun();
            if let Some(rest) = &mut self.rest
                && !draining
            {
                ready!(rest.as_mut().poll(cx));
            }
            self.rest = None;
            match self.poll_source(cx, draining)? {
                Poll::Ready(Found::Connection(stream)) => {
                    self.next_rest = SHORTEST_REST;
                    self.told.store(false, Ordering::Relaxed);
                    let peer = stream.peer_addr().clone();
                    return Poll::Ready(Ok((stream, peer)));
                }
                Poll::Ready(Found::End) => self.open = None,
                Poll::Ready(Found::Nothing | Found::Exhausted) if draining => self.open = None,
                Poll::Ready(Found::Nothing) => {}
                Poll::Ready(Found::Exhausted) => self.begin_rest(),
                Poll::Ready(Found::Lost) => self.tell_lost(),
                Poll::Pending => {
                    if self.begun.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Takes the next connection in a program without a runtime; waits for it.
    ///
    /// Any number of threads may share the listener. All of them are woken when the worker begins to drain.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    pub fn accept_blocking(&self) -> io::Result<(BlockingStream, BoundAddress)> {
        let drain = &self.core.link.drain;
        let mut rest = SHORTEST_REST;
        loop {
            let draining = drain.has_begun();
            let mut exhausted = false;
            let mut sources = vec![drain.as_fd()];
            for listener in self.each() {
                let Some(open) = &listener.open else { continue };
                match listener.take_until_empty(&open.source, draining)? {
                    Found::Connection(stream) => {
                        listener.told.store(false, Ordering::Relaxed);
                        let peer = stream.peer_addr().clone();
                        return Ok((stream.into(), peer));
                    }
                    Found::Exhausted => exhausted = true,
                    Found::Nothing => sources.push(open.source.as_fd()),
                    Found::End | Found::Lost => {}
                }
            }
            if draining || (sources.len() == 1 && !exhausted) {
                return Err(ended());
            }
            if exhausted {
                self.tell_exhausted();
                wait(&sources, Some(rest))?;
                rest = (rest * 2).min(LONGEST_REST);
            } else {
                self.core.link.load.wait_begins();
                if !self.wait_in_turn()? {
                    wait(&sources, None)?;
                }
            }
        }
    }

    /// Waits, if there is but one source and it can be waited for without waking everybody else.
    fn wait_in_turn(&self) -> io::Result<bool> {
        match &self.open {
            Some(open) if self.others.is_empty() => open.source.wait_in_turn(self.core.link.drain.as_fd()),
            _ => Ok(false),
        }
    }

    /// One look that does not end with a connection that was lost.
    fn take_until_empty(&self, source: &Source, draining: bool) -> io::Result<Found> {
        loop {
            let found = if draining { self.take_leftover(source) } else { source.take(&self.core.link.load) };
            match found? {
                Found::Lost => self.tell_lost(),
                found => return Ok(found),
            }
        }
    }

    /// This listener and the others of its name.
    fn each(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.others)
    }

    /// Where clients connect: the real port, if 0 was asked for.
    pub fn local_addr(&self) -> &BoundAddress {
        &self.address
    }

    /// All addresses where clients connect, in the order in which they were bound.
    pub fn local_addrs(&self) -> impl Iterator<Item = &BoundAddress> {
        self.each().map(|listener| &listener.address)
    }

    /// Whether it has given out its last connection because the worker drains.
    pub fn is_ended(&self) -> bool {
        self.each().all(|listener| listener.open.is_none())
    }

    /// The connections as a stream that ends when the worker drains.
    pub fn into_stream(self) -> ListenerStream {
        ListenerStream::new(self)
    }

    /// One look at the source, which is watched from the first one on. While draining, without waiting for the reactor:
    /// what has come so far is all that counts.
    fn poll_source(&mut self, cx: &mut Context<'_>, draining: bool) -> Poll<io::Result<Found>> {
        let Some(open) = &mut self.open else { return Poll::Ready(Ok(Found::End)) };
        if draining {
            let source = Arc::clone(&open.source);
            return Poll::Ready(self.take_leftover(&source));
        }
        let watched = match &mut open.watched {
            Some(watched) => watched,
            none => none.insert(watch(Arc::clone(&open.source), Interest::READABLE)?),
        };
        let mut readiness = ready!(watched.poll_read_ready(cx))?;
        let found = open.source.take(&self.core.link.load);
        if let Ok(Found::Nothing) = found {
            readiness.clear_ready();
        } else {
            readiness.retain_ready();
        }
        Poll::Ready(found)
    }

    /// As a draining worker still looks for connections. What was handed over is its own until the primary takes it
    /// back; a shared backlog is for the others to serve, unless the primary's death may have left none.
    fn take_leftover(&self, source: &Source) -> io::Result<Found> {
        if source.is_shared() {
            let mine = self.core.link.drain.is_because(Why::PrimaryGone)
                && self
                    .leftovers
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                    .is_ok();
            if !mine {
                return Ok(Found::End);
            }
        }
        source.take(&self.core.link.load)
    }

    fn begin_rest(&mut self) {
        self.tell_exhausted();
        let core = Arc::clone(&self.core);
        let length = self.next_rest;
        self.next_rest = (length * 2).min(LONGEST_REST);
        self.rest = Some(Box::pin(async move {
            let _ =
                tokio::time::timeout(length, core.link.load.one_closed(|| core.link.drain.has_begun())).await;
        }));
    }

    fn tell_exhausted(&self) {
        if !self.told.swap(true, Ordering::Relaxed) {
            self.core.troubles.tell(&Trouble::OutOfDescriptors { address: self.address.clone() });
        }
    }

    fn tell_lost(&self) {
        self.core.troubles.tell(&Trouble::ConnectionLost { address: self.address.clone() });
    }
}

fn wait(fds: &[std::os::fd::BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    match poll(&mut fds, timeout.map(timespec).as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// A kind of its own among the errors of `accept`: none of those that a server answers by trying again.
fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the worker drains and accepts no more connections")
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("address", &self.address)
            .field("is_ended", &self.is_ended())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
