//! A read-only picture for status, metrics and dashboard. Looking changes nothing.

use crate::id::{Generation, ListenerKey, Slot, WorkerId};
use crate::primary::{Totals, Vacancy};
use crate::schedule::ClassCounts;
use crate::time::Time;
use crate::worker::{State, Worker};

/// The whole cluster at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Every worker that lives, by rising id.
    pub workers: Vec<WorkerSnapshot>,
    /// Every slot that is to be filled.
    pub slots: Vec<SlotSnapshot>,
    /// The generation known to work.
    pub generation: Generation,
    /// The generation a reload is bringing in.
    pub reloading: Option<Generation>,
    /// Whether the primary stops.
    pub stopping: bool,
    /// How many connections each worker may be ahead with.
    pub credit: u64,
    /// The connections of all workers, those that are gone included.
    pub connections: Totals,
    /// Every class of workers, in order; none where workers are not told apart.
    pub classes: Vec<ClassSnapshot>,
}

/// A class of workers at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassSnapshot {
    /// Its name.
    pub name: String,
    /// What became of its connections.
    pub counts: ClassCounts,
}

/// One worker at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSnapshot {
    /// Which worker.
    pub worker: WorkerId,
    /// The place it fills.
    pub slot: Slot,
    /// The generation it belongs to.
    pub generation: Generation,
    /// Its process id, once it runs.
    pub pid: Option<u32>,
    /// Where it is in its life.
    pub phase: Phase,
    /// When it was forked.
    pub forked_at: Time,
    /// When it became ready.
    pub ready_since: Option<Time>,
    /// Whether it is out of rotation because it left a connection untaken.
    pub hung: bool,
    /// What it serves, by rising key.
    pub listeners: Vec<ListenerKey>,
    /// Connections handed to it and not come back.
    pub handed: u64,
    /// Connections handed to it and not taken.
    pub untaken: u64,
    /// Connections handed to it and not yet through their first turn.
    pub load: u64,
    /// Connections handed to it and not closed.
    pub live: u64,
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Forked.
    Starting,
    /// Started, not ready.
    Online,
    /// Ready.
    Listening,
    /// To finish what it has and leave.
    Disconnecting,
    /// `TERM` was sent.
    Terminating,
    /// `KILL` was sent.
    Killed,
}

/// One slot at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotSnapshot {
    /// Which slot.
    pub slot: Slot,
    /// Who fills it.
    pub state: SlotState,
    /// Failures within the period, as of the last one.
    pub failures: u32,
}

/// Who fills a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// This worker; during a replacement the older one.
    Filled(WorkerId),
    /// Nobody, and nobody is to follow before the primary stops.
    Open,
    /// Nobody until then.
    Waiting(Time),
    /// Nobody: its worker ended as it should.
    Done,
    /// Nobody: it failed too often.
    Errored,
}

impl Phase {
    /// The name used in output and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Online => "online",
            Phase::Listening => "listening",
            Phase::Disconnecting => "disconnecting",
            Phase::Terminating => "terminating",
            Phase::Killed => "killed",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<State> for Phase {
    fn from(state: State) -> Phase {
        match state {
            State::Starting { .. } => Phase::Starting,
            State::Online { .. } => Phase::Online,
            State::Listening => Phase::Listening,
            State::Disconnecting(_) => Phase::Disconnecting,
            State::Terminating(_) => Phase::Terminating,
            State::Killed(_) => Phase::Killed,
        }
    }
}

impl WorkerSnapshot {
    pub(crate) fn of(worker: &Worker) -> Self {
        WorkerSnapshot {
            worker: worker.id,
            slot: worker.slot,
            generation: worker.generation,
            pid: worker.pid,
            phase: worker.state.into(),
            forked_at: worker.forked_at,
            ready_since: worker.ready_since,
            hung: worker.handoffs.is_hung(),
            listeners: worker.handoffs.listeners().to_vec(),
            handed: worker.handoffs.kept(),
            untaken: worker.handoffs.untaken(),
            load: worker.handoffs.load(),
            live: worker.handoffs.live(),
        }
    }
}

impl SlotState {
    /// Of a slot that nobody fills.
    pub(crate) fn of(vacancy: Vacancy) -> Self {
        match vacancy {
            Vacancy::Open => SlotState::Open,
            Vacancy::Until(until) => SlotState::Waiting(until),
            Vacancy::Done => SlotState::Done,
            Vacancy::Errored => SlotState::Errored,
        }
    }
}
