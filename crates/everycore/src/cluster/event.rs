//! What observers of a cluster hear.

use std::fmt;
use std::time::Duration;

use everycore_core::{ExitReason, ExitStatus};
use everycore_ipc::Message;

use crate::address::BoundAddress;

/// A worker as events name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkerInfo {
    /// Never reused while the primary lives; counts from 1.
    pub id: u32,
    /// The place it fills, from 0; its replacement fills the same.
    pub slot: u32,
    /// How many reloads came before it.
    pub generation: u32,
    /// Its process; `None` before it was spawned, or when it could not be.
    pub pid: Option<u32>,
}

impl fmt::Display for WorkerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "worker {} (pid {pid})", self.id),
            None => write!(f, "worker {}", self.id),
        }
    }
}

/// Something that happened in the cluster.
///
/// Each worker's events come in Node's order: `Fork`, `Online`, then `Message` and `Listening` as they happen,
/// `Disconnect`, `Exit`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A worker process was started.
    Fork {
        /// Which worker.
        worker: WorkerInfo,
    },
    /// The worker runs and has joined its channel.
    Online {
        /// Which worker.
        worker: WorkerInfo,
    },
    /// The worker accepts on an address.
    Listening {
        /// Which worker.
        worker: WorkerInfo,
        /// Where clients connect.
        address: BoundAddress,
    },
    /// The worker counts as ready, by whatever readiness was set.
    Ready {
        /// Which worker.
        worker: WorkerInfo,
    },
    /// The worker sent a message.
    Message {
        /// Which worker.
        worker: WorkerInfo,
        /// What it sent, perhaps with handles.
        message: Message,
    },
    /// The worker sent a request; answer with [`Primary::reply`](crate::Primary::reply), or
    /// [`decline`](crate::Primary::decline) it.
    Request {
        /// Which worker.
        worker: WorkerInfo,
        /// Names the request in the reply.
        id: u64,
        /// What it asks.
        message: Message,
    },
    /// The worker's channel ended.
    Disconnect {
        /// Which worker.
        worker: WorkerInfo,
    },
    /// The worker process ended.
    Exit {
        /// Which worker.
        worker: WorkerInfo,
        /// Code or signal.
        status: ExitStatus,
        /// Why, as far as the primary knows.
        reason: ExitReason,
        /// Whether it left because it had been asked to, or had asked to.
        exited_after_disconnect: bool,
    },
    /// The worker could not be started, told or signalled, or broke the protocol.
    Error {
        /// Which worker.
        worker: WorkerInfo,
        /// What happened.
        reason: String,
    },
    /// The worker has not taken a connection in time and gets no more until it does.
    Hung {
        /// Which worker.
        worker: WorkerInfo,
    },
    /// The worker's event loop did not turn for so long, as it reports afterwards. Only Node workers with the
    /// [preloaded script](crate::Cluster::preload) do; at most once in ten seconds.
    Blocked {
        /// Which worker.
        worker: WorkerInfo,
        /// How long, to the millisecond.
        duration: Duration,
    },
    /// The worker was not ready in time and is told to end.
    Late {
        /// Which worker.
        worker: WorkerInfo,
        /// How long it had.
        within: Duration,
    },
    /// The worker was taken for ready since it stayed up, and has ended without having been seen to serve: it counts as
    /// never ready. Comes right before its `Exit`.
    Mistaken {
        /// Which worker.
        worker: WorkerInfo,
    },
    /// The worker was asked to leave and has not finished in time. It is sent `TERM`, and `KILL` if it stays.
    Overdue {
        /// Which worker.
        worker: WorkerInfo,
        /// How long it had ([`Cluster::graceful_timeout`](crate::Cluster::graceful_timeout)).
        within: Duration,
        /// Connections it still has, as far as it says; 0 where that is not known.
        open: u64,
        /// How long it has after `TERM`.
        kill_after: Duration,
    },
    /// The worker uses more memory than it may and is replaced.
    TooLarge {
        /// Which worker.
        worker: WorkerInfo,
        /// Bytes of it in memory.
        resident: u64,
        /// The limit that was set; each worker's own is up to a tenth less.
        limit: u64,
        /// Set when it was never seen smaller: a replacement will hardly be, so it comes after this long only.
        postponed: Option<Duration>,
    },
    /// The worker was silent for longer than the time-out allows and is about to be killed.
    TimedOut {
        /// Which worker.
        worker: WorkerInfo,
        /// The time-out.
        after: Duration,
        /// What each of its threads was doing, in words: `main: sleeping in do_nanosleep`.
        doing: Vec<String>,
    },
    /// A hung worker takes connections again.
    Recovered {
        /// Which worker.
        worker: WorkerInfo,
    },
    /// A slot's next worker starts after a delay.
    RestartScheduled {
        /// Which slot.
        slot: u32,
        /// How long it waits.
        delay: Duration,
        /// Failures in the period so far.
        failures: u32,
    },
    /// A slot failed too often and is given up.
    SlotErrored {
        /// Which slot.
        slot: u32,
        /// Failures in the period.
        failures: u32,
    },
    /// A rolling reload began.
    ReloadStarted {
        /// The generation it brings.
        generation: u32,
    },
    /// One more worker of a reload was replaced.
    ReloadProgress {
        /// Workers replaced.
        done: u32,
        /// Workers to replace.
        total: u32,
    },
    /// A reload replaced every worker.
    ReloadDone {
        /// The generation that serves now.
        generation: u32,
    },
    /// A reload ended early; the old workers serve on.
    ReloadFailed {
        /// The generation that failed.
        generation: u32,
        /// Why.
        reason: String,
    },
    /// The number of slots changed.
    Scaled {
        /// Slots from now on.
        workers: u32,
    },
    /// Connections of a class are closed, since the class is full and refuses, or nobody of it is left and none will come.
    /// Told with the first, then every ten seconds at most; the [snapshot](crate::Primary::snapshot) has the count.
    Refused {
        /// Which class.
        class: String,
        /// Connections closed since the start.
        refused: u64,
    },
    /// The cluster began to stop.
    Stopping,
    /// The cluster was told again to stop: workers are sent `TERM` now and `KILL` after this long; after nothing, `KILL` at
    /// once.
    StoppingNow {
        /// How long they have.
        kill_after: Duration,
    },
    /// Something of the primary itself went wrong, and it goes on.
    Warning {
        /// What happened and what it means.
        text: String,
    },
}

impl Event {
    /// The worker it is about, if it is about one.
    pub fn worker(&self) -> Option<WorkerInfo> {
        match self {
            Self::Fork { worker }
            | Self::Online { worker }
            | Self::Listening { worker, .. }
            | Self::Ready { worker }
            | Self::Message { worker, .. }
            | Self::Request { worker, .. }
            | Self::Disconnect { worker }
            | Self::Exit { worker, .. }
            | Self::Error { worker, .. }
            | Self::Hung { worker }
            | Self::Blocked { worker, .. }
            | Self::Late { worker, .. }
            | Self::Mistaken { worker }
            | Self::Overdue { worker, .. }
            | Self::TooLarge { worker, .. }
            | Self::TimedOut { worker, .. }
            | Self::Recovered { worker } => Some(*worker),
            Self::RestartScheduled { .. }
            | Self::SlotErrored { .. }
            | Self::ReloadStarted { .. }
            | Self::ReloadProgress { .. }
            | Self::ReloadDone { .. }
            | Self::ReloadFailed { .. }
            | Self::Scaled { .. }
            | Self::Refused { .. }
            | Self::Stopping
            | Self::StoppingNow { .. }
            | Self::Warning { .. } => None,
        }
    }
}
