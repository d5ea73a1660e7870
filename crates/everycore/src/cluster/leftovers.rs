//! What workers leave behind: processes of their group that go on after them, as the program behind a shell does.
//!
//! Nobody would end them, and one that holds a listening socket would serve beside its successors. They are told to end as
//! soon as their worker has, and killed when they have not after the time that workers have to drain.

use std::collections::BTreeMap;
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
    is_stopping: bool,
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

    /// The cluster is ordered to stop: at once, if so said or said again; and once more, without waiting for anybody.
    pub(super) fn stop(&mut self, is_fast: bool, limit: Duration) {
        let again = std::mem::replace(&mut self.is_stopping, true);
        if !is_fast && !again {
            return;
        }
        let limit = if self.hurry.is_some() { Duration::ZERO } else { limit };
        self.hurry = Some(limit);
        let soon = later(limit);
        for leftover in &mut self.groups {
            if let State::Told { until } | State::Lives { until } = &mut leftover.state {
                *until = [*until, soon].into_iter().flatten().min();
                leftover.next = Instant::now();
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
        let due: Vec<Leftover> = due.into_iter().filter(|leftover| !is_gone(leftover.group)).collect();
        if due.is_empty() {
            self.leftovers.groups = kept;
            return;
        }
        // One look at all processes for all of them.
        let living = living(&due.iter().map(|leftover| leftover.group).collect::<Vec<_>>());
        for mut leftover in due {
            // Those that ended and wait only to be waited for, which may be nobody's habit, are not waited for here.
            let Some(living) = living.get(&leftover.group.as_raw_nonzero().get()) else { continue };
            match leftover.state {
                State::Told { until } => {
                    self.tell_of_leftovers(leftover.worker, living, "they are told to end as well");
                    leftover.state = State::Lives { until };
                }
                State::Lives { until: Some(until) } if until <= now => {
                    let _ = kill_process_group(leftover.group, Signal::KILL);
                    self.tell_of_leftovers(
                        leftover.worker,
                        living,
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

/// Names and numbers of the processes that have not ended, by group.
fn living(groups: &[Pid]) -> BTreeMap<i32, Vec<String>> {
    let groups: Vec<i32> = groups.iter().map(|group| group.as_raw_nonzero().get()).collect();
    let mut living: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(stat) = fs::read(process.path().join("stat")) else { continue };
        let Some(found) = Process::parse(&String::from_utf8_lossy(&stat)) else { continue };
        // Of a process whose first thread has ended the others may go on.
        let others = || fs::read_dir(process.path().join("task")).is_ok_and(|tasks| tasks.count() > 1);
        if groups.contains(&found.group) && (!found.is_dead || others()) {
            living.entry(found.group).or_default().push(found.name);
        }
    }
    living
}

/// What a line of `/proc/PID/stat` says.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    name: String,
    group: i32,
    /// Its first thread is.
    is_dead: bool,
}

impl Process {
    fn parse(stat: &str) -> Option<Self> {
        // The name may contain anything, brackets too.
        let (before, after) = stat.rsplit_once(") ")?;
        let (pid, name) = before.split_once(" (")?;
        let mut fields = after.split(' ');
        let is_dead = matches!(fields.next()?, "Z" | "X");
        let group = fields.nth(1)?.parse().ok()?;
        Some(Self { name: format!("{name}, pid {pid}"), group, is_dead })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_name() {
        let process = |name: &str, group, is_dead| Some(Process { name: name.into(), group, is_dead });
        assert_eq!(Process::parse("7 (a) S 1) S 1 42 42 0"), process("a) S 1, pid 7", 42, false));
        assert_eq!(Process::parse("7 (sh) Z 1 42 42 0"), process("sh, pid 7", 42, true));
        assert_eq!(Process::parse("7 (sh"), None);
    }

    #[test]
    fn who_is_of_a_group_and_lives_is_found() {
        let own = rustix::process::getpgrp();
        let found = living(&[own]);
        let here = format!("pid {}", std::process::id());
        assert!(found[&own.as_raw_nonzero().get()].iter().any(|name| name.ends_with(&here)), "{found:?}");
        // Ended, and not waited for.
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let name = format!("pid {}", child.id());
        let deadline = Instant::now() + Duration::from_secs(30);
        while living(&[own]).values().flatten().any(|one| one.ends_with(&name)) {
            assert!(Instant::now() < deadline, "one that has ended counts as living");
        }
        child.wait().unwrap();
    }
}
