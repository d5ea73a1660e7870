//! Small questions the shell asks between two events.

use super::Primary;
use crate::id::{ListenerKey, WorkerId};

impl Primary {
    /// Whether a worker is on its way out; true for one that is gone.
    pub fn is_leaving(&self, worker: WorkerId) -> bool {
        self.place(worker).is_none_or(|place| self.workers[place].is_leaving())
    }

    /// Whether any ready worker serves this listener, busy or not.
    pub fn is_served(&self, on: ListenerKey) -> bool {
        self.workers.iter().any(|worker| worker.is_ready() && worker.handoffs.serves(on))
    }
}
