//! The generator's loop.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use super::connection::{Connection, Phase, Progress, Room};
use super::{Failed, Failure, Length, Mark, Outcome, Pace, Plan, Reuse};
use crate::random::Random;

/// Open connections an open load may pile up before the generator stops adding: a server that far behind is lost.
const MOST: usize = 10_000;

/// How often deadlines and `stop` are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// After the end, how long to wait for what is under way.
const SETTLE: Duration = Duration::from_secs(2);

pub(super) struct Engine<'p> {
    plan: &'p Plan,
    epoll: OwnedFd,
    /// Connections under way, and between them such as wait for their next one.
    slots: Vec<Option<Connection>>,
    /// Slots with nothing under way.
    free: Vec<u32>,
    rooms: Vec<Room>,
    live: usize,
    begun: u32,
    requests: Requests,
    random: Random,
    outcome: Outcome,
    stage: Stage,
    /// Requests begun and ended since the measured time began.
    measured: (u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    WarmUp,
    Measuring {
        since: Instant,
    },
    /// Nothing new is begun.
    Settling {
        until: Instant,
    },
}

struct Requests {
    fast: Vec<u8>,
    burning: Vec<u8>,
}

impl Requests {
    fn new(plan: &Plan) -> Self {
        let close = if plan.reuse == Reuse::Short { "Connection: close\r\n" } else { "" };
        let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: bench\r\n{close}\r\n").into_bytes();
        let millis = plan.burn.map_or(0, |burn| burn.millis);
        Self { fast: request("/"), burning: request(&format!("/block?ms={millis}")) }
    }
}

impl<'p> Engine<'p> {
    pub(super) fn new(plan: &'p Plan) -> io::Result<Self> {
        // A generator that oversleeps by the usual 50 µs would add them to every latency.
        rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
        Ok(Self {
            plan,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            slots: Vec::new(),
            free: Vec::new(),
            rooms: Vec::new(),
            live: 0,
            begun: 0,
            requests: Requests::new(plan),
            random: Random::new(plan.seed),
            outcome: Outcome::default(),
            stage: Stage::WarmUp,
            measured: (0, 0),
        })
    }

    pub(super) fn run(mut self, stop: &AtomicBool, mark: &mut dyn FnMut(Mark)) -> io::Result<Outcome> {
        let began = Instant::now();
        let mut due = began;
        let mut look = began + LOOK;
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; 256];
        if self.plan.warm_up.is_zero() {
            self.measure(began, mark);
        }
        loop {
            let now = Instant::now();
            self.begin_due(&mut due, now);
            let timeout = match (self.stage, self.plan.pace) {
                (Stage::Settling { .. }, _) | (_, Pace::Closed(_)) => LOOK,
                (_, Pace::Open(_)) => LOOK.min(due.saturating_duration_since(Instant::now())),
            };
            let timeout = Timespec { tv_sec: 0, tv_nsec: timeout.subsec_nanos().into() };
            let (ready, _) = match epoll::wait(&self.epoll, &mut events[..], Some(&timeout)) {
                Ok(ready) => ready,
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            for event in ready.iter() {
                self.on_event(event.data.u64() as u32, event.flags);
            }
            let now = Instant::now();
            if self.has_ended(now, began, mark, stop) {
                return Ok(self.outcome);
            }
            if now >= look {
                look = now + LOOK;
                self.expire(now);
            }
        }
    }

    // --- time ---

    fn measure(&mut self, now: Instant, mark: &mut dyn FnMut(Mark)) {
        mark(Mark::Begin);
        self.stage = Stage::Measuring { since: now };
    }

    /// Moves from stage to stage; true when all is over.
    fn has_ended(
        &mut self,
        now: Instant,
        began: Instant,
        mark: &mut dyn FnMut(Mark),
        stop: &AtomicBool,
    ) -> bool {
        match self.stage {
            Stage::WarmUp => {
                if now.duration_since(began) >= self.plan.warm_up {
                    self.measure(now, mark);
                }
                false
            }
            Stage::Measuring { since } => {
                let enough = match self.plan.length {
                    Length::Time(length) => now.duration_since(since) >= length,
                    Length::Requests(count) => self.measured.1 >= count,
                    Length::Another(worker, limit) => {
                        self.outcome.workers.keys().any(|other| *other != worker)
                            || now.duration_since(since) >= limit
                    }
                };
                if enough || stop.load(Ordering::Relaxed) {
                    self.outcome.window = now.duration_since(since);
                    mark(Mark::End);
                    self.stage = Stage::Settling { until: now + SETTLE.min(self.plan.timeout) };
                    self.drop_idle();
                }
                false
            }
            Stage::Settling { until } => self.live == 0 || now >= until,
        }
    }

    /// A kept connection ends after the answer it waits for; see [`Self::answered`]. This is for those that wait for none.
    fn drop_idle(&mut self) {
        for index in 0..self.slots.len() {
            let connecting = |c: &Connection| c.phase == Phase::Connecting;
            if self.slots[index].as_ref().is_some_and(connecting) {
                self.close(index);
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        for index in 0..self.slots.len() {
            let overdue = |c: &Connection| c.phase != Phase::Idle && now >= c.deadline;
            if let Some(connection) = self.slots[index].as_ref().filter(|c| overdue(c)) {
                let failure = connection.timed_out();
                self.fail(index, failure);
            }
        }
    }

    // --- beginning ---

    fn begin_due(&mut self, due: &mut Instant, now: Instant) {
        if matches!(self.stage, Stage::Settling { .. }) {
            return;
        }
        match self.plan.pace {
            Pace::Closed(connections) => {
                while self.live < connections && self.may_begin() {
                    if !self.begin(Instant::now()) {
                        // Refused: come back after the next look instead of spinning.
                        break;
                    }
                }
            }
            Pace::Open(per_second) => {
                while *due <= now && self.may_begin() {
                    if self.live >= MOST {
                        self.failed(Failure::Generator, None, *due);
                    } else {
                        self.begin(*due);
                    }
                    *due += Duration::from_secs_f64(1.0 / per_second);
                }
            }
        }
    }

    /// False once as many requests as were asked for have been begun.
    fn may_begin(&self) -> bool {
        match (self.plan.length, self.stage) {
            (Length::Requests(count), Stage::Measuring { .. }) => self.measured.0 < count,
            _ => true,
        }
    }

    /// Opens a connection for a request due at `due`; false when that failed at once.
    fn begin(&mut self, due: Instant) -> bool {
        self.begun = self.begun.wrapping_add(1);
        self.measured.0 += u64::from(matches!(self.stage, Stage::Measuring { .. }));
        let target = SocketAddrV4::new(
            Ipv4Addr::from_bits(self.plan.target.ip().to_bits() + self.begun % self.plan.hosts.max(1)),
            self.plan.target.port(),
        );
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        let (waiting, turn) = (slot_of(&mut self.slots, index).take(), self.begun);
        let is_watched = waiting.is_some();
        let socket = waiting.map_or_else(|| Connection::new(turn, self.rooms.pop()), Ok);
        let connecting = socket.and_then(|mut socket| socket.begin(target).map(|()| socket));
        let mut connection = match connecting {
            Ok(connection) => connection,
            Err(failure) => {
                self.free.push(index);
                self.failed(failure, None, due);
                return false;
            }
        };
        self.draw(&mut connection, due);
        let sent = connection.send(self.request(&connection));
        if let Err(failure) = sent.and_then(|()| self.watch(index, &connection, is_watched)) {
            self.free.push(index);
            self.failed(failure, Some(&connection), due);
            return false;
        }
        *slot_of(&mut self.slots, index) = Some(connection);
        self.live += 1;
        true
    }

    /// Watches it for what it waits for. Each change is told once: an answer is read whole, and what comes later is a new
    /// change. Registered as long as its socket lives, since no event of one connection can meet the next one of its slot: a
    /// wait tells each socket once, and connections begin only when all it told has been looked at.
    fn watch(&self, index: u32, connection: &Connection, is_watched: bool) -> Result<(), Failure> {
        match (is_watched, connection.phase) {
            (false, phase) => epoll::add(&self.epoll, connection, data_of(index), flags_of(phase)),
            (true, phase @ Phase::Connecting) => {
                epoll::modify(&self.epoll, connection, data_of(index), flags_of(phase))
            }
            (true, _) => Ok(()),
        }
        .map_err(|_| Failure::Generator)
    }

    /// Decides what the connection asks for next.
    fn draw(&mut self, connection: &mut Connection, due: Instant) {
        connection.due = due;
        connection.deadline = due + self.plan.timeout;
        connection.burns = self.plan.burn.is_some_and(|burn| self.random.chance(burn.share));
    }

    fn request(&self, connection: &Connection) -> &[u8] {
        if connection.burns { &self.requests.burning } else { &self.requests.fast }
    }

    // --- events ---

    fn on_event(&mut self, index: u32, flags: epoll::EventFlags) {
        let Some(connection) = slot_of(&mut self.slots, index) else { return };
        let ending = flags.intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP);
        match connection.phase {
            // The end of its last connection.
            Phase::Idle => {}
            Phase::Connecting => self.connected(index),
            Phase::Awaiting | Phase::Ending => match connection.read(ending) {
                Progress::Pending => {}
                Progress::Answered { worker, closes } => self.answered(index, worker, closes, ending),
                Progress::Ended => self.finish(index),
                Progress::Failed(failure) => self.fail(index as usize, failure),
            },
        }
    }

    /// The handshake took longer than `connect`: now the request goes.
    fn connected(&mut self, index: u32) {
        let Some(mut connection) = slot_of(&mut self.slots, index).take() else { return };
        let sent = connection.send(self.request(&connection));
        let flags = flags_of(connection.phase);
        let watched = epoll::modify(&self.epoll, &connection, data_of(index), flags);
        *slot_of(&mut self.slots, index) = Some(connection);
        if let Err(failure) = sent.and(watched.map_err(|_| Failure::Generator)) {
            self.fail(index as usize, failure);
        }
    }

    fn answered(&mut self, index: u32, worker: u32, closes: bool, ending: bool) {
        let now = Instant::now();
        let Some(connection) = slot_of(&mut self.slots, index) else { return };
        let (latency, burns) = (now.saturating_duration_since(connection.due), connection.burns);
        if matches!(self.stage, Stage::Measuring { .. }) {
            self.outcome.answered += 1;
            self.measured.1 += 1;
            *self.outcome.workers.entry(worker).or_default() += 1;
            if burns { &mut self.outcome.burned } else { &mut self.outcome.fast }.push(latency);
        }
        let settling = matches!(self.stage, Stage::Settling { .. });
        match self.plan.reuse {
            Reuse::Short if ending => self.finish(index),
            Reuse::Short => connection.phase = Phase::Ending,
            Reuse::KeepAlive | Reuse::Careful if settling => self.close(index as usize),
            Reuse::KeepAlive | Reuse::Careful if closes || ending => self.end_well(index as usize),
            Reuse::Careful if connection.has_ended() => self.end_well(index as usize),
            Reuse::KeepAlive | Reuse::Careful => self.ask_again(index),
        }
    }

    fn ask_again(&mut self, index: u32) {
        let Some(mut connection) = slot_of(&mut self.slots, index).take() else { return };
        self.measured.0 += u64::from(matches!(self.stage, Stage::Measuring { .. }));
        self.draw(&mut connection, Instant::now());
        // What does not fit now would not fit an empty buffer later either; `send` reports it.
        let sent = connection.send(self.request(&connection));
        *slot_of(&mut self.slots, index) = Some(connection);
        if let Err(failure) = sent {
            self.fail(index as usize, failure);
        }
    }

    // --- ends ---

    fn end_well(&mut self, index: usize) {
        self.outcome.ended_well += 1;
        self.close(index);
    }

    /// Both sides have ended: the socket waits in its slot for the next connection.
    fn finish(&mut self, index: u32) {
        let Some(connection) = slot_of(&mut self.slots, index) else { return };
        if !connection.finish() {
            return self.close(index as usize);
        }
        self.free.push(index);
        self.live -= 1;
    }

    fn close(&mut self, index: usize) {
        if let Some(connection) = self.slots[index].take() {
            // Closing the only descriptor takes it out of the epoll set.
            self.rooms.push(connection.into_room());
            self.free.push(index as u32);
            self.live -= 1;
        }
    }

    fn fail(&mut self, index: usize, failure: Failure) {
        if let Some(connection) = self.slots[index].take() {
            let due = connection.due;
            self.failed(failure, Some(&connection), due);
            self.rooms.push(connection.into_room());
            self.free.push(index as u32);
            self.live -= 1;
        }
    }

    fn failed(&mut self, failure: Failure, connection: Option<&Connection>, due: Instant) {
        let measured = matches!(self.stage, Stage::Measuring { .. });
        // `NoEnd` and the like were counted when they were answered.
        let unanswered = !matches!(failure, Failure::NoEnd | Failure::ResetAfterAnswer);
        self.measured.1 += u64::from(measured && unanswered);
        self.outcome.failures.add(Failed {
            failure,
            from: connection.and_then(Connection::from),
            began: connection.map_or(due, |connection| connection.began),
            ended: Instant::now(),
        });
    }
}

/// Indices come from the free list or from our own events: they are in range.
fn slot_of(slots: &mut [Option<Connection>], index: u32) -> &mut Option<Connection> {
    &mut slots[index as usize]
}

fn data_of(index: u32) -> epoll::EventData {
    epoll::EventData::new_u64(index.into())
}

fn flags_of(phase: Phase) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
    flags.set(epoll::EventFlags::OUT, phase == Phase::Connecting);
    flags
}
