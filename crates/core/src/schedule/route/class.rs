//! What is said of a class of workers.

use crate::schedule::Policy;

/// Workers that connections are sent to by rules: how many, who of them gets the next one, and what happens when none
/// of them can take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    pub(crate) name: String,
    pub(crate) workers: u32,
    pub(crate) policy: Policy,
    pub(crate) when_full: WhenFull,
}

impl Class {
    /// So many workers, under `least`; a full class waits.
    pub fn new(name: impl Into<String>, workers: u32) -> Self {
        Class { name: name.into(), workers, policy: Policy::Least, when_full: WhenFull::Wait }
    }

    /// Who of the class gets a connection: a policy by which the primary hands over.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// What becomes of a connection when nobody of the class is free.
    #[must_use]
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many workers belong to it.
    pub fn workers(&self) -> u32 {
        self.workers
    }
}

/// What becomes of a connection whose class has nobody free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It waits for its class. With too many waiting, the listener accepts no more, for no class.
    #[default]
    Wait,
    /// It goes to the class of this name if that has somebody free, and waits otherwise.
    SpillTo(String),
    /// It is closed at once when every worker of the class holds as many connections as it may, or has stopped, or
    /// when too many wait already. One that is only busy for the moment is waited for, and so is the first worker of
    /// a class that has none yet.
    Refuse,
}
