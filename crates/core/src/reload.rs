//! The next move of a rolling reload or of a recycling, derived from the workers as they are.
//!
//! There is no plan to remember: `primary/settle.rs` asks after every event, carries the step out, and asks again.

use crate::id::{Generation, Slot, WorkerId};
use crate::notice::ExitReason;
use crate::time::Time;
use crate::worker::Worker;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing, until something happens.
    Wait,
    /// Start a replacement in this slot.
    Replace(Slot),
    /// Let this worker go: its successor is ready.
    Retire(WorkerId),
    /// There is nothing left to do.
    Done,
}

/// A rolling reload: each slot gets a worker of `generation`, at most `surge` of them starting at a time, and
/// a worker is retired only when its successor is ready.
///
/// Empty slots come first. At most as many workers drain as there are slots, so that reload upon reload does
/// not pile them up.
pub(crate) fn next_step(workers: &[Worker], slots: u32, generation: Generation, surge: u32) -> Step {
    let mut starting = 0;
    let mut empty = None;
    let mut outdated = None;
    for slot in (0..slots).map(Slot::new) {
        let sitting = || workers.iter().filter(move |worker| worker.slot == slot && worker.holds_slot());
        let old = sitting().find(|worker| worker.generation != generation);
        match (sitting().find(|worker| worker.generation == generation), old) {
            (Some(fresh), Some(old)) if fresh.is_ready() => return Step::Retire(old.id),
            (Some(fresh), _) if fresh.is_ready() => {}
            (Some(_), _) => starting += 1,
            (None, Some(_)) => outdated = outdated.or(Some(slot)),
            (None, None) => empty = empty.or(Some(slot)),
        }
    }
    let draining = workers.iter().filter(|worker| worker.is_leaving()).count();
    match empty.or(outdated) {
        Some(slot) if starting < surge && draining < slots.max(surge) as usize => Step::Replace(slot),
        None if starting == 0 => Step::Done,
        _ => Step::Wait,
    }
}

/// Slots that a reload has finished with.
pub(crate) fn done(workers: &[Worker], slots: u32, generation: Generation) -> u32 {
    let finished = |slot: &Slot| {
        let mut sitting =
            workers.iter().filter(|worker| worker.slot == *slot && !worker.is_leaving()).peekable();
        sitting.peek().is_some() && sitting.all(|worker| worker.generation == generation && worker.is_ready())
    };
    (0..slots).map(Slot::new).filter(finished).count() as u32
}

/// What to do next about workers that are to be replaced one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recycling {
    /// Nothing, until something happens.
    Wait,
    /// Start a successor in this slot, but not before that moment.
    Start { slot: Slot, not_before: Time },
    /// Let this worker go: its successor is ready.
    Retire { worker: WorkerId, reason: ExitReason },
}

/// A worker that is to be replaced gets a successor in its slot and is retired when that is ready. One after the
/// other, and none while somebody is leaving.
pub(crate) fn next_recycling(workers: &[Worker]) -> Recycling {
    let marked = || {
        let staying = workers.iter().filter(|worker| !worker.is_leaving());
        staying.filter_map(|worker| worker.recycle.map(|recycle| (worker, recycle)))
    };
    let successor = |old: &Worker| {
        workers.iter().find(|worker| worker.slot == old.slot && worker.id > old.id && worker.holds_slot())
    };
    if let Some((old, recycle, fresh)) =
        marked().find_map(|(old, recycle)| Some((old, recycle, successor(old)?)))
    {
        return match fresh.is_ready() {
            true => Recycling::Retire { worker: old.id, reason: recycle.reason },
            false => Recycling::Wait,
        };
    }
    let next = marked().min_by_key(|(_, recycle)| recycle.not_before);
    match next.filter(|_| !workers.iter().any(Worker::is_leaving)) {
        Some((old, recycle)) => Recycling::Start { slot: old.slot, not_before: recycle.not_before },
        None => Recycling::Wait,
    }
}
