//! Classes of workers: who of them gets a connection, and what becomes of it when nobody can.

use super::handoff::{Assignment, Awaited, Scheduling};
use super::{Primary, Stopping, Vacancy};
use crate::id::{ClassKey, ListenerKey, Slot};
use crate::notice::Notice;
use crate::schedule::{Candidate, Candidates, Full, Inbound, Peer, Pick, Router};
use crate::snapshot::ClassSnapshot;
use crate::time::Time;
use crate::worker::Worker;

impl Primary {
    /// The classes and rules, where there are any.
    pub fn router(&self) -> Option<&Router> {
        match &self.scheduling {
            Some(Scheduling::Route(router)) => Some(router),
            Some(Scheduling::Policy(_)) | None => None,
        }
    }

    pub(super) fn choose_by_route(
        &mut self,
        router: &mut Router,
        on: ListenerKey,
        from: Peer,
        candidates: &Candidates<'_>,
        now: Time,
    ) -> Assignment {
        let by_address = || router.class_for(&Inbound { peer: from.address, ..Inbound::default() });
        let class = from.class.unwrap_or_else(by_address);
        let wished = match router.pick(class, candidates) {
            Pick::Free(worker) => {
                let slot = candidates.free.iter().find(|free| free.worker == worker).map(|free| free.slot);
                let is_spilled = slot.is_some_and(|slot| router.handed(class, slot));
                self.handoffs.spilled += u64::from(is_spilled);
                return self.hand(worker, now);
            }
            Pick::Nobody(wished) => wished,
        };
        let is_full = match router.when_full(class) {
            Full::Wait | Full::SpillTo(_) => false,
            Full::Refuse if candidates.overflow => true,
            Full::Refuse => {
                let mine = |other: &&Candidate| router.class_of_slot(other.slot) == class;
                // Some are free where its policy wants another one.
                let none_is_free = !candidates.free.iter().any(|free| mine(&free));
                let all_are_full = candidates.busy.iter().filter(mine).all(|busy| busy.full);
                self.is_served_by(router, on, class) && none_is_free && all_are_full
            }
        };
        if is_full || !self.is_expected(router, on, class, now) {
            return self.refuse(router, class, now);
        }
        match wished {
            _ if candidates.overflow => Assignment::Wait,
            Some(worker) => Assignment::WaitFor(Awaited::Worker(worker)),
            None => Assignment::WaitFor(Awaited::Class(class)),
        }
    }

    /// Whether anybody of the class is in rotation.
    fn is_served_by(&self, router: &Router, on: ListenerKey, class: ClassKey) -> bool {
        self.serving(on).any(|worker| router.class_of_slot(worker.slot) == class)
    }

    /// Whether somebody of the class, or of the one it spills to, serves this listener or may yet come to serve it.
    pub(super) fn is_expected(&self, router: &Router, on: ListenerKey, class: ClassKey, now: Time) -> bool {
        // A worker is ready at its first listener and may be opening others: it has as long as one that leaves.
        let patience = self.settings.deadlines.drain;
        let is_settled = |worker: &Worker| {
            let has_had_time = worker.ready_since.is_some_and(|since| now - since >= patience);
            worker.is_ready() && (worker.handoffs.has_served(on) || has_had_time)
        };
        let replaces = matches!(self.stopping, None | Some(Stopping::Lingering { .. }));
        let is_to_come = |(slot, seat): (u32, &super::Seat)| {
            let slot = Slot::new(slot);
            matches!(seat.vacancy, Vacancy::Open | Vacancy::Until(_))
                && router.serves(class, slot)
                && !self.workers.iter().any(|worker| worker.slot == slot && is_settled(worker))
        };
        self.serving(on).any(|worker| router.serves(class, worker.slot))
            || replaces && (0..).zip(&self.seats).any(is_to_come)
    }

    /// Counts a connection that was closed because the last workers leave and none is of its class.
    pub fn turn_away(&mut self, from: Peer, now: Time) {
        let class = from.class.unwrap_or(ClassKey::new(0));
        if let Some(mut scheduling) = self.scheduling.take() {
            if let Scheduling::Route(router) = &mut scheduling {
                self.refuse(router, class, now);
            }
            self.scheduling = Some(scheduling);
        }
    }

    fn refuse(&mut self, router: &mut Router, class: ClassKey, now: Time) -> Assignment {
        self.handoffs.refused += 1;
        if let Some(refused) = router.refused(class, now) {
            let class = router.name(class).to_owned();
            self.notify(Notice::Refused { class, refused });
        }
        Assignment::Refuse
    }

    pub(super) fn class_snapshots(&self) -> Vec<ClassSnapshot> {
        let Some(router) = self.router() else { return Vec::new() };
        let of = |(name, counts): (&str, _)| ClassSnapshot { name: name.to_owned(), counts };
        router.counts().map(of).collect()
    }
}
