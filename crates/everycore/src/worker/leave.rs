//! How a worker leaves, as its program sees it: asked to, or by its own wish.
//!
//! Neighbours: `drain` knows whether and why, `runtime` has the last steps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Worker;
use super::drain::Why;
use super::driver::{ensure_task, ensure_thread};
use super::messages::wait_blocking;
use crate::error::Result;

/// How long idle connections stay open when nobody is left to go to.
const LAST_SILENCE: Duration = Duration::from_secs(1);

/// How long the primary may take to note that this worker leaves.
const LEAVE_NOTED: Duration = Duration::from_secs(5);

impl Worker {
    /// Resolves when the worker shall leave: the primary has asked it to, has died, or the program itself has called
    /// [`disconnect`](Self::disconnect). Outlives this handle, so it can be given away. HTTP servers that close idle
    /// connections at once when they are told to stop are better given [`drained`](Self::drained): that closing
    /// crosses requests on their way.
    ///
    /// After the primary's death it resolves once the listeners have given out what was handed over before.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + Sync + use<> {
        let link = Arc::clone(&self.core.link);
        async move {
            // Without a runtime it could not wait anyway.
            let _ = ensure_task(&link);
            link.drain.settled().await;
        }
    }

    /// Resolves when the worker shall leave *and* its clients know: no connection is open any more, or those that are
    /// have been silent for long enough. The moment to close idle keep-alive connections; a server that does it
    /// sooner takes them from under requests on their way.
    ///
    /// Long enough is three quarters of the time to drain where others serve on, and a second where the whole cluster
    /// stops or the primary is gone: then nobody is left to answer the next request anyway.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + use<> {
        let (draining, worker) = (self.draining(), self.clone());
        async move {
            draining.await;
            let drain = &worker.core.link.drain;
            let last = drain.is_because(Why::Stopping) || drain.is_because(Why::PrimaryGone);
            let silence = worker.drain_time() * 3 / 4;
            let silence = if last { silence.min(LAST_SILENCE) } else { silence };
            let _ = tokio::time::timeout(silence, worker.idle()).await;
        }
    }

    /// Whether the worker shall leave, as of what was read from the channel so far.
    pub fn is_draining(&self) -> bool {
        self.core.link.drain.has_begun()
    }

    /// Resolves when no connection is open.
    pub async fn idle(&self) {
        self.core.link.load.idle().await;
    }

    /// Leaves by the program's own wish: the primary is told first, so that it takes the exit for what it is; then the
    /// drain begins. The program should come to its end by itself: listeners end and [`draining`](Self::draining)
    /// resolves.
    ///
    /// # Errors
    /// It is called outside of a tokio runtime.
    pub async fn disconnect(&self) -> Result<()> {
        let link = &self.core.link;
        ensure_task(link)?;
        if let Some(noted) = link.ask_to_leave() {
            // A primary that does not answer in time is not waited for; the drain has its deadline, too.
            let _ = tokio::time::timeout(LEAVE_NOTED, noted).await;
        }
        link.leave(Why::OwnWish);
        Ok(())
    }

    /// As [`disconnect`](Self::disconnect), for a program without a runtime.
    ///
    /// # Errors
    /// It is called from the runtime that serves the channel.
    pub fn disconnect_blocking(&self) -> Result<()> {
        let link = &self.core.link;
        ensure_thread(link)?;
        if let Some(mut noted) = link.ask_to_leave() {
            let _ = wait_blocking(link, &mut noted, Some(Instant::now() + LEAVE_NOTED));
        }
        link.leave(Why::OwnWish);
        Ok(())
    }

    /// Whether the channel to the primary is open, as far as is known.
    pub fn is_connected(&self) -> bool {
        !self.core.link.is_over()
    }

    /// Whether this worker leaves because it was asked to, or has asked to: what the primary will report as the exit's
    /// `exited_after_disconnect`.
    pub fn exited_after_disconnect(&self) -> bool {
        let drain = &self.core.link.drain;
        [Why::Asked, Why::Stopping, Why::OwnWish].into_iter().any(|why| drain.is_because(why))
    }
}
