//! Who may have a connection of one listener at one moment.
//!
//! The list is kept from one connection to the next, and from one turn of the loop to the next: a worker that sleeps and
//! has nothing to do is looked at again only when its counters have changed. Whatever else changes a worker has the list
//! drawn up anew, in one walk; a build with debug assertions does so each time, and compares.

use std::net::SocketAddr;

use super::Primary;
use super::handoff::Scheduling;
use crate::id::{ListenerKey, WorkerId};
use crate::schedule::{Candidate, Candidates};
use crate::time::Time;
use crate::worker::Worker;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shortlist {
    /// What it is about; `None` once something has changed.
    of: Option<ListenerKey>,
    at: Time,
    /// Workers that were ready then.
    ready: usize,
    credit: u64,
    /// By rising id.
    free: Vec<Candidate>,
    /// Those who are worth waiting for, where the policy may wait: in rotation, and not known to have stopped. By rising
    /// id.
    busy: Vec<Candidate>,
    /// Those whose standing may be another one at the next look: the time or the credit decides, or their counters have
    /// changed.
    restless: Vec<WorkerId>,
    /// One of them has to be looked at before time goes on.
    stale: bool,
}

impl Shortlist {
    /// Something has changed.
    pub(super) fn expire(&mut self) {
        self.of = None;
    }

    /// Something about this worker has changed, and nothing else.
    pub(super) fn look_again(&mut self, worker: WorkerId) {
        self.stale = true;
        self.restless.push(worker);
        self.expire_if_long();
    }

    /// With many to look at again, some of them twice, drawing up anew is cheaper.
    fn expire_if_long(&mut self) {
        if self.restless.len() > self.ready {
            self.expire();
        }
    }

    /// The credit of each worker, as of then.
    pub(super) fn credit(&self) -> u64 {
        self.credit
    }

    pub(super) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    pub(super) fn candidates(&self, from: Option<SocketAddr>, overflow: bool) -> Candidates<'_> {
        Candidates { free: &self.free, busy: &self.busy, from, overflow, credit: self.credit }
    }

    fn place(&mut self, worker: WorkerId, standing: Standing) {
        let (free, busy) = match standing {
            Standing::Free(candidate) => (Some(candidate), None),
            Standing::Busy(candidate) => (None, Some(candidate)),
            Standing::Out => (None, None),
        };
        put(&mut self.free, worker, free);
        put(&mut self.busy, worker, busy);
    }
}

/// Has a worker in a list as it is now, or no longer.
fn put(list: &mut Vec<Candidate>, worker: WorkerId, candidate: Option<Candidate>) {
    match (list.binary_search_by_key(&worker, |one| one.worker), candidate) {
        (Ok(at), Some(candidate)) => list[at] = candidate,
        (Ok(at), None) => drop(list.remove(at)),
        (Err(at), Some(candidate)) => list.insert(at, candidate),
        (Err(_), None) => {}
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
        // What all of a listener's workers hold together is each one's concern.
        if list.of != Some(on) || self.settings.limits.per_listener.is_some() {
            self.draw_up(&mut list, on, now);
            return list;
        }
        self.refresh(&mut list, now);
        if cfg!(debug_assertions) {
            let mut anew = Shortlist::default();
            self.draw_up(&mut anew, on, now);
            assert_eq!(
                (&list.free, &list.busy, &list.credit),
                (&anew.free, &anew.busy, &anew.credit),
                "whatever changes a worker expires the list"
            );
        }
        list
    }

    /// A connection has just been handed to this worker.
    pub(super) fn note_handed(&self, list: &mut Shortlist, worker: WorkerId) {
        match self.place(worker).filter(|_| list.of.is_some()) {
            Some(place) => self.reconsider(list, &self.workers[place]),
            None => list.expire(),
        }
        list.expire_if_long();
    }

    fn draw_up(&self, list: &mut Shortlist, on: ListenerKey, now: Time) {
        list.ready = self.workers.iter().filter(|worker| worker.is_ready()).count();
        (list.of, list.at, list.credit) = (Some(on), now, self.credit_for(list.ready, now));
        let room = self.has_room(on);
        list.free.clear();
        list.busy.clear();
        list.restless.clear();
        list.stale = false;
        for worker in self.serving(on) {
            match self.standing(worker, room, list.credit, now) {
                Standing::Free(candidate) => list.free.push(candidate),
                Standing::Busy(candidate) => list.busy.push(candidate),
                Standing::Out => {}
            }
            if worker.handoffs.is_restless() {
                list.restless.push(worker.id);
            }
        }
    }

    /// Makes a list of another moment one of this.
    fn refresh(&self, list: &mut Shortlist, now: Time) {
        if list.at == now && !list.stale {
            return;
        }
        (list.at, list.stale, list.credit) = (now, false, self.credit_for(list.ready, now));
        let count = list.restless.len();
        for at in 0..count {
            if let Some(place) = self.place(list.restless[at]) {
                self.reconsider(list, &self.workers[place]);
            }
        }
        list.restless.drain(..count);
    }

    fn reconsider(&self, list: &mut Shortlist, worker: &Worker) {
        let is_serving = worker.is_ready() && list.of.is_some_and(|on| worker.handoffs.serves(on));
        let standing = match is_serving {
            true => self.standing(worker, true, list.credit, list.at),
            false => Standing::Out,
        };
        list.place(worker.id, standing);
        if worker.handoffs.is_restless() {
            list.restless.push(worker.id);
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
