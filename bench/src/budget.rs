//! How long a row may take, and how many rounds fit in.
//!
//! How much is measured is fixed by the clock alone, never by what was found. Neighbours: `main` gives every row its share
//! of the whole, `sample` asks before each round.

use std::time::{Duration, Instant};

/// Rounds below which no median means anything; made even when they take too long.
const LEAST: usize = 3;

/// What one series of rounds may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Rounds at most.
    most: usize,
    /// When the last one should be over.
    until: Instant,
}

impl Budget {
    /// At most so many rounds, within this time.
    pub(crate) fn new(most: usize, within: Duration) -> Self {
        Self { most, until: Instant::now() + within }
    }

    /// The first of `parts` equal parts of what is left.
    pub(crate) fn part(&self, parts: u32) -> Self {
        let left = self.until.saturating_duration_since(Instant::now());
        Self { until: Instant::now() + left / parts.max(1), ..*self }
    }

    /// Whether to make another round after `made`, the last of which took `last`.
    pub(crate) fn allows(&self, made: usize, last: Duration) -> bool {
        made < self.most.min(LEAST) || (made < self.most && Instant::now() + last <= self.until)
    }

    /// Whether there is time for something beyond the plan.
    pub(crate) fn has_time(&self) -> bool {
        Instant::now() < self.until
    }

    /// In words.
    pub(crate) fn rule(&self) -> String {
        match self.most <= LEAST {
            true => format!("{} rounds", self.most),
            false => format!("{LEAST} to {} rounds, as many as fit in the time set beforehand", self.most),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn there_are_as_many_rounds_as_fit_and_at_least_three() {
        let ample = Budget::new(7, HOUR);
        assert!(ample.allows(6, Duration::from_secs(1)));
        assert!(!ample.allows(7, Duration::ZERO));
        assert!(!ample.allows(3, 2 * HOUR));
        let spent = Budget::new(7, Duration::ZERO);
        assert!(spent.allows(2, HOUR) && !spent.allows(3, Duration::from_nanos(1)));
        assert!(!Budget::new(1, HOUR).allows(1, Duration::ZERO));
    }

    #[test]
    fn a_part_ends_before_the_whole() {
        let whole = Budget::new(7, HOUR);
        assert!(!whole.part(3).allows(3, HOUR / 2));
        assert!(whole.allows(3, HOUR / 2));
    }
}
