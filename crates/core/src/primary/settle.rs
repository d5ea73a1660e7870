//! What follows from the state of things: empty slots are filled, a reload or a recycling goes one step on.

use std::time::Duration;

use super::{Primary, Reload, Vacancy};
use crate::event::Effect;
use crate::id::{Generation, Slot, WorkerId};
use crate::notice::{ExitReason, Notice};
use crate::recycle::Allowance;
use crate::reload::{self, Recycling, Step};
use crate::time::Time;
use crate::worker::Worker;

/// A worker that was never smaller than it may be is replaced no sooner than this.
const TOO_LARGE_PAUSE: Duration = Duration::from_secs(60);

impl Primary {
    /// Brings the cluster closer to what it should be. Called after everything that happens.
    pub(super) fn settle(&mut self, now: Time) {
        if self.stopping.is_some() {
            return;
        }
        self.advance_reload(now);
        self.fill(now);
        self.advance_recycling(now);
    }

    fn fill(&mut self, now: Time) {
        for slot in 0..self.seats.len() {
            let due = match self.seats[slot].vacancy {
                Vacancy::Open => true,
                Vacancy::Until(until) => now >= until,
                Vacancy::Done | Vacancy::Errored => false,
            };
            if due && !self.is_held(slot) {
                self.spawn(Slot::new(slot as u32), self.generation, now);
            }
        }
    }

    fn spawn(&mut self, slot: Slot, generation: Generation, now: Time) {
        let worker = WorkerId::new(self.next_worker);
        self.next_worker = self.next_worker.checked_add(1).expect("no primary lives for 2^32 workers");
        self.seats[slot.get() as usize].vacancy = Vacancy::Open;
        let allowance = Allowance::draw(&self.settings.recycle, &mut self.random);
        let start_until = now + self.settings.deadlines.start;
        let mut fresh = Worker::new(worker, slot, generation, now, start_until);
        fresh.allowance = allowance;
        self.workers.push(fresh);
        self.effects.push(Effect::Spawn { worker, slot, generation });
        self.notify(Notice::Fork { worker, slot, generation });
    }

    fn advance_reload(&mut self, now: Time) {
        while let Some(Reload { generation, .. }) = self.reload {
            match reload::next_step(&self.workers, self.slots(), generation, self.settings.surge.max(1)) {
                Step::Wait => return self.tell_progress(),
                Step::Replace(slot) => self.spawn(slot, generation, now),
                Step::Retire(worker) => self.retire(worker, ExitReason::Reload, now),
                Step::Done => {
                    self.tell_progress();
                    self.finish_reload(generation);
                }
            }
        }
    }

    fn tell_progress(&mut self) {
        let total = self.slots();
        if let Some(reload) = &mut self.reload {
            let done = reload::done(&self.workers, total, reload.generation);
            if done > reload.told {
                reload.told = done;
                self.notify(Notice::ReloadProgress { done, total });
            }
        }
    }

    fn finish_reload(&mut self, generation: Generation) {
        self.generation = generation;
        for seat in &mut self.seats {
            seat.history.clear();
        }
        self.notify(Notice::ReloadDone { generation });
        self.end_reload();
    }

    /// The replacements that were still starting go; everybody who serves stays.
    pub(super) fn fail_reload(&mut self, generation: Generation, reason: String, now: Time) {
        self.notify(Notice::ReloadFailed { generation, reason });
        self.end_reload();
        let useless = |worker: &&Worker| {
            let old = |other: &Worker| {
                other.slot == worker.slot && other.generation != generation && other.holds_slot()
            };
            worker.generation == generation && !worker.is_ready() && self.workers.iter().any(old)
        };
        let useless: Vec<_> = self.workers.iter().filter(useless).map(|worker| worker.id).collect();
        for worker in useless {
            self.retire(worker, ExitReason::Reload, now);
        }
    }

    fn end_reload(&mut self) {
        if self.reload.take().is_some_and(|reload| reload.again) {
            self.start_reload();
        }
    }

    /// A worker has served for as long as it may.
    pub(super) fn check_age(&mut self, place: usize, now: Time) {
        let worker = &mut self.workers[place];
        if worker.retires_at().is_some_and(|at| now >= at) {
            worker.is_to_be_replaced(ExitReason::MaxLifetime, now);
        }
    }

    /// A worker was weighed.
    pub(super) fn weigh(&mut self, worker: WorkerId, resident: u64, now: Time) {
        let limit = self.settings.recycle.memory.unwrap_or(u64::MAX);
        self.with(worker, |worker, effects| {
            let Some(most) = worker.allowance.memory.filter(|_| worker.is_ready()) else { return };
            if resident < most {
                worker.was_small = true;
            } else if worker.recycle.is_none() {
                // Its successor will be as large from the start, and so on without end.
                let postponed = (!worker.was_small).then_some(TOO_LARGE_PAUSE);
                worker.is_to_be_replaced(ExitReason::MaxRss, now + postponed.unwrap_or_default());
                effects.push(Effect::Notify(Notice::TooLarge {
                    worker: worker.id,
                    resident,
                    limit,
                    postponed,
                }));
            }
        });
    }

    fn advance_recycling(&mut self, now: Time) {
        while self.reload.is_none() {
            match reload::next_recycling(&self.workers) {
                Recycling::Start { slot, not_before } if now >= not_before => {
                    self.spawn(slot, self.generation, now)
                }
                Recycling::Retire { worker, reason } => self.retire(worker, reason, now),
                Recycling::Start { .. } | Recycling::Wait => return,
            }
        }
    }

    /// When a recycling that was postponed may be tried again.
    pub(super) fn recycling_deadline(&self) -> Option<Time> {
        match reload::next_recycling(&self.workers) {
            Recycling::Start { not_before, .. } if self.stopping.is_none() && self.reload.is_none() => {
                Some(not_before)
            }
            Recycling::Start { .. } | Recycling::Wait | Recycling::Retire { .. } => None,
        }
    }
}
