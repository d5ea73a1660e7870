//! Policy `reuseport`: who accepts from the sockets of slots that have no worker.
//!
//! The kernel gives every socket its share, whether somebody accepts there or not. So a slot's sockets are adopted by
//! workers of other slots while its own is starting, waits to be started again, has been given up or scaled away. Only
//! workers that use the library can adopt; what becomes of the sockets of others is said in `group`.

use std::collections::{BTreeMap, BTreeSet};

use everycore_core::{ListenerKey, Slot, SlotState, WorkerId};

use super::driver::Driver;
use super::member::Side;
use super::program::Dialect;
use crate::protocol::ToWorker;

/// Who was told to accept from whose sockets.
#[derive(Debug, Default)]
pub(crate) struct Adoptions {
    adopters: BTreeMap<(ListenerKey, u32), WorkerId>,
    /// Somebody was to adopt a socket and could not be given it; nothing else may come to wake the loop for it.
    unsettled: bool,
}

impl Adoptions {
    fn of(&self, worker: WorkerId) -> usize {
        self.adopters.values().filter(|adopter| **adopter == worker).count()
    }

    /// Whether the next turn is to try again.
    pub(super) fn is_unsettled(&self) -> bool {
        self.unsettled
    }
}

impl Driver {
    /// Sees to it that every slot's sockets are accepted from, as long as anybody can.
    pub(super) fn settle_adoptions(&mut self) {
        if !self.listeners.one_per_slot {
            return;
        }
        self.adoptions.unsettled = false;
        self.close_lost();
        let orphans: Vec<(ListenerKey, u32)> =
            self.listeners.slot_sockets().filter(|(key, slot)| !self.is_own_served(*key, *slot)).collect();
        let over: Vec<_> =
            self.adoptions.adopters.keys().copied().filter(|of| !orphans.contains(of)).collect();
        for of in over {
            if let Some(adopter) = self.adoptions.adopters.remove(&of) {
                self.tell_adopter(adopter, &ToWorker::Release { key: of.0.get(), slot: of.1 });
            }
        }
        for (key, slot) in orphans {
            let present = self.adoptions.adopters.get(&(key, slot));
            if !present.is_some_and(|adopter| self.core.is_serving(*adopter, key)) {
                self.adopt(key, slot);
            }
        }
    }

    /// Closes the sockets that nobody can adopt, of slots that nobody fills.
    fn close_lost(&mut self) {
        let known: BTreeSet<u32> = self.listeners.known_slots().collect();
        let adopts = self.members.values().any(|m| m.joined && matches!(m.side, Side::Library(_)));
        let closes = self.closes() && !adopts;
        for slot in known {
            if self.members.values().any(|member| member.info.slot == slot) {
                continue;
            }
            match self.core.slot_state(Slot::new(slot)) {
                Some(SlotState::Filled(_) | SlotState::Open) => {}
                Some(SlotState::Waiting(_)) => self.listeners.give_up(slot, false, closes),
                Some(SlotState::Done | SlotState::Errored) | None => {
                    self.listeners.give_up(slot, true, closes);
                }
            }
        }
    }

    /// Whether sockets of slots that are gone for good are closed: workers of such a program cannot adopt them. Those of
    /// another one can, be it that the next one has yet to come.
    pub(super) fn closes(&self) -> bool {
        self.program.inherit_listeners || matches!(self.dialect, Dialect::Node(_))
    }

    /// Whether a worker of the slot itself accepts from its socket.
    fn is_own_served(&self, key: ListenerKey, slot: u32) -> bool {
        let mut own = self.members.iter().filter(|(_, member)| member.info.slot == slot);
        own.any(|(worker, _)| self.core.is_serving(*worker, key))
    }

    /// Gives a slot's socket to whoever has adopted fewest.
    fn adopt(&mut self, key: ListenerKey, slot: u32) {
        let able = self.members.iter().filter(|(worker, member)| {
            member.joined && matches!(member.side, Side::Library(_)) && self.core.is_serving(**worker, key)
        });
        let adopter =
            able.map(|(worker, _)| *worker).min_by_key(|worker| (self.adoptions.of(*worker), *worker));
        self.adoptions.adopters.remove(&(key, slot));
        let Some(adopter) = adopter else { return };
        let told = self.listeners.share(key, slot).is_ok_and(|socket| {
            let order = ToWorker::Adopt { key: key.get(), slot };
            self.members.get_mut(&adopter).is_some_and(|member| member.tell(&order, vec![socket]).is_ok())
        });
        if told {
            self.adoptions.adopters.insert((key, slot), adopter);
            self.flush_channel(adopter);
        } else {
            // Out of descriptors, or its channel is full: the next turn tries again.
            self.adoptions.unsettled = true;
        }
    }

    /// To a worker that is gone nothing has to be said, and one that does not read will hear it when it does.
    fn tell_adopter(&mut self, adopter: WorkerId, order: &ToWorker) {
        if let Some(member) = self.members.get_mut(&adopter)
            && member.tell(order, Vec::new()).is_ok()
        {
            self.flush_channel(adopter);
        }
    }
}
