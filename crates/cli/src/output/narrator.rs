//! Puts events into words, one line each. Pure; remembers only what later lines refer back to.

use std::collections::{BTreeMap, BTreeSet};

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

    fn bad(text: impl Into<String>) -> Self {
        Self { tone: Tone::Bad, text: text.into(), evidence: None }
    }

    fn explained_by(self, worker: Option<u32>) -> Self {
        Self { evidence: worker, ..self }
    }
}

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
                Some(Line::bad(how))
            }
            Event::Hung { worker } => Some(Line::bad(format!(
                "{worker} does not take its connections and gets no more until it does"
            ))),
            Event::Blocked { worker, duration } => Some(Line::bad(format!(
                "{worker} was blocked: its event loop stood still for {}",
                spoken(*duration)
            ))),
            Event::TimedOut { worker, after, doing } => {
                let doing = if doing.is_empty() {
                    String::new()
                } else {
                    format!("; its threads: {}", doing.join("; "))
                };
                let line = format!("{worker} was silent for {} and is killed{doing}", spoken(*after));
                Some(Line::bad(line).explained_by(Some(worker.id)))
            }
            Event::Recovered { worker } => Some(Line::plain(format!("{worker} takes connections again"))),
            Event::RestartScheduled { delay, .. } if delay.is_zero() => None,
            Event::RestartScheduled { slot, delay, failures } => Some(Line::plain(format!(
                "slot {slot} failed {} and is filled again in {}",
                times(*failures),
                spoken(*delay)
            ))),
            Event::SlotErrored { slot, failures } => {
                let failed = self.failures.get(slot);
                let how = failed.map_or_else(String::new, |failed| format!("; the last one: {}", failed.how));
                let line = format!("slot {slot} is given up after {}{how}", failures_of(*failures));
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
                Some(Line::plain("stopping: workers finish what they serve; a second signal stops at once"))
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

    fn ready(&mut self, worker: WorkerInfo) -> Line {
        match self.predecessors.remove(&worker.slot) {
            Some(old) => Line::plain(format!("{worker} is ready in place of worker {old}")),
            None => Line::plain(format!("{worker} is ready")),
        }
    }

    fn exit(&mut self, worker: WorkerInfo, status: ExitStatus, reason: ExitReason, asked: bool) -> Line {
        let ordered =
            self.stopping || matches!(reason, ExitReason::Reload | ExitReason::Scale | ExitReason::Stop);
        if ordered || asked && status.is_success() {
            let text = match status.is_success() {
                true => format!("{worker} has left"),
                false => format!("{worker} {status}"),
            };
            return Line::plain(format!("{text} ({})", reason_in_words(reason)));
        }
        self.predecessors.insert(worker.slot, worker.id);
        if status.is_success() && reason == ExitReason::Code {
            return Line::plain(format!("{worker} {status}"));
        }
        let how = match reason {
            ExitReason::Code | ExitReason::Signal => format!("{worker} {status}"),
            reason => format!("{worker} {status} ({})", reason_in_words(reason)),
        };
        self.failures.insert(worker.slot, Failed { worker: worker.id, how: how.clone() });
        Line::bad(how)
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
    use std::time::Duration;

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
    fn ordered_ends_are_told_calmly() {
        let mut narrator = Narrator::default();
        let line = narrator.tell(&exit(worker(1, 0), ExitStatus::Code(0), ExitReason::Reload)).unwrap();
        assert_eq!(line, Line::plain("worker 1 (pid 101) has left (reload)"));
        let line = narrator.tell(&exit(worker(1, 0), ExitStatus::Signal(15), ExitReason::Stop)).unwrap();
        assert_eq!(line, Line::plain("worker 1 (pid 101) killed by SIGTERM (stop)"));
        assert!(narrator.last_failure().is_none());
    }

    #[test]
    fn a_given_up_slot_says_why() {
        let mut narrator = Narrator::default();
        said(&mut narrator, &exit(worker(4, 1), ExitStatus::Code(3), ExitReason::Code));
        let line = narrator.tell(&Event::SlotErrored { slot: 1, failures: 10 }).unwrap();
        assert_eq!(
            line.text,
            "slot 1 is given up after 10 failures; the last one: worker 4 (pid 104) exited with code 3"
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
            "slot 1 failed 2 times and is filled again in 400 ms"
        );
    }
}
