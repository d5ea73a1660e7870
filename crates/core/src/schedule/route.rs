//! Classes of workers, and rules that send a connection to one of them.
//!
//! A [`Route`] is what was said; a [`Router`] is one that can be used. What is to happen when a class has nobody free is
//! decided in `primary/handoff.rs`, which knows who may be waited for.

mod class;
mod network;
mod rule;

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

pub use class::{Class, WhenFull};
pub use network::{Network, NetworkError};
pub use rule::{Inbound, Rule, RuleError};

use super::{Candidate, Candidates, Policy, SchedulingPolicy};
use crate::id::{ClassKey, Slot, WorkerId};
use crate::settings::MAX_WORKERS;
use crate::time::Time;

/// More classes than this are refused: one byte says which class a connection belongs to.
const MAX_CLASSES: usize = 255;

/// A class that refuses again and again says so this often.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Classes and rules, as somebody says them; [`Router::new`] checks them.
///
/// Classes take their slots in the order in which they are named: the first of them belong to the first class, and so
/// on; slots beyond the last class belong to it. A connection goes to the class of the first rule that matches, else to
/// the first class.
///
/// ```
/// use everycore_core::{Class, Policy, Route, Router, WhenFull};
///
/// let route = Route::new()
///     .class(Class::new("normal", 3))
///     .class(Class::new("special", 1).policy(Policy::RoundRobin).when_full(WhenFull::Refuse))
///     .rule("10.0.0.0/8".parse()?, "special");
/// let router = Router::new(route)?;
/// assert_eq!(router.workers(), 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Route {
    classes: Vec<Class>,
    rules: Vec<(Rule, String)>,
}

impl Route {
    /// Without classes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a class.
    #[must_use]
    pub fn class(mut self, class: Class) -> Self {
        self.classes.push(class);
        self
    }

    /// Sends connections to the class of this name. The first rule that matches counts.
    #[must_use]
    pub fn rule(mut self, rule: Rule, class: impl Into<String>) -> Self {
        self.rules.push((rule, class.into()));
        self
    }

    /// The classes so far.
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// The rules so far, with the names of their classes.
    pub fn rules(&self) -> impl Iterator<Item = (&Rule, &str)> {
        self.rules.iter().map(|(rule, class)| (rule, class.as_str()))
    }
}

/// Classes and rules that fit together.
#[derive(Debug)]
pub struct Router {
    classes: Vec<Members>,
    rules: Vec<(Rule, ClassKey)>,
    free: Vec<Candidate>,
    busy: Vec<Candidate>,
}

/// A class at work.
#[derive(Debug)]
struct Members {
    name: String,
    slots: Range<u32>,
    policy: Box<dyn SchedulingPolicy>,
    full: Full,
    counts: ClassCounts,
    /// When it was last told that the class refuses.
    told: Option<Time>,
}

/// As [`WhenFull`], with the class found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Wait,
    SpillTo(ClassKey),
    Refuse,
}

/// What became of the connections of a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassCounts {
    /// Handed to a worker of the class. One that came back and was handed over again counts twice.
    pub handed: u64,
    /// Handed to a worker of another class, since none of this one was free.
    pub spilled: u64,
    /// Closed, since the class was full or has been given up.
    pub refused: u64,
}

/// Who is to have a connection of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// Somebody who is free.
    Free(WorkerId),
    /// Nobody is free; the class's policy wants this one, if it wants any one in particular.
    Nobody(Option<WorkerId>),
}

impl Router {
    /// Fits classes and rules together.
    ///
    /// # Errors
    /// Says which of them cannot be used, and what would be right.
    pub fn new(route: Route) -> Result<Self, RouteError> {
        let Route { classes, rules } = route;
        let named = |name: &str| place(&classes, name).map(|place| ClassKey::new(place as u32));
        if classes.is_empty() || classes.len() > MAX_CLASSES {
            return Err(RouteError::Classes(classes.len()));
        }
        let mut members: Vec<Members> = Vec::with_capacity(classes.len());
        for (at, class) in classes.iter().enumerate() {
            if place(&classes, &class.name) != Some(at) || class.name.is_empty() {
                return Err(RouteError::Name(class.name.clone()));
            }
            let policy = class
                .policy
                .within_class()
                .ok_or_else(|| RouteError::Policy { class: class.name.clone(), policy: class.policy })?;
            let full = match &class.when_full {
                WhenFull::Wait => Full::Wait,
                WhenFull::Refuse => Full::Refuse,
                WhenFull::SpillTo(other) => match named(other) {
                    Some(key) if key.get() as usize != at => Full::SpillTo(key),
                    Some(_) => return Err(RouteError::SpillsToItself(class.name.clone())),
                    None => {
                        return Err(RouteError::NoSuchClass { name: other.clone(), known: names(&classes) });
                    }
                },
            };
            let first = members.last().map_or(0, |before| before.slots.end);
            let end = first.saturating_add(class.workers);
            if class.workers == 0 || end > MAX_WORKERS {
                return Err(RouteError::Workers { class: class.name.clone(), workers: class.workers });
            }
            let (name, slots, counts) = (class.name.clone(), first..end, ClassCounts::default());
            members.push(Members { name, slots, policy, full, counts, told: None });
        }
        let rules = rules
            .into_iter()
            .map(|(rule, class)| match named(&class) {
                Some(key) => Ok((rule, key)),
                None => Err(RouteError::NoSuchClass { name: class, known: names(&classes) }),
            })
            .collect::<Result<_, _>>()?;
        Ok(Router { classes: members, rules, free: Vec::new(), busy: Vec::new() })
    }

    /// Workers of all classes together.
    pub fn workers(&self) -> u32 {
        self.classes.last().map_or(0, |class| class.slots.end)
    }

    /// The class of the first rule that matches, else the first class.
    pub fn class_for(&self, inbound: &Inbound<'_>) -> ClassKey {
        let matching = self.rules.iter().find(|(rule, _)| rule.matches(inbound));
        matching.map_or(ClassKey::new(0), |(_, class)| *class)
    }

    /// The class of this name.
    pub fn class_named(&self, name: &str) -> Option<ClassKey> {
        let place = self.classes.iter().position(|class| class.name == name);
        place.map(|place| ClassKey::new(place as u32))
    }

    /// The class a slot belongs to.
    pub fn class_of_slot(&self, slot: Slot) -> ClassKey {
        let place = self.classes.iter().position(|class| class.slots.contains(&slot.get()));
        ClassKey::new(place.unwrap_or(self.classes.len() - 1) as u32)
    }

    /// The name of a class; empty where there is none.
    pub fn name(&self, class: ClassKey) -> &str {
        self.classes.get(class.get() as usize).map_or("", |class| &class.name)
    }

    /// Names and counts of all classes, in order.
    pub fn counts(&self) -> impl Iterator<Item = (&str, ClassCounts)> {
        self.classes.iter().map(|class| (class.name.as_str(), class.counts))
    }

    /// Whether a worker in this slot may have connections of the class: its own, or the one it spills to.
    pub fn serves(&self, class: ClassKey, slot: Slot) -> bool {
        let of_slot = self.class_of_slot(slot);
        of_slot == class || self.when_full(class) == Full::SpillTo(of_slot)
    }

    pub(crate) fn when_full(&self, class: ClassKey) -> Full {
        self.classes.get(class.get() as usize).map_or(Full::Wait, |class| class.full)
    }

    /// One of the class, or of the one it spills to.
    pub(crate) fn pick(&mut self, class: ClassKey, candidates: &Candidates<'_>) -> Pick {
        let is_free = |picked: &WorkerId| candidates.free.iter().any(|free| free.worker == *picked);
        let own = self.pick_in(class, candidates, candidates.overflow);
        if let Some(free) = own.filter(is_free) {
            return Pick::Free(free);
        }
        let spilled = match self.when_full(class) {
            Full::SpillTo(other) => self.pick_in(other, candidates, true).filter(is_free),
            Full::Wait | Full::Refuse => None,
        };
        spilled.map_or(Pick::Nobody(own), Pick::Free)
    }

    /// What the class's own policy says of its own workers.
    fn pick_in(&mut self, class: ClassKey, among: &Candidates<'_>, overflow: bool) -> Option<WorkerId> {
        let (mut free, mut busy) = (std::mem::take(&mut self.free), std::mem::take(&mut self.busy));
        free.clear();
        busy.clear();
        let mine = |candidate: &&Candidate| self.class_of_slot(candidate.slot) == class;
        free.extend(among.free.iter().filter(mine));
        busy.extend(among.busy.iter().filter(mine));
        let policy = &mut self.classes.get_mut(class.get() as usize)?.policy;
        let shown: &[Candidate] = if policy.may_wait() { &busy } else { &[] };
        let picked = match free.is_empty() && shown.is_empty() {
            true => None,
            false => policy.pick(&Candidates { free: &free, busy: shown, overflow, ..*among }),
        };
        (self.free, self.busy) = (free, busy);
        picked
    }

    /// A connection of the class goes to a worker in this slot; whether that is one of another class.
    pub(crate) fn handed(&mut self, class: ClassKey, to: Slot) -> bool {
        let is_spilled = self.class_of_slot(to) != class;
        if let Some(class) = self.classes.get_mut(class.get() as usize) {
            match is_spilled {
                true => class.counts.spilled += 1,
                false => class.counts.handed += 1,
            }
        }
        is_spilled
    }

    /// A connection of the class is closed; how many were so far, when that is to be told.
    pub(crate) fn refused(&mut self, class: ClassKey, now: Time) -> Option<u64> {
        let class = self.classes.get_mut(class.get() as usize)?;
        class.counts.refused += 1;
        let is_due = class.told.is_none_or(|told| now - told >= TOLD_EVERY);
        is_due.then(|| {
            class.told = Some(now);
            class.counts.refused
        })
    }
}

fn place(classes: &[Class], name: &str) -> Option<usize> {
    classes.iter().position(|class| class.name == name)
}

fn names(classes: &[Class]) -> String {
    classes.iter().map(|class| class.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Why classes and rules cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// So many classes there cannot be.
    Classes(usize),
    /// A name that is empty, or another class's already.
    Name(String),
    /// A class without workers, or one too many for all classes together.
    Workers {
        /// Which class.
        class: String,
        /// Workers it should have.
        workers: u32,
    },
    /// A class under a policy by which its workers would accept for themselves.
    Policy {
        /// Which class.
        class: String,
        /// The policy it should have.
        policy: Policy,
    },
    /// No class has this name.
    NoSuchClass {
        /// The name.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A class that would spill to itself.
    SpillsToItself(String),
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteError::Classes(0) => write!(f, "policy route needs a class of workers, and none is named"),
            RouteError::Classes(count) => {
                write!(f, "{count} classes are too many; there may be {MAX_CLASSES}")
            }
            RouteError::Name(name) if name.is_empty() => write!(f, "a class needs a name"),
            RouteError::Name(name) => {
                write!(f, "two classes are called {name:?}; give each its own name")
            }
            RouteError::Workers { class, workers: 0 } => {
                write!(f, "class {class:?} needs at least one worker")
            }
            RouteError::Workers { class, workers } => write!(
                f,
                "class {class:?} with {workers} workers is too large; all classes together may have {MAX_WORKERS}"
            ),
            RouteError::Policy { class, policy } => write!(
                f,
                "class {class:?} cannot be under policy {policy}: the primary hands each connection of a class over; choose round-robin (rr), least or sticky"
            ),
            RouteError::NoSuchClass { name, known } => {
                write!(f, "no class is called {name:?}; there are {known}")
            }
            RouteError::SpillsToItself(name) => {
                write!(f, "class {name:?} spills to itself; name another one, or let it wait or refuse")
            }
        }
    }
}

impl std::error::Error for RouteError {}

/// Where a connection comes from, and which class it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its address; nothing on a Unix socket.
    pub address: Option<SocketAddr>,
    /// Its class, once that was decided; else the rules decide by the address alone.
    pub class: Option<ClassKey>,
}

impl From<Option<SocketAddr>> for Peer {
    fn from(address: Option<SocketAddr>) -> Self {
        Peer { address, class: None }
    }
}

#[cfg(test)]
mod tests;
