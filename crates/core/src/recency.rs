//! How many of the latest connections each worker was given: a count that fades with every hand-off.
//!
//! Instead of every worker's count being made smaller by a thousandth for each connection, what is added grows by as much.
//! What counts is how they compare, so that is the same, and costs nothing for the workers that were not chosen. Now and
//! then all are scaled down.

/// About so many hand-offs are remembered. A worker that was passed over for a while is given more afterwards, until the
/// counts are level: long enough for what others were given while it was busy for 50 ms at some thousands per second, and
/// short enough that one that comes back after an hour gets a few hundred in a row, not everything that it has missed.
const MEMORY: u32 = 1024;

/// What a hand-off weighs after the counts were scaled down.
const LIGHT: u32 = 1 << 14;

/// From here on they have to be: a worker that gets everything comes to `MEMORY` times as much, half of what fits.
const HEAVY: u32 = 1 << 21;

/// What the next hand-off weighs.
#[derive(Clone, Debug)]
pub(crate) struct Recency {
    weight: u32,
}

impl Default for Recency {
    fn default() -> Self {
        Recency { weight: LIGHT }
    }
}

impl Recency {
    /// What one more weighs.
    pub(crate) fn weight(&self) -> u32 {
        self.weight
    }

    /// One was handed over. True when all counts are to be [scaled down](Self::scaled) before the next.
    pub(crate) fn handed(&mut self) -> bool {
        self.weight += self.weight / (MEMORY - 1);
        let heavy = self.weight >= HEAVY;
        if heavy {
            self.weight /= HEAVY / LIGHT;
        }
        heavy
    }

    /// A worker's count when so many of the latest turn out not to have been given to it.
    pub(crate) fn without(&self, count: u32, returned: u64) -> u32 {
        let returned = u32::try_from(returned).unwrap_or(u32::MAX);
        count.saturating_sub(self.weight.saturating_mul(returned))
    }

    /// A count after scaling.
    pub(crate) fn scaled(count: u32) -> u32 {
        count / (HEAVY / LIGHT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_given_fewer_of_the_latest_has_the_smaller_count_and_none_overflows() {
        let mut recency = Recency::default();
        let (mut counts, mut latest) = ([0_u32; 3], Vec::new());
        for n in 0..20_000_usize {
            // Long runs of one worker, then of another.
            let worker = if n % 3 == 0 { 2 } else { n / 2_500 % 2 };
            counts[worker] = counts[worker].checked_add(recency.weight()).expect("counts have a bound");
            latest.push(worker);
            if recency.handed() {
                counts = counts.map(Recency::scaled);
            }
            let fading = |worker| {
                let fade = 1.0 - 1.0 / f64::from(MEMORY);
                let weights = latest.iter().rev().enumerate();
                weights.filter(|(_, w)| **w == worker).map(|(age, _)| fade.powi(age as i32)).sum::<f64>()
            };
            let sampled = if n % 100 == 0 { &[(0, 1), (1, 2), (0, 2)][..] } else { &[] };
            for &(one, other) in sampled {
                let (a, b) = (fading(one), fading(other));
                if (a - b).abs() > 0.1 * a.max(b) {
                    assert_eq!(counts[one] > counts[other], a > b, "{n}: {counts:?}, {a} and {b}");
                }
            }
        }
    }
}
