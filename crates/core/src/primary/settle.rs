//! What follows from the state of things: ended workers, empty slots, the next step of a reload.

use std::time::Duration;

use super::{Primary, Reload, Vacancy};
use crate::event::Effect;
use crate::id::{Generation, Slot, WorkerId};
use crate::notice::{ExitReason, ExitStatus, Notice};
use crate::reload::{self, Step};
use crate::restart::{Restart, Run};
use crate::settings::RestartPolicy;
use crate::time::Time;
use crate::worker::Worker;

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
        self.workers.push(Worker::new(worker, slot, generation, now, now + self.settings.deadlines.start));
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
    fn fail_reload(&mut self, generation: Generation, reason: String, now: Time) {
        self.notify(Notice::ReloadFailed { generation, reason });
        self.end_reload();
        let useless = |worker: &&Worker| {
            let old = |other: &Worker| {
                other.slot == worker.slot && other.generation != generation && !other.is_leaving()
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

    fn advance_recycling(&mut self, now: Time) {
        while self.reload.is_none() {
            match reload::next_recycling(&self.workers, now) {
                Step::Wait | Step::Done => return,
                Step::Replace(slot) => self.spawn(slot, self.generation, now),
                Step::Retire(worker) => {
                    let wish = self.place(worker).and_then(|place| self.workers[place].recycle);
                    self.retire(worker, wish.map_or(ExitReason::Disconnect, |wish| wish.reason), now);
                }
            }
        }
    }

    /// When a postponed recycling may be tried again.
    pub(super) fn recycle_deadline(&self, worker: &Worker) -> Option<Time> {
        let idle =
            self.stopping.is_none() && self.reload.is_none() && !self.workers.iter().any(Worker::is_leaving);
        let alone = self.workers.iter().filter(|other| other.slot == worker.slot).count() == 1;
        worker.recycle.filter(|_| idle && alone).map(|recycle| recycle.not_before)
    }

    pub(super) fn spawn_failed(&mut self, worker: WorkerId, reason: String, now: Time) {
        let Some(place) = self.place(worker) else { return };
        let held = self.workers[place].holds_slot();
        self.notify(Notice::Error { worker, reason: reason.clone() });
        self.effects.push(Effect::Forget { worker });
        let gone = self.remove(place);
        if held {
            self.failed(&gone, &format!("worker {worker} could not be started: {reason}"), now);
        }
    }

    pub(super) fn exited(&mut self, worker: WorkerId, status: ExitStatus, now: Time) {
        let Some(place) = self.place(worker) else { return };
        self.workers[place].exited(status, &mut self.effects);
        let gone = self.remove(place);
        if !gone.holds_slot() {
            return;
        }
        let what = format!("worker {worker} {status}");
        match self.settings.restart.policy {
            RestartPolicy::OnFailure | RestartPolicy::Never if status.is_success() => {
                if gone.ready_since.is_none() {
                    self.fail_reload_of(&gone, &what, now);
                }
                self.vacate(&gone, Vacancy::Done);
            }
            RestartPolicy::Always | RestartPolicy::OnFailure | RestartPolicy::Never => {
                self.failed(&gone, &what, now)
            }
        }
    }

    fn remove(&mut self, place: usize) -> Worker {
        let gone = self.workers.remove(place);
        self.handoffs.departed(&gone.handoffs);
        gone
    }

    /// A worker missed its deadline and goes down the ladder.
    pub(super) fn not_ready(&mut self, place: usize, now: Time) {
        let late = self.workers[place].clone();
        let within = self.settings.deadlines.start;
        self.failed(&late, &format!("worker {} was not ready within {within:?}", late.id), now);
    }

    /// Judges a worker that left something untaken, or has been silent.
    pub(super) fn check_hung(&mut self, place: usize, now: Time) {
        let deadlines = &self.settings.deadlines;
        let worker = &mut self.workers[place];
        if worker.handoffs.check_hung(deadlines.handoff, now) {
            self.effects.push(Effect::Notify(Notice::Hung { worker: worker.id }));
            worker.withdraw(&mut self.effects);
        }
        let Some((since, patience)) = worker.handoffs.silent_since().zip(self.settings.hung) else { return };
        if now - since >= patience {
            worker.terminate(ExitReason::Hung, (deadlines, now), &mut self.effects);
            let hung = worker.clone();
            self.failed(&hung, &format!("worker {} was silent for {patience:?}", hung.id), now);
        }
    }

    /// Somebody asked a worker to leave, and it begins to.
    pub(super) fn left(&mut self, place: usize, now: Time) {
        let gone = self.workers[place].clone();
        if gone.ready_since.is_none() {
            self.fail_reload_of(&gone, &format!("worker {} left before it was ready", gone.id), now);
        }
        match self.settings.restart.policy {
            RestartPolicy::Always => {
                // Workers that come and leave at once must not turn the primary into a fork bomb.
                let until = gone.forked_at + self.settings.restart.first_delay;
                self.vacate(&gone, if now >= until { Vacancy::Open } else { Vacancy::Until(until) });
            }
            RestartPolicy::OnFailure | RestartPolicy::Never => self.vacate(&gone, Vacancy::Done),
        }
    }

    /// A worker failed: ends the reload it belonged to, and decides on its slot.
    fn failed(&mut self, gone: &Worker, what: &str, now: Time) {
        self.fail_reload_of(gone, what, now);
        self.postpone_recycling(gone.slot, now);
        if self.stopping.is_some() || gone.slot.get() >= self.slots() || self.has_other(gone) {
            return;
        }
        let run = gone.run(&self.settings.restart, now);
        let restart = self.decide(gone.slot, run, now);
        let seat = &mut self.seats[gone.slot.get() as usize];
        let failures = seat.history.failures();
        match restart {
            Restart::After(Duration::ZERO) => seat.vacancy = Vacancy::Open,
            Restart::After(delay) => {
                seat.vacancy = Vacancy::Until(now + delay);
                self.notify(Notice::RestartScheduled { slot: gone.slot, delay, failures });
            }
            Restart::GiveUp => {
                seat.vacancy = Vacancy::Errored;
                let period = self.settings.restart.period;
                self.notify(Notice::SlotErrored { slot: gone.slot, failures, period });
            }
        }
    }

    fn decide(&mut self, slot: Slot, run: Run, now: Time) -> Restart {
        let history = &mut self.seats[slot.get() as usize].history;
        let restart = history.failed(run, now, &self.settings.restart, &mut self.random);
        match self.settings.restart.policy {
            RestartPolicy::Always | RestartPolicy::OnFailure => restart,
            RestartPolicy::Never => Restart::GiveUp,
        }
    }

    fn vacate(&mut self, gone: &Worker, vacancy: Vacancy) {
        if !self.has_other(gone)
            && let Some(seat) = self.seats.get_mut(gone.slot.get() as usize)
        {
            seat.vacancy = vacancy;
        }
    }

    /// Whether somebody else holds the slot.
    fn has_other(&self, gone: &Worker) -> bool {
        self.workers.iter().any(|other| other.id != gone.id && other.slot == gone.slot && other.holds_slot())
    }

    fn fail_reload_of(&mut self, gone: &Worker, reason: &str, now: Time) {
        if let Some(Reload { generation, .. }) = self.reload
            && generation == gone.generation
            && gone.slot.get() < self.slots()
        {
            self.fail_reload(generation, reason.into(), now);
        }
    }

    fn postpone_recycling(&mut self, slot: Slot, now: Time) {
        let not_before = now + self.settings.restart.max_delay;
        let here = self.workers.iter_mut().filter(|worker| worker.slot == slot);
        for recycle in here.filter_map(|worker| worker.recycle.as_mut()) {
            recycle.not_before = not_before;
        }
    }
}
