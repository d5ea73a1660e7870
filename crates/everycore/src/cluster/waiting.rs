//! Accepted connections that wait for a worker, or a class of workers, of their own while others are free.
//!
//! One queue for each that is waited for, so that a busy one holds up nobody else's. Neighbour: `listener` accepts and fills it, and
//! bounds it by [`ROOM`].

use std::collections::{BTreeMap, VecDeque};

use everycore_core::{Awaited, ListenerKey, Primary, Time};

use super::handoff::Arrival;

/// Connections one listener keeps waiting, those that are peeked at included. Each costs a descriptor, and dies with the
/// primary.
pub(crate) const ROOM: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct WaitingRoom {
    queues: BTreeMap<Awaited, VecDeque<Arrival>>,
    count: usize,
}

impl WaitingRoom {
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The last to wait for this.
    pub(crate) fn push(&mut self, awaited: Awaited, arrival: Arrival) {
        self.queues.entry(awaited).or_default().push_back(arrival);
        self.count += 1;
    }

    /// It was the first in its queue and still has to wait.
    pub(crate) fn push_front(&mut self, awaited: Awaited, arrival: Arrival) {
        self.queues.entry(awaited).or_default().push_front(arrival);
        self.count += 1;
    }

    /// The first of those who wait for this.
    pub(crate) fn pop(&mut self, awaited: Awaited) -> Option<Arrival> {
        let queue = self.queues.get_mut(&awaited)?;
        let arrival = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&awaited);
        }
        self.count -= usize::from(arrival.is_some());
        arrival
    }

    /// The next that somebody waits for.
    pub(crate) fn after(&self, last: Option<Awaited>) -> Option<Awaited> {
        self.queues.keys().copied().find(|&awaited| Some(awaited) > last)
    }

    /// Whether somebody need not wait any longer.
    pub(crate) fn is_over(&self, on: ListenerKey, core: &Primary, now: Time) -> bool {
        self.queues.keys().any(|awaited| core.is_wait_over(*awaited, on, now))
    }

    /// Everybody, those of one queue in their order.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Arrival> {
        self.count = 0;
        std::mem::take(&mut self.queues).into_values().flatten()
    }
}
