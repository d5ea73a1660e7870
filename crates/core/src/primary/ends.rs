//! What an ended worker, or one that begins to leave, means for its slot and for the reload it came with.

use std::time::Duration;

use super::{Primary, Reload, Seat, Vacancy};
use crate::event::Effect;
use crate::id::{Slot, WorkerId};
use crate::notice::{ExitReason, ExitStatus, Notice};
use crate::restart::{Restart, Run};
use crate::settings::RestartPolicy;
use crate::time::Time;
use crate::worker::{Grace, State, Worker};

impl Primary {
    pub(super) fn spawn_failed(&mut self, worker: WorkerId, reason: String, lasting: bool, now: Time) {
        let Some(place) = self.place(worker) else { return };
        let held = self.workers[place].holds_slot();
        self.notify(Notice::Error { worker, reason: reason.clone() });
        self.effects.push(Effect::Forget { worker });
        let gone = self.remove(place);
        if held {
            // Once it has worked, somebody may be about to put the program back in its place.
            let hopeless = lasting && !self.ever_served();
            self.judge(&gone, &format!("worker {worker} could not be started: {reason}"), hopeless, now);
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
        self.has_served |= gone.ready_since.is_some();
        self.handoffs.departed(&gone.handoffs);
        gone
    }

    /// A worker has been in its state for too long: one rung further down.
    pub(super) fn overdue(&mut self, place: usize, now: Time) {
        let grace = self.grace(now);
        let worker = &mut self.workers[place];
        let held = worker.holds_slot();
        match worker.state {
            State::Starting { .. } | State::Online { .. } => {
                let within = self.settings.deadlines.start;
                self.effects.push(Effect::Notify(Notice::Late { worker: worker.id, within }));
                worker.terminate(ExitReason::NotReady, grace, &mut self.effects);
                self.failed_in_place(place, &format!("was not ready within {within:?}"), now);
            }
            State::Listening => {}
            State::Disconnecting(_) => {
                self.effects.push(Effect::Notify(Notice::Overdue {
                    worker: worker.id,
                    within: self.settings.deadlines.drain,
                    open: worker.handoffs.live(),
                    kill_after: self.settings.deadlines.term,
                }));
                worker.terminate(ExitReason::Disconnect, grace, &mut self.effects);
                if held {
                    self.failed_in_place(place, "closed its channel and stayed", now);
                }
            }
            State::Terminating(_) | State::Killed(_) => {
                worker.kill(ExitReason::Disconnect, grace, &mut self.effects)
            }
        }
    }

    /// Judges a worker that left something untaken, or has been silent.
    pub(super) fn check_hung(&mut self, place: usize, now: Time) {
        let grace = self.grace(now);
        let worker = &mut self.workers[place];
        if worker.handoffs.check_hung(self.settings.deadlines.handoff, now) {
            self.effects.push(Effect::Notify(Notice::Hung { worker: worker.id }));
            worker.withdraw(&mut self.effects);
        }
        if let Some(patience) = self.settings.hung.filter(|&patience| worker.handoffs.is_silent_for(patience))
        {
            self.effects.push(Effect::Notify(Notice::TimedOut { worker: worker.id, after: patience }));
            worker.terminate(ExitReason::Hung, grace, &mut self.effects);
            self.failed_in_place(place, &format!("was silent for {patience:?}"), now);
        }
    }

    /// A worker failed and is on its way down the ladder.
    fn failed_in_place(&mut self, place: usize, what: &str, now: Time) {
        let worker = self.workers[place].clone();
        self.failed(&worker, &format!("worker {} {what}", worker.id), now);
    }

    pub(super) fn grace(&self, now: Time) -> Grace {
        Grace::new(&self.settings.deadlines, now)
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
        self.judge(gone, what, false, now);
    }

    fn judge(&mut self, gone: &Worker, what: &str, hopeless: bool, now: Time) {
        self.fail_reload_of(gone, what, now);
        self.postpone_recycling(gone.slot, now);
        if self.stopping.is_some() || gone.slot.get() >= self.slots() || self.has_other(gone) {
            return;
        }
        let run = gone.run(&self.settings.restart, now);
        let quick = now - gone.forked_at < self.settings.restart.healthy_after;
        self.seats[gone.slot.get() as usize].history.ended(quick);
        let restart = self.decide(gone.slot, run, now);
        let seat = &mut self.seats[gone.slot.get() as usize];
        let failures = seat.history.failures();
        match restart {
            _ if hopeless => self.give_up(gone.slot),
            Restart::After(Duration::ZERO) => seat.vacancy = Vacancy::Open,
            Restart::After(delay) => {
                seat.vacancy = Vacancy::Until(now + delay);
                match self.cannot_start() {
                    true => self.give_up_vacant(),
                    false => self.notify(Notice::RestartScheduled { slot: gone.slot, delay, failures }),
                }
            }
            Restart::GiveUp => self.give_up(gone.slot),
        }
    }

    /// Leaves a slot empty for good.
    fn give_up(&mut self, slot: Slot) {
        let Some(seat) = self.seats.get_mut(slot.get() as usize) else { return };
        if std::mem::replace(&mut seat.vacancy, Vacancy::Errored) != Vacancy::Errored {
            let (failures, period) = (seat.history.failures(), self.settings.restart.period);
            self.notify(Notice::SlotErrored { slot, failures, period });
        }
    }

    /// Whether a worker was ever ready.
    fn ever_served(&self) -> bool {
        self.has_served || self.workers.iter().any(|worker| worker.ready_since.is_some())
    }

    /// Nobody was ever ready, nobody is being tried, and every slot has failed often enough, and quickly, to tell that
    /// nobody will be.
    fn cannot_start(&self) -> bool {
        let limit = self.settings.restart.start_limit;
        let hopeless = |seat: &Seat| {
            seat.history.quick() >= limit || matches!(seat.vacancy, Vacancy::Done | Vacancy::Errored)
        };
        let is_tried = |worker: &Worker| !worker.is_leaving();
        !self.ever_served() && !self.workers.iter().any(is_tried) && self.seats.iter().all(hopeless)
    }

    /// Gives up the slots that are to be filled.
    fn give_up_vacant(&mut self) {
        let slots = 0..self.slots();
        let vacant = |slot: &u32| {
            matches!(self.seats[*slot as usize].vacancy, Vacancy::Open | Vacancy::Until(_))
                && !self.is_held(*slot as usize)
        };
        let vacant: Vec<u32> = slots.filter(vacant).collect();
        vacant.into_iter().for_each(|slot| self.give_up(Slot::new(slot)));
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
