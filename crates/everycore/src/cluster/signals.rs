//! What Unix signals mean to a primary. What is to be done about it is the loop's business.

use std::time::{Duration, Instant};

use everycore_core::Urgency;
use everycore_sys::signals::number::{CHLD, HUP, INT, QUIT, TERM, TTIN, TTOU, USR1, USR2, WINCH};
use everycore_sys::signals::{self, SignalPipe};

use super::sources::{Sources, Wake};

/// Those that are taken.
const SIGNALS: [i32; 10] = [HUP, INT, QUIT, USR1, USR2, TERM, CHLD, TTIN, TTOU, WINCH];

/// A second order to stop means "at once", unless it is a `TERM` that comes so soon that it is the same one: `timeout`
/// and others signal a process and its group. Whoever presses Ctrl-C twice means it.
const SAME_ORDER: Duration = Duration::from_millis(200);

/// The signals of this process, and what those before have left to remember.
pub(super) struct Signals {
    /// Nothing where the program takes its signals itself.
    pipe: Option<SignalPipe>,
    meanings: Meanings,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Stop(Urgency),
    Reload,
    Scale(u32),
    /// To scale to nobody, step by step.
    TooFew,
    /// A child has ended that may be nobody's.
    Child,
    /// `USR1` and `USR2`.
    Reserved,
    Nothing,
}

struct Meanings {
    /// When the last order to stop came.
    stopped: Option<Instant>,
    had_terminal: bool,
    /// How many workers there were before `WINCH` let them go.
    parked: Option<u32>,
}

impl Signals {
    /// Takes the process's signals from here on, if that `is_wanted`. One that whoever started us has ignored, as `nohup`
    /// does, stays ignored. To resize a terminal is no order.
    pub(super) fn take(is_wanted: bool, reaps_orphans: bool, sources: &Sources) -> std::io::Result<Self> {
        let meanings = Meanings::new(has_terminal());
        let wanted = |signal: &i32| match *signal {
            HUP => !is_ignored(HUP),
            CHLD => reaps_orphans,
            WINCH => !meanings.had_terminal,
            _ => true,
        };
        let pipe = match is_wanted {
            true => {
                let pipe = signals::subscribe(&SIGNALS.into_iter().filter(wanted).collect::<Vec<_>>())?;
                sources.add(&pipe, Wake::Signals)?;
                Some(pipe)
            }
            false => None,
        };
        Ok(Self { pipe, meanings })
    }

    /// What the next one means that has come, to a cluster of so many slots.
    pub(super) fn next(&mut self, slots: u32) -> Option<Meaning> {
        let signal = self.pipe.as_ref()?.read()?;
        Some(self.meanings.of(signal, slots, has_terminal, Instant::now()))
    }
}

impl Meanings {
    fn new(had_terminal: bool) -> Self {
        Self { stopped: None, had_terminal, parked: None }
    }

    fn of(&mut self, signal: i32, slots: u32, has_terminal: fn() -> bool, now: Instant) -> Meaning {
        match signal {
            TERM | INT | QUIT => self.stop(signal, now),
            // A terminal that hangs up takes the session with it; only without one is HUP the order to reload.
            HUP if self.had_terminal && !has_terminal() => self.stop(signal, now),
            HUP => self.parked.take().filter(|_| slots == 0).map_or(Meaning::Reload, Meaning::Scale),
            WINCH if slots > 0 => {
                self.parked = Some(slots);
                Meaning::Scale(0)
            }
            CHLD => Meaning::Child,
            USR1 | USR2 => Meaning::Reserved,
            TTIN => Meaning::Scale(slots.saturating_add(1)),
            TTOU if slots > 1 => Meaning::Scale(slots - 1),
            TTOU => Meaning::TooFew,
            _ => Meaning::Nothing,
        }
    }

    fn stop(&mut self, signal: i32, now: Instant) -> Meaning {
        match self.stopped {
            Some(last) if signal == TERM && now.duration_since(last) <= SAME_ORDER => Meaning::Nothing,
            before => {
                self.stopped = Some(now);
                Meaning::Stop(if before.is_some() { Urgency::Fast } else { Urgency::Graceful })
            }
        }
    }
}

/// Whether this process was started with a signal ignored.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

/// Whether this process has a controlling terminal that is still there.
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACEFUL: Meaning = Meaning::Stop(Urgency::Graceful);
    const FAST: Meaning = Meaning::Stop(Urgency::Fast);

    fn gone() -> bool {
        false
    }

    #[test]
    fn a_term_that_comes_twice_is_one_order_and_a_later_one_is_another() {
        let mut meanings = Meanings::new(false);
        let began = Instant::now();
        let mut at = |millis, signal| meanings.of(signal, 2, gone, began + Duration::from_millis(millis));
        assert_eq!(at(0, TERM), GRACEFUL);
        assert_eq!(at(10, TERM), Meaning::Nothing, "the core takes any further order as an urgent one");
        assert_eq!(at(200, TERM), Meaning::Nothing);
        assert_eq!(at(201, TERM), FAST);
        assert_eq!(at(202, TERM), Meaning::Nothing, "the second comes twice as well");
        assert_eq!(at(203, INT), FAST);
    }

    #[test]
    fn who_presses_the_keys_twice_means_it() {
        let mut meanings = Meanings::new(true);
        let now = Instant::now();
        assert_eq!(meanings.of(INT, 2, gone, now), GRACEFUL);
        assert_eq!(meanings.of(INT, 2, gone, now), FAST);
    }

    #[test]
    fn a_terminal_that_hangs_up_is_the_end_and_without_one_a_hangup_is_a_reload() {
        let now = Instant::now();
        assert_eq!(Meanings::new(true).of(HUP, 2, gone, now), GRACEFUL);
        assert_eq!(Meanings::new(true).of(HUP, 2, || true, now), Meaning::Reload);
        assert_eq!(Meanings::new(false).of(HUP, 2, gone, now), Meaning::Reload);
    }

    #[test]
    fn workers_that_were_let_go_come_back_and_one_is_the_least() {
        let mut meanings = Meanings::new(false);
        let mut of = |signal, slots| meanings.of(signal, slots, gone, Instant::now());
        assert_eq!(of(WINCH, 3), Meaning::Scale(0));
        assert_eq!(of(WINCH, 0), Meaning::Nothing);
        assert_eq!(of(HUP, 0), Meaning::Scale(3));
        assert_eq!(of(HUP, 0), Meaning::Reload, "once");
        assert_eq!((of(TTIN, 3), of(TTOU, 3)), (Meaning::Scale(4), Meaning::Scale(2)));
        assert_eq!(of(TTOU, 1), Meaning::TooFew);
    }
}
