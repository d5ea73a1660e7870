//! Who may have a connection of one listener at one moment, drawn up in one walk over the workers.
//!
//! It is kept from one connection to the next, since a turn of the loop has many of them and only the worker that was
//! chosen differs afterwards. Whatever else changes a worker has it drawn up anew; a build with debug assertions draws it
//! up each time and compares.

use std::net::SocketAddr;

use super::Primary;
use super::handoff::Scheduling;
use crate::id::{ListenerKey, WorkerId};
use crate::schedule::{Candidate, Candidates};
use crate::time::Time;
use crate::worker::Worker;

/// See the module.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shortlist {
    /// What it is about; `None` once something has changed.
    of: Option<(ListenerKey, Time)>,
    credit: u64,
    /// By rising id.
    free: Vec<Candidate>,
    /// Those who are worth waiting for, where the policy may wait: in rotation, and not known to have stopped.
    busy: Vec<Candidate>,
}

impl Shortlist {
    /// Something has changed.
    pub(super) fn expire(&mut self) {
        self.of = None;
    }

    /// The credit of each worker, as of then.
    pub(super) fn credit(&self) -> u64 {
        self.credit
    }

    pub(super) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    pub(super) fn candidates(&self, from: Option<SocketAddr>, overflow: bool) -> Candidates<'_> {
        Candidates { free: &self.free, busy: &self.busy, from, overflow }
    }
}

/// What a worker is to a connection.
enum Standing {
    Free(Candidate),
    Busy(Candidate),
    /// Not worth waiting for, or nobody waits for one.
    Out,
}

impl Candidate {
    fn of(worker: &Worker, full: bool) -> Self {
        Candidate {
            worker: worker.id,
            slot: worker.slot,
            load: worker.handoffs.load(),
            live: worker.handoffs.live(),
            recent: worker.handoffs.recent,
            full,
        }
    }
}

impl Primary {
    /// The list for this listener and moment; to be put back.
    pub(super) fn take_shortlist(&mut self, on: ListenerKey, now: Time) -> Shortlist {
        let mut list = std::mem::take(&mut self.shortlist);
        if list.of != Some((on, now)) {
            self.draw_up(&mut list, None, on, now);
        } else if cfg!(debug_assertions) {
            let mut anew = Shortlist::default();
            self.draw_up(&mut anew, None, on, now);
            assert_eq!(list, anew, "whatever changes a worker expires the list");
        }
        list
    }

    /// The same without one of them. It will not be used again.
    pub(super) fn take_shortlist_without(&mut self, not: WorkerId, on: ListenerKey, now: Time) -> Shortlist {
        let mut list = std::mem::take(&mut self.shortlist);
        self.draw_up(&mut list, Some(not), on, now);
        list.expire();
        list
    }

    /// One of the free has just been handed a connection.
    pub(super) fn note_handed(&self, list: &mut Shortlist, worker: WorkerId, now: Time) {
        if list.of.is_none() || self.settings.limits.per_listener.is_some() {
            return list.expire();
        }
        let Ok(at) = list.free.binary_search_by_key(&worker, |free| free.worker) else {
            return list.expire();
        };
        let Some(place) = self.place(worker) else { return list.expire() };
        match self.standing(&self.workers[place], true, list.credit, now) {
            Standing::Free(candidate) => list.free[at] = candidate,
            Standing::Busy(candidate) => {
                list.free.remove(at);
                let at = list.busy.partition_point(|busy| busy.worker < worker);
                list.busy.insert(at, candidate);
            }
            Standing::Out => drop(list.free.remove(at)),
        }
    }

    fn draw_up(&self, list: &mut Shortlist, not: Option<WorkerId>, on: ListenerKey, now: Time) {
        let credit = self.credit_at(now);
        let room = self.has_room(on);
        (list.of, list.credit) = (Some((on, now)), credit);
        list.free.clear();
        list.busy.clear();
        for worker in self.serving(on).filter(|worker| Some(worker.id) != not) {
            match self.standing(worker, room, credit, now) {
                Standing::Free(candidate) => list.free.push(candidate),
                Standing::Busy(candidate) => list.busy.push(candidate),
                Standing::Out => {}
            }
        }
    }

    fn standing(&self, worker: &Worker, room: bool, credit: u64, now: Time) -> Standing {
        if room && self.is_free(worker, credit, now) {
            return Standing::Free(Candidate::of(worker, false));
        }
        let has_stopped =
            worker.handoffs.is_hung() || worker.handoffs.still(self.settings.deadlines.handoff, now);
        match self.scheduling.as_ref().is_some_and(Scheduling::may_wait) && !has_stopped {
            true => Standing::Busy(Candidate::of(worker, !room || self.is_full(worker))),
            false => Standing::Out,
        }
    }
}
