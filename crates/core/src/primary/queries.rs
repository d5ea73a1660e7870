//! Small questions the shell asks between two events.

use super::Primary;
use crate::id::{ListenerKey, Slot, WorkerId};
use crate::snapshot::SlotState;

impl Primary {
    /// Whether a worker is on its way out; true for one that is gone.
    pub fn is_leaving(&self, worker: WorkerId) -> bool {
        self.place(worker).is_none_or(|place| self.workers[place].is_leaving())
    }

    /// Whether everybody is there: every slot has its worker, ready or told to leave, or is left empty for good, and
    /// nothing is being reloaded or stopped.
    pub fn is_settled(&self) -> bool {
        let calm = self.reload.is_none() && self.stopping.is_none();
        let filled = |slot| !matches!(self.slot_state(slot), Some(SlotState::Open | SlotState::Waiting(_)));
        calm && self.workers.iter().all(|worker| worker.is_ready() || worker.is_leaving())
            && (0..self.seats.len() as u32).map(Slot::new).all(filled)
    }

    /// Who fills a slot; `None` for one that is not to be filled.
    pub fn slot_state(&self, slot: Slot) -> Option<SlotState> {
        let seat = self.seats.get(slot.get() as usize)?;
        let holder = self.workers.iter().find(|worker| worker.slot == slot && worker.holds_slot());
        Some(holder.map_or(SlotState::of(seat.vacancy), |worker| SlotState::Filled(worker.id)))
    }

    /// Whether this worker is ready and serves this listener, busy or not.
    pub fn is_serving(&self, worker: WorkerId, on: ListenerKey) -> bool {
        self.serving(on).any(|serving| serving.id == worker)
    }

    /// Whether it was ordered to stop, or all workers to leave.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// Whether any ready worker serves this listener, busy or not.
    pub fn is_served(&self, on: ListenerKey) -> bool {
        self.workers.iter().any(|worker| worker.is_ready() && worker.handoffs.serves(on))
    }

    /// How many slots there are to fill.
    pub fn slots(&self) -> u32 {
        self.seats.len() as u32
    }

    /// Who serves this listener, and in which slot.
    pub(crate) fn serving_slots(&self, on: ListenerKey) -> impl Iterator<Item = (WorkerId, Slot)> {
        self.serving(on).map(|worker| (worker.id, worker.slot))
    }
}
