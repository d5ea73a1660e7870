//! The hand-off to a real Node worker: `newconn` messages, each answered with `accepted`.
//!
//! Our copy of a connection stays until the worker has said that it took it: what a dead worker has not answered goes
//! to another. Its messages cannot be read back from a live worker, so a busy one keeps what it was sent.

use std::collections::{BTreeMap, BTreeSet};

use everycore_core::{Counters, ListenerKey};
use everycore_ipc::{Handle, Message, Outgoing};

use super::Link;
use crate::cluster::handoff::Arrival;
use crate::cluster::node::acts;

/// What was handed to one Node worker.
#[derive(Default)]
pub(crate) struct Node {
    keys: BTreeSet<ListenerKey>,
    batch: Vec<Arrival>,
    unanswered: BTreeMap<i64, Arrival>,
    counters: Counters,
    /// Connections closed, as our preloaded hook reports; without the hook nothing is known.
    closed: Option<u64>,
}

impl Node {
    /// A listener was granted for hand-off.
    pub(crate) fn open(&mut self, key: ListenerKey) {
        self.keys.insert(key);
    }

    pub(super) fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    pub(super) fn holds(&self, key: ListenerKey) -> bool {
        self.keys.contains(&key)
    }

    pub(super) fn close(&mut self, key: ListenerKey) {
        self.keys.remove(&key);
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    pub(super) fn has_unanswered(&self) -> bool {
        !self.unanswered.is_empty()
    }

    pub(super) fn hand(&mut self, arrival: Arrival) -> Result<(), Arrival> {
        if !self.keys.contains(&arrival.on) {
            return Err(arrival);
        }
        self.batch.push(arrival);
        Ok(())
    }

    pub(super) fn flush(&mut self, link: Option<&mut Link>, seq: &mut i64) -> Vec<Arrival> {
        let mut left = std::mem::take(&mut self.batch);
        let Some(link) = link else { return left };
        let mut sent = 0;
        for arrival in &left {
            let Ok(copy) = arrival.socket.try_clone() else { break };
            let Ok(message) = Message::json(&acts::new_connection(*seq, &acts::key(arrival.on))) else {
                break;
            };
            let outgoing = Outgoing::internal(message.with_handle(Handle::from_fd(copy)));
            if link.connection.queue(outgoing).is_err() {
                break;
            }
            *seq += 1;
            sent += 1;
        }
        let first = *seq - sent as i64;
        let back = left.split_off(sent);
        self.unanswered.extend((first..).zip(left));
        back
    }

    /// Only a worker that is gone gives back what it was sent.
    pub(super) fn withdraw(&mut self, gone: bool) -> Vec<Arrival> {
        let mut back = std::mem::take(&mut self.batch);
        if gone {
            back.extend(std::mem::take(&mut self.unanswered).into_values());
        }
        back
    }

    /// The worker has answered: what became of the connection, or `None` for an answer to nothing.
    pub(crate) fn answered(&mut self, ack: i64, accepted: bool) -> Option<Answer> {
        let arrival = self.unanswered.remove(&ack)?;
        self.counters.turn = self.counters.turn.wrapping_add(1);
        if !accepted {
            return Some(Answer::Declined(arrival));
        }
        self.counters.taken += 1;
        self.counters.ready += 1;
        self.counters.closed = self.closed.unwrap_or(self.counters.taken);
        Some(Answer::Taken(arrival.on))
    }

    /// The hook's report.
    pub(crate) fn report(&mut self, closed: u64) {
        let closed = closed.min(self.counters.taken).max(self.closed.unwrap_or(0));
        self.closed = Some(closed);
        self.counters.closed = closed;
    }
}

/// What a worker said to a `newconn`.
pub(crate) enum Answer {
    /// It has the connection; our copy is closed.
    Taken(ListenerKey),
    /// It would not have it.
    Declined(Arrival),
}
