//! The line at the bottom while something takes longer than a moment: starting, reloading, stopping. Derived from
//! the cluster as it stands; only since when is remembered.

use std::time::{Duration, Instant};

use everycore::{Phase, Snapshot, WorkerSnapshot};

use super::count;

/// What is quicker than this is not worth a line.
const MOMENT: Duration = Duration::from_secs(1);

const FRAMES: [char; 4] = ['|', '/', '-', '\\'];

/// Something that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    Starting { ready: usize, of: usize },
    Reloading { done: usize, of: usize },
    Stopping { left: usize },
}

impl Doing {
    /// What a cluster is doing besides serving.
    pub(crate) fn of(snapshot: &Snapshot) -> Option<Self> {
        let ready = |worker: &&WorkerSnapshot| worker.phase == Phase::Listening;
        if snapshot.stopping {
            return Some(Self::Stopping { left: snapshot.workers.len() });
        }
        let of = snapshot.slots.len();
        if let Some(generation) = snapshot.reloading {
            let new = snapshot.workers.iter().filter(ready).filter(|worker| worker.generation == generation);
            return Some(Self::Reloading { done: new.count(), of });
        }
        let ready = snapshot.workers.iter().filter(ready).count();
        (ready < of).then_some(Self::Starting { ready, of })
    }

    fn words(self) -> String {
        match self {
            Self::Starting { ready, of } => {
                format!("starting: {ready} of {} ready", count(of as u64, "worker"))
            }
            Self::Reloading { done, of } => {
                format!("reloading: {done} of {} replaced", count(of as u64, "worker"))
            }
            Self::Stopping { left } => format!("stopping: {} left", count(left as u64, "worker")),
        }
    }
}

/// Remembers since when something goes on.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    since: Option<(std::mem::Discriminant<Doing>, Instant)>,
    frame: usize,
}

impl Progress {
    /// The line for what goes on now, if it has for longer than a moment.
    pub(crate) fn line(&mut self, doing: Option<Doing>, now: Instant) -> Option<String> {
        let Some(doing) = doing else {
            self.since = None;
            return None;
        };
        let kind = std::mem::discriminant(&doing);
        let since = match self.since {
            Some((known, since)) if known == kind => since,
            _ => now,
        };
        self.since = Some((kind, since));
        let took = now.saturating_duration_since(since);
        if took < MOMENT {
            return None;
        }
        self.frame = (self.frame + 1) % FRAMES.len();
        Some(format!("{} {} ({} s)", FRAMES[self.frame], doing.words(), took.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_a_moment_only_is_not_shown() {
        let mut progress = Progress::default();
        let start = Instant::now();
        let doing = |done| Some(Doing::Reloading { done, of: 4 });
        assert_eq!(progress.line(doing(0), start), None);
        assert_eq!(
            progress.line(doing(1), start + MOMENT).unwrap(),
            "/ reloading: 1 of 4 workers replaced (1 s)"
        );
        assert_eq!(
            progress.line(Some(Doing::Stopping { left: 1 }), start + MOMENT * 2),
            None,
            "something else"
        );
        assert_eq!(progress.line(None, start + MOMENT * 3), None);
        assert_eq!(progress.line(doing(2), start + MOMENT * 4), None, "a new one");
    }
}
