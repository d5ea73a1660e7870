//! The free worker with the fewest live connections.

use super::{Candidate, Candidates, SchedulingPolicy};
use crate::id::WorkerId;

/// Picks the free worker with the fewest live connections; among equals the one that was given fewer of
/// late, among those in turn.
#[derive(Clone, Debug, Default)]
pub struct LeastConnections {
    last: Option<WorkerId>,
}

impl SchedulingPolicy for LeastConnections {
    fn pick(&mut self, candidates: &Candidates<'_>) -> Option<WorkerId> {
        let has_had_its_turn = |one: &Candidate| Some(one.worker) <= self.last;
        let rank = |one: &&Candidate| (one.live, one.recent, has_had_its_turn(one), one.worker);
        let picked = candidates.free.iter().min_by_key(rank)?.worker;
        self.last = Some(picked);
        Some(picked)
    }
}
