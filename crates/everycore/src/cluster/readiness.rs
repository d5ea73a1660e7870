//! Looks whether workers that do not use the library are ready, for the readiness modes that need a look.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use everycore_core::{Event as CoreEvent, WorkerId};

use super::driver::Driver;
use super::{Readiness, notify, probe};

/// The first look comes soon, the next ones less and less often.
const LOOK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// A program that shows nothing counts as ready after this long.
const STAYS_UP: Duration = Duration::from_secs(1);

/// Notifications read before others get their turn.
const TURN: usize = 64;

/// Workers that are looked at.
#[derive(Default)]
pub(super) struct Readying {
    workers: BTreeMap<WorkerId, Look>,
}

struct Look {
    pid: u32,
    since: Instant,
    next: Instant,
    every: Duration,
    /// It uses the library and will say itself that it listens.
    joined: bool,
}

impl Readying {
    pub(super) fn started(&mut self, worker: WorkerId, pid: u32) {
        let now = Instant::now();
        self.workers
            .insert(worker, Look { pid, since: now, next: now + LOOK.0, every: LOOK.0, joined: false });
    }

    pub(super) fn joined(&mut self, worker: WorkerId) {
        if let Some(look) = self.workers.get_mut(&worker) {
            look.joined = true;
        }
    }

    pub(super) fn forget(&mut self, worker: WorkerId) {
        self.workers.remove(&worker);
    }

    pub(super) fn next_look(&self) -> Option<Instant> {
        self.workers.values().map(|look| look.next).min()
    }
}

impl Driver {
    /// Looks at every worker whose turn it is.
    pub(super) fn look_for_readiness(&mut self, now: Instant) {
        let stays_up = match self.readiness {
            Readiness::Socket => STAYS_UP,
            Readiness::StaysUp(time) => time,
            // The others are told, by the worker or its channel.
            Readiness::Listening | Readiness::Online | Readiness::Message | Readiness::Notify => {
                self.readying.workers.clear();
                return;
            }
        };
        let mut ready = Vec::new();
        for (worker, look) in &mut self.readying.workers {
            if look.next > now {
                continue;
            }
            let up = now.duration_since(look.since) >= stays_up;
            let serves = || {
                self.readiness == Readiness::Socket
                    && self.listeners.permanent().any(|(_, bound)| {
                        let inode = rustix::fs::fstat(bound.socket.as_fd()).map(|stat| stat.st_ino);
                        inode.is_ok_and(|inode| probe::serves(look.pid, inode))
                    })
            };
            let waits_for_its_word = look.joined && self.readiness == Readiness::Socket;
            if !waits_for_its_word && (up || serves()) {
                ready.push(*worker);
            }
            look.every = (look.every * 2).min(LOOK.1);
            look.next = now + look.every;
        }
        for worker in ready {
            self.readying.forget(worker);
            self.order(CoreEvent::Ready { worker });
        }
    }

    /// Hears `READY=1` from whoever is, or descends from, a worker.
    pub(super) fn read_notifications(&mut self) {
        for _ in 0..TURN {
            let Some(Ok(Some(said))) = self.notify.as_ref().map(|socket| socket.recv()) else { return };
            if !said.ready {
                continue;
            }
            let pid_of = |pid: u32| self.members.values().any(|member| member.info.pid == Some(pid));
            let Some(pid) = notify::worker_of(said.pid, pid_of) else { continue };
            let worker =
                self.members.iter().find(|(_, member)| member.info.pid == Some(pid)).map(|(id, _)| *id);
            if let Some(worker) = worker {
                self.order(CoreEvent::Ready { worker });
            }
        }
    }
}
