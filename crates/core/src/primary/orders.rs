//! What somebody asked for: disconnect, scale, reload, stop.

use std::time::Duration;

use super::{Primary, Reload, Seat, Stopping};
use crate::event::Urgency;
use crate::id::{Generation, Slot, WorkerId};
use crate::notice::{ExitReason, Notice};
use crate::settings::MAX_WORKERS;
use crate::time::Time;
use crate::worker::{Asked, Worker};

impl Primary {
    /// One worker is to leave; the restart policy decides on a successor.
    pub(super) fn part(&mut self, worker: WorkerId, asked: Asked, now: Time) {
        let Some(place) = self.place(worker) else { return };
        let grace = self.grace(now);
        let worker = &mut self.workers[place];
        let held = worker.holds_slot();
        worker.disconnect(ExitReason::Disconnect, asked, grace, &mut self.effects);
        if held {
            self.left(place, now);
        }
    }

    /// Lets a worker go whose slot is seen to.
    pub(super) fn retire(&mut self, worker: WorkerId, why: ExitReason, now: Time) {
        let grace = self.grace(now);
        self.with(worker, |worker, effects| worker.disconnect(why, Asked::ByUs, grace, effects));
    }

    pub(super) fn disconnect_all(&mut self, now: Time) {
        if self.begin_stop() {
            self.stopping = Some(Stopping::Disconnecting);
            self.leave_all(ExitReason::Disconnect, now);
        }
    }

    pub(super) fn scale(&mut self, workers: u32, now: Time) {
        let workers = workers.min(MAX_WORKERS);
        if self.stopping.is_some() || workers == self.slots() {
            return;
        }
        self.seats.resize(workers as usize, Seat::default());
        self.notify(Notice::Scaled { workers });
        let surplus = |worker: &&Worker| worker.slot >= Slot::new(workers);
        let surplus: Vec<_> = self.workers.iter().filter(surplus).map(|worker| worker.id).collect();
        for worker in surplus {
            self.retire(worker, ExitReason::Scale, now);
        }
    }

    pub(super) fn start_reload(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        if let Some(reload) = &mut self.reload {
            reload.again = true;
            return;
        }
        let generation = Generation::new(self.newest_generation.get() + 1);
        self.newest_generation = generation;
        self.reload = Some(Reload { generation, told: 0, again: false });
        self.notify(Notice::ReloadStarted { generation });
    }

    pub(super) fn stop(&mut self, urgency: Urgency, now: Time) {
        let delay = self.settings.deadlines.drain_delay;
        match (self.stopping, urgency) {
            (None, Urgency::Graceful) => {
                self.begin_stop();
                self.stopping = Some(Stopping::Lingering { until: now + delay });
                self.stop_lingering(now);
            }
            (None, Urgency::Fast) => {
                self.begin_stop();
                self.terminate_all(now);
            }
            (Some(Stopping::Disconnecting), Urgency::Graceful) => self.stopping = Some(Stopping::Draining),
            (Some(Stopping::Disconnecting), Urgency::Fast) => self.terminate_all(now),
            (Some(Stopping::Lingering { .. } | Stopping::Draining), _) => self.terminate_all(now),
            (Some(Stopping::Fast), _) => self.kill_all(now),
        }
    }

    /// Whether nobody had begun one before.
    fn begin_stop(&mut self) -> bool {
        if self.stopping.is_some() {
            return false;
        }
        self.notify(Notice::Stopping);
        if let Some(Reload { generation, .. }) = self.reload.take() {
            self.notify(Notice::ReloadFailed { generation, reason: "the primary stops".into() });
        }
        true
    }

    /// Begins to drain when serving on has lasted long enough.
    pub(super) fn stop_lingering(&mut self, now: Time) {
        if let Some(Stopping::Lingering { until }) = self.stopping
            && now >= until
        {
            self.stopping = Some(Stopping::Draining);
            self.leave_all(ExitReason::Stop, now);
        }
    }

    fn leave_all(&mut self, why: ExitReason, now: Time) {
        let grace = self.grace(now);
        for worker in &mut self.workers {
            worker.disconnect(why, Asked::ByUs, grace, &mut self.effects);
        }
    }

    fn terminate_all(&mut self, now: Time) {
        self.stopping = Some(Stopping::Fast);
        self.notify(Notice::StoppingNow { kill_after: self.settings.deadlines.term });
        let grace = self.grace(now);
        for worker in &mut self.workers {
            worker.terminate(ExitReason::Stop, grace, &mut self.effects);
        }
    }

    fn kill_all(&mut self, now: Time) {
        self.notify(Notice::StoppingNow { kill_after: Duration::ZERO });
        let grace = self.grace(now);
        for worker in &mut self.workers {
            worker.kill(ExitReason::Stop, grace, &mut self.effects);
        }
    }
}
