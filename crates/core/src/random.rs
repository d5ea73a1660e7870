//! A small generator of pseudo-random numbers, so that jitter comes from the seed and from nowhere else.

use std::time::Duration;

/// SplitMix64: one addition and three mixing steps per number, full period, any seed will do.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `most`.
    pub(crate) fn up_to(&mut self, most: u64) -> u64 {
        match most.checked_add(1) {
            Some(1) => 0,
            Some(count) => self.next() % count,
            None => self.next(),
        }
    }

    /// Shortens a delay by up to a quarter, so that slots that failed together do not come back together.
    pub(crate) fn jitter(&mut self, delay: Duration) -> Duration {
        let quarter = u64::try_from(delay.as_nanos() / 4).unwrap_or(u64::MAX);
        match quarter {
            0 => delay,
            _ => delay - Duration::from_nanos(self.next() % quarter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_numbers() {
        let (mut a, mut b) = (Random::new(7), Random::new(7));
        assert!((0..100).all(|_| a.next() == b.next()));
    }

    #[test]
    fn jitter_takes_away_at_most_a_quarter() {
        let mut random = Random::new(1);
        let delay = Duration::from_millis(200);
        for _ in 0..1000 {
            let jittered = random.jitter(delay);
            assert!(jittered <= delay && jittered > delay * 3 / 4 - Duration::from_nanos(1));
        }
        assert_eq!(random.jitter(Duration::ZERO), Duration::ZERO);
    }
}
