//! The free worker with the fewest live connections.

use std::cmp::Ordering;

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
        let (mut best, others) = candidates.free.split_first()?;
        // By hand, since this runs for every free worker of every connection: nearly always the first comparison, or the
        // second, is the last.
        for other in others {
            let order = other.live.cmp(&best.live).then(other.recent.cmp(&best.recent));
            if order == Ordering::Less || order == Ordering::Equal && self.is_turn_before(other, best) {
                best = other;
            }
        }
        self.last = Some(best.worker);
        self.last
    }
}

impl LeastConnections {
    fn is_turn_before(&self, one: &Candidate, other: &Candidate) -> bool {
        let turn = |one: &Candidate| (Some(one.worker) <= self.last, one.worker);
        turn(one) < turn(other)
    }
}
