//! What happened ([`Event`]) and what is to be done about it ([`Effect`]).
//!
//! Events are past, effects are orders. Both name workers by id; what an id stands for (process,
//! channel, sockets) is known to the shell alone. What observers hear is in `notice.rs`.

use crate::id::{Generation, ListenerKey, Slot, WorkerId};
use crate::notice::{ExitStatus, Notice};

/// Something that happened, or that somebody asked for. An event for a worker that is gone is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The process asked for by [`Effect::Spawn`] runs.
    Spawned {
        /// Which worker.
        worker: WorkerId,
        /// Its process id.
        pid: u32,
    },
    /// The process asked for by [`Effect::Spawn`] could not be started. Nothing more is heard of this worker.
    SpawnFailed {
        /// Which worker.
        worker: WorkerId,
        /// Why, for people.
        reason: String,
        /// Whether every further attempt would fail the same way: the program is not there, or cannot be executed.
        lasting: bool,
    },
    /// The worker said that it has started.
    Online {
        /// Which worker.
        worker: WorkerId,
    },
    /// The worker serves a listener.
    Listening {
        /// Which worker.
        worker: WorkerId,
        /// The listener it serves from now on.
        listener: ListenerKey,
    },
    /// The worker no longer serves a listener.
    StoppedListening {
        /// Which worker.
        worker: WorkerId,
        /// The listener it serves no more.
        listener: ListenerKey,
    },
    /// The worker reported itself ready, or a probe found it so. Counts under
    /// [`Readiness::Notified`](crate::Readiness::Notified) only.
    Ready {
        /// Which worker.
        worker: WorkerId,
    },
    /// The worker was found ready by a guess that its end, which follows, shows to be false: it never was. A reload or
    /// recycling that went on because of it has done so.
    Mistaken {
        /// Which worker.
        worker: WorkerId,
    },
    /// The worker leaves of its own accord (Node's `exitedAfterDisconnect` message).
    Leaving {
        /// Which worker.
        worker: WorkerId,
    },
    /// The worker's channel ended.
    Disconnected {
        /// Which worker.
        worker: WorkerId,
    },
    /// The worker's process ended, and its channel has been read to the end.
    Exited {
        /// Which worker.
        worker: WorkerId,
        /// How it ended.
        status: ExitStatus,
    },
    /// The worker's process was seen to use this much memory.
    Memory {
        /// Which worker.
        worker: WorkerId,
        /// What of it is in memory, in bytes.
        resident: u64,
    },
    /// Order: let this worker finish what it has and leave. The restart policy decides on a successor.
    Disconnect {
        /// Which worker.
        worker: WorkerId,
    },
    /// Order: let all workers finish and leave; nobody is replaced, and the primary is finished afterwards.
    DisconnectAll,
    /// Order: send this worker a signal, and nothing else.
    Kill {
        /// Which worker.
        worker: WorkerId,
        /// The signal's number.
        signal: i32,
    },
    /// Order: replace every worker by one of a new generation, each replacement ready first.
    Reload,
    /// Order: keep this many workers.
    Scale {
        /// How many; zero keeps the listeners without anyone serving them.
        workers: u32,
    },
    /// Order: stop. A second one, whatever its urgency, is fast.
    Stop {
        /// How gently.
        urgency: Urgency,
    },
}

/// How gently to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Drain first, within the deadline; then `TERM`, then `KILL`.
    Graceful,
    /// `TERM` now, then `KILL`. Asked for again while that goes on: `KILL` now.
    Fast,
}

/// Something to do. Carrying it out never waits; a failure comes back as an [`Event`].
///
/// A batch is carried out in its order. An effect for a worker whose [`Effect::Spawn`] failed earlier in
/// the same batch has nothing to act on and is skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start a process; answered by [`Event::Spawned`] or [`Event::SpawnFailed`].
    Spawn {
        /// The new worker.
        worker: WorkerId,
        /// The place it fills.
        slot: Slot,
        /// The generation it belongs to.
        generation: Generation,
    },
    /// Tell the worker to stop accepting, drain and leave. It is out of rotation already.
    Disconnect {
        /// Which worker.
        worker: WorkerId,
    },
    /// Send the worker a signal.
    Signal {
        /// Which worker.
        worker: WorkerId,
        /// The signal's number.
        signal: i32,
    },
    /// Read back everything the worker has not taken, report it by
    /// [`Primary::returned`](crate::Primary::returned), which keeps it from this worker for a while, and assign it again.
    Withdraw {
        /// Which worker.
        worker: WorkerId,
    },
    /// The worker is gone and settled: drop channel, counters and hand-off ends.
    Forget {
        /// Which worker.
        worker: WorkerId,
    },
    /// Tell observers.
    Notify(Notice),
}
