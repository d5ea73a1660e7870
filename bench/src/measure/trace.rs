//! What a primary does between a connection's readiness and its hand-off, by the kernel's trace points.
//!
//! By the clock alone that time says little where programs wait for processors. The scheduler's own events tell apart when
//! the primary's thread ran, when it wanted to and had no processor, and when it slept; only the first is its own doing.
//! Needs `perf` and the right to trace the system.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::{Launch, Process};

/// How long `perf` may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);

/// From the descriptors of all events to the moment they are recorded.
const SETTLES: Duration = Duration::from_millis(200);

/// A trace under way.
#[derive(Debug)]
pub(crate) struct Trace {
    process: Process,
    perf: PathBuf,
    output: PathBuf,
    thread: u32,
    port: u16,
}

/// Between the moment a connection could be accepted and the end of the call that handed it over; seconds of the thread's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Delay {
    /// On a processor.
    pub(crate) running: f64,
    /// Ready to run, without a processor.
    pub(crate) waiting: f64,
    /// Waiting for something to do.
    pub(crate) asleep: f64,
    /// On a processor, until somebody was free or nobody: the rest of the turn in which it became ready, and the next turn.
    pub(crate) first: f64,
}

impl Delay {
    /// By the clock.
    pub(crate) fn all(self) -> f64 {
        self.running + self.waiting + self.asleep
    }
}

impl Trace {
    /// Starts to trace a thread that accepts on a port and hands over with `sendmmsg`.
    ///
    /// # Errors
    /// `perf` is not allowed to, or does not come up.
    pub(crate) fn start(perf: &Path, directory: &Path, thread: u32, port: u16) -> io::Result<Self> {
        let output = directory.join("trace");
        let events = [
            ("sock:inet_sock_set_state", "newstate == 1".to_owned()),
            ("sched:sched_switch", format!("prev_pid == {thread} || next_pid == {thread}")),
            ("sched:sched_wakeup", format!("pid == {thread}")),
            ("syscalls:sys_enter_epoll_pwait", format!("common_pid == {thread}")),
            ("syscalls:sys_enter_epoll_wait", format!("common_pid == {thread}")),
            ("syscalls:sys_exit_accept4", format!("common_pid == {thread}")),
            ("syscalls:sys_exit_sendmmsg", format!("common_pid == {thread}")),
        ];
        // With room and a priority that do not lose events where every processor is busy.
        let mut args = ["record", "-a", "-q", "-m", "8M", "-r", "1", "-o"].map(String::from).to_vec();
        args.push(output.display().to_string());
        for (event, filter) in &events {
            args.extend(["-e".into(), (*event).into(), "--filter".into(), filter.clone()]);
        }
        let process = Process::start(&Launch::new(perf, args), directory, "trace")?;
        let trace = Self { process, perf: perf.to_owned(), output, thread, port };
        trace.wait_until_it_records(events.len())?;
        Ok(trace)
    }

    fn wait_until_it_records(&self, events: usize) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let descriptors = || {
            let all = fs::read_dir(format!("/proc/{}/fd", self.process.pid())).into_iter().flatten();
            let links = all.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
            links.filter(|link| link.as_os_str() == "anon_inode:[perf_event]").count()
        };
        while descriptors() < events {
            if Instant::now() > deadline || self.process.has_ended() {
                return Err(io::Error::other(format!("perf does not trace: {}", self.process.log().trim())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(SETTLES);
        Ok(())
    }

    /// Stops, and gives the delay of each connection.
    ///
    /// # Errors
    /// `perf` lost events, so that connections cannot be told apart.
    pub(crate) fn stop(self) -> io::Result<Vec<Delay>> {
        self.process.end(rustix::process::Signal::INT)?;
        let mut script = Command::new(&self.perf);
        script.args(["script", "--ns", "--show-lost-events", "-F", "tid,time,event,trace", "-i"]);
        script.arg(&self.output);
        let text = script.output()?.stdout;
        delays(&String::from_utf8_lossy(&text), self.thread, self.port)
    }
}

/// One event of the thread's, or of the port's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Ready,
    Accepted,
    Handed,
    Look(u32),
    Woken,
    State(State),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Waiting,
    Asleep,
}

/// A connection that waits, and what the thread had used when it began to.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Delay,
    /// Turns that have ended meanwhile, and what they took.
    turns: u32,
    first: f64,
}

impl Waiting {
    fn end_turn(&mut self, used: Delay) {
        if self.turns < 2 {
            self.first = used.running - self.since.running;
        }
        self.turns += 1;
    }

    fn end(mut self, used: Delay) -> Delay {
        self.end_turn(used);
        Delay {
            running: used.running - self.since.running,
            waiting: used.waiting - self.since.waiting,
            asleep: used.asleep - self.since.asleep,
            first: self.first,
        }
    }
}

/// Tells the turns of the loop apart. It looks at the outer of two sets, made first, and at the inner one if that has
/// something; while nobody is free, at the inner one alone.
#[derive(Debug)]
struct Looks {
    outer: u32,
    last: u32,
}

impl Looks {
    /// Whether a look at this set begins a turn.
    fn begins_turn(&mut self, set: u32) -> bool {
        self.outer = self.outer.min(set);
        let last = std::mem::replace(&mut self.last, set);
        set == self.outer || last != self.outer
    }
}

/// The kernel's queue is first in, first out: the first that was ready is the first that is accepted. All that was accepted
/// goes with the next call that sends.
fn delays(text: &str, thread: u32, port: u16) -> io::Result<Vec<Delay>> {
    let (mut state, mut since, mut used) = (State::Asleep, None, Delay::default());
    let (mut ready, mut accepted, mut delays) = (VecDeque::new(), Vec::new(), Vec::new());
    let mut looks = Looks { outer: u32::MAX, last: u32::MAX };
    for (at, event) in text.lines().filter_map(|line| event(line, thread, port)) {
        let passed = at - since.replace(at).unwrap_or(at);
        match state {
            State::Running => used.running += passed,
            State::Waiting => used.waiting += passed,
            State::Asleep => used.asleep += passed,
        }
        match event {
            // One that has not gone to sleep yet may be woken as well.
            Event::Woken if state == State::Asleep => state = State::Waiting,
            Event::Woken => {}
            Event::State(next) => state = next,
            Event::Look(set) if looks.begins_turn(set) => {
                ready.iter_mut().chain(&mut accepted).for_each(|waits: &mut Waiting| waits.end_turn(used));
            }
            Event::Look(_) => {}
            Event::Ready => ready.push_back(Waiting { since: used, turns: 0, first: 0.0 }),
            Event::Accepted => accepted.extend(ready.pop_front()),
            Event::Handed => delays.extend(accepted.drain(..).map(|waits| waits.end(used))),
        }
    }
    // The last ones may have been given up by their client.
    let left = ready.len() + accepted.len();
    if text.contains("PERF_RECORD_LOST") || left * 100 > delays.len() {
        return Err(io::Error::other(format!(
            "perf has lost events: it saw {} connections handed over, and {left} ready or accepted that were not",
            delays.len()
        )));
    }
    Ok(delays)
}

/// `12345  1042.826784081:   sock:inet_sock_set_state: family=AF_INET … sport=40085 …`
fn event(line: &str, thread: u32, port: u16) -> Option<(f64, Event)> {
    let mut words = line.split_ascii_whitespace();
    let own = words.next()?.parse() == Ok(thread);
    let at: f64 = words.next()?.trim_end_matches(':').parse().ok()?;
    let name = words.next()?.trim_end_matches(':');
    let words: Vec<&str> = words.collect();
    let field = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let is = |name: &str, number: u32| field(name).and_then(|text| text.parse().ok()) == Some(number);
    let event = match name {
        // Not a client that happens to come from a port of this number.
        "sock:inet_sock_set_state"
            if is("sport", port.into()) && field("oldstate") == Some("TCP_SYN_RECV") =>
        {
            Event::Ready
        }
        // Descriptors and counts are written in hexadecimal digits; an error has all sixteen of them.
        "syscalls:sys_exit_accept4" if own && has_worked(&words) => Event::Accepted,
        "syscalls:sys_exit_sendmmsg" if own && has_worked(&words) => Event::Handed,
        "syscalls:sys_enter_epoll_pwait" | "syscalls:sys_enter_epoll_wait" if own => {
            let set = words.get(1).and_then(|set| set.trim_end_matches(',').strip_prefix("0x"))?;
            Event::Look(u32::from_str_radix(set, 16).ok()?)
        }
        "sched:sched_wakeup" if is("pid", thread) => Event::Woken,
        "sched:sched_switch" if is("next_pid", thread) => Event::State(State::Running),
        "sched:sched_switch" if is("prev_pid", thread) => {
            let runs_on = field("prev_state").is_some_and(|state| state.starts_with('R'));
            Event::State(if runs_on { State::Waiting } else { State::Asleep })
        }
        _ => return None,
    };
    Some((at, event))
}

fn has_worked(result: &[&str]) -> bool {
    let digits = result.first().and_then(|digits| digits.strip_prefix("0x"));
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).is_some_and(|value| value as i64 >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [&str; 14] = [
        "18  1.000000000:         sched:sched_wakeup: comm=x y pid=7 prio=120 target_cpu=001",
        "9  2.000000000:   sock:inet_sock_set_state: family=AF_INET sport=80 dport=5 oldstate=TCP_SYN_RECV newstate=TCP_ESTABLISHED",
        "9  2.000000000:   sock:inet_sock_set_state: family=AF_INET sport=5 dport=80 oldstate=TCP_SYN_SENT newstate=TCP_ESTABLISHED",
        "0  2.500000000:         sched:sched_switch: prev_comm=swapper/1 prev_pid=0 prev_prio=120 prev_state=R ==> next_comm=x y next_pid=7 next_prio=120",
        "7  3.000000000:  syscalls:sys_exit_accept4: 0x14",
        "7  3.250000000:  syscalls:sys_enter_epoll_pwait: epfd: 0x00000004, events: 0x7ffe",
        "7  3.500000000:  syscalls:sys_exit_accept4: 0xfffffffffffffff5",
        "7  3.500000000:         sched:sched_switch: prev_comm=x y prev_pid=7 prev_prio=120 prev_state=R+ ==> next_comm=z next_pid=8 next_prio=120",
        "8  4.500000000:  syscalls:sys_exit_accept4: 0x15",
        "8  5.000000000:         sched:sched_switch: prev_comm=z prev_pid=8 prev_prio=120 prev_state=S ==> next_comm=x y next_pid=7 next_prio=120",
        "7  5.250000000:  syscalls:sys_exit_sendmmsg: 0x1",
        "7  6.000000000:         sched:sched_switch: prev_comm=x y prev_pid=7 prev_prio=120 prev_state=S ==> next_comm=z next_pid=8 next_prio=120",
        "9  7.000000000:   sock:inet_sock_set_state: family=AF_INET sport=80 dport=6 oldstate=TCP_SYN_RECV newstate=TCP_ESTABLISHED",
        "8  7.500000000:         sched:sched_wakeup: comm=x y pid=7 prio=120 target_cpu=001",
    ];

    #[test]
    fn what_the_thread_did_until_the_hand_off_is_told_apart() {
        let found = delays(&LINES[..12].join("\n"), 7, 80).unwrap();
        assert_eq!(found, [Delay { running: 1.25, waiting: 2.0, asleep: 0.0, first: 1.25 }]);
        assert_eq!(found[0].all(), 3.25);
    }

    #[test]
    fn only_what_comes_before_the_next_turn_has_ended_is_first() {
        let begin = ["7 1.0: sched:sched_switch: prev_pid=8 prev_state=S ==> next_pid=7", LINES[1]];
        let look = |at: &str, set: &str| {
            format!("7 {at}: syscalls:sys_enter_epoll_pwait: epfd: 0x{set}, events: 0x1")
        };
        // Inside a turn; two turns that look at both sets, one at the inner set alone.
        let looks =
            [look("2.25", "4"), look("2.26", "5"), look("2.5", "4"), look("2.51", "5"), look("3.0", "5")];
        let end = ["7 4.0: syscalls:sys_exit_accept4: 0x1", "7 4.5: syscalls:sys_exit_sendmmsg: 0x1"];
        let looks: Vec<&str> = looks.iter().map(String::as_str).collect();
        let found = delays(&[&begin[..], &looks, &end].concat().join("\n"), 7, 80).unwrap();
        assert_eq!(found, [Delay { running: 2.5, waiting: 0.0, asleep: 0.0, first: 0.5 }]);
    }

    #[test]
    fn a_connection_that_went_nowhere_is_no_measurement() {
        assert!(
            delays(&LINES.join("\n"), 7, 80)
                .unwrap_err()
                .to_string()
                .contains("1 connections handed over, and 1")
        );
        let lines =
            [&LINES[..], &["7 7.6: sched:sched_switch: prev_pid=8 prev_state=S ==> next_pid=7"]].concat();
        let more = ["7 7.75: syscalls:sys_exit_accept4: 0x1", "7 8.0: syscalls:sys_exit_sendmmsg: 0x1"];
        let found = delays(&[&lines[..], &more].concat().join("\n"), 7, 80).unwrap();
        assert!((found[1].asleep - 0.5).abs() < 1e-9 && (found[1].running - 0.4).abs() < 1e-9, "{found:?}");
    }
}
