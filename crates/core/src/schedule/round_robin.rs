//! The next free worker, in turn.

use super::{Candidate, Candidates, SchedulingPolicy};
use crate::id::WorkerId;

/// Goes round the free workers. One that was passed over because it was not free makes up for its turns when it is: the one
/// that was given the fewest of the latest connections is next, among equals the one whose turn it is.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    last: Option<WorkerId>,
}

impl SchedulingPolicy for RoundRobin {
    fn pick(&mut self, candidates: &Candidates<'_>) -> Option<WorkerId> {
        let has_had_its_turn = |one: &Candidate| Some(one.worker) <= self.last;
        let rank = |one: &&Candidate| (one.recent, has_had_its_turn(one), one.worker);
        let picked = candidates.free.iter().min_by_key(rank)?.worker;
        self.last = Some(picked);
        Some(picked)
    }
}
