//! A fake worker process: what it will do, and what it has done.

use std::collections::VecDeque;
use std::time::Duration;

use everycore_core::{Counters, ExitStatus};

use super::dice::Dice;

/// One connection, by number.
pub(crate) type Connection = usize;

/// How a process behaves, beyond taking connections and answering them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Healthy,
    /// Cannot be started at all.
    Unstartable,
    CrashesAtStart(ExitStatus),
    NeverReady,
    CrashesAfter(Duration, ExitStatus),
    /// Stands still, and goes on after the second duration, if ever.
    HangsAfter(Duration, Option<Duration>),
    /// Refuses every other connection.
    Declines,
    /// Needs this long for the first turn of a connection.
    Slow(Duration),
    /// Says that it leaves, and does.
    LeavesAfter(Duration),
    /// Loses its channel, and ends after the second duration, if ever.
    LosesChannelAfter(Duration, Option<Duration>),
    /// Does not leave when told to, or not even on `TERM`.
    Stubborn {
        ignores_term: bool,
    },
}

impl Behaviour {
    /// Rolls a behaviour; most processes are healthy.
    pub(crate) fn roll(dice: &mut Dice) -> Self {
        const HOW: [ExitStatus; 4] =
            [ExitStatus::Code(0), ExitStatus::Code(1), ExitStatus::Signal(11), ExitStatus::Unknown];
        let later = dice.millis(1, 40_000);
        match dice.below(26) {
            0 => Behaviour::Unstartable,
            1 => Behaviour::CrashesAtStart(dice.pick(&HOW)),
            2 => Behaviour::NeverReady,
            3 | 4 => Behaviour::CrashesAfter(later, dice.pick(&HOW)),
            5 => Behaviour::HangsAfter(later, None),
            6 => Behaviour::HangsAfter(later, Some(dice.millis(1, 8_000))),
            7 => Behaviour::Declines,
            8 => Behaviour::Slow(dice.millis(1, 3_000)),
            9 => Behaviour::LeavesAfter(later),
            10 => Behaviour::LosesChannelAfter(later, dice.percent(70).then_some(dice.millis(0, 10_000))),
            11 => Behaviour::Stubborn { ignores_term: dice.percent(50) },
            _ => Behaviour::Healthy,
        }
    }

    /// Rolls one that never becomes ready: a bad release.
    pub(crate) fn roll_bad(dice: &mut Dice) -> Self {
        match dice.below(3) {
            0 => Behaviour::Unstartable,
            1 => Behaviour::CrashesAtStart(ExitStatus::Code(1)),
            _ => Behaviour::NeverReady,
        }
    }
}

/// A process. It lives on here after its death until the primary forgets it.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) behaviour: Behaviour,
    pub(crate) alive: bool,
    /// Stands still: does nothing until it is woken.
    pub(crate) hung: bool,
    pub(crate) leaving: bool,
    /// Handed over and not taken; readable from both ends.
    pub(crate) channel: VecDeque<Connection>,
    /// Taken and not closed.
    pub(crate) open: Vec<Connection>,
    pub(crate) counters: Counters,
    /// Whether it will look at its channel anyway.
    pub(crate) looks: bool,
    pub(crate) says_online: bool,
}

impl Process {
    pub(crate) fn new(behaviour: Behaviour, says_online: bool) -> Self {
        Process {
            behaviour,
            alive: true,
            hung: false,
            leaving: false,
            channel: VecDeque::new(),
            open: Vec::new(),
            counters: Counters::default(),
            looks: false,
            says_online,
        }
    }

    pub(crate) fn ignores_term(&self) -> bool {
        self.hung || matches!(self.behaviour, Behaviour::Stubborn { ignores_term: true })
    }

    pub(crate) fn ignores_disconnect(&self) -> bool {
        matches!(self.behaviour, Behaviour::Stubborn { .. } | Behaviour::LosesChannelAfter(_, None))
    }
}
