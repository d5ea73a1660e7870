//! The shell's half of the world: what effects do to processes, and how connections are spread.

use std::net::SocketAddr;
use std::time::Duration;

use everycore_core::*;

use super::process::{Behaviour, Connection, Process};
use super::world::{Deed, HTTP, Happening, Place, World};

const KILL: i32 = 9;
const TERM: i32 = 15;

/// Connections kept waiting for a worker of their own.
const WAITING_ROOM: usize = 4;

/// A few clients come again and again.
fn source(connection: Connection) -> Option<SocketAddr> {
    Some(SocketAddr::from(([10, 0, 0, (connection % 5) as u8], 1024 + connection as u16 % 1024)))
}

impl World {
    pub(crate) fn rescue(&mut self) {
        let stuck: Vec<_> = self.primary.withdrawable(self.now).collect();
        stuck.into_iter().for_each(|worker| self.read_back(worker));
    }

    pub(crate) fn spread(&mut self) {
        let mut still = Vec::new();
        for connection in std::mem::take(&mut self.waiting) {
            let from = source(connection);
            match self.assign(from, still.len() >= WAITING_ROOM) {
                Assignment::To(worker) => {
                    self.check_class(from, worker);
                    self.hand(connection, worker);
                }
                Assignment::Refuse => self.refuse(connection, from),
                Assignment::Wait | Assignment::WaitFor(_) => still.push(connection),
            }
        }
        self.waiting.append(&mut still);
    }

    fn assign(&mut self, from: Option<SocketAddr>, is_full: bool) -> Assignment {
        let free = self.primary.anyone_free(HTTP, self.now);
        let assignment = match self.primary.assign(HTTP, from, self.now) {
            Assignment::WaitFor(awaited) if is_full => {
                assert!(!self.primary.is_wait_over(awaited, HTTP, self.now), "it waits for who is free");
                self.primary.assign_overflow(HTTP, from, self.now)
            }
            assignment => assignment,
        };
        match assignment {
            Assignment::To(_) => assert!(free, "somebody busy was given a connection"),
            Assignment::Wait => {
                assert!(!free || self.route.is_some(), "free means that a connection finds somebody");
            }
            Assignment::WaitFor(_) => assert!(self.primary.may_wait()),
            Assignment::Refuse => assert!(self.route.is_some()),
        }
        assignment
    }

    /// Nobody is served by another class than its own, unless that spills.
    fn check_class(&self, from: Option<SocketAddr>, worker: WorkerId) {
        let Some((router, route)) = self.primary.router().zip(self.route.as_ref()) else { return };
        let mine = router.class_for(&Inbound { peer: from, ..Inbound::default() });
        let slot = self.watch.slot(worker);
        let theirs = router.name(router.class_of_slot(slot));
        let spills = super::history::spills_to(&route.classes()[mine.get() as usize]) == Some(theirs);
        assert!(router.name(mine) == theirs || spills, "{worker} in slot {slot} is of class {theirs}");
    }

    fn refuse(&mut self, connection: Connection, from: Option<SocketAddr>) {
        self.note(|| format!("    connection {connection} is refused"));
        self.connections[connection] = Place::Refused;
        let router = self.primary.router().expect("only a class refuses");
        let class = router.class_for(&Inbound { peer: from, ..Inbound::default() });
        let free = self.primary.snapshot().workers.into_iter().any(|worker| {
            router.class_of_slot(worker.slot) == class
                && self.primary.is_wait_over(Awaited::Worker(worker.worker), HTTP, self.now)
        });
        assert!(!free, "somebody of its class was free");
    }

    pub(crate) fn hand(&mut self, connection: Connection, worker: WorkerId) {
        self.note(|| format!("    connection {connection} to {worker}"));
        self.watch.assigned(worker, self.now);
        self.keeps_the_limits(worker);
        self.connections[connection] = Place::Sent(worker);
        let process = self.processes.get_mut(&worker).expect("a worker in rotation has a process");
        process.channel.push_back(connection);
        self.awaken(worker);
    }

    /// There is room for one more connection of this worker's.
    fn keeps_the_limits(&self, worker: WorkerId) {
        let live = |process: &Process| (process.channel.len() + process.open.len()) as u64;
        let Limits { per_worker, per_listener } = self.settings.limits;
        let (own, all) = (live(&self.processes[&worker]), self.processes.values().map(live).sum::<u64>());
        assert!(per_worker.is_none_or(|most| own < most), "{worker} has {own} connections and gets one more");
        assert!(per_listener.is_none_or(|most| all < most), "all have {all} connections and get one more");
    }

    pub(crate) fn spawn(&mut self, worker: WorkerId, generation: Generation) {
        let behaviour =
            if self.calm { Behaviour::Healthy } else { (self.script)(&mut self.dice, generation) };
        self.note(|| format!("    {worker} is {behaviour:?}"));
        if behaviour == Behaviour::Unstartable {
            let reason = "no such file".into();
            return self.after(
                Duration::ZERO,
                Happening::Heard(Event::SpawnFailed { worker, reason, lasting: false }),
            );
        }
        self.processes.insert(worker, Process::new(behaviour, self.dice.percent(80)));
        self.after(Duration::ZERO, Happening::Heard(Event::Spawned { worker, pid: 1_000 + worker.get() }));
        let start = self.dice.millis(1, 300);
        match behaviour {
            Behaviour::CrashesAtStart(status) => {
                self.after(start, Happening::Does(worker, Deed::Dies(status)))
            }
            Behaviour::NeverReady if self.settings.readiness == Readiness::Online => {}
            Behaviour::NeverReady => self.after(start, Happening::Heard(Event::Online { worker })),
            _ => self.after(start, Happening::Does(worker, Deed::Starts)),
        }
    }

    pub(crate) fn told_to_leave(&mut self, worker: WorkerId) {
        if self.processes.get(&worker).is_some_and(|process| !process.ignores_disconnect()) {
            self.goes(worker);
        }
    }

    /// A process finishes what it has and ends.
    pub(crate) fn goes(&mut self, worker: WorkerId) {
        let wait = self.dice.millis(0, 5_000);
        if let Some(process) = self.processes.get_mut(&worker) {
            process.leaving = true;
            self.after(wait, Happening::Does(worker, Deed::Dies(ExitStatus::Code(0))));
        }
    }

    pub(crate) fn signalled(&mut self, worker: WorkerId, signal: i32) {
        let Some(process) = self.processes.get(&worker) else { return };
        if signal == KILL || signal == TERM && !process.ignores_term() {
            self.soon(Happening::Does(worker, Deed::Dies(ExitStatus::Signal(signal))));
        }
    }

    pub(crate) fn read_back(&mut self, worker: WorkerId) {
        let Some(process) = self.processes.get_mut(&worker) else { return };
        let count = process.channel.len() as u64;
        for connection in std::mem::take(&mut process.channel) {
            assert_eq!(self.connections[connection], Place::Sent(worker));
            self.connections[connection] = Place::Waiting;
            self.waiting.push(connection);
        }
        self.primary.returned(worker, count);
    }

    pub(crate) fn forget(&mut self, worker: WorkerId) {
        if let Some(process) = self.processes.remove(&worker) {
            assert!(!process.alive, "worker {worker} is forgotten while it lives");
            assert!(process.channel.is_empty(), "connections are left in the channel of worker {worker}");
        }
    }
}
