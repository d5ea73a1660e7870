//! How fast connections arrive, and what follows from it: how far ahead of a worker to be, and when to gather.
//!
//! One connection per worker at a time would be the fairest and costs a fifth of the rate; a fixed larger
//! number parks connections behind a busy worker when there are few. So the credit follows the rate. That alone feeds on
//! itself: where the primary comes round more slowly than the credit lasts, the credit holds down the very rate it is
//! made of. So it is doubled where a worker has run dry while connections waited, and comes down again when none do.

use std::time::Duration;

use crate::settings::CreditSettings;
use crate::time::Time;

/// Arrivals are counted over windows of this length.
const WINDOW: Duration = Duration::from_millis(5);
/// After a pause this long the old rate says nothing any more.
const STALE: Duration = Duration::from_millis(100);

/// Connections per second, counted in windows and smoothed over a few of them.
#[derive(Clone, Debug)]
pub(crate) struct Rate {
    per_second: u64,
    window_began: Time,
    in_window: u64,
}

impl Rate {
    pub(crate) fn new(now: Time) -> Self {
        Rate { per_second: 0, window_began: now, in_window: 0 }
    }

    /// Counts one arrival.
    pub(crate) fn arrived(&mut self, now: Time) {
        if now - self.window_began >= WINDOW {
            self.per_second = self.per_second(now);
            self.window_began = now;
            self.in_window = 0;
        }
        self.in_window += 1;
    }

    /// Arrivals per second as of `now`.
    pub(crate) fn per_second(&self, now: Time) -> u64 {
        let elapsed = now - self.window_began;
        if elapsed < WINDOW {
            return self.per_second;
        }
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let measured = self.in_window.saturating_mul(1_000_000) / micros.max(1);
        if elapsed >= STALE { measured } else { (self.per_second + measured).div_ceil(2) }
    }
}

/// How much of the lead goes each time that no connection is left waiting: one part in this many.
const LEAD_FADES_BY: u64 = 8;

/// The credit that has turned out to be needed, beyond what the rate deserves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lead {
    credit: u64,
    /// At the last look connections were left waiting because nobody was free.
    starved: bool,
}

impl Lead {
    pub(crate) fn credit(&self) -> u64 {
        self.credit
    }

    /// The primary has accepted what it could; whether it left some waiting. True when the credit has changed.
    pub(crate) fn drained(&mut self, starved: bool) -> bool {
        self.starved = starved;
        if starved || self.credit == 0 {
            return false;
        }
        self.credit -= self.credit.div_ceil(LEAD_FADES_BY);
        true
    }

    /// A worker that has nothing left gets one of those that waited. True when the credit has changed.
    pub(crate) fn ran_dry(&mut self, credit: u64, settings: &CreditSettings) -> bool {
        // Once for each look: the others ran dry in the same stretch of time.
        if !std::mem::take(&mut self.starved) {
            return false;
        }
        self.credit = credit.saturating_mul(2).min(settings.max.into());
        true
    }
}

/// How far a worker's load has come down when it is worth waking a primary to hand it more.
pub(crate) fn low_water(credit: u64) -> u64 {
    credit / 2
}

/// How many connections a worker may hold that are not through their first turn.
pub(crate) fn credit(per_second: u64, workers: usize, settings: &CreditSettings) -> u64 {
    let micros = u64::try_from(settings.horizon.as_micros()).unwrap_or(u64::MAX);
    // Rounded up: rounded down, one per worker and gathering would hold the rate at what calls for one per worker.
    let share = per_second.saturating_mul(micros).div_ceil(1_000_000 * workers.max(1) as u64);
    share.min(u64::from(settings.max)).max(u64::from(settings.min)).max(1)
}

/// How long to gather connections before accepting them, if it pays at this rate.
pub(crate) fn gather(per_second: u64, settings: &CreditSettings) -> Option<Duration> {
    (per_second > u64::from(settings.gather_above) && !settings.gather.is_zero()).then_some(settings.gather)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Arrivals at an even pace for a second.
    fn steady(per_second: u64) -> (Rate, Time) {
        let (mut rate, mut now) = (Rate::new(Time::ZERO), Time::ZERO);
        for n in 1..=per_second {
            now = Time::new(Duration::from_nanos(n * 1_000_000_000 / per_second));
            rate.arrived(now);
        }
        (rate, now)
    }

    #[test]
    fn a_steady_rate_is_measured_within_a_few_percent() {
        for per_second in [500, 5_000, 35_000] {
            let (rate, now) = steady(per_second);
            let measured = rate.per_second(now);
            assert!(measured.abs_diff(per_second) <= per_second / 10, "{measured} for {per_second}");
        }
    }

    #[test]
    fn after_a_pause_the_rate_is_what_the_pause_made_it() {
        let (rate, now) = steady(35_000);
        assert!(rate.per_second(now + Duration::from_secs(1)) < 200);
        assert_eq!(rate.per_second(now + Duration::from_secs(3_600)), 0);
    }

    #[test]
    fn the_credit_is_what_arrives_in_the_horizon_divided_by_the_workers_rounded_up() {
        let settings = CreditSettings::default();
        assert_eq!(credit(0, 2, &settings), 1);
        assert_eq!(credit(500, 2, &settings), 1);
        assert_eq!(credit(35_000, 2, &settings), 7);
        assert_eq!(credit(35_000, 8, &settings), 2);
        assert_eq!(credit(1_000_000, 1, &settings), 16);
        assert_eq!(credit(35_000, 0, &settings), 14);
    }

    #[test]
    fn a_worker_that_ran_dry_while_others_waited_doubles_the_credit_once_per_look() {
        let settings = CreditSettings::default();
        let mut lead = Lead::default();
        assert!(!lead.ran_dry(1, &settings), "nobody waited");
        for doubled in [2, 4, 8, 16, 16] {
            lead.drained(true);
            assert!(lead.ran_dry(lead.credit().max(1), &settings) && lead.credit() == doubled);
            assert!(!lead.ran_dry(doubled, &settings));
        }
        let looks = (0..).take_while(|_| lead.drained(false)).count();
        assert!((8..=32).contains(&looks), "{looks} looks that leave nobody waiting take it back");
    }

    #[test]
    fn gathering_begins_above_its_rate() {
        let settings = CreditSettings::default();
        assert_eq!(gather(5_000, &settings), None);
        assert_eq!(gather(5_001, &settings), Some(Duration::from_micros(100)));
        let never = CreditSettings { gather: Duration::ZERO, ..settings };
        assert_eq!(gather(50_000, &never), None);
    }
}
