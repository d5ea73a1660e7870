//! The shell and its processes in virtual time: carries effects out, feeds events, spreads connections.

use std::collections::BTreeMap;
use std::time::Duration;

use everycore_core::*;

use super::adopt::Sockets;
use super::dice::Dice;
use super::process::{Behaviour, Connection, Process};
use super::watch::Watch;

/// The one listener of the simulated cluster.
pub(crate) const HTTP: ListenerKey = ListenerKey::new(0);

/// Something that will happen.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// The shell hears of it.
    Heard(Event),
    /// So many clients connect.
    Arrive(usize),
    /// A process does something.
    Does(WorkerId, Deed),
}

/// What a process does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deed {
    Starts,
    Dies(ExitStatus),
    Hangs(Option<Duration>),
    Wakes,
    Leaves,
    LosesChannel(Option<Duration>),
    Takes,
    Finishes(Connection),
    Closes(Connection),
}

/// Where a connection is. Every one is in exactly one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the kernel's backlog, or held by the shell after it came back.
    Waiting,
    /// On its way to a worker.
    Sent(WorkerId),
    Taken(WorkerId),
    Served,
    /// Its worker died with it.
    Lost,
    /// Closed: its class was full, or will never have a worker again.
    Refused,
}

/// How the workers of a generation behave.
pub(crate) type Script = fn(&mut Dice, Generation) -> Behaviour;

/// What becomes of the record of what happened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Trace {
    Off,
    Kept(Vec<String>),
    Printed,
}

/// A cluster in virtual time.
pub(crate) struct World {
    pub(crate) primary: Primary,
    pub(crate) now: Time,
    pub(crate) settings: Settings,
    /// Classes and rules, if workers are told apart.
    pub(crate) route: Option<Route>,
    pub(crate) watch: Watch,
    pub(crate) dice: Dice,
    pub(crate) connections: Vec<Place>,
    /// No more mischief: whoever starts from now on is healthy.
    pub(crate) calm: bool,
    /// How the workers of a generation behave; others roll the dice.
    pub(crate) script: Script,
    pub(crate) trace: Trace,
    pub(crate) agenda: BTreeMap<(Time, u64), Happening>,
    sequence: u64,
    last_due: Time,
    stalled: u32,
    pub(crate) processes: BTreeMap<WorkerId, Process>,
    pub(crate) waiting: Vec<Connection>,
    /// Where every slot has a socket of its own: in one history of four.
    pub(crate) sockets: Option<Sockets>,
}

impl World {
    pub(crate) fn new(
        settings: Settings,
        route: Option<Route>,
        dice: Dice,
        script: Script,
        trace: Trace,
    ) -> Self {
        let settings = settings.validated().expect("valid settings");
        let mut primary = Primary::new(settings.clone(), Time::ZERO);
        if let Some(route) = &route {
            primary = primary.with_router(Router::new(route.clone()).expect("classes that fit together"));
        }
        let reuseport = settings.seed.is_multiple_of(4);
        let mut world = World {
            primary,
            route,
            now: Time::ZERO,
            watch: Watch::new(&settings),
            settings,
            dice,
            connections: Vec::new(),
            calm: false,
            script,
            trace,
            agenda: BTreeMap::new(),
            sequence: 0,
            last_due: Time::ZERO,
            stalled: 0,
            processes: BTreeMap::new(),
            waiting: Vec::new(),
            sockets: reuseport.then(Sockets::default),
        };
        world.carry_out();
        world.look();
        world
    }

    /// Puts something on the agenda.
    pub(crate) fn after(&mut self, wait: Duration, happening: Happening) {
        self.sequence += 1;
        self.agenda.insert((self.now + wait, self.sequence), happening);
    }

    pub(crate) fn soon(&mut self, happening: Happening) {
        let wait = self.dice.micros(0, 2_000);
        self.after(wait, happening);
    }

    /// An order comes in now.
    pub(crate) fn order(&mut self, event: Event) {
        self.step(Happening::Heard(event));
    }

    /// Lets time pass until then, or until nothing more will happen.
    pub(crate) fn run_until(&mut self, then: Time) {
        while self.next().is_some_and(|at| at <= then) && !self.primary.is_finished() {
            self.advance();
        }
        self.now = self.now.max(then);
    }

    /// When the next thing happens, or is due.
    pub(crate) fn next(&self) -> Option<Time> {
        let happens = self.agenda.keys().next().map(|&(at, _)| at);
        [happens, self.primary.next_deadline()].into_iter().flatten().min()
    }

    pub(crate) fn advance(&mut self) {
        let due = self.primary.next_deadline();
        match self.agenda.first_entry() {
            Some(first) if due.is_none_or(|due| first.key().0 <= due) => {
                let ((at, _), happening) = first.remove_entry();
                self.now = self.now.max(at);
                self.step(happening);
            }
            _ => {
                let due = due.expect("something happens, or something is due");
                assert!(due >= self.now, "a deadline lies in the past: {due}, now {}", self.now);
                // One deadline may give another at once (a drain of no time), but not for ever.
                self.stalled = if due == self.last_due { self.stalled + 1 } else { 0 };
                self.last_due = due;
                assert!(self.stalled < 8, "a deadline that was handled is still due");
                self.now = due;
                self.note(|| "deadline".into());
                self.observe();
                self.primary.handle_deadline(due);
                self.settle();
            }
        }
    }

    pub(crate) fn step(&mut self, happening: Happening) {
        self.note(|| format!("{happening:?}"));
        match happening {
            Happening::Heard(event) => {
                self.watch.hears(&event, self.now);
                self.observe();
                self.primary.handle(event, self.now);
            }
            Happening::Arrive(count) => {
                let first = self.connections.len();
                self.connections.resize(first + count, Place::Waiting);
                self.waiting.extend(first..first + count);
            }
            Happening::Does(worker, deed) => self.does(worker, deed),
        }
        self.settle();
    }

    /// Carries out what follows, spreads what waits, and looks whether all is well.
    pub(crate) fn settle(&mut self) {
        self.carry_out();
        self.observe();
        self.carry_out();
        self.rescue();
        self.spread();
        self.carry_out();
        self.adopt();
        self.look();
    }

    pub(crate) fn observe(&mut self) {
        for (&worker, process) in &self.processes {
            self.primary.observe(worker, process.counters, self.now);
        }
    }

    pub(crate) fn carry_out(&mut self) {
        for effect in self.primary.take_effects() {
            self.note(|| format!("    {effect:?}"));
            self.watch.sees(&effect, self.now);
            match effect {
                Effect::Spawn { worker, generation, .. } => self.spawn(worker, generation),
                Effect::Disconnect { worker } => self.told_to_leave(worker),
                Effect::Signal { worker, signal } => self.signalled(worker, signal),
                Effect::Withdraw { worker } => self.read_back(worker),
                Effect::Forget { worker } => self.forget(worker),
                Effect::Notify(_) => {}
            }
        }
    }

    pub(crate) fn look(&mut self) {
        self.watch.looks(&self.primary, &self.processes, &self.connections, self.now);
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        match &mut self.trace {
            Trace::Off => {}
            Trace::Kept(lines) => lines.push(format!("{} {}", self.now, line())),
            Trace::Printed => println!("{} {}", self.now, line()),
        }
    }

    /// From now on nobody makes trouble.
    pub(crate) fn calm_down(&mut self) {
        self.calm = true;
        let hung: Vec<_> =
            self.processes.iter().filter(|(_, process)| process.hung).map(|(&id, _)| id).collect();
        for worker in hung {
            self.soon(Happening::Does(worker, Deed::Wakes));
        }
    }

    /// Connections that nobody has served yet, and that are not lost.
    pub(crate) fn unserved(&self) -> usize {
        self.connections
            .iter()
            .filter(|place| !matches!(place, Place::Served | Place::Lost | Place::Refused))
            .count()
    }

    /// A living worker, if there is one.
    pub(crate) fn anyone(&mut self) -> Option<WorkerId> {
        let living = self.processes.len() as u64;
        if living == 0 { None } else { self.processes.keys().nth(self.dice.below(living) as usize).copied() }
    }
}
