//! Policy `reuseport`: carries out what the core says of sockets of slots that have no worker.
//!
//! Only workers that use the library can adopt; what becomes of the sockets of others is said in `group`.

use std::collections::BTreeSet;

use everycore_core::{Adoption, Slot, SlotState};

use super::driver::Driver;
use super::member::{Member, Side};
use crate::protocol::ToWorker;

impl Driver {
    /// Sees to it that every slot's sockets are accepted from, as long as anybody can.
    pub(super) fn settle_adoptions(&mut self) {
        if !self.listeners.one_per_slot {
            return;
        }
        self.close_lost();
        let sockets = self.listeners.slot_sockets();
        let members = &self.members;
        let told =
            self.adoptions.settle(&self.core, sockets, |worker| members.get(&worker).is_some_and(adopts));
        for adoption in told {
            self.pass_on(adoption);
        }
    }

    fn pass_on(&mut self, adoption: Adoption) {
        match adoption {
            Adoption::Adopt { worker, listener, slot } => {
                let told = self.listeners.share(listener, slot.get()).is_ok_and(|socket| {
                    let order = ToWorker::Adopt { key: listener.get(), slot: slot.get() };
                    self.members.get_mut(&worker).is_some_and(|one| one.tell(&order, vec![socket]).is_ok())
                });
                // Out of descriptors, or its channel is full.
                if !told {
                    return self.adoptions.failed(listener, slot);
                }
                self.flush_channel(worker);
            }
            Adoption::Release { worker, listener, slot } => {
                let order = ToWorker::Release { key: listener.get(), slot: slot.get() };
                // One that does not read will hear it when it does.
                if let Some(member) = self.members.get_mut(&worker)
                    && member.tell(&order, Vec::new()).is_ok()
                {
                    self.flush_channel(worker);
                }
            }
        }
    }

    /// Closes the sockets that nobody can adopt, of slots that nobody fills.
    fn close_lost(&mut self) {
        let known: BTreeSet<u32> = self.listeners.known_slots().collect();
        let closes = self.launcher.closes() && !self.members.values().any(adopts);
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
}

fn adopts(member: &Member) -> bool {
    member.joined && matches!(member.side, Side::Library(_))
}
