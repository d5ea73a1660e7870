//! A running process: waiting for it under tokio, signalling it, and seeing to it that somebody waits.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use everycore_sys::{PidFd, WaitStatus};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::reaper;

/// Owns the duty to wait for one process; dropped before that is done, it leaves it to the reaper.
#[derive(Debug)]
pub(super) struct Process {
    pidfd: Arc<PidFd>,
    /// In the runtime of whoever waits first.
    ready: OnceLock<AsyncFd<Arc<PidFd>>>,
}

impl Process {
    pub(super) fn new(pidfd: PidFd) -> Self {
        Self { pidfd: Arc::new(pidfd), ready: OnceLock::new() }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pidfd.pid()
    }

    pub(super) fn kill(&self, signal: i32) -> io::Result<bool> {
        was_there(self.pidfd.signal(signal))
    }

    pub(super) fn kill_group(&self, signal: i32) -> io::Result<bool> {
        was_there(self.pidfd.signal_group(signal))
    }

    pub(super) fn try_wait(&self) -> io::Result<Option<WaitStatus>> {
        self.pidfd.try_wait()
    }

    pub(super) async fn wait(&self) -> io::Result<WaitStatus> {
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            let mut guard = self.ready()?.readable().await?;
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            guard.clear_ready();
        }
    }

    /// Waits for `first`, or for the end of the process if that comes earlier: `Err` with its status.
    pub(super) async fn or_ended<T>(
        &self,
        first: impl Future<Output = T>,
    ) -> io::Result<Result<T, WaitStatus>> {
        let (mut first, mut end) = (pin!(first), pin!(self.wait()));
        poll_fn(|context| {
            if let Poll::Ready(value) = first.as_mut().poll(context) {
                return Poll::Ready(Ok(Ok(value)));
            }
            end.as_mut().poll(context).map_ok(Err)
        })
        .await
    }

    /// Whether the runtime has seen it end. Asks the kernel only then.
    pub(super) fn shows_end(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let ready = self.ready().is_ok_and(|ready| ready.poll_read_ready(&mut context).is_ready());
        ready && matches!(self.try_wait(), Ok(Some(_)))
    }

    fn ready(&self) -> io::Result<&AsyncFd<Arc<PidFd>>> {
        if let Some(ready) = self.ready.get() {
            return Ok(ready);
        }
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(io::Error::other("a child is awaited inside a tokio runtime with I/O enabled"));
        }
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an owned descriptor keeps the promise it wants"
        )]
        let ready = AsyncFd::with_interest(Arc::clone(&self.pidfd), Interest::READABLE)?;
        // Of two that wait at once one registers in vain, which does no harm.
        Ok(self.ready.get_or_init(|| ready))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.pidfd.try_wait(), Ok(None)) {
            // Out of the runtime first, which may be gone by the time the process ends.
            drop(self.ready.take());
            reaper::adopt(Arc::clone(&self.pidfd));
        }
    }
}

/// That a process has ended before the signal came is news, not an error.
fn was_there(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(false),
        Err(error) => Err(error),
    }
}
