//! A cluster to tell stories with: given, this happens, then these effects.
//!
//! Effects are compared as lines of text, orders apart from news, so that a failing test can be read.

mod classes;
mod handoff;
mod life;
mod recycle;
mod reload;
mod restart;
mod scale;
mod stop;

use std::time::Duration;

use super::*;
use crate::event::Urgency;
use crate::id::{ClassKey, ListenerKey};
use crate::listener::Counters;
use crate::notice::{ExitReason, ExitStatus, signal_name};
use crate::settings::*;

const HTTP: ListenerKey = ListenerKey::new(0);
const KILLED: ExitStatus = ExitStatus::Signal(9);
const CRASHED: ExitStatus = ExitStatus::Code(1);
const CLEAN: ExitStatus = ExitStatus::Code(0);

struct Cluster {
    primary: Primary,
    now: Time,
    lines: Vec<String>,
}

fn settings(workers: u32) -> Settings {
    Settings { workers, ..Settings::default() }.validated().unwrap()
}

fn id(worker: u32) -> WorkerId {
    WorkerId::new(worker)
}

impl Cluster {
    fn new(settings: Settings) -> Self {
        let primary = Primary::new(settings, Time::ZERO);
        let mut cluster = Cluster { primary, now: Time::ZERO, lines: Vec::new() };
        cluster.collect();
        cluster
    }

    /// A cluster whose first workers serve HTTP, and have done so for a minute.
    fn serving(settings: Settings) -> Self {
        let workers = settings.workers;
        let mut cluster = Cluster::new(settings);
        (1..=workers).for_each(|worker| cluster.serves(worker));
        cluster.passes(60_000);
        cluster.forget();
        cluster
    }

    fn serves(&mut self, worker: u32) {
        self.happens(Event::Spawned { worker: id(worker), pid: 100 + worker });
        self.happens(Event::Online { worker: id(worker) });
        self.happens(Event::Listening { worker: id(worker), listener: HTTP });
    }

    fn exits(&mut self, worker: u32, status: ExitStatus) {
        self.happens(Event::Exited { worker: id(worker), status });
    }

    /// A worker has served enough.
    fn outlives(&mut self, worker: u32, reason: ExitReason) {
        let now = self.now;
        self.primary.with(id(worker), |worker, _| worker.is_to_be_replaced(reason, now));
        self.primary.settle(self.now);
        self.collect();
    }

    fn happens(&mut self, event: Event) {
        self.primary.handle(event, self.now);
        self.collect();
    }

    /// Time passes, and every deadline in between is kept.
    fn passes(&mut self, millis: u64) {
        let then = self.now + Duration::from_millis(millis);
        while let Some(at) = self.primary.next_deadline().filter(|&at| at <= then) {
            self.now = at.max(self.now);
            self.look_again();
            self.primary.handle_deadline(self.now);
            self.collect();
            assert_ne!(self.primary.next_deadline(), Some(at), "a deadline that was handled is over");
        }
        self.now = then;
    }

    fn observe(&mut self, worker: u32, taken: u64, ready: u64, closed: u64) {
        let counters = Counters { taken, ready, closed, turn: 0, awake: false };
        self.primary.observe(id(worker), counters, self.now);
        self.collect();
    }

    /// Reads counters that have not changed.
    fn look_again(&mut self) {
        for worker in &mut self.primary.workers {
            let same = worker.handoffs.seen();
            worker.handoffs.observe(same, self.now);
        }
    }

    /// Assigns so many connections; who got them, or 0 for nobody.
    fn assign(&mut self, connections: usize) -> Vec<u32> {
        let assign = |_| match self.primary.assign(HTTP, None, self.now) {
            Assignment::To(worker) => worker.get(),
            Assignment::Wait | Assignment::WaitFor(_) | Assignment::Refuse => 0,
        };
        (0..connections).map(assign).collect()
    }

    fn collect(&mut self) {
        self.lines.extend(self.primary.take_effects().iter().map(line));
    }

    fn forget(&mut self) {
        self.lines.clear();
    }

    /// What was to be done since the last look.
    fn orders(&mut self) -> Vec<String> {
        self.take(|line| !line.starts_with("- "))
    }

    /// What was told since the last look.
    fn news(&mut self) -> Vec<String> {
        self.take(|line| line.starts_with("- "))
    }

    fn take(&mut self, wanted: fn(&String) -> bool) -> Vec<String> {
        self.lines.drain(..).filter(wanted).collect()
    }

    /// Each living worker with its phase.
    fn picture(&self) -> Vec<String> {
        let workers = self.primary.snapshot().workers;
        workers.iter().map(|worker| format!("{} {}", worker.worker, worker.phase)).collect()
    }
}

fn line(effect: &Effect) -> String {
    match effect {
        Effect::Spawn { worker, slot, generation } => format!("spawn {worker} in {slot} of {generation}"),
        Effect::Disconnect { worker } => format!("disconnect {worker}"),
        Effect::Signal { worker, signal } => format!("{} {worker}", signal_name(*signal).unwrap()),
        Effect::Withdraw { worker } => format!("withdraw {worker}"),
        Effect::Forget { worker } => format!("forget {worker}"),
        Effect::Notify(notice) => format!("- {}", news(notice)),
    }
}

fn news(notice: &Notice) -> String {
    match notice {
        Notice::Fork { worker, .. } => format!("fork {worker}"),
        Notice::Spawned { worker, pid } => format!("spawned {worker} as {pid}"),
        Notice::Online { worker } => format!("online {worker}"),
        Notice::Listening { worker, listener } => format!("listening {worker} on {listener}"),
        Notice::Ready { worker } => format!("ready {worker}"),
        Notice::Disconnect { worker } => format!("disconnect {worker}"),
        Notice::Exit { worker, status, reason, exited_after_disconnect: asked, .. } => {
            format!("exit {worker}: {reason}, {status}{}", if *asked { ", asked to" } else { "" })
        }
        Notice::Error { worker, reason } => format!("error {worker}: {reason}"),
        Notice::Hung { worker } => format!("hung {worker}"),
        Notice::Late { worker, within } => format!("{worker} was not ready within {within:?}"),
        Notice::Mistaken { worker } => format!("{worker} was never ready"),
        Notice::Overdue { worker, within, open, .. } => {
            format!("{worker} has not finished within {within:?}, {open} open")
        }
        Notice::TooLarge { worker, resident, limit, .. } => format!("{worker} uses {resident} of {limit}"),
        Notice::TimedOut { worker, after } => format!("{worker} was silent for {after:?}"),
        Notice::Recovered { worker } => format!("recovered {worker}"),
        Notice::RestartScheduled { slot, failures, .. } => format!("restart {slot} after failure {failures}"),
        Notice::SlotErrored { slot, failures, .. } => format!("slot {slot} errored after {failures}"),
        Notice::ReloadStarted { generation } => format!("reload {generation}"),
        Notice::ReloadProgress { done, total } => format!("reload {done} of {total}"),
        Notice::ReloadDone { generation } => format!("reload {generation} done"),
        Notice::ReloadFailed { generation, reason } => format!("reload {generation} failed: {reason}"),
        Notice::Scaled { workers } => format!("scaled to {workers}"),
        Notice::Refused { class, refused } => format!("{class} has refused {refused}"),
        Notice::Stopping => "stopping".into(),
        Notice::StoppingNow { kill_after } => format!("stopping now, KILL after {kill_after:?}"),
    }
}
