//! Who gets the next connection: the trait, the candidates, and the list of built-in policies.
//!
//! A policy picks among workers that are free and does nothing else. Who is free is decided in
//! `primary/handoff.rs`; the sockets are the shell's.

mod least_connections;
mod round_robin;

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::id::WorkerId;
pub use least_connections::LeastConnections;
pub use round_robin::RoundRobin;

/// Picks a worker for a connection.
pub trait SchedulingPolicy: fmt::Debug + Send {
    /// Picks one of the free workers. `None`, or somebody who is not among them, leaves the connection waiting.
    fn pick(&mut self, candidates: &Candidates<'_>) -> Option<WorkerId>;
}

/// What a policy chooses from.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'a> {
    /// The free workers, by rising id; never empty.
    pub free: &'a [Candidate],
    /// Where the connection comes from, if that is known.
    pub from: Option<SocketAddr>,
}

/// A worker that is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which worker.
    pub worker: WorkerId,
    /// Connections handed to it and not yet through their first turn; zero means it is idle.
    pub load: u64,
    /// Connections handed to it and not yet closed.
    pub live: u64,
    /// How many of the latest connections it was given; a fading memory in arbitrary units.
    pub recent: u32,
}

/// The built-in ways to spread connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The next free worker, in turn.
    RoundRobin,
    /// The free worker with the fewest live connections.
    #[default]
    Least,
    /// Every worker accepts for itself; the primary assigns nothing.
    Shared,
}

impl Policy {
    pub(crate) fn scheduling(self) -> Option<Box<dyn SchedulingPolicy>> {
        match self {
            Policy::RoundRobin => Some(Box::new(RoundRobin::default())),
            Policy::Least => Some(Box::new(LeastConnections::default())),
            Policy::Shared => None,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Policy::RoundRobin => "round-robin",
            Policy::Least => "least",
            Policy::Shared => "shared",
        })
    }
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    /// Reads a policy's name, or the short one that Node uses.
    ///
    /// ```
    /// use everycore_core::Policy;
    /// assert_eq!("rr".parse(), Ok(Policy::RoundRobin));
    /// assert_eq!("none".parse(), Ok(Policy::Shared));
    /// ```
    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        match name {
            "round-robin" | "rr" => Ok(Policy::RoundRobin),
            "least" => Ok(Policy::Least),
            "shared" | "none" => Ok(Policy::Shared),
            _ => Err(UnknownPolicy { name: name.into() }),
        }
    }
}

/// A name that is no policy's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPolicy {
    /// The name as it was given.
    pub name: String,
}

impl fmt::Display for UnknownPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown policy {:?}; choose round-robin (rr), least or shared (none)", self.name)
    }
}

impl std::error::Error for UnknownPolicy {}

/// The first after `last` in a circle of ids, or the first of all.
fn next_in_turn(workers: impl Iterator<Item = WorkerId> + Clone, last: Option<WorkerId>) -> Option<WorkerId> {
    workers.clone().find(|&worker| Some(worker) > last).or_else(|| workers.min())
}

#[cfg(test)]
mod tests;
