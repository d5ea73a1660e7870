//! Who reads and writes the control channel: a task of the program's runtime, or else a thread.
//!
//! The first thing in the worker that has to wait for the channel starts one; under tokio a task, so that a message
//! costs no switch of threads. A program without a runtime gets one thread: then any number of its threads can wait for
//! whatever they like, and an order reaches all of them. Should the runtime end before the channel, a thread takes
//! over.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::link::{Link, Read};
use crate::error::{Error, Result};

/// How soon writing is tried again where the room for it cannot be watched, for want of a descriptor.
const UNWATCHED: Duration = Duration::from_millis(1);

/// Who drives at present.
#[derive(Debug, Default)]
pub(crate) struct Driver {
    who: Mutex<Who>,
    is_thread: AtomicBool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Who {
    #[default]
    Nobody,
    /// A task; the thread is the one a runtime with a single thread runs on.
    Task(Option<ThreadId>),
    Thread,
}

impl Driver {
    pub(crate) fn is_running(&self) -> bool {
        self.who() != Who::Nobody
    }

    pub(crate) fn is_thread(&self) -> bool {
        self.is_thread.load(Ordering::SeqCst)
    }

    fn who(&self) -> Who {
        *self.who.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True when nobody drove before.
    fn set(&self, now: Who) -> bool {
        let mut who = self.who.lock().unwrap_or_else(PoisonError::into_inner);
        if *who != Who::Nobody {
            return false;
        }
        *who = now;
        self.is_thread.store(now == Who::Thread, Ordering::SeqCst);
        true
    }

    fn clear(&self) {
        *self.who.lock().unwrap_or_else(PoisonError::into_inner) = Who::Nobody;
        self.is_thread.store(false, Ordering::SeqCst);
    }
}

/// Sees to it that the channel is driven, by a task of the current runtime if by nobody yet.
pub(crate) fn ensure_task(link: &Arc<Link>) -> Result<()> {
    if link.driver.is_running() {
        return Ok(());
    }
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return Err(Error::Setting(
            "this must be called within a tokio runtime; use Worker::block_on, or the methods that end in _blocking"
                .into(),
        ));
    };
    let single = runtime.runtime_flavor() == tokio::runtime::RuntimeFlavor::CurrentThread;
    let channel = watch(link.descriptor().map_err(watching)?, Interest::READABLE).map_err(watching)?;
    if link.driver.set(Who::Task(single.then(|| std::thread::current().id()))) {
        runtime.spawn(drive(channel, Driving(Arc::clone(link))));
    }
    Ok(())
}

/// Sees to it that the channel is driven, by a thread if by nobody yet.
pub(crate) fn ensure_thread(link: &Arc<Link>) -> Result<()> {
    match link.driver.who() {
        Who::Thread => return Ok(()),
        Who::Task(Some(thread)) if thread == std::thread::current().id() => {
            return Err(Error::Setting(
                "this would block the runtime that serves the channel; use the async method instead".into(),
            ));
        }
        Who::Task(_) => return Ok(()),
        Who::Nobody => {}
    }
    let channel = link.descriptor().map_err(watching)?;
    if link.driver.set(Who::Thread) {
        let driving = Driving(Arc::clone(link));
        std::thread::Builder::new()
            .name("everycore".into())
            .spawn(move || drive_thread(&channel, &driving))
            .map_err(|source| Error::Channel { doing: "starting the thread that reads it", source })?;
    }
    Ok(())
}

/// Watches a descriptor with the current runtime. For types that never change theirs, such as
/// `OwnedFd`.
pub(crate) fn watch<T: AsRawFd>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // Deprecated for types whose descriptor may change while it is watched. Ours cannot, and the constructor that
    // replaces this one is `unsafe`, which this crate does without.
    #[allow(deprecated)]
    AsyncFd::with_interest(fd, interest)
}

fn watching(source: io::Error) -> Error {
    Error::Channel { doing: "watching it", source }
}

/// Held by whoever drives. When a runtime drops its tasks with the channel still open, a thread goes on: others may be
/// waiting.
struct Driving(Arc<Link>);

impl Drop for Driving {
    fn drop(&mut self) {
        let was_thread = self.0.driver.is_thread();
        self.0.driver.clear();
        if !was_thread && !self.0.is_over() {
            // Without a thread those who wait would wait for ever; there is nobody to tell but them.
            let _ = ensure_thread(&self.0);
        }
    }
}

async fn drive(channel: AsyncFd<OwnedFd>, driving: Driving) {
    let link = &driving.0;
    while !link.is_over() {
        let mut nudged = pin!(link.nudged.notified());
        nudged.as_mut().enable();
        link.write();
        let now = Instant::now();
        let mut wait = link.wait(now);
        // Watched for room only while there is none: else every message the primary reads would wake this loop.
        let room = if wait.to_write { watch_room(&channel) } else { None };
        if wait.to_write && room.is_none() {
            let soon = now + UNWATCHED;
            wait.until = Some(wait.until.map_or(soon, |until| until.min(soon)));
        }
        let mut timer = pin!(wait.until.map(|until| tokio::time::sleep_until(until.into())));
        let mut more = false;
        poll_fn(|cx| {
            if nudged.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if let Some(timer) = timer.as_mut().as_pin_mut()
                && timer.poll(cx).is_ready()
            {
                return Poll::Ready(());
            }
            if room.as_ref().is_some_and(|room| room.poll_write_ready(cx).is_ready()) {
                return Poll::Ready(());
            }
            while wait.to_read
                && let Poll::Ready(ready) = channel.poll_read_ready(cx)
            {
                match (link.read(Instant::now()), ready) {
                    (Read::Empty, Ok(mut ready)) => ready.clear_ready(),
                    (read, _) => {
                        more = read == Read::More;
                        return Poll::Ready(());
                    }
                }
            }
            Poll::Pending
        })
        .await;
        if more {
            // However much the primary has to say, connections do not wait for it.
            tokio::task::yield_now().await;
        }
    }
}

fn watch_room(channel: &AsyncFd<OwnedFd>) -> Option<AsyncFd<OwnedFd>> {
    let copy = channel.get_ref().try_clone().ok()?;
    watch(copy, Interest::WRITABLE).ok()
}

fn drive_thread(channel: &OwnedFd, driving: &Driving) {
    let link = &driving.0;
    while !link.is_over() {
        // Before looking: a ring that comes after it is seen by the poll below.
        let _ = link.bell.silence();
        link.write();
        let now = Instant::now();
        let mut wait = link.wait(now);
        if wait.to_read {
            match link.read(now) {
                Read::Empty => {}
                Read::More | Read::Over => continue,
            }
            wait = link.wait(now);
        }
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, wait.to_read);
        wanted.set(PollFlags::OUT, wait.to_write);
        let timeout = wait.until.map(|until| timespec(until.saturating_duration_since(Instant::now())));
        let mut fds =
            [PollFd::new(channel, wanted), PollFd::from_borrowed_fd(link.bell.as_fd(), PollFlags::IN)];
        // An interrupted poll is as good as a finished one.
        let _ = poll(&mut fds, timeout.as_ref());
    }
}

/// For `poll`, which counts in these.
pub(crate) fn timespec(time: std::time::Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}
