//! How often the loop turns without being woken.

use std::time::Duration;

/// How often a primary looks after a worker that has been handed something and does not take it: soon, then less and
/// less often.
const TICK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// The shortest and the longest time between two looks at workers that may be killed for their silence.
const WATCH: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// What the turns of before say of the next.
pub(super) struct Pace {
    tick: Duration,
    /// How often workers are looked at where silence is punished: a blocked one wakes nobody.
    watch: Option<Duration>,
    /// The last turn accepted something: while the rate is high, the next one gathers before it looks again.
    busy: bool,
}

impl Pace {
    /// Where workers may be silent for so long, if that has an end.
    pub(super) fn new(hung: Option<Duration>) -> Self {
        let watch = hung.map(|patience| (patience / 4).clamp(WATCH.0, WATCH.1));
        Self { tick: TICK.0, watch, busy: false }
    }

    pub(super) fn watch(&self) -> Option<Duration> {
        self.watch
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Connections were handed over in this turn, or not.
    pub(super) fn turned(&mut self, busy: bool) {
        self.busy = busy;
        if busy {
            self.tick = TICK.0;
        }
    }

    /// How long to wait for what nobody will tell of, as long as there is any of it.
    pub(super) fn tick(&mut self, is_any: bool) -> Option<Duration> {
        let tick = if is_any { self.tick } else { TICK.0 };
        self.tick = if is_any { (tick * 2).min(TICK.1) } else { TICK.0 };
        is_any.then_some(tick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_less_and_less_often_until_something_goes_on() {
        let mut pace = Pace::new(None);
        let ticks: Vec<u128> = (0..8).filter_map(|_| Some(pace.tick(true)?.as_millis())).collect();
        assert_eq!(ticks, [1, 2, 4, 8, 16, 32, 50, 50]);
        pace.turned(false);
        assert_eq!(pace.tick(true), Some(TICK.1));
        pace.turned(true);
        assert_eq!(pace.tick(true), Some(TICK.0));
        assert_eq!((pace.tick(false), pace.tick(true)), (None, Some(TICK.0)));
    }
}
