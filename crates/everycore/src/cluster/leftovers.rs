//! What workers leave behind: processes of their group that go on after them, as the program behind a shell does.
//!
//! Nobody would end them, and one that holds a listening socket would serve beside its successors. They are told to end as
//! soon as their worker has, and killed when they have not after the time that workers have to drain.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use super::driver::{Driver, later};
use super::event::{Event, WorkerInfo};

/// The first look is for those that were ending anyway, or wait only to be waited for; then less and less often.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));

/// How long those that were killed may take to be gone. Longer takes only what nobody can end.
const AFTER_KILL: Duration = Duration::from_secs(1);

/// Groups of workers that have ended.
#[derive(Default)]
pub(super) struct Leftovers {
    groups: Vec<Leftover>,
    /// The cluster stops at once: what they have then.
    hurry: Option<Duration>,
}

struct Leftover {
    worker: WorkerInfo,
    group: Pid,
    state: State,
    next: Instant,
    every: Duration,
}

#[derive(Clone, Copy)]
enum State {
    /// Told to end; nobody has looked yet whether anything lives there.
    Told {
        until: Option<Instant>,
    },
    /// Something lives there.
    Lives {
        until: Option<Instant>,
    },
    Killed {
        until: Instant,
    },
}

impl Leftovers {
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// When to look again.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.groups.iter().map(|leftover| leftover.next).min()
    }

    /// Less time for all from now on.
    pub(super) fn hurry(&mut self, limit: Duration) {
        self.hurry = Some(limit);
        for leftover in &mut self.groups {
            if let State::Told { until } | State::Lives { until } = &mut leftover.state {
                let soon = later(limit);
                *until = until.map_or(soon, |until| Some(soon.map_or(until, |soon| soon.min(until))));
            }
        }
    }
}

impl Driver {
    /// A worker has ended, and its status was taken: its process group is ended with it.
    pub(super) fn end_group(&mut self, worker: WorkerInfo) {
        let Some(group) = worker.pid.and_then(|pid| Pid::from_raw(pid as i32)) else { return };
        if is_gone(group) {
            return;
        }
        let _ = kill_process_group(group, Signal::TERM);
        let until = later(self.leftovers.hurry.unwrap_or(self.deadlines.drain));
        let (next, every) = (Instant::now() + LOOK.0, LOOK.0);
        self.leftovers.groups.push(Leftover { worker, group, state: State::Told { until }, next, every });
    }

    /// Looks whether they are gone, and ends those whose time is over.
    pub(super) fn look_at_leftovers(&mut self, now: Instant) {
        let (due, mut kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.leftovers.groups).into_iter().partition(|one| one.next <= now);
        for mut leftover in due {
            if is_gone(leftover.group) {
                continue;
            }
            match leftover.state {
                State::Told { until } => {
                    let living = living(leftover.group);
                    if living.is_empty() {
                        continue;
                    }
                    self.tell_of_leftovers(leftover.worker, &living, "they are told to end as well");
                    leftover.state = State::Lives { until };
                }
                State::Lives { until: Some(until) } if until <= now => {
                    let living = living(leftover.group);
                    if living.is_empty() {
                        continue;
                    }
                    let _ = kill_process_group(leftover.group, Signal::KILL);
                    self.tell_of_leftovers(
                        leftover.worker,
                        &living,
                        "they have not ended in time and are killed",
                    );
                    leftover.state = State::Killed { until: now + AFTER_KILL };
                    leftover.every = LOOK.0;
                }
                State::Killed { until } if until <= now => continue,
                State::Lives { .. } | State::Killed { .. } => {}
            }
            leftover.every = (leftover.every * 2).min(LOOK.1);
            leftover.next = now + leftover.every;
            kept.push(leftover);
        }
        // Told of what was found, an observer may have ended workers.
        kept.append(&mut self.leftovers.groups);
        self.leftovers.groups = kept;
    }

    fn tell_of_leftovers(&mut self, worker: WorkerInfo, living: &[String], what: &str) {
        let text = format!(
            "{worker} left processes of its group behind ({}); {what}. A script around a program starts it with exec",
            living.join(", ")
        );
        self.tell(Event::Warning { text });
    }
}

/// Whether nobody is in the group of a leader that was waited for. Its number is not given away while anybody is; a process
/// of this number is a new one, and so would be its group.
fn is_gone(group: Pid) -> bool {
    let reused = || fs::exists(format!("/proc/{}", group.as_raw_nonzero())).unwrap_or(true);
    test_kill_process_group(group).is_err() || reused()
}

/// Names and numbers of the processes of a group that have not ended.
fn living(group: Pid) -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats = processes.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    let group = group.as_raw_nonzero().get();
    stats.filter_map(|stat| member(&stat, group)).collect()
}

/// `name (pid N)` of a line of `/proc/PID/stat` if that process is of the group and lives.
fn member(stat: &str, group: i32) -> Option<String> {
    // The name may contain anything, brackets too.
    let (before, after) = stat.rsplit_once(") ")?;
    let (pid, name) = before.split_once(" (")?;
    let mut fields = after.split(' ');
    let state = fields.next()?;
    let of: i32 = fields.nth(1)?.parse().ok()?;
    (of == group && !matches!(state, "Z" | "X")).then(|| format!("{name}, pid {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_of_a_group_and_lives_is_found_whatever_its_name() {
        assert_eq!(member("7 (a) S 1) S 1 42 42 0", 42).as_deref(), Some("a) S 1, pid 7"));
        assert_eq!(member("7 (sh) S 1 42 42 0", 7), None);
        assert_eq!(member("7 (sh) Z 1 42 42 0", 42), None);
        assert_eq!(member("7 (sh", 42), None);
        let own = rustix::process::getpgrp();
        assert!(living(own).iter().any(|one| one.ends_with(&format!("pid {}", std::process::id()))));
    }
}
