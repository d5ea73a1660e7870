//! The hot path: who gets a connection. Plain calls without a queue, and without allocation.

use std::net::SocketAddr;
use std::time::Duration;

use super::Primary;
use crate::credit;
use crate::event::Effect;
use crate::id::{ListenerKey, WorkerId};
use crate::listener::{Counters, HandOffs, Observed};
use crate::notice::Notice;
use crate::schedule::{Candidate, Candidates};
use crate::time::Time;
use crate::worker::Worker;

/// Who gets a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignment {
    /// Hand it to this worker; it counts as handed over from now on.
    To(WorkerId),
    /// Nobody is free: leave it where it is.
    Wait,
}

/// Connections of all workers that ever were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Handed over.
    pub sent: u64,
    /// Known to have been taken.
    pub taken: u64,
    /// Come back untaken.
    pub returned: u64,
    /// On their way.
    pub outstanding: u64,
    /// Neither taken nor come back when their worker was gone.
    pub lost: u64,
}

impl Totals {
    pub(super) fn departed(&mut self, gone: &HandOffs) {
        self.sent += gone.sent();
        self.taken += gone.taken();
        self.returned += gone.returned_count();
        self.lost += gone.untaken();
    }
}

impl Primary {
    /// Takes in a worker's counters. Cheap; call it for every worker before [`assign`](Self::assign).
    pub fn observe(&mut self, worker: WorkerId, counters: Counters, now: Time) {
        self.latest = now;
        let Some(place) = self.place(worker) else { return };
        let worker = &mut self.workers[place];
        match worker.handoffs.observe(counters, now) {
            Observed::Recovered if worker.is_ready() => {
                self.effects.push(Effect::Notify(Notice::Recovered { worker: worker.id }));
            }
            Observed::Recovered | Observed::Nothing => {}
        }
    }

    /// Chooses the worker for a connection that arrived on a listener.
    pub fn assign(&mut self, on: ListenerKey, from: Option<SocketAddr>, now: Time) -> Assignment {
        let assignment = self.choose(on, from, None, now);
        if let Assignment::To(_) = assignment {
            self.rate.arrived(now);
            self.credit = self.credit_at(now);
        }
        assignment
    }

    /// Chooses another worker for a connection that `not` would not have. It counts as no new arrival.
    pub fn assign_except(
        &mut self,
        on: ListenerKey,
        from: Option<SocketAddr>,
        not: WorkerId,
        now: Time,
    ) -> Assignment {
        self.choose(on, from, Some(not), now)
    }

    fn choose(
        &mut self,
        on: ListenerKey,
        from: Option<SocketAddr>,
        not: Option<WorkerId>,
        now: Time,
    ) -> Assignment {
        self.latest = now;
        let mut free = std::mem::take(&mut self.candidates);
        free.clear();
        let others = self.free(on, now).filter(|worker| Some(worker.id) != not);
        free.extend(others.map(|worker| Candidate {
            worker: worker.id,
            load: worker.handoffs.load(),
            live: worker.handoffs.live(),
            recent: worker.handoffs.recent,
        }));
        let picked = match &mut self.scheduling {
            Some(policy) if !free.is_empty() => policy.pick(&Candidates { free: &free, from }),
            _ => None,
        };
        let picked = picked.filter(|picked| free.iter().any(|candidate| candidate.worker == *picked));
        self.candidates = free;
        match picked {
            Some(worker) => self.hand(worker, now),
            None => Assignment::Wait,
        }
    }

    fn hand(&mut self, to: WorkerId, now: Time) -> Assignment {
        for worker in &mut self.workers {
            worker.handoffs.fade();
            if worker.id == to {
                worker.handoffs.handed(now, self.settings.deadlines.handoff);
            }
        }
        Assignment::To(to)
    }

    /// Takes back what was handed to a worker but never taken: it could not be sent, was read back, or declined. The
    /// worker is left alone for a moment, longer each time until it takes something.
    pub fn returned(&mut self, worker: WorkerId, count: u64) {
        match self.place(worker) {
            Some(place) => {
                let pauses = (self.settings.credit.withdraw_after, self.settings.deadlines.handoff);
                self.workers[place].handoffs.returned(count, self.latest, pauses);
            }
            None => {
                let count = count.min(self.handoffs.lost);
                self.handoffs.lost -= count;
                self.handoffs.returned += count;
            }
        }
    }

    /// Whether a connection on this listener would find a worker.
    pub fn anyone_free(&self, on: ListenerKey, now: Time) -> bool {
        self.scheduling.is_some() && self.free(on, now).next().is_some()
    }

    fn free(&self, on: ListenerKey, now: Time) -> impl Iterator<Item = &Worker> {
        let credit = self.credit_at(now);
        self.workers.iter().filter(move |worker| {
            worker.is_ready()
                && worker.handoffs.serves(on)
                && worker.handoffs.is_free(credit, &self.settings.credit, now)
        })
    }

    /// Workers that have not moved for a while and hold connections a free worker could serve.
    pub fn withdrawable(&self, now: Time) -> impl Iterator<Item = WorkerId> {
        let helped = move |stuck: &Worker| {
            let listeners = stuck.handoffs.listeners().iter();
            listeners.copied().any(|on| self.free(on, now).any(|free| free.id != stuck.id))
        };
        let stuck = move |worker: &&Worker| {
            worker.is_ready() && worker.handoffs.is_withdrawable(&self.settings.credit, now)
        };
        self.workers.iter().filter(stuck).filter(move |worker| helped(worker)).map(|worker| worker.id)
    }

    /// The count of `ready` at which this worker can be handed one more; [`u64::MAX`] if that never happens.
    pub fn wake_at(&self, worker: WorkerId) -> u64 {
        match self.place(worker) {
            Some(place) if self.workers[place].is_ready() => {
                self.workers[place].handoffs.wake_at(self.credit)
            }
            _ => u64::MAX,
        }
    }

    /// For how long to gather connections before accepting them; `None` when they arrive too slowly for that to pay.
    pub fn gather(&self, now: Time) -> Option<Duration> {
        credit::gather(self.rate.per_second(now), &self.settings.credit)
    }

    fn credit_at(&self, now: Time) -> u64 {
        let serving = self.workers.iter().filter(|worker| worker.is_ready()).count();
        credit::credit(self.rate.per_second(now), serving, &self.settings.credit)
    }

    /// The connections of all workers, those that are gone included.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = self.handoffs;
        for worker in &self.workers {
            totals.sent += worker.handoffs.sent();
            totals.taken += worker.handoffs.taken();
            totals.returned += worker.handoffs.returned_count();
            totals.outstanding += worker.handoffs.untaken();
        }
        totals
    }
}
