//! The free worker with the fewest live connections.

use super::{Candidates, SchedulingPolicy, next_in_turn};
use crate::id::WorkerId;

/// Picks the free worker with the fewest live connections; among equals the one that was given fewer of
/// late, among those in turn.
#[derive(Clone, Debug, Default)]
pub struct LeastConnections {
    last: Option<WorkerId>,
}

impl SchedulingPolicy for LeastConnections {
    fn pick(&mut self, candidates: &Candidates<'_>) -> Option<WorkerId> {
        let least = candidates.free.iter().map(|candidate| (candidate.live, candidate.recent)).min()?;
        let best = candidates.free.iter().filter(|candidate| (candidate.live, candidate.recent) == least);
        let picked = next_in_turn(best.map(|candidate| candidate.worker), self.last)?;
        self.last = Some(picked);
        Some(picked)
    }
}
