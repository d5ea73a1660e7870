//! The next free worker, in turn.

use super::{Candidate, Candidates, SchedulingPolicy};
use crate::id::WorkerId;

/// Goes round the free workers. Idle ones come first: a worker that is merely not full yet is chosen
/// when nobody is idle.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    last: Option<WorkerId>,
}

impl SchedulingPolicy for RoundRobin {
    fn pick(&mut self, candidates: &Candidates<'_>) -> Option<WorkerId> {
        let has_had_its_turn = |one: &Candidate| Some(one.worker) <= self.last;
        let rank = |one: &&Candidate| (one.load > 0, has_had_its_turn(one), one.worker);
        let picked = candidates.free.iter().min_by_key(rank)?.worker;
        self.last = Some(picked);
        Some(picked)
    }
}
