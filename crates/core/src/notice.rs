//! What observers hear, and how a worker's end is described to them.

use std::fmt;
use std::time::Duration;

use crate::id::{Generation, ListenerKey, Slot, WorkerId};

/// News for observers. Nothing an observer does changes what the core decides.
///
/// For one worker the order is: `Fork`, (`Spawned`), `Online`, then any of `Listening` and `Ready`, then
/// `Disconnect`, and last `Exit`. `Disconnect` is never left out. A worker whose process could not be
/// started ends with `Error` instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A worker is being started.
    Fork {
        /// Which worker.
        worker: WorkerId,
        /// The place it fills.
        slot: Slot,
        /// The generation it belongs to.
        generation: Generation,
    },
    /// Its process runs.
    Spawned {
        /// Which worker.
        worker: WorkerId,
        /// Its process id.
        pid: u32,
    },
    /// It has started.
    Online {
        /// Which worker.
        worker: WorkerId,
    },
    /// It serves a listener.
    Listening {
        /// Which worker.
        worker: WorkerId,
        /// Which listener.
        listener: ListenerKey,
    },
    /// It became ready, in the sense of [`Readiness`](crate::Readiness). Once per worker.
    Ready {
        /// Which worker.
        worker: WorkerId,
    },
    /// Its channel ended.
    Disconnect {
        /// Which worker.
        worker: WorkerId,
    },
    /// Its process ended.
    Exit {
        /// Which worker.
        worker: WorkerId,
        /// The place it filled.
        slot: Slot,
        /// The generation it belonged to.
        generation: Generation,
        /// How it ended.
        status: ExitStatus,
        /// Why it ended.
        reason: ExitReason,
        /// Whether it, or somebody else, had asked for the disconnect.
        exited_after_disconnect: bool,
    },
    /// Its process could not be started.
    Error {
        /// Which worker.
        worker: WorkerId,
        /// Why, for people.
        reason: String,
    },
    /// It left a connection untaken for too long, and gets none until it moves again.
    Hung {
        /// Which worker.
        worker: WorkerId,
    },
    /// It was not ready in time, and is told to end.
    Late {
        /// Which worker.
        worker: WorkerId,
        /// How long it had.
        within: Duration,
    },
    /// It had been taken for ready by a guess, has ended, and nobody saw it serve: it counts as never ready.
    Mistaken {
        /// Which worker.
        worker: WorkerId,
    },
    /// It was asked to leave and has not finished in time. It is sent `TERM`, and `KILL` if it stays.
    Overdue {
        /// Which worker.
        worker: WorkerId,
        /// How long it had.
        within: Duration,
        /// Connections it still has, as far as it says; 0 where that is not known.
        open: u64,
        /// How long it has after `TERM`.
        kill_after: Duration,
    },
    /// It uses more memory than it may, and is replaced.
    TooLarge {
        /// Which worker.
        worker: WorkerId,
        /// Bytes of it in memory.
        resident: u64,
        /// The limit that was set; its own is up to a tenth less.
        limit: u64,
        /// Set when it was never seen smaller: a replacement will hardly be, so it comes after this long only.
        postponed: Option<Duration>,
    },
    /// It was silent for longer than the time-out allows. It is about to be killed: the last moment to look at it.
    TimedOut {
        /// Which worker.
        worker: WorkerId,
        /// The time-out.
        after: Duration,
    },
    /// It moves again and is back in rotation.
    Recovered {
        /// Which worker.
        worker: WorkerId,
    },
    /// A slot is empty and will be filled after a delay.
    RestartScheduled {
        /// Which slot.
        slot: Slot,
        /// How long it stays empty.
        delay: Duration,
        /// Failures within the period so far.
        failures: u32,
    },
    /// A slot failed too often and stays empty; the others serve on.
    SlotErrored {
        /// Which slot.
        slot: Slot,
        /// Failures within the period.
        failures: u32,
        /// The period they are counted in.
        period: Duration,
    },
    /// A reload began.
    ReloadStarted {
        /// The new generation.
        generation: Generation,
    },
    /// A reload got further.
    ReloadProgress {
        /// Slots served by the new generation.
        done: u32,
        /// Slots in all.
        total: u32,
    },
    /// A reload is complete: every slot is served by the new generation.
    ReloadDone {
        /// The new generation.
        generation: Generation,
    },
    /// A reload was given up; workers of the old generation that were still there stay.
    ReloadFailed {
        /// The generation that failed.
        generation: Generation,
        /// Why, for people.
        reason: String,
    },
    /// The number of workers to keep changed.
    Scaled {
        /// How many.
        workers: u32,
    },
    /// Connections of a class are closed, since it is full and does not wait, or has been given up. Told with the first,
    /// then every ten seconds at most.
    Refused {
        /// The name of the class.
        class: String,
        /// Connections closed since the start.
        refused: u64,
    },
    /// The primary stops: nobody is replaced any more.
    Stopping,
    /// It stops without waiting for what workers serve: they are sent `TERM`, and `KILL` after this long; after nothing,
    /// `KILL` at once.
    StoppingNow {
        /// How long they have.
        kill_after: Duration,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// Nobody knows: somebody else has waited for it.
    Unknown,
}

impl ExitStatus {
    /// Whether it exited with code 0.
    pub const fn is_success(self) -> bool {
        matches!(self, ExitStatus::Code(0))
    }
}

impl fmt::Display for ExitStatus {
    /// Reads after the worker's name.
    ///
    /// ```
    /// use everycore_core::ExitStatus;
    /// assert_eq!(ExitStatus::Code(1).to_string(), "exited with code 1");
    /// assert_eq!(ExitStatus::Signal(9).to_string(), "killed by SIGKILL");
    /// ```
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ExitStatus::Code(code) => write!(f, "exited with code {code}"),
            ExitStatus::Signal(signal) => match signal_name(signal) {
                Some(name) => write!(f, "killed by {name}"),
                None => write!(f, "killed by signal {signal}"),
            },
            ExitStatus::Unknown => f.write_str("exited, nobody knows how"),
        }
    }
}

/// Names a Linux signal as `kill -l` does, with `SIG` in front; `None` for real-time and unknown numbers.
///
/// ```
/// assert_eq!(everycore_core::signal_name(15), Some("SIGTERM"));
/// ```
pub const fn signal_name(signal: i32) -> Option<&'static str> {
    const NAMES: [&str; 31] = [
        "SIGHUP",
        "SIGINT",
        "SIGQUIT",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGKILL",
        "SIGUSR1",
        "SIGSEGV",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGTERM",
        "SIGSTKFLT",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGWINCH",
        "SIGIO",
        "SIGPWR",
        "SIGSYS",
    ];
    if signal >= 1 && signal <= NAMES.len() as i32 { Some(NAMES[signal as usize - 1]) } else { None }
}

/// Why a worker ended. What the primary asked for comes before what the process then did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitReason {
    /// It exited by itself; the status has the code.
    Code,
    /// A signal that was not part of an orderly stop.
    Signal,
    /// Somebody, perhaps itself, asked it to disconnect.
    Disconnect,
    /// It was silent for longer than the time-out allows.
    Hung,
    /// It used too much memory.
    MaxRss,
    /// It had served enough requests.
    MaxRequests,
    /// It had lived long enough.
    MaxLifetime,
    /// A reload replaced it, or gave it up.
    Reload,
    /// There were to be fewer workers.
    Scale,
    /// The primary stopped.
    Stop,
    /// It was not ready in time.
    NotReady,
}

impl ExitReason {
    /// The name used in output and metrics, in snake case.
    pub const fn as_str(self) -> &'static str {
        match self {
            ExitReason::Code => "code",
            ExitReason::Signal => "signal",
            ExitReason::Disconnect => "disconnect",
            ExitReason::Hung => "hung",
            ExitReason::MaxRss => "max_rss",
            ExitReason::MaxRequests => "max_requests",
            ExitReason::MaxLifetime => "max_lifetime",
            ExitReason::Reload => "reload",
            ExitReason::Scale => "scale",
            ExitReason::Stop => "stop",
            ExitReason::NotReady => "not_ready",
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
