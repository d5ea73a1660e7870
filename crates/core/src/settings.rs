//! What the user asked for. Every number a decision depends on is here, with its default.
//!
//! The shell fills [`Settings`] from arguments, file and environment and calls [`Settings::validated`];
//! `schedule.rs` has the names of the policies.

use std::fmt;
use std::time::Duration;

use crate::schedule::Policy;

/// The most workers one primary keeps.
pub const MAX_WORKERS: u32 = 4096;

/// Everything the core is told about what is wanted.
///
/// ```
/// use everycore_core::Settings;
///
/// let settings = Settings { workers: 4, ..Settings::default() }.validated()?;
/// assert_eq!(settings.workers, 4);
/// let error = Settings { surge: 0, ..Settings::default() }.validated().unwrap_err();
/// assert_eq!(error.to_string(), "surge: must be at least 1, not 0");
/// # Ok::<(), everycore_core::SettingsError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many workers to keep, 1 to [`MAX_WORKERS`]. Default 1.
    pub workers: u32,
    /// Who gets a connection.
    pub policy: Policy,
    /// What makes a worker ready.
    pub readiness: Readiness,
    /// When an ended worker is replaced.
    pub restart: RestartSettings,
    /// How long each stage of a worker's life may take.
    pub deadlines: Deadlines,
    /// When a worker that serves well is replaced all the same. Default: never.
    pub recycle: RecycleSettings,
    /// A worker silent for this long is killed. Default: never.
    pub hung: Option<Duration>,
    /// How many replacements a reload starts at a time, at least 1. Default 1.
    pub surge: u32,
    /// How many connections a worker may be ahead with.
    pub credit: CreditSettings,
    /// How many connections may live at a time.
    pub limits: Limits,
    /// Where the jitter of delays comes from: same seed, same delays.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            workers: 1,
            policy: Policy::Least,
            readiness: Readiness::Listening,
            restart: RestartSettings::default(),
            deadlines: Deadlines::default(),
            recycle: RecycleSettings::default(),
            hung: None,
            surge: 1,
            credit: CreditSettings::default(),
            limits: Limits::default(),
            seed: 0,
        }
    }
}

/// What makes a worker ready to be counted on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readiness {
    /// It serves at least one listener.
    #[default]
    Listening,
    /// It is reported ready: by itself, or by a probe.
    Notified,
    /// It has started; for workers that serve no listener.
    Online,
}

/// When an ended worker is replaced, and when its slot is given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartSettings {
    /// Which ends call for a replacement. Default: all.
    pub policy: RestartPolicy,
    /// The wait after a failure that did not follow a healthy run; doubles with each further one. Default 200 ms.
    pub first_delay: Duration,
    /// The longest wait. Default 30 s.
    pub max_delay: Duration,
    /// This many failures within `period` and the slot is given up. Default 10.
    pub limit: u32,
    /// Default 5 minutes.
    pub period: Duration,
    /// While no worker was ever ready: once every slot has failed this many times in a row, each time within
    /// `healthy_after` of its start, all are given up. With the default delays the default, 6, takes some six seconds.
    pub start_limit: u32,
    /// A run is healthy once the worker has been ready for this long. Default 10 s.
    pub healthy_after: Duration,
}

impl Default for RestartSettings {
    fn default() -> Self {
        RestartSettings {
            policy: RestartPolicy::Always,
            first_delay: Duration::from_millis(200),
            max_delay: Duration::from_secs(30),
            limit: 10,
            period: Duration::from_secs(300),
            start_limit: 6,
            healthy_after: Duration::from_secs(10),
        }
    }
}

/// Which ends of a worker call for a replacement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Every end that was not ordered.
    #[default]
    Always,
    /// Only failures: a code other than 0, a signal, not ready in time, hung.
    OnFailure,
    /// None.
    Never,
}

/// How long each stage of a worker's life may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// From the fork until ready. Default 60 s.
    pub start: Duration,
    /// From being told to leave until `TERM`. Default 8 s.
    pub drain: Duration,
    /// From `TERM` until `KILL`. Default 2 s.
    pub term: Duration,
    /// A graceful stop goes on serving for this long before it drains. Default 0.
    pub drain_delay: Duration,
    /// A connection left untaken for this long takes the worker out of rotation. Default 1 s.
    pub handoff: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            start: Duration::from_secs(60),
            drain: Duration::from_secs(8),
            term: Duration::from_secs(2),
            drain_delay: Duration::ZERO,
            handoff: Duration::from_secs(1),
        }
    }
}

/// When a worker that serves well is replaced all the same: its successor first, and one worker at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecycleSettings {
    /// Once it has taken this many connections, at least 1. Counted where the primary hands them over.
    pub connections: Option<u64>,
    /// Up to so many more, drawn for each worker. Default 0.
    pub connections_jitter: u64,
    /// Once it has been ready for this long, less up to a quarter, drawn for each worker.
    pub lifetime: Option<Duration>,
    /// Once it is reported to use this much memory, in bytes, less up to a tenth, drawn for each worker. At least 1.
    pub memory: Option<u64>,
}

/// How far ahead of a worker the primary may be with handing connections over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreditSettings {
    /// The least credit of a worker, at least 1. Default 1.
    pub min: u32,
    /// The most credit of a worker. Default 16.
    pub max: u32,
    /// The credit of all workers together is what arrives in this time; more, where workers run dry while connections wait
    /// for them. Default 400 µs.
    pub horizon: Duration,
    /// Without progress for this long a worker is stuck and gets nothing more. Default 300 µs.
    pub stuck_after: Duration,
    /// Stuck for this long, what it has not taken may go to a free worker. Default 1 ms.
    pub withdraw_after: Duration,
    /// Above this many arrivals per second it pays to gather some before accepting. Default 5,000.
    pub gather_above: u32,
    /// For how long to gather. Default 100 µs.
    pub gather: Duration,
}

impl Default for CreditSettings {
    fn default() -> Self {
        CreditSettings {
            min: 1,
            max: 16,
            horizon: Duration::from_micros(400),
            stuck_after: Duration::from_micros(300),
            withdraw_after: Duration::from_millis(1),
            gather_above: 5_000,
            gather: Duration::from_micros(100),
        }
    }
}

/// How many connections may live at a time: handed over and not closed. Further ones wait in the kernel's backlog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of one worker, at least 1. Default: any number.
    pub per_worker: Option<u64>,
    /// Of all workers that serve a listener, at least 1; what such a worker holds counts for each of its listeners.
    /// Default: any number.
    pub per_listener: Option<u64>,
}

/// A setting that cannot be used: which one, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// The setting's name, as a path of fields.
    pub setting: &'static str,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.problem)
    }
}

impl std::error::Error for SettingsError {}

impl Settings {
    /// Gives the settings back when they can be used.
    ///
    /// # Errors
    /// Names the first setting that cannot be used, and what would be right.
    pub fn validated(self) -> Result<Self, SettingsError> {
        within("workers", self.workers, 1, MAX_WORKERS)?;
        within("surge", self.surge, 1, MAX_WORKERS)?;
        within("restart.limit", self.restart.limit, 1, u32::MAX)?;
        within("restart.start_limit", self.restart.start_limit, 1, u32::MAX)?;
        within("credit.min", self.credit.min, 1, u32::MAX)?;
        within("credit.max", self.credit.max, self.credit.min, u32::MAX)?;
        for (setting, limit) in [
            ("limits.per_worker", self.limits.per_worker),
            ("limits.per_listener", self.limits.per_listener),
            ("recycle.connections", self.recycle.connections),
            ("recycle.memory", self.recycle.memory),
        ] {
            if limit == Some(0) {
                return Err(SettingsError { setting, problem: "must be at least 1, not 0".into() });
            }
        }
        not_zero("restart.first_delay", self.restart.first_delay)?;
        not_zero("restart.period", self.restart.period)?;
        not_zero("deadlines.start", self.deadlines.start)?;
        not_zero("deadlines.term", self.deadlines.term)?;
        not_zero("deadlines.handoff", self.deadlines.handoff)?;
        not_zero("credit.horizon", self.credit.horizon)?;
        not_zero("credit.stuck_after", self.credit.stuck_after)?;
        not_zero("recycle.lifetime", self.recycle.lifetime.unwrap_or(Duration::MAX))?;
        not_zero("hung", self.hung.unwrap_or(Duration::MAX))?;
        not_below(
            "restart.max_delay",
            self.restart.max_delay,
            "restart.first_delay",
            self.restart.first_delay,
        )?;
        not_below(
            "credit.withdraw_after",
            self.credit.withdraw_after,
            "credit.stuck_after",
            self.credit.stuck_after,
        )?;
        Ok(self)
    }
}

fn within(setting: &'static str, value: u32, min: u32, max: u32) -> Result<(), SettingsError> {
    match value {
        _ if value < min => {
            Err(SettingsError { setting, problem: format!("must be at least {min}, not {value}") })
        }
        _ if value > max => {
            Err(SettingsError { setting, problem: format!("must be at most {max}, not {value}") })
        }
        _ => Ok(()),
    }
}

fn not_zero(setting: &'static str, value: Duration) -> Result<(), SettingsError> {
    match value {
        Duration::ZERO => Err(SettingsError { setting, problem: "must be longer than 0".into() }),
        _ => Ok(()),
    }
}

fn not_below(
    setting: &'static str,
    value: Duration,
    than: &str,
    least: Duration,
) -> Result<(), SettingsError> {
    match value < least {
        true => {
            Err(SettingsError { setting, problem: format!("{value:?} is shorter than {than}, {least:?}") })
        }
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.validated().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_can_be_used() {
        assert_eq!(Settings::default().validated(), Ok(Settings::default()));
    }

    #[test]
    fn an_error_names_the_setting_and_what_would_be_right() {
        assert_eq!(refused(|s| s.workers = 0), "workers: must be at least 1, not 0");
        assert_eq!(refused(|s| s.workers = 5_000), "workers: must be at most 4096, not 5000");
        assert_eq!(refused(|s| s.restart.limit = 0), "restart.limit: must be at least 1, not 0");
        assert_eq!(refused(|s| s.hung = Some(Duration::ZERO)), "hung: must be longer than 0");
        assert_eq!(refused(|s| s.deadlines.term = Duration::ZERO), "deadlines.term: must be longer than 0");
        assert_eq!(
            refused(|s| s.limits.per_worker = Some(0)),
            "limits.per_worker: must be at least 1, not 0"
        );
        assert_eq!(refused(|s| s.credit.max = 0), "credit.max: must be at least 1, not 0");
        assert_eq!(
            refused(|s| s.restart.max_delay = Duration::from_millis(1)),
            "restart.max_delay: 1ms is shorter than restart.first_delay, 200ms"
        );
    }
}
