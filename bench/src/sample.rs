//! One measurement of one server, and the rules by which measurements are repeated, dropped and summed up.
//!
//! The rules are fixed here and printed with every table, so that nobody can choose after having seen the figures.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::budget::Budget;
use crate::load::{self, Mark, Outcome, Plan};
use crate::measure::cpu;
use crate::measure::machine::Accounts;
use crate::random::Random;
use crate::servers::{Running, Server};

/// A measurement with more than this share of the machine taken by others is repeated.
const DISTURBED: f64 = 0.04;

/// How often it is repeated at most.
const REPEATS: usize = 2;

/// How many rounds are kept at least, when there are as many.
const KEPT: usize = 3;

/// One measurement.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// What the generator saw.
    pub(crate) outcome: Outcome,
    /// CPU time of the server's processes in the measured time.
    pub(crate) cpu: Duration,
    /// The same, process by process.
    pub(crate) each: BTreeMap<u32, Duration>,
    /// CPU time of the generator in the measured time.
    pub(crate) generator: Duration,
    /// The share of the machine that was taken by others, or stolen.
    pub(crate) foreign: f64,
}

impl Sample {
    /// CPU microseconds per answer, of the primary and of all others.
    pub(crate) fn split(&self, primary: u32) -> (f64, f64) {
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / self.outcome.answered.max(1) as f64;
        let of_primary = self.each.get(&primary).copied().unwrap_or_default();
        (each(of_primary), each(self.cpu.saturating_sub(of_primary)))
    }

    /// CPU microseconds per answer.
    pub(crate) fn cpu_per_request(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.outcome.answered.max(1) as f64
    }
}

/// Loads a server and looks at the accounts at both bounds of the measured time.
///
/// # Errors
/// The generator fails.
pub(crate) fn take(running: &Running, plan: &Plan) -> io::Result<Sample> {
    let processes = running.processes();
    let look = || (Instant::now(), Accounts::now(), cpu::used_each(&processes), cpu::own());
    let mut looks = Vec::with_capacity(2);
    let outcome = load::run(plan, &AtomicBool::new(false), &mut |_: Mark| looks.push(look()))?;
    let [(began, before, cpu_before, own_before), (ended, after, cpu_after, own_after)] = looks.as_slice()
    else {
        return Err(io::Error::other("the measured time has two bounds"));
    };
    let since =
        |pid, after: &Duration| after.saturating_sub(cpu_before.get(pid).copied().unwrap_or_default());
    let each: BTreeMap<u32, Duration> =
        cpu_after.iter().map(|(pid, after)| (*pid, since(pid, after))).collect();
    let cpu = each.values().sum();
    let generator = own_after.saturating_sub(*own_before);
    let foreign = after.foreign_share(before, cpu + generator, ended.duration_since(*began));
    Ok(Sample { outcome, cpu, each, generator, foreign })
}

/// Takes a sample again while others disturb it and there is time; the least disturbed stands.
///
/// # Errors
/// As [`take`].
pub(crate) fn take_undisturbed(running: &Running, plan: &Plan, budget: &Budget) -> io::Result<Sample> {
    let mut best = take(running, plan)?;
    for _ in 0..REPEATS {
        if best.foreign <= DISTURBED || !budget.has_time() {
            break;
        }
        let again = take(running, plan)?;
        if again.foreign < best.foreign {
            best = again;
        }
    }
    Ok(best)
}

/// One measurement of every server, in random order.
pub(crate) type Round<K, T> = BTreeMap<K, T>;

/// Measures every server once per round, each round in an order of its own, as many rounds as the budget allows.
///
/// # Errors
/// As `measure`.
pub(crate) fn rounds<'r, T>(
    servers: &'r [Running],
    budget: &Budget,
    random: &mut Random,
    mut measure: impl FnMut(&'r Running) -> io::Result<T>,
) -> io::Result<Vec<Round<Server, T>>> {
    let mut order: Vec<&Running> = servers.iter().collect();
    let mut rounds = Vec::new();
    let mut last = Duration::ZERO;
    while budget.allows(rounds.len(), last) {
        random.shuffle(&mut order);
        let names: Vec<_> = order.iter().map(|running| running.server.name()).collect();
        crate::say!("round {}: {}", rounds.len() + 1, names.join(" "));
        let began = Instant::now();
        rounds.push(
            order.iter().map(|running| Ok((running.server, measure(running)?))).collect::<io::Result<_>>()?,
        );
        last = began.elapsed();
    }
    Ok(rounds)
}

/// The half of the rounds in which others took least of the machine, at least three.
pub(crate) fn keep_calm<K: Ord>(mut rounds: Vec<Round<K, Sample>>) -> Vec<Round<K, Sample>> {
    let foreign = |round: &Round<K, Sample>| round.values().map(|sample| sample.foreign).sum::<f64>();
    rounds.sort_by(|one, other| foreign(one).total_cmp(&foreign(other)));
    rounds.truncate(rounds.len().div_ceil(2).max(KEPT));
    rounds
}

/// What the rules are, for the reader, and what came of them: rounds made, and kept.
pub(crate) fn rules(budget: &Budget, made: usize, kept: &[Round<Server, Sample>]) -> String {
    let foreign = kept.iter().flat_map(Round::values).map(|sample| sample.foreign * 100.0);
    let foreign = Figure::of(foreign).map_or(0.0, |figure| figure.median);
    format!(
        "Rules, fixed beforehand: {}, every server once per round, in random order; a measurement in which other processes \
         and the hypervisor took more than {:.0} % of the machine is repeated while there is time, at most {REPEATS} times, \
         and the least disturbed stands; the half of the rounds with the least foreign CPU is kept, at least {KEPT}. \
         Figures are medians of the kept rounds with their smallest and largest value; a ratio is formed within each round \
         first. Here: {made} rounds, {} kept, foreign CPU in them {foreign:.1} % (median).",
        budget.rule(),
        DISTURBED * 100.0,
        kept.len(),
    )
}

/// Median, smallest and largest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figure {
    /// The median.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) least: f64,
    /// The largest.
    pub(crate) most: f64,
}

impl Figure {
    /// Of some values; `None` when there are none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Self { median, least, most })
    }
}

/// A figure of one server over the rounds.
pub(crate) fn figure<K: Ord, T>(rounds: &[Round<K, T>], of: &K, value: impl Fn(&T) -> f64) -> Option<Figure> {
    Figure::of(rounds.iter().filter_map(|round| Some(value(round.get(of)?))))
}

/// The ratio of a figure of two servers, formed within each round.
pub(crate) fn ratio<K: Ord, T>(
    rounds: &[Round<K, T>],
    of: &K,
    to: &K,
    value: impl Fn(&T) -> f64,
) -> Option<Figure> {
    Figure::of(rounds.iter().filter_map(|round| Some(value(round.get(of)?) / value(round.get(to)?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_medians_with_their_spread() {
        assert_eq!(Figure::of([3.0, 1.0, 2.0]), Some(Figure { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(Figure::of([1.0, 2.0]), Some(Figure { median: 1.5, least: 1.0, most: 2.0 }));
        assert_eq!(Figure::of([f64::NAN]), None);
    }

    #[test]
    fn ratios_are_formed_within_a_round() {
        let rounds = [
            BTreeMap::from([(1, 10.0), (2, 5.0)]),
            BTreeMap::from([(1, 300.0), (2, 100.0)]),
            BTreeMap::from([(1, 1.0)]),
        ];
        assert_eq!(
            ratio(&rounds, &1, &2, |value| *value),
            Some(Figure { median: 2.5, least: 2.0, most: 3.0 })
        );
        assert_eq!(ratio(&rounds, &1, &3, |value| *value), None);
    }

    #[test]
    fn the_calmer_half_of_the_rounds_is_kept_and_at_least_three() {
        let round = |foreign| {
            let zero = Duration::ZERO;
            BTreeMap::from([(
                1,
                Sample {
                    outcome: Outcome::default(),
                    cpu: zero,
                    each: BTreeMap::new(),
                    generator: zero,
                    foreign,
                },
            )])
        };
        let kept = |foreign: &[f64]| {
            keep_calm(foreign.iter().copied().map(round).collect())
                .iter()
                .map(|round| round[&1].foreign)
                .collect::<Vec<_>>()
        };
        assert_eq!(kept(&[0.5, 0.1]), [0.1, 0.5]);
        assert_eq!(kept(&[0.5, 0.1, 0.2, 0.4]), [0.1, 0.2, 0.4]);
        assert_eq!(kept(&[0.8, 0.1, 0.7, 0.2, 0.6, 0.3, 0.5, 0.4]), [0.1, 0.2, 0.3, 0.4]);
    }
}
