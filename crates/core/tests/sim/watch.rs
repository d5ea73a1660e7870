//! What must be true at every moment, checked from outside after every step.
//!
//! The watch keeps its own books from the events that went in and the effects that came out, and compares them with
//! what the primary says of itself.

use std::collections::BTreeMap;

use everycore_core::*;

use super::process::{Connection, Process};
use super::world::Place;

/// What was seen of one worker.
#[derive(Clone, Debug)]
struct Seen {
    slot: Slot,
    generation: Generation,
    stage: Stage,
    ready: bool,
    /// Told to leave, on the ladder, leaving by itself, or without its channel.
    leaving: bool,
    hung: bool,
    /// Somebody ordered it to leave, or it wanted to.
    wanted_away: bool,
    recycled: bool,
    ready_at: Time,
    given: u64,
    forgotten: bool,
}

/// How far the news of a worker have got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Asked,
    Forked,
    Spawned,
    Online,
    Disconnected,
    Ended,
}

/// The books.
#[derive(Debug)]
pub(crate) struct Watch {
    settings: Settings,
    workers: Vec<Seen>,
    slots: u32,
    stopping: bool,
    reloading: Option<Generation>,
    newest: u32,
    /// Generations of workers that failed in this step.
    failed: Vec<Generation>,
    /// Who is to be sent a signal by this step's order.
    ordered: Option<WorkerId>,
}

impl Watch {
    pub(crate) fn new(settings: &Settings) -> Self {
        Watch {
            settings: settings.clone(),
            workers: Vec::new(),
            slots: settings.workers,
            stopping: false,
            reloading: None,
            newest: 1,
            failed: Vec::new(),
            ordered: None,
        }
    }

    fn seen(&mut self, worker: WorkerId) -> &mut Seen {
        self.workers
            .get_mut(worker.get() as usize - 1)
            .expect("effects are about workers that were asked for")
    }

    /// The slot of a worker.
    pub(crate) fn slot(&self, worker: WorkerId) -> Slot {
        self.workers[worker.get() as usize - 1].slot
    }

    /// An event goes in.
    pub(crate) fn hears(&mut self, event: &Event, _now: Time) {
        self.ordered = None;
        match event {
            Event::Leaving { worker } | Event::Disconnect { worker } => {
                if let Some(seen) = self.workers.get_mut(worker.get() as usize - 1) {
                    seen.wanted_away = true;
                    seen.leaving = true;
                }
            }
            Event::Kill { worker, .. } => self.ordered = Some(*worker),
            Event::Disconnected { worker } => self.seen(*worker).leaving = true,
            Event::Memory { worker, resident } => {
                // Each draws up to a tenth less.
                let most = self.settings.recycle.memory.map(|most| most - most / 10);
                if let Some(seen) = self.workers.get_mut(worker.get() as usize - 1)
                    && most.is_some_and(|most| *resident >= most)
                {
                    seen.recycled = true;
                }
            }
            Event::Spawned { .. } | Event::SpawnFailed { .. } | Event::Exited { .. } => {}
            Event::Online { .. }
            | Event::Listening { .. }
            | Event::StoppedListening { .. }
            | Event::Ready { .. }
            | Event::Mistaken { .. } => {}
            Event::DisconnectAll | Event::Reload | Event::Scale { .. } | Event::Stop { .. } => {}
        }
    }

    /// An effect comes out.
    pub(crate) fn sees(&mut self, effect: &Effect, now: Time) {
        match effect {
            Effect::Spawn { worker, slot, generation } => self.spawn(*worker, *slot, *generation),
            Effect::Disconnect { worker } => {
                assert!(self.living(*worker).ready || self.living(*worker).stage >= Stage::Online);
                self.taken_away(*worker, true, now);
            }
            Effect::Signal { worker, .. } => {
                self.living(*worker);
                // An order to send a signal does nothing else; any other is a rung of the ladder.
                if self.ordered.take() != Some(*worker) {
                    self.seen(*worker).leaving = true;
                }
            }
            Effect::Withdraw { worker } => assert!(!self.seen(*worker).forgotten, "{worker} is forgotten"),
            Effect::Forget { worker } => {
                let seen = self.seen(*worker);
                assert_eq!(seen.stage, Stage::Ended, "{worker} is forgotten before its end was told");
                assert!(!seen.forgotten, "{worker} is forgotten twice");
                seen.forgotten = true;
            }
            Effect::Notify(notice) => self.notice(notice, now),
        }
    }

    fn spawn(&mut self, worker: WorkerId, slot: Slot, generation: Generation) {
        assert_eq!(
            worker.get() as usize,
            self.workers.len() + 1,
            "ids rise by one and are never given twice"
        );
        assert!(!self.stopping, "{worker} is started although the primary stops");
        assert!(slot.get() < self.slots, "{worker} is started in slot {slot} of {}", self.slots);
        assert!(generation.get() <= self.newest, "generation {generation} was never asked for");
        if self.reloading.is_none() && self.sitting(slot) > 0 {
            // Somebody is to be replaced: one at a time, and nobody meanwhile leaves.
            assert!(
                (0..self.slots).all(|other| self.sitting(Slot::new(other)) <= 1),
                "two are replaced at once"
            );
            let leaving = |seen: &&Seen| seen.leaving && seen.stage < Stage::Ended;
            assert_eq!(
                self.workers.iter().filter(leaving).count(),
                0,
                "one is replaced while another leaves"
            );
        }
        self.workers.push(Seen {
            slot,
            generation,
            stage: Stage::Asked,
            ready: false,
            leaving: false,
            hung: false,
            wanted_away: false,
            recycled: false,
            ready_at: Time::ZERO,
            given: 0,
            forgotten: false,
        });
    }

    /// How many hold a slot and stay.
    fn sitting(&self, slot: Slot) -> usize {
        let sits = |seen: &&Seen| seen.slot == slot && !seen.leaving && seen.stage < Stage::Ended;
        self.workers.iter().filter(sits).count()
    }

    fn living(&mut self, worker: WorkerId) -> &Seen {
        let seen = self.seen(worker);
        assert!(seen.stage < Stage::Ended, "an effect for {worker}, which has ended");
        seen
    }

    /// A worker goes out of rotation by the primary's decision.
    fn taken_away(&mut self, worker: WorkerId, by_disconnect: bool, now: Time) {
        let seen = self.living(worker).clone();
        let reason = self.stopping || seen.slot.get() >= self.slots || seen.wanted_away || !by_disconnect;
        let successor = self.workers[worker.get() as usize..].iter().any(|other| {
            other.slot == seen.slot && other.ready && !other.leaving && other.stage < Stage::Ended
        });
        let replaceable =
            seen.recycled || self.has_done_enough(&seen, now) || seen.generation.get() < self.newest;
        assert!(
            !seen.ready || reason || successor && replaceable,
            "{worker} serves and is taken away although no successor is ready"
        );
        self.seen(worker).leaving = true;
    }

    /// Whether it may have used up what it drew of age or connections.
    fn has_done_enough(&self, seen: &Seen, now: Time) -> bool {
        let RecycleSettings { connections, lifetime, .. } = self.settings.recycle;
        lifetime.is_some_and(|longest| now - seen.ready_at >= longest * 3 / 4)
            || connections.is_some_and(|least| seen.given >= least)
    }

    fn notice(&mut self, notice: &Notice, now: Time) {
        match notice {
            Notice::Fork { worker, .. } => self.reaches(*worker, Stage::Forked),
            Notice::Spawned { worker, .. } => self.reaches(*worker, Stage::Spawned),
            Notice::Online { worker } => self.reaches(*worker, Stage::Online),
            Notice::Listening { worker, .. } => self.is_online(*worker),
            Notice::Ready { worker } => {
                self.is_online(*worker);
                assert!(!self.seen(*worker).ready, "{worker} becomes ready twice");
                self.seen(*worker).ready = true;
                self.seen(*worker).ready_at = now;
            }
            Notice::Disconnect { worker } => self.reaches(*worker, Stage::Disconnected),
            Notice::Exit { worker, slot, generation, status, reason, .. } => {
                let seen = self.seen(*worker).clone();
                assert_eq!(seen.stage, Stage::Disconnected, "{worker}: disconnect comes right before exit");
                assert_eq!((seen.slot, seen.generation), (*slot, *generation));
                self.reaches(*worker, Stage::Ended);
                let failed = matches!(reason, ExitReason::Signal | ExitReason::Hung | ExitReason::NotReady)
                    || *reason == ExitReason::Code && !status.is_success();
                if failed && slot.get() < self.slots {
                    self.failed.push(*generation);
                }
            }
            Notice::Error { worker, .. } => {
                assert_eq!(self.seen(*worker).stage, Stage::Forked, "{worker} cannot have been started");
                self.reaches(*worker, Stage::Ended);
            }
            Notice::Hung { worker } => {
                assert!(!self.seen(*worker).hung, "{worker} hangs twice");
                self.seen(*worker).hung = true;
            }
            Notice::Late { worker, within } => {
                assert_eq!(self.settings.deadlines.start, *within);
                assert!(!self.living(*worker).ready, "{worker} was ready");
            }
            Notice::Mistaken { worker } => {
                assert!(self.living(*worker).ready, "{worker} was not taken for ready");
                self.seen(*worker).ready = false;
            }
            Notice::Overdue { worker, within, .. } => {
                assert_eq!(self.settings.deadlines.drain, *within);
                assert!(self.seen(*worker).stage < Stage::Ended, "{worker} is gone");
            }
            Notice::TooLarge { worker, resident, .. } => {
                let most = self.settings.recycle.memory.expect("a limit");
                assert!(self.living(*worker).ready && *resident >= most - most / 10);
            }
            Notice::TimedOut { worker, after } => {
                assert_eq!(self.settings.hung, Some(*after));
                assert!(self.living(*worker).ready, "{worker} was not there to be silent");
            }
            Notice::Recovered { worker } => {
                assert!(self.seen(*worker).hung, "{worker} had not hung");
                self.seen(*worker).hung = false;
            }
            Notice::RestartScheduled { slot, delay, failures } => {
                assert!(slot.get() < self.slots && *failures > 0);
                assert!(
                    *delay <= self.settings.restart.max_delay
                        && *delay >= self.settings.restart.first_delay / 2
                );
            }
            Notice::SlotErrored { slot, failures, .. } => {
                assert!(slot.get() < self.slots);
                let nobody_was_ready = !self.workers.iter().any(|seen| seen.ready);
                assert!(
                    *failures == self.settings.restart.limit
                        || self.settings.restart.policy == RestartPolicy::Never
                        || nobody_was_ready
                );
            }
            Notice::ReloadStarted { generation } => {
                assert!(self.reloading.is_none() && !self.stopping);
                assert!(generation.get() > self.newest, "generation {generation} was used before");
                self.newest = generation.get();
                self.reloading = Some(*generation);
            }
            Notice::ReloadProgress { done, total } => {
                assert!(*done > 0 && done <= total && *total == self.slots)
            }
            Notice::ReloadDone { generation } => self.reload_done(*generation),
            Notice::ReloadFailed { generation, .. } => assert_eq!(self.reloading.take(), Some(*generation)),
            Notice::Scaled { workers } => self.slots = *workers,
            Notice::Refused { refused, .. } => assert!(*refused > 0),
            Notice::Stopping => {
                assert!(!self.stopping);
                self.stopping = true;
            }
            Notice::StoppingNow { .. } => assert!(self.stopping),
        }
    }

    fn reload_done(&mut self, generation: Generation) {
        assert_eq!(self.reloading.take(), Some(generation));
        for slot in (0..self.slots).map(Slot::new) {
            let served =
                |seen: &&Seen| seen.slot == slot && seen.ready && !seen.leaving && seen.stage < Stage::Ended;
            let serving: Vec<_> = self.workers.iter().filter(served).map(|seen| seen.generation).collect();
            assert_eq!(serving, [generation], "slot {slot} after the reload");
        }
    }

    fn reaches(&mut self, worker: WorkerId, stage: Stage) {
        let seen = self.seen(worker);
        assert!(seen.stage < stage, "{worker}: {stage:?} after {:?}", seen.stage);
        seen.stage = stage;
    }

    fn is_online(&mut self, worker: WorkerId) {
        assert_eq!(self.seen(worker).stage, Stage::Online, "{worker} is not online");
    }

    /// A connection goes to a worker.
    pub(crate) fn assigned(&mut self, worker: WorkerId, _now: Time) {
        let seen = self.living(worker);
        assert!(seen.ready, "{worker} gets a connection before it is ready");
        assert!(!seen.leaving, "{worker} gets a connection although it leaves");
        self.seen(worker).given += 1;
    }

    /// Compares the books with what the primary says of itself.
    pub(crate) fn looks(
        &mut self,
        primary: &Primary,
        processes: &BTreeMap<WorkerId, Process>,
        connections: &[Place],
        now: Time,
    ) {
        let picture = primary.snapshot();
        let deadline = primary.next_deadline();
        let living = self.workers.iter().filter(|seen| seen.stage < Stage::Ended).count();
        assert_eq!(picture.workers.len(), living, "who lives");
        assert!(deadline.is_none_or(|deadline| deadline > now || self.slots == 0 || deadline == now));
        self.look_at_workers(&picture, deadline, processes, now);
        self.look_at_slots(&picture, deadline);
        Self::look_at_connections(&picture, connections);
        assert_eq!(picture.reloading, self.reloading);
        for failed in self.failed.drain(..) {
            assert_ne!(self.reloading, Some(failed), "a replacement failed and the reload goes on");
        }
        if primary.is_finished() {
            assert_eq!(living, 0, "a finished primary has no living workers");
            assert_eq!(deadline, None, "a finished primary waits for nothing");
            assert_eq!(primary.outcome() == Outcome::Stopped, self.stopping);
        } else {
            let idle = living == 0 && deadline.is_none() && self.slots > 0;
            assert!(!idle, "nobody lives, nothing is due, and the primary is not finished");
        }
    }

    fn look_at_workers(
        &mut self,
        picture: &Snapshot,
        deadline: Option<Time>,
        processes: &BTreeMap<WorkerId, Process>,
        now: Time,
    ) {
        let ladder = self
            .settings
            .deadlines
            .start
            .max(self.settings.deadlines.drain)
            .max(self.settings.deadlines.term);
        for worker in &picture.workers {
            let seen = &mut self.workers[worker.worker.get() as usize - 1];
            match worker.phase {
                Phase::Listening => assert!(seen.ready && !seen.leaving),
                Phase::Starting | Phase::Online => assert!(!seen.ready && !seen.leaving),
                Phase::Disconnecting | Phase::Terminating | Phase::Killed => {
                    seen.leaving = true;
                    assert_eq!(
                        worker.untaken, 0,
                        "{} leaves with connections it has not taken",
                        worker.worker
                    );
                }
            }
            assert!(!worker.hung || worker.untaken <= 1, "{} hangs and holds connections", worker.worker);
            if worker.phase != Phase::Listening {
                assert!(deadline.is_some_and(|at| at <= now + ladder), "{worker:?} waits without a deadline");
            } else if worker.untaken > 0 && !worker.hung {
                assert!(deadline.is_some(), "{worker:?} waits without a deadline");
            }
            if let Some(process) = processes.get(&worker.worker) {
                assert_eq!(
                    worker.untaken,
                    process.channel.len() as u64,
                    "what is on its way to {}",
                    worker.worker
                );
            }
        }
    }

    fn look_at_slots(&self, picture: &Snapshot, deadline: Option<Time>) {
        assert_eq!(picture.slots.len(), self.slots as usize);
        let mut staying = 0;
        for slot in &picture.slots {
            let here = picture.workers.iter().filter(|worker| worker.slot == slot.slot);
            let here = here.filter(|worker| worker.phase <= Phase::Listening).count();
            staying += here;
            match slot.state {
                SlotState::Filled(_) => assert!(here <= 3, "{here} workers in one slot"),
                SlotState::Waiting(_) => assert!(here == 0 && (deadline.is_some() || self.stopping)),
                SlotState::Open => assert!(here == 0 && self.stopping, "an empty slot stays empty"),
                SlotState::Done | SlotState::Errored => assert_eq!(here, 0),
            }
        }
        let most = self.slots as usize + self.settings.surge as usize + 1;
        assert!(staying <= most, "{staying} workers for {} slots", self.slots);
    }

    /// Nothing is lost on the way: what was sent has been taken, came back, or is under way.
    fn look_at_connections(picture: &Snapshot, connections: &[Place]) {
        let Totals { sent, taken, returned, outstanding, lost, spilled, refused } = picture.connections;
        assert!(spilled <= sent);
        assert_eq!(sent, taken + returned + outstanding + lost);
        assert_eq!(lost, 0, "what a dead worker had not taken came back");
        let in_place =
            |wanted: fn(&Place) -> bool| connections.iter().filter(|place| wanted(place)).count() as u64;
        assert_eq!(refused, in_place(|place| matches!(place, Place::Refused)));
        assert_eq!(refused, picture.classes.iter().map(|class| class.counts.refused).sum::<u64>());
        assert_eq!(outstanding, in_place(|place| matches!(place, Place::Sent(_))));
        assert_eq!(taken, in_place(|place| matches!(place, Place::Taken(_) | Place::Served | Place::Lost)));
    }

    /// Where a connection may be at the end.
    pub(crate) fn is_settled(connection: &Place) -> bool {
        matches!(connection, Place::Served | Place::Lost | Place::Refused | Place::Waiting)
    }

    /// Only for messages.
    pub(crate) fn first_unsettled(connections: &[Place]) -> Option<Connection> {
        connections.iter().position(|place| !Self::is_settled(place))
    }
}
