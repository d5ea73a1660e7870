//! Time as an argument: how long since the primary started.
//!
//! The core has no clock. Whoever drives it reads one and passes the reading in; tests pass whatever
//! they like.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment, counted from the start of the primary on a clock that never goes back.
///
/// ```
/// use everycore_core::Time;
/// use std::time::Duration;
///
/// let later = Time::ZERO + Duration::from_millis(250);
/// assert_eq!(later - Time::ZERO, Duration::from_millis(250));
/// assert_eq!(Time::ZERO - later, Duration::ZERO); // never negative
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(Duration);

impl Time {
    /// The start of the primary.
    pub const ZERO: Time = Time(Duration::ZERO);

    /// The moment `since_start` after the start of the primary.
    pub const fn new(since_start: Duration) -> Self {
        Time(since_start)
    }

    /// How long after the start of the primary this moment is.
    pub const fn since_start(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    /// A later moment. Saturates, so that "for ever" may be written as [`Duration::MAX`].
    fn add(self, wait: Duration) -> Time {
        Time(self.0.saturating_add(wait))
    }
}

impl Sub for Time {
    type Output = Duration;

    /// How long after `earlier` this is; zero when it is not after it at all.
    fn sub(self, earlier: Time) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}s", self.0.as_secs_f64())
    }
}
