//! Who gets the next connection: the trait, the candidates, and the list of built-in policies.
//!
//! A policy picks a worker and does nothing else. Who is free is decided in `primary/handoff.rs`; the sockets are
//! the shell's.

mod least_connections;
mod round_robin;
mod route;
mod sticky;

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::id::{Slot, WorkerId};
pub use least_connections::LeastConnections;
pub use round_robin::RoundRobin;
pub use route::{
    Class, ClassCounts, Inbound, Network, NetworkError, Peer, Route, RouteError, Router, Rule, RuleError,
    WhenFull,
};
pub(crate) use route::{Full, Pick};
pub use sticky::Sticky;

/// Picks a worker for a connection.
pub trait SchedulingPolicy: fmt::Debug + Send {
    /// Picks one of the free workers, or a busy one to wait for. `None`, or somebody who is not among them, leaves the
    /// connection waiting for anyone.
    fn pick(&mut self, candidates: &Candidates<'_>) -> Option<WorkerId>;

    /// Whether it may have to wait for one worker while others are free, as when the source address decides. The
    /// primary then accepts a bounded number of connections before their workers are free, and shows the policy who
    /// is busy.
    fn may_wait(&self) -> bool {
        false
    }
}

/// What a policy chooses from.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'a> {
    /// The free workers, by rising id; never empty unless the policy [may wait](SchedulingPolicy::may_wait).
    pub free: &'a [Candidate],
    /// Workers in rotation that are not free now, by rising id; always empty unless the policy may wait.
    pub busy: &'a [Candidate],
    /// Where the connection comes from, if that is known.
    pub from: Option<SocketAddr>,
    /// No more connections can be kept waiting: it must be somebody who is free.
    pub overflow: bool,
    /// How many connections each worker may be handed that are not through their first turn: 1 while they come slowly.
    pub credit: u64,
}

/// A worker that may be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which worker.
    pub worker: WorkerId,
    /// The place it fills; its replacement fills the same.
    pub slot: Slot,
    /// Connections handed to it and not yet through their first turn; zero means it is idle.
    pub load: u64,
    /// Connections handed to it and not yet closed.
    pub live: u64,
    /// How many of the latest connections it was given; a fading memory of about a thousand of all workers together, to be
    /// compared with the others'. A worker that comes to serve begins with the others' average.
    pub recent: u32,
    /// Whether it holds as many connections as it may: one has to be closed before it is free again.
    pub full: bool,
}

/// The built-in ways to spread connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The next free worker, in turn.
    RoundRobin,
    /// The free worker with the fewest live connections.
    #[default]
    Least,
    /// The worker that the source address belongs to.
    Sticky,
    /// Rules or a function choose a class of workers, and the class's own policy the worker. Which classes there are is
    /// told to the primary by itself; until then it is as `least`.
    Route,
    /// Every worker accepts for itself, all on one socket; the primary assigns nothing.
    Shared,
    /// Every worker accepts for itself, each on a socket of its own; the kernel spreads by a hash.
    Reuseport,
}

impl Policy {
    pub(crate) fn scheduling(self) -> Option<Box<dyn SchedulingPolicy>> {
        match self {
            Policy::RoundRobin => Some(Box::new(RoundRobin::default())),
            Policy::Least => Some(Box::new(LeastConnections::default())),
            Policy::Sticky => Some(Box::new(Sticky::default())),
            Policy::Route => Some(Box::new(LeastConnections::default())),
            Policy::Shared | Policy::Reuseport => None,
        }
    }

    /// As [`scheduling`](Self::scheduling), for the workers of one class.
    fn within_class(self) -> Option<Box<dyn SchedulingPolicy>> {
        self.scheduling().filter(|_| self != Policy::Route)
    }

    /// Whether the primary accepts and hands each connection to a worker; else the workers accept.
    pub const fn hands_off(self) -> bool {
        match self {
            Policy::RoundRobin | Policy::Least | Policy::Sticky | Policy::Route => true,
            Policy::Shared | Policy::Reuseport => false,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Policy::RoundRobin => "round-robin",
            Policy::Least => "least",
            Policy::Sticky => "sticky",
            Policy::Route => "route",
            Policy::Shared => "shared",
            Policy::Reuseport => "reuseport",
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
            "sticky" => Ok(Policy::Sticky),
            "route" => Ok(Policy::Route),
            "shared" | "none" => Ok(Policy::Shared),
            "reuseport" => Ok(Policy::Reuseport),
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
        write!(
            f,
            "unknown policy {:?}; choose round-robin (rr), least, sticky, route, shared (none) or reuseport",
            self.name
        )
    }
}

impl std::error::Error for UnknownPolicy {}

#[cfg(test)]
mod tests;
