//! The hot path: who gets a connection. Plain calls without a queue, and without allocation.

use std::time::Duration;

use super::Primary;
use crate::credit;
use crate::event::Effect;
use crate::id::{ClassKey, ListenerKey, WorkerId};
use crate::listener::{Counters, HandOffs, Observed};
use crate::notice::{ExitReason, Notice};
use crate::schedule::{Candidate, Candidates, Peer, Router, SchedulingPolicy};
use crate::time::Time;
use crate::worker::Worker;

/// Who gets a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignment {
    /// Hand it to this worker; it counts as handed over from now on.
    To(WorkerId),
    /// Nobody is free: leave it where it is.
    Wait,
    /// Whoever is to have it is busy: keep the connection and ask again, others may go before it.
    WaitFor(Awaited),
    /// Its class is full and does not wait, or has been given up: close it. It is counted.
    Refuse,
}

/// Who is to be free before a connection can move on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Awaited {
    /// This worker.
    Worker(WorkerId),
    /// Anybody of this class, or of the one it spills to.
    Class(ClassKey),
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
    /// Neither taken nor come back when their worker was gone, or gone themselves on their way back.
    pub lost: u64,
    /// Given to another worker than their own because too many waited, or to another class because theirs was full.
    pub spilled: u64,
    /// Closed because their class was full and does not wait, or has been given up; they count nowhere else.
    pub refused: u64,
}

impl Totals {
    pub(super) fn departed(&mut self, gone: &HandOffs) {
        self.sent += gone.sent();
        self.taken += gone.taken();
        self.returned += gone.returned_count();
        self.lost += gone.untaken() + gone.lost_count();
    }
}

/// How a worker is chosen.
#[derive(Debug)]
pub(super) enum Scheduling {
    Policy(Box<dyn SchedulingPolicy>),
    Route(Box<Router>),
}

impl Scheduling {
    pub(super) fn may_wait(&self) -> bool {
        match self {
            Scheduling::Policy(policy) => policy.may_wait(),
            Scheduling::Route(_) => true,
        }
    }
}

impl Primary {
    /// Takes in a worker's counters. Cheap; call it for every worker before [`assign`](Self::assign).
    pub fn observe(&mut self, worker: WorkerId, counters: Counters, now: Time) {
        self.observe_all([(worker, counters)], now);
    }

    /// As [`observe`](Self::observe), for many; cheapest where their ids rise.
    pub fn observe_all(&mut self, counters: impl IntoIterator<Item = (WorkerId, Counters)>, now: Time) {
        self.latest = now;
        let mut next = 0;
        for (worker, counters) in counters {
            let place = match self.workers.get_mut(next) {
                Some(expected) if expected.id == worker => {
                    if expected.handoffs.saw_before(counters, now) {
                        next += 1;
                        continue;
                    }
                    Some(next)
                }
                Some(_) | None => self.place(worker),
            };
            if let Some(place) = place {
                self.observe_at(place, counters, now);
                next = place + 1;
            }
        }
    }

    fn observe_at(&mut self, place: usize, counters: Counters, now: Time) {
        let worker = &mut self.workers[place];
        match worker.handoffs.observe(counters, now) {
            Observed::Nothing => return,
            Observed::Recovered if worker.is_ready() => {
                self.effects.push(Effect::Notify(Notice::Recovered { worker: worker.id }));
            }
            Observed::Recovered | Observed::Something => {}
        }
        self.shortlist.look_again(worker.id);
        if worker.is_ready()
            && worker.allowance.connections.is_some_and(|most| worker.handoffs.taken() >= most)
        {
            worker.is_to_be_replaced(ExitReason::MaxRequests, now);
        }
    }

    /// Chooses the worker for a connection that arrived on a listener.
    pub fn assign(&mut self, on: ListenerKey, from: impl Into<Peer>, now: Time) -> Assignment {
        let assignment = self.choose(on, from.into(), false, now);
        if let Assignment::To(_) = assignment {
            self.arrived(now);
        }
        assignment
    }

    /// As [`assign`](Self::assign), when no more connections can be kept waiting: the best of those who are free.
    pub fn assign_overflow(&mut self, on: ListenerKey, from: impl Into<Peer>, now: Time) -> Assignment {
        let assignment = self.choose(on, from.into(), true, now);
        if let Assignment::To(_) = assignment {
            self.handoffs.spilled += u64::from(self.router().is_none());
            self.arrived(now);
        }
        assignment
    }

    fn arrived(&mut self, now: Time) {
        self.rate.arrived(now);
        self.credit = self.shortlist.credit();
    }

    fn choose(&mut self, on: ListenerKey, from: Peer, overflow: bool, now: Time) -> Assignment {
        self.latest = now;
        let mut list = self.take_shortlist(on, now);
        let Some(mut scheduling) = self.scheduling.take() else { return Assignment::Wait };
        let candidates = list.candidates(from.address, overflow);
        let assignment = match &mut scheduling {
            Scheduling::Policy(policy) => self.choose_by_policy(policy.as_mut(), &candidates, now),
            Scheduling::Route(router) => self.choose_by_route(router, on, from, &candidates, now),
        };
        self.scheduling = Some(scheduling);
        if let Assignment::To(worker) = assignment {
            self.note_handed(&mut list, worker);
            if self.had_nothing_before(worker) && self.lead.ran_dry(list.credit(), &self.settings.credit) {
                list.expire();
            }
            if self.recency.handed() {
                list.expire();
                self.workers.iter_mut().for_each(|worker| worker.handoffs.scale_recent());
            }
        }
        self.shortlist = list;
        assignment
    }

    fn choose_by_policy(
        &mut self,
        policy: &mut dyn SchedulingPolicy,
        candidates: &Candidates<'_>,
        now: Time,
    ) -> Assignment {
        if candidates.free.is_empty() && candidates.busy.is_empty() {
            return Assignment::Wait;
        }
        let is_among =
            |among: &[Candidate], picked| among.binary_search_by_key(picked, |one| one.worker).is_ok();
        match policy.pick(candidates) {
            Some(picked) if is_among(candidates.free, &picked) => self.hand(picked, now),
            Some(picked) if is_among(candidates.busy, &picked) => {
                Assignment::WaitFor(Awaited::Worker(picked))
            }
            Some(_) | None => Assignment::Wait,
        }
    }

    pub(super) fn hand(&mut self, to: WorkerId, now: Time) -> Assignment {
        self.count_handed(to, now);
        Assignment::To(to)
    }

    /// A worker that comes to serve has had as many of the latest connections as the others of its kind have on average: it
    /// is to take its share, and not all there are until it has caught up with what was before it.
    pub(super) fn level_recent(&mut self, newcomer: WorkerId) {
        let Some(place) = self.place(newcomer) else { return };
        let worker = &self.workers[place];
        if !worker.is_ready() || worker.handoffs.sent() > 0 {
            return;
        }
        let class = |slot| self.router().map(|router| router.class_of_slot(slot));
        let is_of_its_kind = |other: &&Worker| {
            other.id != newcomer
                && other.is_ready()
                && class(other.slot) == class(worker.slot)
                && worker.handoffs.listeners().iter().any(|on| other.handoffs.serves(*on))
        };
        let counts = self.workers.iter().filter(is_of_its_kind).map(|other| u64::from(other.handoffs.recent));
        let (sum, count) = counts.fold((0, 0), |(sum, count), recent| (sum + recent, count + 1));
        self.workers[place].handoffs.recent = sum.checked_div(count).unwrap_or(0) as u32;
    }

    fn had_nothing_before(&self, handed: WorkerId) -> bool {
        self.place(handed).is_some_and(|place| self.workers[place].handoffs.load() == 1)
    }

    fn count_handed(&mut self, to: WorkerId, now: Time) {
        if let Some(place) = self.place(to) {
            let retry = self.settings.deadlines.handoff;
            self.workers[place].handoffs.handed(self.recency.weight(), now, retry);
        }
    }

    /// Counts a connection that was handed to this worker without a choice: it holds the listener, and nobody stays that
    /// does.
    pub fn hand_to(&mut self, worker: WorkerId, now: Time) {
        self.latest = now;
        self.shortlist.expire();
        self.count_handed(worker, now);
    }

    /// Takes back what was handed to a worker but never taken: it could not be sent, was read back, or declined. The
    /// worker is left alone for a moment, longer each time until it takes something.
    pub fn returned(&mut self, worker: WorkerId, count: u64) {
        self.shortlist.expire();
        match self.place(worker) {
            Some(place) => {
                let pauses = (self.settings.credit.withdraw_after, self.settings.deadlines.handoff);
                let handoffs = &mut self.workers[place].handoffs;
                handoffs.returned(count, self.latest, pauses);
                // What it never had is not held against it.
                handoffs.recent = self.recency.without(handoffs.recent, count);
            }
            None => {
                let count = count.min(self.handoffs.lost);
                self.handoffs.lost -= count;
                self.handoffs.returned += count;
            }
        }
    }

    /// Strikes off what was handed to a worker, never taken, and is gone on its way back.
    pub fn lost(&mut self, worker: WorkerId, count: u64) {
        self.shortlist.expire();
        // Of a worker that is gone it counts as lost already.
        if let Some(place) = self.place(worker) {
            self.workers[place].handoffs.lost(count);
        }
    }

    /// Whether a connection on this listener would find a worker.
    pub fn anyone_free(&mut self, on: ListenerKey, now: Time) -> bool {
        self.shortlist = self.take_shortlist(on, now);
        self.scheduling.is_some() && self.shortlist.has_free()
    }

    /// Whether a connection on this listener would find a worker that has come down to where it is
    /// [worth waking](Self::wake_at), or that would not ring when it does.
    pub fn anyone_low(&self, on: ListenerKey, now: Time) -> bool {
        let credit = self.credit_at(now);
        self.scheduling.is_some() && self.free(on, now).any(|worker| worker.handoffs.is_low(credit))
    }

    /// Hears how a look at the connections of a listener has ended: whether some were left waiting because nobody was free
    /// for them, or there were no more.
    pub fn drained(&mut self, starved: bool) {
        if self.lead.drained(starved) {
            self.shortlist.expire();
        }
    }

    /// Whether connections may be accepted before the worker that is to have them is free.
    pub fn may_wait(&self) -> bool {
        self.scheduling.as_ref().is_some_and(Scheduling::may_wait)
    }

    /// Whether a connection of this listener that waits can move on.
    pub fn is_wait_over(&self, awaited: Awaited, on: ListenerKey, now: Time) -> bool {
        match (awaited, self.router()) {
            (Awaited::Worker(worker), _) => self.place(worker).is_some_and(|place| {
                let worker = &self.workers[place];
                let is_serving = worker.is_ready() && worker.handoffs.serves(on);
                is_serving && self.has_room(on) && self.is_free(worker, self.credit_at(now), now)
            }),
            (Awaited::Class(class), Some(router)) => {
                self.free(on, now).any(|free| router.serves(class, free.slot))
                    || !self.is_expected(router, on, class, now)
            }
            (Awaited::Class(_), None) => true,
        }
    }

    fn free(&self, on: ListenerKey, now: Time) -> impl Iterator<Item = &Worker> {
        let credit = self.credit_at(now);
        let room = self.has_room(on);
        self.serving(on).filter(move |worker| room && self.is_free(worker, credit, now))
    }

    pub(super) fn serving(&self, on: ListenerKey) -> impl Iterator<Item = &Worker> {
        self.workers.iter().filter(move |worker| worker.is_ready() && worker.handoffs.serves(on))
    }

    pub(super) fn is_free(&self, worker: &Worker, credit: u64, now: Time) -> bool {
        !self.is_full(worker) && worker.handoffs.is_free(credit, &self.settings.credit, now)
    }

    /// Whether anything bounds how many connections workers hold.
    pub fn is_limited(&self) -> bool {
        self.settings.limits != crate::settings::Limits::default()
    }

    /// Whether it holds as many connections as it may.
    pub(super) fn is_full(&self, worker: &Worker) -> bool {
        self.settings.limits.per_worker.is_some_and(|most| worker.handoffs.live() >= most)
    }

    /// Whether the listener may have another live connection. Those of workers on their way out count as well.
    pub(super) fn has_room(&self, on: ListenerKey) -> bool {
        self.settings.limits.per_listener.is_none_or(|most| {
            let serving = self.workers.iter().filter(|worker| worker.handoffs.has_served(on));
            serving.map(|worker| worker.handoffs.live()).sum::<u64>() < most
        })
    }

    /// Workers that have not moved for a while and hold connections a free worker could serve.
    pub fn withdrawable(&self, now: Time) -> impl Iterator<Item = WorkerId> {
        let helped = move |stuck: &Worker| {
            let listeners = stuck.handoffs.listeners().iter();
            listeners.copied().any(|on| self.free(on, now).any(|free| free.id != stuck.id))
        };
        // Who is to have a connection of its own and no other waits for its worker as long as that lives.
        let patient = self.may_wait();
        let stuck = move |worker: &&Worker| {
            worker.is_ready()
                && worker.handoffs.is_withdrawable(&self.settings.credit, now)
                && (!patient || worker.handoffs.is_hung())
        };
        self.workers.iter().filter(stuck).filter(move |worker| helped(worker)).map(|worker| worker.id)
    }

    /// The count of `ready` at which it is worth waking up to hand this worker more: it has done half of what it may hold.
    /// [`u64::MAX`] if that never happens.
    pub fn wake_at(&self, worker: WorkerId) -> u64 {
        match self.place(worker) {
            Some(place) if self.workers[place].is_ready() => {
                self.workers[place].handoffs.wake_at(self.credit)
            }
            _ => u64::MAX,
        }
    }

    /// The count of `closed` at which this worker can be handed one more, where a limit is what keeps it from that.
    pub fn wake_at_closed(&self, worker: WorkerId) -> Option<u64> {
        let limits = &self.settings.limits;
        let handoffs = &self.workers[self.place(worker)?].handoffs;
        let own = limits.per_worker.filter(|&most| handoffs.live() >= most);
        let everyone = handoffs.ever_served().any(|on| !self.has_room(on));
        // Whichever of its connections closes next makes room.
        (own.is_some() || everyone).then(|| handoffs.closed() + 1)
    }

    /// For how long to gather connections before accepting them; `None` when they arrive too slowly for that to pay.
    pub fn gather(&self, now: Time) -> Option<Duration> {
        credit::gather(self.rate.per_second(now), &self.settings.credit)
    }

    fn credit_at(&self, now: Time) -> u64 {
        self.credit_for(self.workers.iter().filter(|worker| worker.is_ready()).count(), now)
    }

    /// The credit where so many workers are ready.
    pub(super) fn credit_for(&self, ready: usize, now: Time) -> u64 {
        let deserved = credit::credit(self.rate.per_second(now), ready, &self.settings.credit);
        deserved.max(self.lead.credit())
    }

    /// The connections of all workers, those that are gone included.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = self.handoffs;
        for worker in &self.workers {
            totals.sent += worker.handoffs.sent();
            totals.taken += worker.handoffs.taken();
            totals.returned += worker.handoffs.returned_count();
            totals.lost += worker.handoffs.lost_count();
            totals.outstanding += worker.handoffs.untaken();
        }
        totals
    }
}
