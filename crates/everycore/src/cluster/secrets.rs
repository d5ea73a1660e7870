//! The secrets that workers share: made when one first asks, replaced on schedule, told to all who asked.
//!
//! A worker whose channel is full is told when it reads again; it misses nothing but time, since it knows the secret
//! that came into force already.

use std::io;
use std::time::{Duration, Instant};

use everycore_core::WorkerId;
use everycore_ipc::SendError;
use everycore_sys::random;

use super::driver::Driver;
use super::event::Event;
use crate::error::{Error, Result};
use crate::protocol::ToWorker;
use crate::secret::{Secret, SecretSet};

const SHORTEST: Duration = Duration::from_secs(1);

/// No session ticket may be older.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The set in force and when the next one is due.
struct Rotation {
    set: SecretSet,
    due: Instant,
}

impl Rotation {
    fn new(period: Duration, now: Instant) -> io::Result<Self> {
        let set = SecretSet {
            current: Secret::new(1, fresh()?),
            next: Secret::new(2, fresh()?),
            previous: None,
            period,
        };
        Ok(Self { set, due: now + period })
    }

    fn rotate(&mut self, now: Instant) -> io::Result<()> {
        self.due = now + self.set.period;
        self.set = self.set.rotated(fresh()?);
        Ok(())
    }

    /// Rotates as often as was due: a primary that was stopped for long leaves no old secret in force.
    fn catch_up(&mut self, now: Instant) -> io::Result<()> {
        let missed = now.saturating_duration_since(self.due).as_nanos() / self.set.period.as_nanos().max(1);
        // After three, nothing of the old set is left.
        for _ in 0..=missed.min(2) {
            self.rotate(now)?;
        }
        Ok(())
    }
}

/// The secrets of a cluster, once a worker has asked for them.
pub(super) struct Secrets {
    period: Duration,
    rotation: Option<Rotation>,
}

impl Secrets {
    /// With so long between two rotations.
    pub(super) fn new(period: Duration) -> Result<Self> {
        check_period(period)?;
        Ok(Self { period, rotation: None })
    }

    pub(super) fn next_rotation(&self) -> Option<Instant> {
        self.rotation.as_ref().map(|rotation| rotation.due)
    }

    /// Makes the first set, if there is none.
    fn make(&mut self, now: Instant) -> io::Result<()> {
        if self.rotation.is_none() {
            self.rotation = Some(Rotation::new(self.period, now)?);
        }
        Ok(())
    }
}

/// Refuses a period that would make secrets useless, or old.
fn check_period(period: Duration) -> Result<()> {
    if (SHORTEST..=LONGEST).contains(&period) {
        return Ok(());
    }
    Err(Error::Setting(format!("secret_rotation: {period:?} is not between one second and seven days")))
}

fn fresh() -> io::Result<[u8; Secret::LEN]> {
    let mut bytes = [0; Secret::LEN];
    random::fill(&mut bytes)?;
    Ok(bytes)
}

impl Driver {
    /// A worker asks for the secrets: it gets them now, and after each rotation.
    pub(super) fn share_secrets(&mut self, worker: WorkerId) {
        if let Err(error) = self.secrets.make(Instant::now()) {
            return self.break_off(worker, format!("cannot be given secrets: {error}"));
        }
        if let Some(member) = self.members.get_mut(&worker) {
            member.secrets = Some(None);
        }
        self.tell_secrets();
    }

    /// Rotates ahead of schedule; nothing to do before somebody asked.
    pub(super) fn rotate_secrets(&mut self) {
        self.rotate_by(Rotation::rotate);
    }

    pub(super) fn rotate_secrets_when_due(&mut self, now: Instant) {
        if self.secrets.next_rotation().is_some_and(|due| due <= now) {
            self.rotate_by(Rotation::catch_up);
        } else {
            self.tell_secrets();
        }
    }

    fn rotate_by(&mut self, rotate: fn(&mut Rotation, Instant) -> io::Result<()>) {
        let Some(rotation) = &mut self.secrets.rotation else { return };
        if let Err(error) = rotate(rotation, Instant::now()) {
            self.tell(Event::Warning {
                text: format!("the workers' secrets stay as they are for another period: {error}"),
            });
        }
        self.tell_secrets();
    }

    /// Tells those who have asked and not heard of the set in force.
    fn tell_secrets(&mut self) {
        let Some(rotation) = &self.secrets.rotation else { return };
        let current = Some(rotation.set.current.id());
        let mut told = Vec::new();
        let mut failed = Vec::new();
        for (worker, member) in &mut self.members {
            if member.link.is_none() || member.secrets.is_none_or(|known| known == current) {
                continue;
            }
            match member.tell(&ToWorker::Secrets(rotation.set.clone()), Vec::new()) {
                Ok(()) => {
                    member.secrets = Some(current);
                    told.push(*worker);
                }
                // It will be told when it has read; every turn of the loop tries.
                Err(SendError::Full(_)) => {}
                Err(error) => failed.push((*worker, error.to_string())),
            }
        }
        for worker in told {
            self.flush_channel(worker);
        }
        for (worker, error) in failed {
            self.break_off(worker, format!("cannot be told the secrets: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    #[test]
    fn a_primary_that_was_stopped_leaves_no_old_secret_in_force() {
        let start = Instant::now();
        for (late, current) in [(0, 2), (59, 2), (60, 3), (120, 4), (1_000_000, 4)] {
            let mut rotation = Rotation::new(PERIOD, start).unwrap();
            let before = rotation.set.clone();
            let now = start + PERIOD + Duration::from_secs(late);
            rotation.catch_up(now).unwrap();
            assert_eq!(rotation.set.current.id(), current, "{late} s late");
            assert_eq!(rotation.due, now + PERIOD);
            assert_eq!(rotation.set.find(before.next.id()).is_some(), late < 120);
        }
    }

    #[test]
    fn a_period_that_makes_no_sense_is_refused() {
        assert!(check_period(PERIOD).is_ok());
        for wrong in [Duration::ZERO, Duration::from_millis(999), LONGEST + SHORTEST, Duration::MAX] {
            assert!(check_period(wrong).unwrap_err().to_string().contains("secret_rotation"));
        }
    }

    #[test]
    fn no_two_secrets_are_alike() {
        let mut rotation = Rotation::new(PERIOD, Instant::now()).unwrap();
        let first = rotation.set.clone();
        rotation.rotate(Instant::now()).unwrap();
        assert_eq!(rotation.set.previous.as_ref(), Some(&first.current));
        assert_eq!(rotation.set.current, first.next);
        let all = [&first.current, &first.next, &rotation.set.next].map(Secret::bytes);
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
    }
}
