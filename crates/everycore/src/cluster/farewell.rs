//! How workers are told to leave, and what becomes of those who wait where nobody is left to serve.
//!
//! When the last workers of a listener are told to leave, who waits in its queue still gets in. A worker takes only so
//! much at a time, so on a stop its order is held back until the queue is empty, for at most half of the time it has to
//! drain; only then does the port close. Neighbours: `effects` brings the order, `listener` has the queue.

use std::collections::BTreeMap;
use std::time::Instant;

use everycore_core::{ListenerKey, Slot, WorkerId};
use everycore_sys::descriptors::close_together;
use everycore_sys::signals::number::TERM;

use super::driver::{Driver, later};
use super::event::Event;
use super::handoff::Arrival;
use super::member::Side;
use super::node::acts;
use super::spread::Classifier;
use crate::protocol::{Mode, ToWorker};

/// Connections handed to one worker before the next gets some.
const HELPING: usize = 16;

/// Connections handed out in one turn of the loop.
const AT_ONCE: usize = 4096;

/// Workers whose order to leave is held back, and until when, if not for as long as it takes.
pub(super) type HeldBack = BTreeMap<WorkerId, Option<Instant>>;

/// A worker that holds a listener, and its slot.
type Holder = (WorkerId, Slot);

/// Whether anybody waits on a listener still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Empty,
    Waiting,
}

impl Driver {
    /// The core's order: let this worker finish and leave.
    pub(super) fn disconnect(&mut self, worker: WorkerId) {
        for key in self.unserved_of(worker) {
            self.hand_out_the_rest(key);
        }
        if self.core.is_stopping() && !self.unserved_of(worker).is_empty() {
            self.held_back.insert(worker, later(self.deadlines.drain / 2));
        } else {
            self.tell_to_leave(worker);
        }
    }

    /// Goes on with a stop that has to wait for room in its workers' channels.
    pub(super) fn go_on_leaving(&mut self) {
        let held_back = std::mem::take(&mut self.held_back);
        for worker in held_back.keys() {
            for key in self.unserved_of(*worker) {
                self.hand_out_the_rest(key);
            }
        }
        let now = Instant::now();
        for (worker, until) in held_back {
            let unserved = self.unserved_of(worker);
            if !unserved.is_empty() && until.is_none_or(|until| now < until) {
                self.held_back.insert(worker, until);
                continue;
            }
            for key in unserved {
                self.turn_away(key);
            }
            self.tell_to_leave(worker);
        }
    }

    /// Gives a listener up although somebody may wait on it.
    fn turn_away(&mut self, key: ListenerKey) {
        if let Some(listening) = self.listeners.get(key) {
            let address = &listening.bound.address;
            let text =
                format!("stop: not all who wait on {address} were taken in time; the rest is turned away");
            self.tell(Event::Warning { text });
        }
        self.listeners.close(key, &self.sources);
    }

    /// What this worker holds and no worker serves that stays.
    fn unserved_of(&self, worker: WorkerId) -> Vec<ListenerKey> {
        let mut keys = self.listeners.held_by(worker);
        keys.retain(|key| !self.core.is_served(*key));
        keys
    }

    fn tell_to_leave(&mut self, worker: WorkerId) {
        let stopping = self.core.is_stopping();
        let Some(member) = self.members.get_mut(&worker) else { return };
        if member.joined {
            // Should the queue be full, the worker has not read for long, and TERM follows at its deadline.
            let _ = match &member.side {
                Side::Library(_) => member.tell(&ToWorker::Disconnect { stopping }, Vec::new()),
                Side::Node(_) => {
                    self.seq += 1;
                    member.tell_node(&acts::disconnect(self.seq), None)
                }
            };
            self.flush_channel(worker);
        } else {
            // A program that does not use the library knows only one way to be asked.
            self.signal(worker, TERM);
        }
    }

    /// The last workers of a listener are about to be told to leave: who waits already still gets in, whatever their
    /// credit. When the cluster stops, nobody else does.
    fn hand_out_the_rest(&mut self, key: ListenerKey) {
        let stopping = self.core.is_stopping();
        if stopping {
            self.listeners.admit_no_more(key);
        }
        let queue = match self.mode {
            Mode::HandOff => self.empty_queue(key),
            // Its workers accept for themselves, to the end.
            Mode::Shared => Queue::Empty,
        };
        if stopping && queue == Queue::Empty {
            self.listeners.close(key, &self.sources);
        }
    }

    /// Hands out who waits on a listener to the workers that hold it, as many as they have room for.
    fn empty_queue(&mut self, key: ListenerKey) -> Queue {
        let holds = self.members.iter().filter(|(_, member)| member.link.is_some() && member.holds(key));
        let holders: Vec<Holder> =
            holds.map(|(worker, member)| (*worker, Slot::new(member.info.slot))).collect();
        if holders.is_empty() {
            return Queue::Empty;
        }
        let mut with_room = holders.clone();
        for turn in 0..AT_ONCE {
            if turn % (HELPING * holders.len()) == 0 {
                self.send_off(&mut with_room);
            }
            let mut classifier = Classifier { selector: &mut self.selector, sources: &self.sources };
            let arrival = match self.listeners.next_of_rest(key, self.core.router(), &mut classifier) {
                Ok(Some(arrival)) => arrival,
                Ok(None) if self.send_off(&mut with_room) => return Queue::Empty,
                // Out of descriptors, perhaps: there will be some when what was handed over has gone.
                Ok(None) | Err(_) => break,
            };
            if let Some(worker) = self.entitled(&arrival, turn, &with_room) {
                self.hand_over(arrival, worker);
            } else if self.entitled(&arrival, turn, &holders).is_none() {
                self.core.turn_away(arrival.from(), self.now());
            } else {
                self.listeners.take_back(vec![arrival]);
                break;
            }
        }
        self.send_off(&mut with_room);
        Queue::Waiting
    }

    /// One of these who may have the connection, in turn.
    fn entitled(&self, arrival: &Arrival, turn: usize, workers: &[Holder]) -> Option<WorkerId> {
        let router = self.core.router().zip(arrival.class);
        let may_have = |slot| router.is_none_or(|(router, class)| router.serves(class, slot));
        let in_turn = workers.iter().cycle().skip(turn % workers.len().max(1)).take(workers.len());
        in_turn.copied().find(|(_, slot)| may_have(*slot)).map(|(worker, _)| worker)
    }

    fn hand_over(&mut self, arrival: Arrival, worker: WorkerId) {
        let now = self.now();
        // It holds the listener: nothing comes back.
        if let Some(member) = self.members.get_mut(&worker)
            && member.hand(arrival).is_ok()
        {
            self.core.hand_to(worker, now);
            self.listeners.handed += 1;
        }
    }

    /// Sends what these workers were handed; those who had no room for all of it are struck off. True when all went.
    fn send_off(&mut self, workers: &mut Vec<Holder>) -> bool {
        let before = workers.len();
        workers.retain(|(worker, _)| self.flush_handoffs(*worker) == 0);
        close_together(&mut self.gone);
        workers.len() == before
    }
}
