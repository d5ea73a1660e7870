//! Small questions the shell asks between two events.

use super::Primary;
use crate::id::{ListenerKey, Slot, WorkerId};
use crate::snapshot::SlotState;

impl Primary {
    /// Whether a worker is on its way out; true for one that is gone.
    pub fn is_leaving(&self, worker: WorkerId) -> bool {
        self.place(worker).is_none_or(|place| self.workers[place].is_leaving())
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
}
