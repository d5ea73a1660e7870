//! When workers count as ready that do not say so themselves: those that use no library are looked at, and whoever sends
//! `READY=1` is heard.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::time::{Duration, Instant};

use everycore_core::{Deadlines, Event as CoreEvent, WorkerId};

use super::driver::Driver;
use super::listener::{Listeners, Members};
use super::notify::NotifySocket;
use super::probe::Sight;
use super::sources::{Sources, Wake};
use super::{Readiness, notify, probe};

/// The first look comes soon, the next ones less and less often.
const LOOK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// A program that shows nothing counts as ready after this long.
const STAYS_UP: Duration = Duration::from_secs(1);

/// A program that counts as ready because it stayed up is looked at for this long, whether it serves after all.
const STARTS_LATE: Duration = Duration::from_secs(60);

/// One that ends this soon after it was taken for ready because it stayed up, and was not seen to serve, was not ready.
const GUESS_HOLDS: Duration = Duration::from_secs(5);

/// Notifications read before others get their turn.
const TURN: usize = 64;

/// The rule, and the workers that are looked at by it.
pub(super) struct Readying {
    rule: Readiness,
    /// A program that is so busy from the first moment that it is never seen to wait counts after this long, so that it is
    /// not taken for late.
    starts_slowly: Duration,
    notify: Option<NotifySocket>,
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
    /// It was seen to serve.
    served: bool,
    /// Since when it counts as ready, without having been seen to serve.
    guessed: Option<Instant>,
    /// Since when no look has told what it does.
    unknown_since: Option<Instant>,
}

impl Readying {
    /// By this rule, with so long to start.
    pub(super) fn new(rule: Readiness, start: Duration) -> Self {
        Self { rule, starts_slowly: start / 2, notify: None, workers: BTreeMap::new(), seen: false }
    }

    /// Opens the socket for `READY=1`, where the rule is that; what workers find in `NOTIFY_SOCKET`.
    pub(super) fn bind(&mut self, sources: &Sources) -> io::Result<Option<OsString>> {
        if self.rule == Readiness::Notify {
            let socket = NotifySocket::bind()?;
            sources.add(&socket, Wake::Notify)?;
            self.notify = Some(socket);
        }
        Ok(self.notify.as_ref().map(NotifySocket::variable))
    }

    /// Whether a worker's message may say that it is ready.
    pub(super) fn is_told_by_message(&self) -> bool {
        self.rule == Readiness::Message
    }

    /// Whether what workers do with inherited sockets is what counts. One that listens through the library is ready, too.
    pub(super) fn is_seen(&self) -> bool {
        matches!(self.rule, Readiness::Socket | Readiness::Inherited)
    }

    /// How long those who are ready may still be opening what they serve beside.
    pub(super) fn patience(&self, deadlines: &Deadlines) -> Duration {
        match self.rule {
            Readiness::Listening | Readiness::Socket | Readiness::Inherited => deadlines.drain,
            // Ready says nothing of listening.
            Readiness::Online | Readiness::Message | Readiness::Notify | Readiness::StaysUp(_) => {
                deadlines.drain.max(deadlines.start)
            }
        }
    }

    pub(super) fn started(&mut self, worker: WorkerId, pid: u32, now: Instant) {
        // The other rules are told of, by the worker or its channel.
        if !self.is_seen() && !matches!(self.rule, Readiness::StaysUp(_)) {
            return;
        }
        let look = Look {
            pid,
            since: now,
            next: now + LOOK.0,
            every: LOOK.0,
            joined: false,
            served: false,
            guessed: None,
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
        self.workers.retain(|id, look| *id != worker || look.guessed.is_some());
    }

    /// Whether a worker that has just ended was taken for ready by a guess that it did not live up to.
    pub(super) fn was_mistaken(&self, worker: WorkerId, now: Instant) -> bool {
        let guessed = self.workers.get(&worker).and_then(|look| look.guessed);
        guessed.is_some_and(|since| now.duration_since(since) < GUESS_HOLDS)
    }

    pub(super) fn forget(&mut self, worker: WorkerId) {
        self.workers.remove(&worker);
    }

    pub(super) fn next_look(&self) -> Option<Instant> {
        self.workers.values().map(|look| look.next).min()
    }

    /// Looks at every worker whose turn it is; those that count as ready from now on.
    fn look(&mut self, now: Instant, sight: impl Fn(WorkerId, u32) -> Sight) -> Vec<WorkerId> {
        let sees = self.is_seen();
        let mut ready = Vec::new();
        let mut workers = std::mem::take(&mut self.workers);
        for (worker, look) in workers.iter_mut().filter(|(_, look)| look.next <= now) {
            look.every = (look.every * 2).min(LOOK.1);
            look.next = now + look.every;
            if look.joined && sees {
                continue;
            }
            let sight = if sees { sight(*worker, look.pid) } else { Sight::Unknown };
            self.seen |= sight == Sight::Served;
            if self.counts(look, sight, now) && look.guessed.is_none() {
                look.guessed = Some(now);
                ready.push(*worker);
            }
            look.served |= sight == Sight::Served;
        }
        // Whether it serves after all matters as long as no worker has been seen to, and whether it stays for a little longer.
        let matters = sees && !self.seen;
        workers.retain(|_, look| {
            let is_settled = look.served
                || !sees
                || look.guessed.is_some_and(|since| {
                    now.duration_since(since) >= GUESS_HOLDS
                        && !(matters && now.duration_since(look.since) < STARTS_LATE)
                });
            look.guessed.is_none() || !is_settled
        });
        self.workers = workers;
        ready
    }

    /// Whether a program that is seen so counts as ready.
    fn counts(&self, look: &mut Look, sight: Sight, now: Instant) -> bool {
        let stays_up = match self.rule {
            Readiness::StaysUp(time) => time,
            _ => STAYS_UP,
        };
        let must_serve = self.rule == Readiness::Inherited || self.seen;
        let up = now.duration_since(look.since);
        look.unknown_since = match sight {
            Sight::Unknown => look.unknown_since.or(Some(now)),
            Sight::Held | Sight::Served => None,
        };
        let unknown = look.unknown_since.map_or(Duration::ZERO, |since| now.duration_since(since));
        match sight {
            Sight::Served => true,
            Sight::Held if must_serve => up >= self.starts_slowly,
            // A single look may have come at the wrong moment.
            Sight::Unknown if must_serve => unknown >= stays_up,
            Sight::Held | Sight::Unknown => up >= stays_up,
        }
    }
}

impl Driver {
    pub(super) fn look_for_readiness(&mut self, now: Instant) {
        let (members, listeners) = (&self.members, &self.listeners);
        for worker in self.readying.look(now, |worker, pid| sight(members, listeners, worker, pid)) {
            self.order(CoreEvent::Ready { worker });
        }
    }

    /// Before a reload: whether those who are to be replaced wait on their sockets says what their successors have to do.
    pub(super) fn look_at_predecessors(&mut self) {
        if self.readying.is_seen() && !self.readying.seen {
            let pids = self.members.iter().filter_map(|(worker, member)| Some((*worker, member.info.pid?)));
            self.readying.seen = pids
                .into_iter()
                .any(|(worker, pid)| sight(&self.members, &self.listeners, worker, pid) == Sight::Served);
        }
    }

    /// Hears `READY=1` from whoever is, or descends from, a worker.
    pub(super) fn read_notifications(&mut self) {
        for _ in 0..TURN {
            let Some(Ok(Some(said))) = self.readying.notify.as_ref().map(|socket| socket.recv()) else {
                return;
            };
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

/// What a program does with the sockets it has inherited, at best.
fn sight(members: &Members, listeners: &Listeners, worker: WorkerId, pid: u32) -> Sight {
    let slot = members.get(&worker).map_or(0, |member| member.info.slot);
    let inodes =
        listeners.inherited_by(slot).filter_map(|socket| Some(rustix::fs::fstat(socket).ok()?.st_ino));
    inodes.map(|inode| probe::look(pid, inode)).max().unwrap_or(Sight::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(60);

    fn id(worker: u32) -> WorkerId {
        WorkerId::new(worker)
    }

    /// Until when a program that is seen so has to be up to count as ready.
    fn ready_after(readying: &mut Readying, worker: u32, sight: Sight) -> Duration {
        let began = Instant::now();
        readying.started(id(worker), worker, began);
        loop {
            let next = readying.next_look().expect("it is looked at until it is ready");
            if readying.look(next, |_, _| sight) == [id(worker)] {
                return next - began;
            }
        }
    }

    #[test]
    fn whoever_serves_is_ready_at_once_and_others_have_to_stay_up() {
        let mut readying = Readying::new(Readiness::Socket, START);
        let after = ready_after(&mut readying, 1, Sight::Held);
        assert!(after >= STAYS_UP && after <= STAYS_UP + LOOK.1);
        readying.forget(id(1));
        assert_eq!(ready_after(&mut readying, 2, Sight::Served), LOOK.0);
    }

    #[test]
    fn once_somebody_was_seen_to_serve_the_next_has_to_or_starts_slowly() {
        let mut readying = Readying::new(Readiness::Socket, START);
        ready_after(&mut readying, 1, Sight::Served);
        let after = ready_after(&mut readying, 2, Sight::Held);
        assert!(after >= START / 2 && after <= START / 2 + LOOK.1);
        let after = ready_after(&mut readying, 3, Sight::Unknown);
        assert!(after >= STAYS_UP && after <= STAYS_UP + 2 * LOOK.1);
    }

    #[test]
    fn under_inherited_it_has_to_from_the_first_on() {
        let mut readying = Readying::new(Readiness::Inherited, START);
        assert!(ready_after(&mut readying, 1, Sight::Held) >= START / 2);
    }

    #[test]
    fn a_guess_that_an_early_end_shows_to_be_false_is_taken_back() {
        let mut readying = Readying::new(Readiness::Socket, START);
        let began = Instant::now();
        let guess = ready_after(&mut readying, 1, Sight::Held);
        assert!(readying.was_mistaken(id(1), began + guess));
        assert!(!readying.was_mistaken(id(1), began + guess + GUESS_HOLDS + LOOK.1));
        // One that was seen to serve was ready, whatever becomes of it.
        let began = Instant::now();
        let served = ready_after(&mut readying, 2, Sight::Served);
        assert!(!readying.was_mistaken(id(2), began + served));
        // Who asked for a delay has asked for no more.
        let mut told = Readying::new(Readiness::StaysUp(STAYS_UP), START);
        let began = Instant::now();
        let after = ready_after(&mut told, 1, Sight::Unknown);
        assert!(!told.was_mistaken(id(1), began + after));
    }

    #[test]
    fn who_uses_the_library_says_it_and_nobody_else_is_looked_at_where_all_are_told_of() {
        let mut readying = Readying::new(Readiness::Socket, START);
        let now = Instant::now();
        readying.started(id(1), 1, now);
        readying.joined(id(1));
        assert_eq!(readying.look(now + START, |_, _| Sight::Served), []);
        readying.ready(id(1));
        assert_eq!(readying.next_look(), None);
        let mut told = Readying::new(Readiness::Listening, START);
        told.started(id(1), 1, now);
        assert_eq!(told.next_look(), None);
    }

    #[test]
    fn staying_up_is_enough_where_that_is_the_rule() {
        let long = Duration::from_secs(7);
        let mut readying = Readying::new(Readiness::StaysUp(long), START);
        let after = ready_after(&mut readying, 1, Sight::Served);
        assert!(after >= long && after <= long + LOOK.1, "what it waits on is not looked at");
    }
}
