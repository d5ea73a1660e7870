//! A cluster in virtual time: whole lives of clusters, thousands of them, with everything that goes wrong.
//!
//! A history that breaks an invariant prints its seed. `EVERYCORE_SIM_SEED=n cargo test -p everycore-core --test sim
//! one_history -- --nocapture` plays it again and prints what happened; `EVERYCORE_SIM_HISTORIES=n` sets how many are
//! played.

#![allow(clippy::print_stdout, reason = "a failing history is to be read")]

mod sim {
    pub(crate) mod adopt;
    pub(crate) mod deeds;
    pub(crate) mod dice;
    pub(crate) mod history;
    pub(crate) mod process;
    mod scenarios;
    pub(crate) mod shell;
    pub(crate) mod watch;
    pub(crate) mod world;
}

use std::ops::Range;

use sim::history;
use sim::world::Trace;

/// How many histories are played unless the environment says otherwise.
const HISTORIES: u64 = 100_000;

#[expect(clippy::disallowed_methods, reason = "a test is told by its environment what to play again")]
fn asked_for(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().expect("a number"))
}

/// Says which seed it was when a history fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("play it again with EVERYCORE_SIM_SEED={}", self.0);
        }
    }
}

fn play_all(part: Range<u64>) {
    let all = asked_for("EVERYCORE_SIM_HISTORIES").unwrap_or(HISTORIES);
    for seed in all * part.start / 4..all * part.end / 4 {
        let seed = Seed(seed);
        history::play(seed.0, Trace::Off);
    }
}

// In four parts, so that they are played side by side.

#[test]
fn random_histories_keep_every_invariant_1() {
    play_all(0..1);
}

#[test]
fn random_histories_keep_every_invariant_2() {
    play_all(1..2);
}

#[test]
fn random_histories_keep_every_invariant_3() {
    play_all(2..3);
}

#[test]
fn random_histories_keep_every_invariant_4() {
    play_all(3..4);
}

#[test]
fn one_history() {
    let Some(seed) = asked_for("EVERYCORE_SIM_SEED") else { return };
    let _seed = Seed(seed);
    history::play(seed, Trace::Printed);
}

#[test]
fn the_same_seed_plays_the_same_history() {
    for seed in 0..50 {
        let play = || history::play(seed, Trace::Kept(Vec::new()));
        let (one, other) = (play(), play());
        assert!(one.trace == other.trace, "seed {seed}");
    }
}

#[test]
fn histories_meet_everything_that_can_happen() {
    let mut unseen = vec![
        "Notify(Hung",
        "Notify(TimedOut",
        "Notify(Recovered",
        "Notify(Error",
        "Notify(RestartScheduled",
        "Notify(SlotErrored",
        "Notify(ReloadStarted",
        "Notify(ReloadProgress",
        "Notify(ReloadDone",
        "Notify(ReloadFailed",
        "Notify(Scaled",
        "Notify(Stopping",
        "Withdraw {",
        "Disconnect {",
        "signal: 15",
        "signal: 9",
        "reason: Code",
        "reason: Signal",
        "reason: Disconnect",
        "reason: Hung",
        "reason: MaxRss",
        "reason: MaxRequests",
        "reason: MaxLifetime",
        "reason: Reload",
        "reason: Scale",
        "reason: Stop",
        "reason: NotReady",
        "was not ready within",
        "could not be started",
        "left before it was ready",
        "the primary stops",
        "is refused",
        "Notify(Refused",
    ];
    for seed in 0..20_000 {
        let Trace::Kept(lines) = history::play(seed, Trace::Kept(Vec::new())).trace else { unreachable!() };
        unseen.retain(|wanted| !lines.iter().any(|line| line.contains(wanted)));
        if unseen.is_empty() {
            return;
        }
    }
    panic!("never met: {unseen:?}");
}
