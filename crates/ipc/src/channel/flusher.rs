//! The task of a channel: writes at the end of each turn what was queued in it, and goes on when the peer was slow.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::inner::{Inner, readable_unless};
use super::pace::Delay;
use crate::connection::{ChannelError, Flush};

/// What the flusher waits for next.
enum Next {
    /// Somebody sends.
    Work,
    /// The peer reads.
    Writable,
    /// The peer answers handles, and nobody else may be reading.
    Answers,
    /// The peer takes descriptors off the kernel's hands, or reads what is before one.
    Delay(Duration),
    /// Everybody else has had a turn.
    Turn,
    /// Nothing any more.
    End,
}

impl Inner {
    /// Starts the task in the current runtime, unless it runs.
    pub(super) fn ensure_flusher(inner: &Arc<Self>) -> Result<(), ChannelError> {
        if inner.flusher_runs.load(Ordering::Acquire) {
            return Ok(());
        }
        inner.ready()?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| ChannelError::NoRuntime)?;
        if !inner.flusher_runs.swap(true, Ordering::AcqRel) {
            inner.lock().runtime = Some(runtime.clone());
            let running = Running(Arc::clone(inner));
            runtime.spawn(async move { running.0.drive().await });
        }
        Ok(())
    }

    async fn drive(&self) {
        let mut delay = Delay::default();
        loop {
            match self.end_turn() {
                Next::Work => self.work.notified().await,
                Next::Delay(duration) => delay.wait(duration).await,
                Next::Turn => tokio::task::yield_now().await,
                Next::Writable => self.writable().await,
                Next::Answers => self.answers().await,
                Next::End => return,
            }
        }
    }

    /// Writes what this turn queued.
    fn end_turn(&self) -> Next {
        let mut state = self.lock();
        if state.dropped || state.adrift {
            return Next::End;
        }
        state.turn = false;
        // An error shows to the next sender, and in what is received.
        let written = self.write(&mut state);
        if state.connection.is_throttled() {
            Next::Delay(state.connection.retry_delay())
        } else if matches!(written, Ok(Flush::More)) {
            Next::Turn
        } else if state.connection.wants_write() {
            Next::Writable
        } else if state.connection.awaits_answers() && state.connection.can_park() {
            Next::Answers
        } else {
            Next::Work
        }
    }

    /// Reads until the answers are there; what else comes is kept for the receivers.
    async fn answers(&self) {
        let Ok(ready) = self.ready() else { return };
        let mut guard = match readable_unless(ready, pin!(self.work.notified())).await {
            Ok(Some(guard)) => guard,
            Ok(None) => return,
            Err(_) => return self.drift(),
        };
        let mut state = self.lock();
        state.connection.park();
        // With room left it has read until there was nothing.
        let has_room = state.connection.can_park();
        let drained = state.connection.take_drained(has_room);
        if drained {
            guard.clear_ready();
        }
        self.after_reading(&mut state);
        if state.connection.has_parked() {
            self.parked.notify_waiters();
        }
        self.room.notify_waiters();
    }

    async fn writable(&self) {
        let Ok(ready) = self.ready() else { return };
        let Ok(mut guard) = ready.writable().await else { return self.drift() };
        let mut state = self.lock();
        if matches!(self.write(&mut state), Ok(Flush::Blocked)) {
            guard.clear_ready();
        }
    }

    /// The runtime that the socket is registered in is gone, so nobody can wait for the socket any more.
    fn drift(&self) {
        self.lock().drift();
        self.room.notify_waiters();
        self.parked.notify_waiters();
    }
}

/// Notes that the task has ended, also when its runtime was dropped, so that another runtime starts a new one.
struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.flusher_runs.store(false, Ordering::Release);
        self.0.room.notify_waiters();
    }
}
