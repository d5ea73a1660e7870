//! How busy this worker is, as its primary may know it: connections taken, through their first turn and closed, and
//! the pulse of its event loop.
//!
//! Writes the worker's half of the page of counters and rings the bell when the primary asked for it. Neighbours: a
//! [`Lease`] rides in every [`Stream`](crate::Stream); `runtime` calls [`Load::park`] and [`Load::unpark`] around the
//! loop's sleep.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use everycore_sys::counters::WorkerPage;
use everycore_sys::eventfd::EventFd;
use tokio::sync::Notify;

thread_local! {
    /// Whether this thread runs the loop whose sleep we see. Only there does progress mean that the loop turns.
    static IN_LOOP: Cell<bool> = const { Cell::new(false) };
}

/// The counters of one worker process.
#[derive(Debug)]
pub(crate) struct Load {
    page: WorkerPage,
    bell: EventFd,
    first_turns: FirstTurns,
    live: AtomicUsize,
    /// Turns of the loop, for those in this process who care which one it is.
    turn: AtomicU64,
    waiting: AtomicUsize,
    freed: Notify,
    freed_blocking: (Mutex<()>, Condvar),
}

impl Load {
    pub(crate) fn new(page: WorkerPage, bell: EventFd) -> Arc<Self> {
        Arc::new(Self {
            page,
            bell,
            first_turns: FirstTurns::default(),
            live: AtomicUsize::new(0),
            turn: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
            freed_blocking: Default::default(),
        })
    }

    /// A connection was taken off the hand-off channel or the backlog. Call before the program sees it.
    pub(crate) fn take(self: &Arc<Self>) -> Lease {
        self.page.add_taken();
        self.live.fetch_add(1, Ordering::SeqCst);
        self.progress();
        Lease { load: Arc::clone(self), first_turn: Some(self.first_turns.begin()) }
    }

    /// Whether nothing waits on any hand-off channel, as the primary says.
    pub(crate) fn has_taken_all(&self) -> bool {
        self.page.has_taken_all()
    }

    /// Connections the program holds.
    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    /// The loop gets somewhere, so it is not stuck, however long it has not slept.
    pub(crate) fn progress(&self) {
        if IN_LOOP.get() {
            self.page.begin_turn();
        }
    }

    /// Which turn of the loop this is; `None` outside of it.
    pub(crate) fn turn(&self) -> Option<u64> {
        IN_LOOP.get().then(|| self.turn.load(Ordering::Relaxed))
    }

    /// This thread runs the loop until the guard is dropped.
    pub(crate) fn enter_loop(&self) -> InLoop<'_> {
        IN_LOOP.set(true);
        self.page.begin_turn();
        InLoop(self)
    }

    /// The loop is about to sleep: whatever it holds has had its first turn.
    pub(crate) fn park(&self) {
        let over = self.first_turns.end_all();
        if over > 0 {
            self.add_ready(over.into());
        }
        if self.page.end_turn() {
            self.ring();
        }
    }

    /// The loop was woken.
    pub(crate) fn unpark(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
        self.page.begin_turn();
    }

    /// A thread of a program without an event loop is about to wait for its next connection.
    pub(crate) fn wait_begins(&self) {
        // Other threads may be in the middle of something, so no first turn ends here; only wishes are looked at.
        if self.page.end_turn() {
            self.ring();
        }
    }

    /// Ends when the program holds no connection.
    pub(crate) async fn idle(&self) {
        while self.live() > 0 {
            self.one_closed(|| self.live() == 0).await;
        }
    }

    /// As [`idle`](Self::idle), for a thread; false when `deadline` came first.
    pub(crate) fn idle_blocking(&self, deadline: Instant) -> bool {
        let _waiting = Waiting::new(&self.waiting);
        let (mutex, closed) = &self.freed_blocking;
        let mut guard = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        while self.live() > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            guard = closed.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Ends when a connection has been closed, which frees a descriptor, or when `already` holds.
    pub(crate) async fn one_closed(&self, already: impl Fn() -> bool) {
        let _waiting = Waiting::new(&self.waiting);
        let mut freed = pin!(self.freed.notified());
        freed.as_mut().enable();
        if !already() {
            poll_fn(|cx| freed.as_mut().poll(cx)).await;
        }
    }

    fn add_ready(&self, count: u64) {
        if self.page.add_ready(count) {
            self.ring();
        }
    }

    fn ring(&self) {
        // Fails only if the descriptor is no eventfd, which the welcome has checked; the primary's timer is the net.
        let _ = self.bell.ring();
    }

    fn closed(&self) {
        if self.page.add_closed() {
            self.ring();
        }
        self.live.fetch_sub(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_waiters();
            drop(self.freed_blocking.0.lock().unwrap_or_else(PoisonError::into_inner));
            self.freed_blocking.1.notify_all();
        }
    }

    /// The counters as the primary finds them.
    #[cfg(test)]
    pub(crate) fn counters(&self) -> everycore_sys::counters::Counters {
        self.page.counters()
    }
}

/// See [`Load::enter_loop`].
#[derive(Debug)]
pub(crate) struct InLoop<'a>(&'a Load);

impl Drop for InLoop<'_> {
    fn drop(&mut self) {
        IN_LOOP.set(false);
        self.0.park();
    }
}

/// A connection's place in the counters: while it lives, the primary counts the connection as this worker's.
///
/// It is one of the [`Parts`](crate::Parts) of a stream, for programs that serve the socket by other means; drop it when
/// the connection is closed.
#[derive(Debug)]
pub struct Lease {
    load: Arc<Load>,
    /// The epoch in which the first turn began, until it is over.
    first_turn: Option<u32>,
}

impl Lease {
    /// The first turn on this connection is over: the primary may send another one. Later calls do nothing.
    pub fn first_turn_over(&mut self) {
        if let Some(epoch) = self.first_turn.take()
            && self.load.first_turns.end(epoch)
        {
            self.load.add_ready(1);
        }
    }

    /// Something happened on the connection.
    pub(crate) fn progress(&self) {
        self.load.progress();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.first_turn_over();
        self.load.closed();
    }
}

/// Connections in their first turn. Each ends by itself or with all others when the loop sleeps, and is counted once:
/// the upper half is an epoch that `end_all` raises, the lower half counts those begun in it and not ended.
#[derive(Debug, Default)]
struct FirstTurns(AtomicU64);

impl FirstTurns {
    /// Returns the epoch that [`end`](Self::end) wants to know.
    fn begin(&self) -> u32 {
        (self.0.fetch_add(1, Ordering::Relaxed) >> 32) as u32
    }

    /// False when it has been ended with all others before.
    fn end(&self, epoch: u32) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                ((now >> 32) as u32 == epoch && now as u32 > 0).then(|| now - 1)
            })
            .is_ok()
    }

    /// How many that were.
    fn end_all(&self) -> u32 {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                (now as u32 > 0).then(|| u64::from(((now >> 32) as u32).wrapping_add(1)) << 32)
            })
            .map_or(0, |before| before as u32)
    }
}

/// Counts who waits for a connection to close, so that closing one costs nothing when nobody does.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> (Arc<Load>, everycore_sys::counters::PrimaryPage) {
        let (memfd, primary) = everycore_sys::counters::create().unwrap();
        (Load::new(WorkerPage::open(memfd).unwrap(), EventFd::new().unwrap()), primary)
    }

    #[test]
    fn a_first_turn_ends_once_whoever_ends_it() {
        let (load, _page) = load();
        let mut by_itself = load.take();
        let with_all = load.take();
        assert_eq!(load.counters().ready, 0);
        by_itself.first_turn_over();
        by_itself.first_turn_over();
        assert_eq!(load.counters().ready, 1);
        load.park();
        assert_eq!(load.counters().ready, 2);
        drop(with_all);
        load.park();
        drop(by_itself);
        let counters = load.counters();
        assert_eq!((counters.taken, counters.ready, counters.closed), (2, 2, 2));
        assert_eq!(load.live(), 0);
    }

    #[test]
    fn epochs_keep_their_counts_apart() {
        let turns = FirstTurns::default();
        let old = turns.begin();
        assert_eq!(turns.end_all(), 1);
        assert_eq!(turns.end_all(), 0);
        let new = turns.begin();
        assert_ne!(old, new);
        assert!(!turns.end(old), "ended before");
        assert!(turns.end(new));
        assert!(!turns.end(new));
    }

    #[test]
    fn the_bell_rings_once_per_wish() {
        let (load, mut primary) = load();
        let mut first = load.take();
        let second = load.take();
        primary.set_wake(1, false);
        first.first_turn_over();
        assert!(load.bell.silence().unwrap());
        drop(second);
        assert!(!load.bell.silence().unwrap(), "the wish was answered");
        primary.set_wake(u64::MAX, true);
        load.park();
        assert!(load.bell.silence().unwrap());
    }

    #[test]
    fn only_the_loop_itself_turns() {
        let (load, _page) = load();
        drop(load.take());
        assert!(!load.counters().awake, "no loop, so nothing that could be stuck");
        let inside = load.enter_loop();
        let before = load.counters().turn;
        drop(load.take());
        assert!(load.counters().awake && load.counters().turn != before);
        load.park();
        assert!(!load.counters().awake);
        drop(inside);
        assert_eq!(load.turn(), None);
    }

    #[test]
    fn a_thread_waits_for_the_last_connection() {
        let (load, _page) = load();
        let lease = load.take();
        assert!(!load.idle_blocking(Instant::now()));
        let other = Arc::clone(&load);
        let waiter = std::thread::spawn(move || {
            other.idle_blocking(Instant::now() + std::time::Duration::from_secs(30))
        });
        drop(lease);
        assert!(waiter.join().unwrap());
    }
}
