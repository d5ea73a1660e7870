//! Looks whether workers that do not use the library are ready, for the readiness modes that need a look.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use everycore_core::{Event as CoreEvent, WorkerId};

use super::driver::Driver;
use super::probe::Sight;
use super::{Readiness, notify, probe};

/// The first look comes soon, the next ones less and less often.
const LOOK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// A program that shows nothing counts as ready after this long.
const STAYS_UP: Duration = Duration::from_secs(1);

/// A program that counts as ready because it stayed up is looked at for this long, whether it serves after all.
const STARTS_LATE: Duration = Duration::from_secs(60);

/// Notifications read before others get their turn.
const TURN: usize = 64;

/// Workers that are looked at.
#[derive(Default)]
pub(super) struct Readying {
    workers: BTreeMap<WorkerId, Look>,
    /// Some worker was seen to serve an inherited socket. From then on one that does not yet is not ready, however long
    /// it has been up: it may be a version that takes long to start, and its predecessor serves.
    seen: bool,
}

struct Look {
    pid: u32,
    since: Instant,
    next: Instant,
    every: Duration,
    /// It uses the library and will say itself that it listens.
    joined: bool,
    /// It counts as ready already.
    ready: bool,
    /// Since when no look has told what it does.
    unknown_since: Option<Instant>,
}

impl Readying {
    pub(super) fn started(&mut self, worker: WorkerId, pid: u32) {
        let now = Instant::now();
        let look = Look {
            pid,
            since: now,
            next: now + LOOK.0,
            every: LOOK.0,
            joined: false,
            ready: false,
            unknown_since: None,
        };
        self.workers.insert(worker, look);
    }

    pub(super) fn joined(&mut self, worker: WorkerId) {
        if let Some(look) = self.workers.get_mut(&worker) {
            look.joined = true;
        }
    }

    /// It counts as ready, for whatever reason.
    pub(super) fn ready(&mut self, worker: WorkerId) {
        self.workers.retain(|id, look| *id != worker || look.ready);
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
            Readiness::Socket | Readiness::Inherited => STAYS_UP,
            Readiness::StaysUp(time) => time,
            // The others are told, by the worker or its channel.
            Readiness::Listening | Readiness::Online | Readiness::Message | Readiness::Notify => {
                self.readying.workers.clear();
                return;
            }
        };
        // One that is so busy from the first moment that it is never seen to wait must not be taken for late.
        let starts_slowly = self.deadlines.start / 2;
        let sees = !matches!(self.readiness, Readiness::StaysUp(_));
        let mut ready = Vec::new();
        let mut workers = std::mem::take(&mut self.readying.workers);
        for (worker, look) in &mut workers {
            if look.next > now {
                continue;
            }
            look.every = (look.every * 2).min(LOOK.1);
            look.next = now + look.every;
            if look.joined && sees {
                continue;
            }
            let sight = if sees { self.sight(*worker, look.pid) } else { Sight::Unknown };
            self.readying.seen |= sight == Sight::Served;
            let must_serve = self.readiness == Readiness::Inherited || self.readying.seen;
            let up = now.duration_since(look.since);
            look.unknown_since = match sight {
                Sight::Unknown => look.unknown_since.or(Some(now)),
                Sight::Held | Sight::Served => None,
            };
            let unknown = look.unknown_since.map_or(Duration::ZERO, |since| now.duration_since(since));
            let counts = match sight {
                Sight::Served => true,
                Sight::Held if must_serve => up >= starts_slowly,
                // A single look may have come at the wrong moment.
                Sight::Unknown if must_serve => unknown >= stays_up,
                Sight::Held | Sight::Unknown => up >= stays_up,
            };
            if counts && !look.ready {
                look.ready = true;
                ready.push(*worker);
            }
        }
        // Whether it serves after all matters as long as no worker has been seen to.
        let matters = sees && !self.readying.seen;
        workers.retain(|_, look| !look.ready || matters && now.duration_since(look.since) < STARTS_LATE);
        self.readying.workers = workers;
        for worker in ready {
            self.order(CoreEvent::Ready { worker });
        }
    }

    /// Before a reload: whether those who are to be replaced wait on their sockets says what their successors have to do.
    pub(super) fn look_at_predecessors(&mut self) {
        if matches!(self.readiness, Readiness::Socket | Readiness::Inherited) && !self.readying.seen {
            let pids = self.members.iter().filter_map(|(worker, member)| Some((*worker, member.info.pid?)));
            self.readying.seen =
                pids.into_iter().any(|(worker, pid)| self.sight(worker, pid) == Sight::Served);
        }
    }

    /// What a program does with the sockets it has inherited, at best.
    fn sight(&self, worker: WorkerId, pid: u32) -> Sight {
        let sockets = self.listeners.inherited_by(self.info(worker).slot);
        let inodes = sockets.filter_map(|socket| Some(rustix::fs::fstat(socket).ok()?.st_ino));
        inodes.map(|inode| probe::look(pid, inode)).max().unwrap_or(Sight::Unknown)
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
