//! Classes of workers, and rules that send a connection to one of them.

mod network;

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;

pub use network::{Network, NetworkError};

use super::{Candidate, Candidates, Policy, SchedulingPolicy};
use crate::id::{Slot, WorkerId};

/// Sends each connection to the class that the first matching rule names, else to the first class; within the class
/// its own policy picks.
///
/// Classes take their slots in the order in which they are named: the first `count` belong to the first class, and so
/// on; slots beyond the last class belong to it. A class with nobody free keeps its connections waiting or spills them
/// to another class, as it was told. A class without any worker in rotation is stood in for by the others.
///
/// ```
/// use everycore_core::{Policy, Route, WhenFull};
///
/// let route = Route::new()
///     .class("normal", 3, Policy::Least)
///     .class("special", 1, Policy::RoundRobin)
///     .when_full("special", WhenFull::SpillTo("normal".into()))
///     .rule("10.0.0.0/8", "special")?;
/// assert_eq!(route.workers(), 4);
/// assert_eq!(route.class_of_slot(3), "special");
/// # Ok::<(), everycore_core::RouteError>(())
/// ```
#[derive(Debug, Default)]
pub struct Route {
    classes: Vec<Class>,
    rules: Vec<(Network, String)>,
    free: Vec<Candidate>,
    busy: Vec<Candidate>,
}

#[derive(Debug)]
struct Class {
    name: String,
    slots: Range<u32>,
    policy: Box<dyn SchedulingPolicy>,
    when_full: WhenFull,
}

/// What becomes of a connection whose class has nobody free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It waits for its class; with too many waiting, the listener does.
    #[default]
    Wait,
    /// It goes to the class of this name if that has somebody free, and waits otherwise.
    SpillTo(String),
}

/// A rule that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// The source network is none.
    Network(NetworkError),
    /// No class has this name; name the classes first.
    NoSuchClass(String),
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteError::Network(error) => error.fmt(f),
            RouteError::NoSuchClass(name) => {
                write!(f, "no worker class is called {name:?}; name the classes before the rules")
            }
        }
    }
}

impl std::error::Error for RouteError {}

impl Route {
    /// Without classes: everybody is in one, and `least` picks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a class of `count` workers. A policy under which workers accept for themselves is taken for `least`.
    #[must_use]
    pub fn class(mut self, name: impl Into<String>, count: u32, policy: Policy) -> Self {
        let first = self.workers();
        let policy = policy.scheduling().unwrap_or_else(|| Box::new(super::LeastConnections::default()));
        let slots = first..first.saturating_add(count);
        self.classes.push(Class { name: name.into(), slots, policy, when_full: WhenFull::Wait });
        self
    }

    /// Says what a class does when nobody of it is free; it waits unless told otherwise.
    #[must_use]
    pub fn when_full(mut self, class: &str, when_full: WhenFull) -> Self {
        if let Some(place) = self.named(class) {
            self.classes[place].when_full = when_full;
        }
        self
    }

    /// Sends a source network, such as `10.0.0.0/8` or `::1`, to a class. The first rule that matches counts.
    ///
    /// # Errors
    /// The text is no network, or the class was not named before.
    pub fn rule(mut self, network: &str, class: &str) -> Result<Self, RouteError> {
        let network = network.parse().map_err(RouteError::Network)?;
        self.named(class).ok_or_else(|| RouteError::NoSuchClass(class.to_owned()))?;
        self.rules.push((network, class.to_owned()));
        Ok(self)
    }

    /// Workers of all classes together.
    pub fn workers(&self) -> u32 {
        self.classes.last().map_or(0, |class| class.slots.end)
    }

    /// The class a slot belongs to; empty where there is none.
    pub fn class_of_slot(&self, slot: u32) -> &str {
        self.class_at(Slot::new(slot)).map_or("", |place| &self.classes[place].name)
    }

    fn named(&self, name: &str) -> Option<usize> {
        self.classes.iter().position(|class| class.name == name)
    }

    fn class_at(&self, slot: Slot) -> Option<usize> {
        let last = self.classes.len().checked_sub(1)?;
        Some(self.classes.iter().position(|class| class.slots.contains(&slot.get())).unwrap_or(last))
    }

    fn class_for(&self, from: Option<SocketAddr>) -> usize {
        let matching =
            from.and_then(|from| self.rules.iter().find(|(network, _)| network.contains(from.ip())));
        matching.and_then(|(_, class)| self.named(class)).unwrap_or(0)
    }

    /// What the class's own policy says of its own workers.
    fn pick_in(&mut self, place: usize, candidates: &Candidates<'_>, overflow: bool) -> Option<WorkerId> {
        let (mut free, mut busy) = (std::mem::take(&mut self.free), std::mem::take(&mut self.busy));
        free.clear();
        busy.clear();
        let mine = |candidate: &&Candidate| self.class_at(candidate.slot) == Some(place);
        free.extend(candidates.free.iter().filter(mine));
        busy.extend(candidates.busy.iter().filter(mine));
        let policy = &mut self.classes[place].policy;
        let shown: &[Candidate] = if policy.may_wait() { &busy } else { &[] };
        let picked = match free.is_empty() && shown.is_empty() {
            true => None,
            false => policy.pick(&Candidates { free: &free, busy: shown, from: candidates.from, overflow }),
        };
        (self.free, self.busy) = (free, busy);
        picked
    }

    fn is_free(candidates: &Candidates<'_>, worker: WorkerId) -> bool {
        candidates.free.iter().any(|candidate| candidate.worker == worker)
    }
}

impl SchedulingPolicy for Route {
    fn pick(&mut self, candidates: &Candidates<'_>) -> Option<WorkerId> {
        if self.classes.is_empty() {
            let fewest = candidates.free.iter().min_by_key(|candidate| candidate.live);
            return fewest.map(|candidate| candidate.worker);
        }
        let place = self.class_for(candidates.from);
        let own = self.pick_in(place, candidates, candidates.overflow);
        if own.is_some_and(|worker| Self::is_free(candidates, worker)) {
            return own;
        }
        let spill = match &self.classes[place].when_full {
            WhenFull::Wait => None,
            WhenFull::SpillTo(other) => self.named(other),
        };
        let spilled = spill.and_then(|other| self.pick_in(other, candidates, true));
        if spilled.is_some_and(|worker| Self::is_free(candidates, worker)) {
            return spilled;
        }
        let mut mine =
            candidates.busy.iter().filter(|candidate| self.class_at(candidate.slot) == Some(place));
        let waits_for = own.or_else(|| mine.next().map(|candidate| candidate.worker));
        // A class that nobody serves now must not keep the others' connections in the queue behind its own.
        let stands_in = || candidates.free.iter().min_by_key(|candidate| candidate.live).map(|c| c.worker);
        waits_for.or_else(stands_in)
    }

    fn may_wait(&self) -> bool {
        !self.classes.is_empty()
    }
}

#[cfg(test)]
mod tests;
