//! The free worker with the fewest live connections.

use super::{Candidate, Candidates, SchedulingPolicy};
use crate::id::WorkerId;

/// Picks the free worker with the fewest live connections; among equals the one that was given fewer of
/// late, among those in turn.
///
/// While connections come so fast that workers are handed several ahead, counts that are no further apart than half of
/// that are equal: they say who was scheduled last, not who has less to do.
#[derive(Clone, Debug, Default)]
pub struct LeastConnections {
    last: Option<WorkerId>,
}

impl SchedulingPolicy for LeastConnections {
    fn pick(&mut self, candidates: &Candidates<'_>) -> Option<WorkerId> {
        let fewest = candidates.free.iter().map(|one| one.live).min()?;
        let few = fewest + candidates.credit / 2;
        let has_had_its_turn = |one: &Candidate| Some(one.worker) <= self.last;
        let rank = |one: &&Candidate| (one.recent, has_had_its_turn(one), one.worker);
        self.last =
            candidates.free.iter().filter(|one| one.live <= few).min_by_key(rank).map(|one| one.worker);
        self.last
    }
}
