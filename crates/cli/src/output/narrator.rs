//! Puts events into words, one line each. Pure; remembers only what later lines refer back to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use everycore::{Event, ExitReason, ExitStatus, WorkerInfo};

use super::prefix::Tone;
use super::spoken;

/// One thing to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) tone: Tone,
    pub(crate) text: String,
    /// The worker whose last lines explain it.
    pub(crate) evidence: Option<u32>,
}

impl Line {
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self { tone: Tone::Plain, text: text.into(), evidence: None }
    }

    /// Advice, in the tone of what it is about.
    pub(crate) fn hint(text: String) -> Self {
        Self::bad(text)
    }

    fn bad(text: impl Into<String>) -> Self {
        Self { tone: Tone::Bad, text: text.into(), evidence: None }
    }

    fn explained_by(self, worker: Option<u32>) -> Self {
        Self { evidence: worker, ..self }
    }
}

/// So many workers that ended before they were ready are no accident.
const HINT_AFTER: u32 = 2;

/// Threads of a silent worker that are told; `--json` has all, with their stacks.
const THREADS: usize = 3;

/// Tells a cluster's story.
#[derive(Debug, Default)]
pub(crate) struct Narrator {
    /// Addresses bound before the workers started are known already.
    all_known: bool,
    /// Addresses told already: each listening worker reports them again.
    addresses: BTreeSet<String>,
    /// Who filled a slot before, until the replacement is ready.
    predecessors: BTreeMap<u32, u32>,
    /// The worker that failed last in each slot, and how.
    failures: BTreeMap<u32, Failed>,
    /// Workers that are ready, and their slots.
    ready: BTreeMap<u32, u32>,
    /// What could not be started, and why, as told last: each slot meets the same.
    unstartable: Option<String>,
    /// What a worker that is not ready in time has not done.
    awaited: Option<String>,
    /// How long a stop serves on before workers drain.
    drain_delay: Duration,
    /// What to think of when workers fail before they were ready, until it is told.
    hint: Option<String>,
    /// Workers that did.
    never_ready: u32,
    /// The newest worker of all.
    newest: Option<WorkerInfo>,
    stopping: bool,
}

/// A worker's bad end.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub(crate) worker: u32,
    /// `worker 3 (pid 12) exited with code 1`
    pub(crate) how: String,
}

impl Narrator {
    /// A narrator that tells where workers listen, unless that `is_known` from the start.
    pub(crate) fn new(is_known: bool) -> Self {
        Self { all_known: is_known, ..Self::default() }
    }

    /// With what was asked of workers and of a stop.
    pub(crate) fn of(self, awaited: Option<String>, drain_delay: Duration) -> Self {
        Self { awaited, drain_delay, ..self }
    }

    /// Has something to think of when workers fail before they are ready.
    pub(crate) fn advise(&mut self, hint: Option<String>) {
        self.hint = hint;
    }

    /// What people should think of by now; once.
    pub(crate) fn hint(&mut self) -> Option<String> {
        if self.never_ready < HINT_AFTER { None } else { self.hint.take() }
    }

    /// The failure that is latest, for the last word when everything has failed.
    pub(crate) fn last_failure(&self) -> Option<&Failed> {
        self.failures.values().max_by_key(|failed| failed.worker)
    }

    /// What there is to say about an event.
    pub(crate) fn tell(&mut self, event: &Event) -> Option<Line> {
        match event {
            Event::Fork { worker } => {
                self.newest = Some(*worker);
                None
            }
            Event::Listening { .. } if self.all_known => None,
            Event::Listening { address, .. } => {
                let address = address.to_string();
                let new = self.addresses.insert(address.clone());
                new.then(|| Line::plain(format!("listening on {address}")))
            }
            Event::Ready { worker } => Some(self.ready(*worker)),
            Event::Exit { worker, status, reason, exited_after_disconnect } => {
                Some(self.exit(*worker, *status, *reason, *exited_after_disconnect))
            }
            Event::Error { worker, reason } => {
                let how = format!("{worker}: {reason}");
                self.failures.insert(worker.slot, Failed { worker: worker.id, how: how.clone() });
                // One without a process could not be started, nor will those of the other slots.
                if worker.pid.is_none() && self.unstartable.replace(reason.clone()).as_ref() == Some(reason) {
                    return None;
                }
                Some(Line::bad(how))
            }
            Event::Late { worker, within } => {
                let awaited = self.awaited.as_ref().map_or_else(String::new, |what| format!(": {what}"));
                let how = format!("{worker} was not ready within {}{awaited}", spoken(*within));
                self.failures.insert(worker.slot, Failed { worker: worker.id, how: how.clone() });
                Some(Line::bad(how))
            }
            Event::Mistaken { worker } => {
                self.ready.remove(&worker.id);
                Some(Line::bad(format!(
                    "{worker} was taken for ready because it stayed up, and was not; --ready notify makes sure"
                )))
            }
            Event::Overdue { worker, within, open, kill_after } => {
                let open = match open {
                    0 => String::new(),
                    open => format!(" ({} open)", super::count(*open, "connection")),
                };
                Some(Line::bad(format!(
                    "{worker} has not finished within {}{open}: it is told TERM, and KILL in {}",
                    spoken(*within),
                    spoken(*kill_after)
                )))
            }
            Event::TooLarge { worker, resident, limit, postponed } => {
                let sizes = format!("{worker} uses {}, limit {}", size(*resident), size(*limit));
                Some(match postponed {
                    // Each worker's own limit is a little less, or all would be replaced at once.
                    None if resident <= limit => {
                        Line::plain(format!("{sizes}: it is replaced before it gets there"))
                    }
                    None => Line::plain(format!("{sizes}: it is replaced")),
                    Some(pause) => Line::bad(format!(
                        "warning: {sizes}, since it was ready: replacing it will hardly help, and is done after {} only; raise --max-rss",
                        spoken(*pause)
                    )),
                })
            }
            Event::Hung { worker } => Some(Line::bad(format!(
                "{worker} does not take its connections and gets no more until it does"
            ))),
            Event::Blocked { worker, duration } => Some(Line::bad(format!(
                "{worker} was blocked: its event loop stood still for {}",
                spoken(*duration)
            ))),
            Event::TimedOut { worker, after, doing } => {
                let doing = threads(doing);
                let how = format!("{worker} was silent for {}", spoken(*after));
                let line = format!("{how} and is killed{doing}");
                self.failures.insert(worker.slot, Failed { worker: worker.id, how });
                Some(Line::bad(line).explained_by(Some(worker.id)))
            }
            Event::Recovered { worker } => Some(Line::plain(format!("{worker} takes connections again"))),
            Event::RestartScheduled { delay, .. } if delay.is_zero() => None,
            Event::RestartScheduled { slot, delay, failures } => Some(Line::plain(format!(
                "{}, which failed {}, is filled again in {}",
                self.place_of(*slot),
                times(*failures),
                spoken(*delay)
            ))),
            // What could not be started even once is the last word of all.
            Event::SlotErrored { failures: 1, .. } if self.unstartable.is_some() => None,
            Event::SlotErrored { slot, failures } => {
                let failed = self.failures.get(slot);
                let how = failed.map_or_else(String::new, |failed| format!("; the last one: {}", failed.how));
                let line =
                    format!("{} is given up after {}{how}", self.place_of(*slot), failures_of(*failures));
                Some(Line::bad(line).explained_by(failed.map(|failed| failed.worker)))
            }
            Event::ReloadStarted { generation } => {
                Some(Line::plain(format!("reload: starting generation {generation}")))
            }
            Event::ReloadProgress { done, total } => {
                Some(Line::plain(format!("reload: {done} of {total} replaced")))
            }
            Event::ReloadDone { generation } => {
                Some(Line::plain(format!("reload done: generation {generation} serves")))
            }
            Event::ReloadFailed { .. } if self.stopping => Some(Line::plain("reload: not finished")),
            Event::ReloadFailed { generation, reason } => {
                let evidence = self.newest.filter(|newest| newest.generation == *generation);
                let line = format!("reload failed, the old workers serve on: {reason}");
                Some(Line::bad(line).explained_by(evidence.map(|worker| worker.id)))
            }
            Event::Scaled { workers } => {
                Some(Line::plain(format!("{} from now on", super::count(u64::from(*workers), "worker"))))
            }
            Event::Refused { class, refused } => Some(Line::bad(format!(
                "class {class} is full or has nobody left: {} refused so far",
                super::count(*refused, "connection")
            ))),
            Event::Stopping => {
                self.stopping = true;
                let first = match self.drain_delay {
                    Duration::ZERO => String::new(),
                    delay => format!("serving on for {} (--drain-delay), then ", spoken(delay)),
                };
                Some(Line::plain(format!(
                    "stopping: {first}workers finish what they serve; a second signal: TERM now, and KILL 2 s later"
                )))
            }
            Event::StoppingNow { kill_after: Duration::ZERO } => Some(Line::plain("stopping now: KILL")),
            Event::StoppingNow { kill_after } => {
                Some(Line::plain(format!("stopping now: TERM, then KILL in {}", spoken(*kill_after))))
            }
            Event::Warning { text } => Some(Line::bad(format!("warning: {text}"))),
            Event::Online { .. }
            | Event::Disconnect { .. }
            | Event::Message { .. }
            | Event::Request { .. } => None,
            // The library may learn to tell more than this version knows words for.
            _ => None,
        }
    }

    /// A place, by the worker that was there last.
    fn place_of(&self, slot: u32) -> String {
        match self.failures.get(&slot) {
            Some(failed) => format!("the place of worker {}", failed.worker),
            None => format!("place {slot}"),
        }
    }

    fn ready(&mut self, worker: WorkerInfo) -> Line {
        self.ready.insert(worker.id, worker.slot);
        match self.predecessors.remove(&worker.slot) {
            Some(old) => Line::plain(format!("{worker} is ready in place of worker {old}")),
            None => Line::plain(format!("{worker} is ready")),
        }
    }

    fn exit(&mut self, worker: WorkerInfo, status: ExitStatus, reason: ExitReason, asked: bool) -> Line {
        let was_ready = self.ready.remove(&worker.id).is_some();
        let ordered =
            self.stopping || matches!(reason, ExitReason::Reload | ExitReason::Scale | ExitReason::Stop);
        let is_orderly = status.is_success() || status == ExitStatus::Signal(15);
        if ordered || asked && is_orderly {
            let reason = reason_in_words(reason);
            return Line::plain(match status {
                ExitStatus::Code(0) => format!("{worker} has left ({reason})"),
                // The signal that asks it to: it did not take it, or ends by it once it has finished.
                ExitStatus::Signal(15) => format!("{worker} has left ({reason}, by SIGTERM)"),
                _ => format!("{worker} {status} ({reason})"),
            });
        }
        // A successor that failed beside the worker it was to replace leaves no place behind.
        if !self.ready.values().any(|slot| *slot == worker.slot) {
            self.predecessors.insert(worker.slot, worker.id);
        }
        self.never_ready += u32::from(!was_ready && !status.is_success());
        let how = match reason {
            ExitReason::Code if status.is_success() && !was_ready => {
                format!("{worker} {status} before it was ready")
            }
            ExitReason::Code | ExitReason::Signal => format!("{worker} {status}"),
            reason => format!("{worker} {status} ({})", reason_in_words(reason)),
        };
        // What was wrong with it was told when it was told to end, and says more than how it did.
        let is_told = matches!(reason, ExitReason::NotReady | ExitReason::Hung)
            && self.failures.get(&worker.slot).is_some_and(|failed| failed.worker == worker.id);
        if !is_told {
            self.failures.insert(worker.slot, Failed { worker: worker.id, how: how.clone() });
        }
        match status.is_success() && reason == ExitReason::Code {
            true => Line::plain(how),
            false => Line::bad(how),
        }
    }
}

/// What the first threads were doing, without their stacks.
fn threads(doing: &[String]) -> String {
    if doing.is_empty() {
        return String::new();
    }
    let short = |line: &String| line.split_once(" (").map_or(line.as_str(), |(short, _)| short).to_owned();
    let told: Vec<String> = doing.iter().take(THREADS).map(short).collect();
    let more = match doing.len().saturating_sub(THREADS) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!("; its threads: {}{more}", told.join("; "))
}

/// `45 MiB`; less than one as `500 KiB`.
fn size(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", super::grouped(bytes >> 20)),
    }
}

fn reason_in_words(reason: ExitReason) -> &'static str {
    match reason {
        ExitReason::Hung => "it was silent for too long",
        ExitReason::NotReady => "it was not ready in time",
        ExitReason::MaxRss => "it used too much memory",
        ExitReason::MaxRequests => "it had served its number of requests",
        ExitReason::MaxLifetime => "it had lived its time",
        other => other.as_str(),
    }
}

fn times(failures: u32) -> String {
    if failures == 1 { "once".into() } else { format!("{failures} times") }
}

fn failures_of(failures: u32) -> String {
    super::count(u64::from(failures), "failure")
}

#[cfg(test)]
mod tests {
    use everycore::BoundAddress;

    use super::*;

    fn worker(id: u32, slot: u32) -> WorkerInfo {
        WorkerInfo { id, slot, generation: 0, pid: Some(100 + id) }
    }

    fn exit(worker: WorkerInfo, status: ExitStatus, reason: ExitReason) -> Event {
        Event::Exit { worker, status, reason, exited_after_disconnect: false }
    }

    fn said(narrator: &mut Narrator, event: &Event) -> String {
        narrator.tell(event).map_or_else(String::new, |line| line.text)
    }

    #[test]
    fn a_replacement_names_its_predecessor() {
        let mut narrator = Narrator::default();
        assert_eq!(
            said(&mut narrator, &Event::Ready { worker: worker(1, 0) }),
            "worker 1 (pid 101) is ready"
        );
        let crash = exit(worker(1, 0), ExitStatus::Signal(6), ExitReason::Signal);
        assert_eq!(said(&mut narrator, &crash), "worker 1 (pid 101) killed by SIGABRT");
        let ready = Event::Ready { worker: worker(3, 0) };
        assert_eq!(said(&mut narrator, &ready), "worker 3 (pid 103) is ready in place of worker 1");
    }

    #[test]
    fn a_successor_that_failed_is_nobodys_predecessor() {
        let mut narrator = Narrator::default();
        said(&mut narrator, &Event::Ready { worker: worker(1, 0) });
        said(&mut narrator, &exit(worker(3, 0), ExitStatus::Code(7), ExitReason::Code));
        let ready = Event::Ready { worker: worker(4, 0) };
        assert_eq!(said(&mut narrator, &ready), "worker 4 (pid 104) is ready");
    }

    #[test]
    fn the_place_is_named_by_who_was_there() {
        let mut narrator = Narrator::default();
        said(&mut narrator, &exit(worker(1, 0), ExitStatus::Signal(6), ExitReason::Signal));
        let delay = Duration::from_millis(192);
        assert_eq!(
            said(&mut narrator, &Event::RestartScheduled { slot: 0, delay, failures: 1 }),
            "the place of worker 1, which failed once, is filled again in 192 ms"
        );
    }

    #[test]
    fn who_does_not_finish_in_time_is_told_of() {
        let overdue = |open| Event::Overdue {
            worker: worker(2, 1),
            within: Duration::from_secs(8),
            open,
            kill_after: Duration::from_secs(2),
        };
        let mut narrator = Narrator::default();
        assert_eq!(
            said(&mut narrator, &overdue(1)),
            "worker 2 (pid 102) has not finished within 8 s (1 connection open): it is told TERM, and KILL in 2 s"
        );
        assert!(said(&mut narrator, &overdue(0)).contains("within 8 s: it"));
    }

    #[test]
    fn a_false_guess_of_readiness_does_not_put_the_hint_off() {
        let mut narrator = Narrator::default();
        narrator.advise(Some("take {fd}".into()));
        for id in 1..=2 {
            said(&mut narrator, &Event::Ready { worker: worker(id, 0) });
            said(&mut narrator, &Event::Mistaken { worker: worker(id, 0) });
            said(&mut narrator, &exit(worker(id, 0), ExitStatus::Code(2), ExitReason::Code));
        }
        assert!(narrator.hint().is_some());
    }

    #[test]
    fn ordered_ends_are_told_calmly() {
        let mut narrator = Narrator::default();
        let line = narrator.tell(&exit(worker(1, 0), ExitStatus::Code(0), ExitReason::Reload)).unwrap();
        assert_eq!(line, Line::plain("worker 1 (pid 101) has left (reload)"));
        let line = narrator.tell(&exit(worker(1, 0), ExitStatus::Signal(15), ExitReason::Stop)).unwrap();
        assert_eq!(line, Line::plain("worker 1 (pid 101) has left (stop, by SIGTERM)"));
        assert!(narrator.last_failure().is_none());
    }

    #[test]
    fn a_silent_workers_threads_are_told_in_short() {
        let doing = ["a: sleeping in do_epoll_wait (do_epoll_wait < x)", "b: running", "c: running", "d: x"];
        let doing = doing.map(str::to_owned).to_vec();
        let event = Event::TimedOut { worker: worker(1, 0), after: Duration::from_secs(1), doing };
        assert_eq!(
            said(&mut Narrator::default(), &event),
            "worker 1 (pid 101) was silent for 1 s and is killed; its threads: a: sleeping in do_epoll_wait; b: running; c: running; and 1 more"
        );
    }

    #[test]
    fn a_size_is_told_with_its_limit() {
        let sized = |resident, postponed| Event::TooLarge {
            worker: worker(1, 0),
            resident,
            limit: 500 << 10,
            postponed,
        };
        let large = |postponed| sized(45 << 20, postponed);
        let mut narrator = Narrator::default();
        assert_eq!(
            said(&mut narrator, &large(None)),
            "worker 1 (pid 101) uses 45 MiB, limit 500 KiB: it is replaced"
        );
        assert_eq!(
            said(&mut narrator, &sized(460 << 10, None)),
            "worker 1 (pid 101) uses 460 KiB, limit 500 KiB: it is replaced before it gets there"
        );
        let line = said(&mut narrator, &large(Some(Duration::from_secs(60))));
        assert!(line.starts_with("warning: ") && line.contains("after 1 min only"), "{line}");
    }

    #[test]
    fn a_stop_that_serves_on_says_for_how_long() {
        let mut narrator = Narrator::default().of(None, Duration::from_secs(5));
        assert_eq!(
            said(&mut narrator, &Event::Stopping),
            "stopping: serving on for 5 s (--drain-delay), then workers finish what they serve; a second signal: TERM now, and KILL 2 s later"
        );
    }

    #[test]
    fn what_to_think_of_is_told_once_after_two_failures_before_anybody_was_ready() {
        let mut narrator = Narrator::default();
        narrator.advise(Some("take {fd}".into()));
        said(&mut narrator, &Event::Ready { worker: worker(1, 0) });
        for (id, hint) in [(1, None), (2, None), (3, Some("take {fd}".to_owned())), (4, None)] {
            said(&mut narrator, &exit(worker(id, 0), ExitStatus::Code(1), ExitReason::Code));
            assert_eq!(narrator.hint(), hint, "{id}");
        }
    }

    #[test]
    fn a_given_up_slot_says_why() {
        let mut narrator = Narrator::default();
        said(&mut narrator, &exit(worker(4, 1), ExitStatus::Code(3), ExitReason::Code));
        let line = narrator.tell(&Event::SlotErrored { slot: 1, failures: 10 }).unwrap();
        assert_eq!(
            line.text,
            "the place of worker 4 is given up after 10 failures; the last one: worker 4 (pid 104) exited with code 3"
        );
        assert_eq!((line.tone, line.evidence), (Tone::Bad, Some(4)));
        assert_eq!(narrator.last_failure().unwrap().worker, 4);
    }

    #[test]
    fn a_failed_reload_points_at_the_replacement() {
        let mut narrator = Narrator::default();
        let new = WorkerInfo { generation: 2, ..worker(9, 0) };
        narrator.tell(&Event::Fork { worker: new });
        let failed = Event::ReloadFailed { generation: 2, reason: "worker 9 exited with code 1".into() };
        let line = narrator.tell(&failed).unwrap();
        assert_eq!(line.text, "reload failed, the old workers serve on: worker 9 exited with code 1");
        assert_eq!(line.evidence, Some(9));
    }

    #[test]
    fn an_address_is_told_once() {
        let mut narrator = Narrator::default();
        let address = BoundAddress::Tcp("127.0.0.1:80".parse().unwrap());
        let listening = Event::Listening { worker: worker(1, 0), address };
        assert_eq!(said(&mut narrator, &listening), "listening on 127.0.0.1:80");
        assert_eq!(said(&mut narrator, &listening), "");
    }

    #[test]
    fn delays_are_told_when_there_are_any() {
        let mut narrator = Narrator::default();
        let scheduled =
            |ms, failures| Event::RestartScheduled { slot: 1, delay: Duration::from_millis(ms), failures };
        assert_eq!(said(&mut narrator, &scheduled(0, 1)), "");
        assert_eq!(
            said(&mut narrator, &scheduled(400, 2)),
            "place 1, which failed 2 times, is filled again in 400 ms"
        );
    }
}
