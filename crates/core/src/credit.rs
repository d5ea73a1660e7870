//! How fast connections arrive, and what follows from it: how far ahead of a worker to be, and when to gather.
//!
//! One connection per worker at a time would be the fairest and costs a fifth of the rate; a fixed larger
//! number parks connections behind a busy worker when there are few. So the credit follows the rate.

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

/// How many connections a worker may hold that are not through their first turn.
pub(crate) fn credit(per_second: u64, workers: usize, settings: &CreditSettings) -> u64 {
    let micros = u64::try_from(settings.horizon.as_micros()).unwrap_or(u64::MAX);
    let arriving = per_second.saturating_mul(micros) / 1_000_000;
    let share = arriving / (workers.max(1) as u64);
    share.min(u64::from(settings.max)).max(u64::from(settings.min))
}

/// How long to gather connections before accepting them, if it pays at this rate.
pub(crate) fn gather(per_second: u64, settings: &CreditSettings) -> Option<Duration> {
    (per_second > u64::from(settings.gather_above) && !settings.gather.is_zero()).then_some(settings.gather)
}
