//! How far senders may get ahead of a peer that reads.
//!
//! Memory that was written long ago is slow to read: with all of a queue between writing a message and handing it to the
//! kernel, large ones cost twice as much. So whoever can wait does so while the peer goes on reading. If it does not, the queue
//! fills up to its limit at once, as a program may rely on. Neighbour: `inner` asks before it queues.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::futures::Notified;

use super::inner::{Inner, State, readable_unless};

/// Bytes in the queue from which on senders wait for the peer. About what a processor has at hand.
pub(super) const AHEAD: usize = 256 * 1024;

/// How long the peer may pause before senders go on without it.
const PATIENCE: Duration = Duration::from_millis(5);

/// What is known about the peer's reading.
#[derive(Debug)]
pub(super) struct Pace {
    /// It read something since it last made a sender wait for too long.
    reads: bool,
    /// The timer runs since its last read.
    timed: bool,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { reads: true, timed: false }
    }

    /// The peer has read something.
    pub(super) fn note_read(&mut self) {
        *self = Self::new();
    }

    /// Whether a sender that can wait should do so before this much more is queued.
    pub(super) fn is_ahead(&self, queued: usize) -> bool {
        self.reads && queued >= AHEAD
    }
}

/// Ends a wait. Not one of the runtime's: those need not be there.
pub(super) type Timer = OnceLock<Option<AsyncFd<OwnedFd>>>;

/// A timer in this runtime, which need not be that of whoever sends.
fn timer(runtime: &Handle) -> Option<AsyncFd<OwnedFd>> {
    let _inside = runtime.enter();
    let timer =
        timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC).ok()?;
    #[expect(deprecated, reason = "its successor is unsafe; an owned descriptor keeps the promise it wants")]
    AsyncFd::new(timer).ok()
}

impl Inner {
    /// Waits until the queue may have room: it got shorter, or the peer pauses and it may be filled.
    pub(super) async fn wait_for_room(&self, room: Pin<&mut Notified<'_>>) {
        let Some(timer) = self.running_timer() else { return room.await };
        let Ok(expired) = readable_unless(timer, room).await else {
            return self.lose_patience(&mut self.lock());
        };
        if let Some(mut expired) = expired {
            let mut state = self.lock();
            if rustix::io::read(timer.get_ref(), &mut [0_u8; 8]).is_ok() && state.pace.timed {
                self.lose_patience(&mut state);
            }
            expired.clear_ready();
        }
    }

    /// The timer, started when it was not; `None` when no sender keeps pace now.
    fn running_timer(&self) -> Option<&AsyncFd<OwnedFd>> {
        let mut state = self.lock();
        if !state.pace.reads {
            return None;
        }
        let made = state.runtime.as_ref().map(|runtime| self.timer.get_or_init(|| timer(runtime)));
        let running =
            made.and_then(Option::as_ref).filter(|timer| state.pace.timed || start(timer, PATIENCE));
        match running {
            Some(_) => state.pace.timed = true,
            None => self.lose_patience(&mut state),
        }
        running
    }

    fn lose_patience(&self, state: &mut State) {
        state.pace = Pace { reads: false, timed: false };
        self.room.notify_waiters();
    }
}

/// Waits for a while, in the runtime it is awaited in.
#[derive(Debug, Default)]
pub(super) struct Delay {
    timer: Option<AsyncFd<OwnedFd>>,
}

impl Delay {
    pub(super) async fn wait(&mut self, duration: Duration) {
        if self.timer.is_none() {
            self.timer = Handle::try_current().ok().and_then(|runtime| timer(&runtime));
        }
        let expired = match &self.timer {
            Some(timer) if start(timer, duration) => timer.readable().await.ok(),
            _ => None,
        };
        match (expired, &self.timer) {
            (Some(mut expired), Some(timer)) => {
                let _ = rustix::io::read(timer.get_ref(), &mut [0_u8; 8]);
                expired.clear_ready();
            }
            // There is no descriptor left for a timer. All others have their turn, and may free one.
            _ => tokio::task::yield_now().await,
        }
    }
}

/// Has a timer expire once after this long.
fn start(timer: &AsyncFd<OwnedFd>, after: Duration) -> bool {
    let once = Itimerspec { it_interval: Timespec::default(), it_value: timespec(after) };
    timerfd_settime(timer.get_ref(), TimerfdTimerFlags::empty(), &once).is_ok()
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().cast_signed(), tv_nsec: duration.subsec_nanos().into() }
}
