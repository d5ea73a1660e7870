//! Accepted connections that wait for a worker of their own while others are free.
//!
//! One queue per worker, so that a busy one holds up nobody else's. Neighbour: `listener` accepts and fills it, and
//! bounds it by [`WaitingRoom::is_full`].

use std::collections::{BTreeMap, VecDeque};

use everycore_core::{ListenerKey, Primary, Time, WorkerId};

use super::handoff::Arrival;

/// Connections one listener keeps waiting. A waiting connection costs a descriptor, and dies with the primary.
pub(crate) const ROOM: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct WaitingRoom {
    queues: BTreeMap<WorkerId, VecDeque<Arrival>>,
    count: usize,
}

impl WaitingRoom {
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.count >= ROOM
    }

    /// The last to wait for this worker.
    pub(crate) fn push(&mut self, worker: WorkerId, arrival: Arrival) {
        self.queues.entry(worker).or_default().push_back(arrival);
        self.count += 1;
    }

    /// It was the first in its queue and still has to wait.
    pub(crate) fn push_front(&mut self, worker: WorkerId, arrival: Arrival) {
        self.queues.entry(worker).or_default().push_front(arrival);
        self.count += 1;
    }

    /// The first of those who wait for this worker.
    pub(crate) fn pop(&mut self, worker: WorkerId) -> Option<Arrival> {
        let queue = self.queues.get_mut(&worker)?;
        let arrival = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&worker);
        }
        self.count -= usize::from(arrival.is_some());
        arrival
    }

    /// The next worker somebody waits for.
    pub(crate) fn after(&self, worker: Option<WorkerId>) -> Option<WorkerId> {
        self.queues.keys().copied().find(|&waited_for| Some(waited_for) > worker)
    }

    /// Whether somebody waits for a worker that is free.
    pub(crate) fn is_over(&self, on: ListenerKey, core: &Primary, now: Time) -> bool {
        self.queues.keys().any(|worker| core.is_worker_free(*worker, on, now))
    }

    /// Everybody, those of one worker in their order.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Arrival> {
        self.count = 0;
        std::mem::take(&mut self.queues).into_values().flatten()
    }
}
