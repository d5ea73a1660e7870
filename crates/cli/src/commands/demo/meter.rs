//! Requests per second and in total, from what workers report now and then. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// The rate is an average over this long.
const WINDOW: Duration = Duration::from_secs(2);

/// Sums the workers' counts.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Each worker's latest count; ids are never reused, so those that are gone stay in the sum.
    total: u64,
    latest: BTreeMap<u32, u64>,
    samples: VecDeque<(Instant, u64)>,
}

/// Workers whose counts are compared with their next report; those that are gone report no more.
const REMEMBERED: usize = 4096;

impl Meter {
    /// A worker has served so many requests since it started. A count that went backwards changes nothing.
    pub(super) fn report(&mut self, worker: u32, requests: u64) {
        let latest = self.latest.entry(worker).or_default();
        self.total = self.total.saturating_add(requests.saturating_sub(*latest));
        *latest = requests.max(*latest);
        if self.latest.len() > REMEMBERED {
            self.latest.pop_first();
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Requests per second of late; to be asked regularly.
    pub(super) fn rate(&mut self, now: Instant) -> u64 {
        self.samples.push_back((now, self.total));
        // One sample older than the window stays: the rate is over at least that long.
        while self.samples.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW) {
            self.samples.pop_front();
        }
        let Some((since, before)) = self.samples.front() else { return 0 };
        let seconds = now.saturating_duration_since(*since).as_secs_f64();
        if seconds <= 0.0 { 0 } else { ((self.total - before) as f64 / seconds).round() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_survive_the_workers() {
        let mut meter = Meter::default();
        meter.report(1, 10);
        meter.report(1, 15);
        meter.report(2, 5);
        assert_eq!(meter.total(), 20);
        meter.report(1, 3);
        assert_eq!(meter.total(), 20, "counts do not go backwards");
        meter.report(1, u64::MAX);
        meter.report(2, u64::MAX);
        assert_eq!(meter.total(), u64::MAX, "nor over");
    }

    #[test]
    fn the_rate_is_that_of_the_last_two_seconds() {
        let mut meter = Meter::default();
        let start = Instant::now();
        assert_eq!(meter.rate(start), 0);
        meter.report(1, 100);
        assert_eq!(meter.rate(start + Duration::from_secs(1)), 100);
        meter.report(1, 300);
        assert_eq!(meter.rate(start + Duration::from_secs(2)), 150);
        assert_eq!(meter.rate(start + Duration::from_secs(3)), 100);
        assert_eq!(meter.rate(start + Duration::from_secs(10)), 0);
    }
}
