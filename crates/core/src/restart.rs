//! When a slot that lost its worker is filled again: at once, after a delay, or never.
//!
//! A [`History`] knows the failures of one slot; `primary/ends.rs` asks it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::random::Random;
use crate::settings::RestartSettings;
use crate::time::Time;

/// The failures of one slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// When, within the period; the oldest first.
    failures: VecDeque<Time>,
    /// Failures in a row without a healthy run in between.
    streak: u32,
    /// Failures in a row that each came soon after the start.
    quick: u32,
}

/// What the history calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// Fill the slot again after this long; zero means at once.
    After(Duration),
    /// Too many failures in the period.
    GiveUp,
}

/// What kind of run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    /// The worker had been ready for long enough.
    Healthy,
    /// It had not.
    Short,
}

impl History {
    /// Records a failure and answers what follows from it.
    pub(crate) fn failed(
        &mut self,
        run: Run,
        now: Time,
        settings: &RestartSettings,
        random: &mut Random,
    ) -> Restart {
        while self.failures.front().is_some_and(|&at| now - at >= settings.period) {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        if self.failures() >= settings.limit {
            // What lies further back than the limit can never matter again.
            self.failures.drain(..self.failures.len() - settings.limit as usize);
            return Restart::GiveUp;
        }
        match run {
            Run::Healthy => {
                self.streak = 0;
                Restart::After(Duration::ZERO)
            }
            Run::Short => {
                let doubled = settings.first_delay.saturating_mul(2_u32.saturating_pow(self.streak));
                self.streak = self.streak.saturating_add(1);
                Restart::After(random.jitter(doubled.min(settings.max_delay)))
            }
        }
    }

    /// A worker is about to be counted as failed: soon after it was started, or not.
    pub(crate) fn ended(&mut self, quick: bool) {
        self.quick = if quick { self.quick.saturating_add(1) } else { 0 };
    }

    /// Failures in a row that each came soon after the start.
    pub(crate) fn quick(&self) -> u32 {
        self.quick
    }

    /// How many failures the last period saw, as of the last failure.
    pub(crate) fn failures(&self) -> u32 {
        u32::try_from(self.failures.len()).unwrap_or(u32::MAX)
    }

    /// Forgets everything: a new version starts with a clean record.
    pub(crate) fn clear(&mut self) {
        *self = History::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::new(Duration::from_secs(seconds))
    }

    struct Slot(History, Random);

    impl Slot {
        fn new() -> Self {
            Slot(History::default(), Random::new(1))
        }

        fn failed(&mut self, run: Run, seconds: u64) -> Restart {
            let settings =
                RestartSettings { limit: 4, period: Duration::from_secs(60), ..RestartSettings::default() };
            self.0.failed(run, at(seconds), &settings, &mut self.1)
        }
    }

    #[test]
    fn failures_far_apart_are_never_too_many() {
        let mut slot = Slot::new();
        for n in 0..100 {
            assert_eq!(slot.failed(Run::Healthy, n * 30), Restart::After(Duration::ZERO), "failure {n}");
        }
        assert_eq!(slot.0.failures(), 2);
    }

    #[test]
    fn the_limit_counts_within_the_period() {
        let mut slot = Slot::new();
        for seconds in [0, 58, 59, 60] {
            assert_eq!(slot.failed(Run::Healthy, seconds), Restart::After(Duration::ZERO));
        }
        assert_eq!(slot.failed(Run::Healthy, 61), Restart::GiveUp);
        assert_eq!(slot.failed(Run::Healthy, 62), Restart::GiveUp);
        assert_eq!(slot.0.failures(), 4);
    }

    #[test]
    fn a_healthy_run_starts_the_delays_afresh() {
        let mut slot = Slot::new();
        let short =
            |delay: Restart| matches!(delay, Restart::After(delay) if delay <= Duration::from_millis(200));
        assert!(short(slot.failed(Run::Short, 0)));
        assert!(!short(slot.failed(Run::Short, 1)));
        assert_eq!(slot.failed(Run::Healthy, 100), Restart::After(Duration::ZERO));
        assert!(short(slot.failed(Run::Short, 101)));
    }

    #[test]
    fn a_delay_never_exceeds_the_longest() {
        let settings = RestartSettings { limit: u32::MAX, ..RestartSettings::default() };
        let mut slot = Slot::new();
        for n in 0..10_000 {
            let Restart::After(delay) = slot.0.failed(Run::Short, at(n), &settings, &mut slot.1) else {
                panic!()
            };
            assert!(delay <= settings.max_delay && delay >= settings.first_delay * 3 / 4);
        }
    }
}
