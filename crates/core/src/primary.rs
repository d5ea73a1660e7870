//! The primary: takes events, settles the cluster, gives effects.
//!
//! This file has the surface the shell uses and the fan-out of events. `primary/orders.rs` has what somebody asked
//! for, `primary/ends.rs` what an ended worker means for its slot, `primary/settle.rs` what follows from the state of
//! things (filling slots, the next step of a reload), `primary/handoff.rs` the hot path, and `primary/shortlist.rs` among
//! whom that chooses.

mod classes;
mod ends;
mod handoff;
mod orders;
mod queries;
mod settle;
mod shortlist;

pub use handoff::{Assignment, Awaited, Totals};

use handoff::Scheduling;
use shortlist::Shortlist;

use crate::credit::{Lead, Rate};
use crate::event::{Effect, Event};
use crate::id::{Generation, Slot, WorkerId};
use crate::notice::Notice;
use crate::random::Random;
use crate::recency::Recency;
use crate::restart::History;
use crate::schedule::{Router, SchedulingPolicy};
use crate::settings::Settings;
use crate::snapshot::{SlotSnapshot, SlotState, Snapshot, WorkerSnapshot};
use crate::time::Time;
use crate::worker::{Asked, Worker};

/// Decides everything about a cluster of workers. No I/O, no clock: the same calls give the same effects.
///
/// ```
/// use everycore_core::{Effect, Primary, Settings, Time};
///
/// let mut primary = Primary::new(Settings { workers: 2, ..Settings::default() }, Time::ZERO);
/// let spawns = primary.take_effects().into_iter().filter(|effect| matches!(effect, Effect::Spawn { .. }));
/// assert_eq!(spawns.count(), 2);
/// assert!(!primary.is_finished());
/// ```
#[derive(Debug)]
pub struct Primary {
    settings: Settings,
    /// Slots to keep filled; `seats` has one entry for each.
    seats: Vec<Seat>,
    /// By rising id.
    workers: Vec<Worker>,
    next_worker: u32,
    /// The generation known to work: replacements for workers that ended belong to it.
    generation: Generation,
    newest_generation: Generation,
    reload: Option<Reload>,
    stopping: Option<Stopping>,
    /// A worker that is gone had been ready.
    has_served: bool,
    random: Random,
    rate: Rate,
    /// The credit of each worker, as of the last arrival.
    credit: u64,
    lead: Lead,
    /// How a worker is chosen; nothing where the workers accept for themselves.
    scheduling: Option<Scheduling>,
    shortlist: Shortlist,
    recency: Recency,
    handoffs: handoff::Totals,
    effects: Vec<Effect>,
    /// The last moment heard of.
    latest: Time,
}

/// A place to keep filled.
#[derive(Clone, Debug, Default)]
struct Seat {
    history: History,
    vacancy: Vacancy,
}

/// What to do about a slot in which nobody sits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Vacancy {
    /// Fill it.
    #[default]
    Open,
    /// Fill it then.
    Until(Time),
    /// Its worker ended as it should; leave it empty.
    Done,
    /// It failed too often; leave it empty.
    Errored,
}

/// A reload that goes on.
#[derive(Clone, Copy, Debug)]
struct Reload {
    generation: Generation,
    /// Slots finished, as last told to observers.
    told: u32,
    /// Another one was asked for meanwhile.
    again: bool,
}

/// A stop that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    /// Everybody was disconnected; a stop may still be asked for.
    Disconnecting,
    /// Serves on for a while.
    Lingering { until: Time },
    /// Workers finish what they have.
    Draining,
    /// Workers were sent `TERM`.
    Fast,
}

/// How the primary ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Somebody asked for it.
    Stopped,
    /// All workers ended by themselves and the restart policy wants none again.
    Completed,
    /// Every slot failed too often.
    AllErrored,
}

impl Primary {
    /// Starts a cluster; the first effects ask for its workers. The settings should have been
    /// [validated](Settings::validated); numbers out of range are treated as the nearest one in it.
    pub fn new(settings: Settings, now: Time) -> Self {
        let first = Generation::new(1);
        let mut primary = Primary {
            seats: vec![Seat::default(); settings.workers.clamp(1, crate::settings::MAX_WORKERS) as usize],
            workers: Vec::new(),
            next_worker: 1,
            generation: first,
            newest_generation: first,
            reload: None,
            stopping: None,
            has_served: false,
            random: Random::new(settings.seed),
            rate: Rate::new(now),
            credit: u64::from(settings.credit.min.max(1)),
            lead: Lead::default(),
            scheduling: settings.policy.scheduling().map(Scheduling::Policy),
            shortlist: Shortlist::default(),
            recency: Recency::default(),
            handoffs: handoff::Totals::default(),
            effects: Vec::new(),
            latest: now,
            settings,
        };
        primary.settle(now);
        primary
    }

    /// Chooses workers by another policy than a built-in one.
    pub fn with_scheduling(mut self, policy: Box<dyn SchedulingPolicy>) -> Self {
        self.scheduling = Some(Scheduling::Policy(policy));
        self
    }

    /// Chooses workers by classes and rules. The settings should ask for as many workers as the classes have.
    pub fn with_router(mut self, router: Router) -> Self {
        self.scheduling = Some(Scheduling::Route(Box::new(router)));
        self
    }

    /// Takes in what happened.
    pub fn handle(&mut self, event: Event, now: Time) {
        self.latest = now;
        self.shortlist.expire();
        let readiness = self.settings.readiness;
        match event {
            Event::Spawned { worker, pid } => {
                self.with(worker, |worker, effects| worker.spawned(pid, effects))
            }
            Event::SpawnFailed { worker, reason, lasting } => self.spawn_failed(worker, reason, lasting, now),
            Event::Online { worker } => {
                self.with(worker, |worker, effects| worker.online(readiness, now, effects))
            }
            Event::Listening { worker, listener } => {
                self.with(worker, |worker, effects| worker.listening(listener, readiness, now, effects));
                self.level_recent(worker);
            }
            Event::StoppedListening { worker, listener } => {
                self.with(worker, |worker, effects| worker.stopped_listening(listener, effects));
            }
            Event::Ready { worker } => {
                self.with(worker, |worker, effects| worker.ready(readiness, now, effects));
                self.level_recent(worker);
            }
            Event::Mistaken { worker } => self.with(worker, |worker, effects| worker.mistaken(effects)),
            Event::Leaving { worker } => self.part(worker, Asked::ByItself, now),
            Event::Disconnected { worker } => {
                let grace = self.grace(now);
                self.with(worker, |worker, effects| worker.disconnected(grace, effects));
            }
            Event::Exited { worker, status } => self.exited(worker, status, now),
            Event::Memory { worker, resident } => self.weigh(worker, resident, now),
            Event::Disconnect { worker } => self.part(worker, Asked::ByUs, now),
            Event::DisconnectAll => self.disconnect_all(now),
            Event::Kill { worker, signal } => {
                self.with(worker, |worker, effects| {
                    effects.push(Effect::Signal { worker: worker.id, signal })
                });
            }
            Event::Reload => self.start_reload(),
            Event::Scale { workers } => self.scale(workers, now),
            Event::Stop { urgency } => self.stop(urgency, now),
        }
        self.settle(now);
    }

    /// Does what is due. Tell the primary the latest counters by [`observe`](Self::observe) first: a worker is
    /// judged by what was known of it then, and whoever was not looked at since is not judged; the deadline stays due.
    pub fn handle_deadline(&mut self, now: Time) {
        self.latest = now;
        self.shortlist.expire();
        self.stop_lingering(now);
        for place in 0..self.workers.len() {
            let worker = &self.workers[place];
            if worker.is_ready() {
                self.check_age(place, now);
                self.check_hung(place, now);
            } else if worker.deadline().is_some_and(|until| now >= until) {
                self.overdue(place, now);
            }
        }
        self.settle(now);
    }

    /// When [`handle_deadline`](Self::handle_deadline) is due next, should nothing happen before.
    pub fn next_deadline(&self) -> Option<Time> {
        if self.is_finished() {
            return None;
        }
        let workers = self.workers.iter().flat_map(|worker| self.deadlines_of(worker)).flatten();
        let seats = self.seats.iter().filter_map(|seat| match seat.vacancy {
            Vacancy::Until(until) if self.stopping.is_none() => Some(until),
            Vacancy::Until(_) | Vacancy::Open | Vacancy::Done | Vacancy::Errored => None,
        });
        let stop = self.stopping.and_then(|stopping| match stopping {
            Stopping::Lingering { until } => Some(until),
            Stopping::Disconnecting | Stopping::Draining | Stopping::Fast => None,
        });
        workers.chain(seats).chain(stop).chain(self.recycling_deadline()).min()
    }

    fn deadlines_of(&self, worker: &Worker) -> [Option<Time>; 4] {
        let ready = worker.is_ready();
        let handoff = worker.handoffs.deadline(self.settings.deadlines.handoff).filter(|_| ready);
        let silent =
            worker.handoffs.silent_since().zip(self.settings.hung).map(|(since, patience)| since + patience);
        [worker.deadline(), handoff, silent.filter(|_| ready), worker.retires_at()]
    }

    /// What is to be done, in order. Empty until something happens.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Whether there is nothing left to do, ever: no worker lives and none will be started.
    pub fn is_finished(&self) -> bool {
        let given_up = |seat: &Seat| matches!(seat.vacancy, Vacancy::Done | Vacancy::Errored);
        self.workers.is_empty()
            && (self.stopping.is_some() || !self.seats.is_empty() && self.seats.iter().all(given_up))
    }

    /// How it ended; meaningful once [finished](Self::is_finished).
    pub fn outcome(&self) -> Outcome {
        let errored = |seat: &Seat| seat.vacancy == Vacancy::Errored;
        match self.stopping {
            Some(_) => Outcome::Stopped,
            None if self.seats.iter().all(errored) => Outcome::AllErrored,
            None => Outcome::Completed,
        }
    }

    /// A picture of everything, for status and metrics.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            workers: self.workers.iter().map(WorkerSnapshot::of).collect(),
            slots: self.slots_snapshot(),
            generation: self.generation,
            reloading: self.reload.map(|reload| reload.generation),
            stopping: self.stopping.is_some(),
            credit: self.credit,
            connections: self.totals(),
            classes: self.class_snapshots(),
        }
    }

    fn slots_snapshot(&self) -> Vec<SlotSnapshot> {
        let mut slots: Vec<SlotSnapshot> = (0..)
            .map(Slot::new)
            .zip(&self.seats)
            .map(|(slot, seat)| SlotSnapshot {
                slot,
                state: SlotState::of(seat.vacancy),
                failures: seat.history.failures(),
            })
            .collect();
        // Backwards, so that of two the older one shows.
        for worker in self.workers.iter().rev().filter(|worker| worker.holds_slot()) {
            if let Some(slot) = slots.get_mut(worker.slot.get() as usize) {
                slot.state = SlotState::Filled(worker.id);
            }
        }
        slots
    }

    fn place(&self, worker: WorkerId) -> Option<usize> {
        self.workers.binary_search_by_key(&worker, |worker| worker.id).ok()
    }

    /// Does something to a worker, if it is still there.
    fn with(&mut self, worker: WorkerId, change: impl FnOnce(&mut Worker, &mut Vec<Effect>)) {
        if let Some(place) = self.place(worker) {
            change(&mut self.workers[place], &mut self.effects);
        }
    }

    fn notify(&mut self, notice: Notice) {
        self.effects.push(Effect::Notify(notice));
    }

    /// Whether somebody sits in the slot, or it is not decided yet who follows.
    fn is_held(&self, slot: usize) -> bool {
        self.workers.iter().any(|worker| worker.slot == Slot::new(slot as u32) && worker.holds_slot())
    }
}

#[cfg(test)]
mod tests;
