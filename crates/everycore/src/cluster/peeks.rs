//! Accepted connections whose first bytes decide where they go, and have not come.
//!
//! Each costs its place and a descriptor, until its deadline. Neighbours: `selector` looks, `listener` accepts and bounds
//! how many there are.

use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

use super::handoff::Arrival;
use super::sources::{Sources, Wake};

/// See the module. Of one listener.
#[derive(Debug, Default)]
pub(crate) struct Peeks {
    /// By rising number: all have the same time, so the first is the first to be overdue.
    waiting: BTreeMap<u32, Peeked>,
}

#[derive(Debug)]
struct Peeked {
    arrival: Arrival,
    until: Instant,
}

impl Peeks {
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Waits until the client says something; gives the connection back if it cannot be watched.
    pub(crate) fn add(
        &mut self,
        number: u32,
        arrival: Arrival,
        until: Instant,
        sources: &Sources,
    ) -> Result<(), (Arrival, io::Error)> {
        match sources.add(&arrival.socket, Wake::Peek(number)) {
            Ok(()) => drop(self.waiting.insert(number, Peeked { arrival, until })),
            Err(error) => return Err((arrival, error)),
        }
        Ok(())
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Arrival> {
        self.waiting.get(&number).map(|peeked| &peeked.arrival)
    }

    /// It waits no longer.
    pub(crate) fn take(&mut self, number: u32, sources: &Sources) -> Option<Arrival> {
        let Peeked { arrival, .. } = self.waiting.remove(&number)?;
        // Before it goes to a worker: the socket would stay in the set as long as anybody holds it.
        sources.remove(&arrival.socket, Wake::Peek(number));
        Some(arrival)
    }

    /// Everybody.
    pub(crate) fn take_all(&mut self, sources: &Sources) -> Vec<Arrival> {
        let numbers: Vec<u32> = self.waiting.keys().copied().collect();
        numbers.into_iter().filter_map(|number| self.take(number, sources)).collect()
    }

    /// The first whose time is over.
    pub(crate) fn overdue(&self, now: Instant) -> Option<u32> {
        let (number, first) = self.waiting.first_key_value()?;
        (first.until <= now).then_some(*number)
    }

    /// When that will be.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(_, first)| first.until)
    }
}
