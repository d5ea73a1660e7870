//! The one way out: from the first sign that this worker shall leave, everything that accepts or waits is told.
//!
//! The primary asks, the worker itself wants to, or the primary is gone. Neighbours: `link` begins it, listeners and
//! [`Worker::draining`](crate::Worker::draining) wait for it.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use everycore_sys::eventfd::EventFd;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// How long a program may leave connections unaccepted that the dead primary had handed over already.
const LEFTOVERS: Duration = Duration::from_secs(1);

/// Why the worker leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The primary said so; others take the worker's place.
    Asked,
    /// The primary said so, to all: the cluster stops.
    Stopping,
    /// The program said so, and the primary knows.
    OwnWish,
    /// The program has come to its end.
    Ended,
    /// The channel has ended: there is no primary any more.
    PrimaryGone,
}

impl Why {
    fn bit(self) -> u8 {
        match self {
            Self::Asked => 1,
            Self::OwnWish => 2,
            Self::Ended => 4,
            Self::PrimaryGone => 8,
            Self::Stopping => 16,
        }
    }
}

/// Whether the worker drains, and who wants to know.
#[derive(Debug)]
pub(crate) struct Drain {
    why: AtomicU8,
    begun: Arc<Notify>,
    /// Readable from the beginning of the drain on: for threads that wait in `poll`.
    bell: EventFd,
    /// Hand-off channels that may still hold connections.
    holding: AtomicUsize,
    released: Notify,
}

impl Drain {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            why: AtomicU8::new(0),
            begun: Arc::default(),
            bell: EventFd::new()?,
            holding: AtomicUsize::new(0),
            released: Notify::new(),
        }))
    }

    pub(crate) fn begin(&self, why: Why) {
        self.why.fetch_or(why.bit(), Ordering::SeqCst);
        // Nobody reads it, so it stays readable.
        let _ = self.bell.ring();
        self.begun.notify_waiters();
        self.released.notify_waiters();
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.why.load(Ordering::SeqCst) != 0
    }

    pub(crate) fn is_because(&self, why: Why) -> bool {
        self.why.load(Ordering::SeqCst) & why.bit() != 0
    }

    /// Resolves at the next beginning; look at [`has_begun`](Self::has_begun) after having made it.
    pub(crate) fn notified(&self) -> OwnedNotified {
        Arc::clone(&self.begun).notified_owned()
    }

    /// Waits for the beginning.
    pub(crate) async fn begun(&self) {
        let mut begun = pin!(self.begun.notified());
        begun.as_mut().enable();
        if !self.has_begun() {
            poll_fn(|cx| begun.as_mut().poll(cx)).await;
        }
    }

    /// Waits for the beginning, and after the primary's death until what it had handed over is accepted: nobody else
    /// can. A live primary takes back what is not accepted.
    pub(crate) async fn settled(&self) {
        self.begun().await;
        if self.is_because(Why::PrimaryGone) {
            let _ = tokio::time::timeout(LEFTOVERS, self.nothing_held()).await;
        }
    }

    async fn nothing_held(&self) {
        loop {
            let mut released = pin!(self.released.notified());
            released.as_mut().enable();
            if self.holding.load(Ordering::SeqCst) == 0 {
                return;
            }
            poll_fn(|cx| released.as_mut().poll(cx)).await;
        }
    }

    /// A hand-off channel exists until the guard is dropped.
    pub(crate) fn hold(self: &Arc<Self>) -> Hold {
        self.holding.fetch_add(1, Ordering::SeqCst);
        Hold(Arc::clone(self))
    }
}

impl AsFd for Drain {
    /// Readable once the drain has begun.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// See [`Drain::hold`].
#[derive(Debug)]
pub(crate) struct Hold(Arc<Drain>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.holding.fetch_sub(1, Ordering::SeqCst);
        self.0.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;
    use crate::worker::testing::run;

    #[test]
    fn reasons_add_up_and_waiters_hear_the_first() {
        let drain = Drain::new().unwrap();
        assert!(!drain.has_begun());
        run(async {
            let mut settled = pin!(drain.settled());
            assert!(poll_fn(|cx| Poll::Ready(settled.as_mut().poll(cx).is_pending())).await);
            drain.begin(Why::Asked);
            settled.await;
        });
        drain.begin(Why::PrimaryGone);
        assert!(drain.is_because(Why::Asked) && drain.is_because(Why::PrimaryGone));
        assert!(!drain.is_because(Why::OwnWish));
        run(drain.settled());
    }

    #[test]
    fn after_the_primarys_death_what_it_handed_over_is_waited_for() {
        let drain = Drain::new().unwrap();
        let hold = drain.hold();
        drain.begin(Why::PrimaryGone);
        run(async {
            let mut settled = pin!(drain.settled());
            assert!(poll_fn(|cx| Poll::Ready(settled.as_mut().poll(cx).is_pending())).await);
            drop(hold);
            settled.await;
        });
    }
}
