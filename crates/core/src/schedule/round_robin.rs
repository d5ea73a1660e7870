//! The next free worker, in turn.

use super::{Candidates, SchedulingPolicy, next_in_turn};
use crate::id::WorkerId;

/// Goes round the free workers. Idle ones come first: a worker that is merely not full yet is chosen
/// when nobody is idle.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    last: Option<WorkerId>,
}

impl SchedulingPolicy for RoundRobin {
    fn pick(&mut self, candidates: &Candidates<'_>) -> Option<WorkerId> {
        let all = candidates.free.iter();
        let idle = all.clone().filter(|candidate| candidate.load == 0).map(|candidate| candidate.worker);
        let picked = next_in_turn(idle, self.last)
            .or_else(|| next_in_turn(all.map(|candidate| candidate.worker), self.last))?;
        self.last = Some(picked);
        Some(picked)
    }
}
