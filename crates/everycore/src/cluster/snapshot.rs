//! The cluster at one moment, as programs see it: the core's picture, and the addresses it knows nothing of.

use std::collections::BTreeMap;

use everycore_core as core;
use everycore_core::{ClassSnapshot, Generation, ListenerKey, SlotSnapshot, Time, Totals, WorkerSnapshot};

use crate::address::BoundAddress;

/// The whole cluster at one moment.
///
/// ```no_run
/// # fn show(primary: &everycore::Primary) -> everycore::Result<()> {
/// let snapshot = primary.snapshot()?;
/// for worker in &snapshot.workers {
///     let addresses = worker.listeners.iter().filter_map(|key| snapshot.addresses.get(key));
///     let addresses: Vec<String> = addresses.map(ToString::to_string).collect();
///     let age = snapshot.taken_at - worker.forked_at;
///     println!("{} {} since {age:?} on {}", worker.worker, worker.phase, addresses.join(", "));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// When this was, counted from the start of the primary as all times in here are.
    pub taken_at: Time,
    /// Every worker that lives, by rising id.
    pub workers: Vec<WorkerSnapshot>,
    /// Every slot that is to be filled.
    pub slots: Vec<SlotSnapshot>,
    /// The generation known to work.
    pub generation: Generation,
    /// The generation a reload is bringing in.
    pub reloading: Option<Generation>,
    /// Whether the primary stops.
    pub stopping: bool,
    /// How many connections each worker may be ahead with.
    pub credit: u64,
    /// The connections of all workers, those that are gone included.
    pub connections: Totals,
    /// Every class of workers, in order; none where workers are not told apart.
    pub classes: Vec<ClassSnapshot>,
    /// Where each open listener is bound.
    pub addresses: BTreeMap<ListenerKey, BoundAddress>,
}

impl Snapshot {
    pub(crate) fn new(
        picture: core::Snapshot,
        addresses: BTreeMap<ListenerKey, BoundAddress>,
        taken_at: Time,
    ) -> Self {
        let core::Snapshot { workers, slots, generation, reloading, stopping, credit, connections, classes } =
            picture;
        Self {
            taken_at,
            workers,
            slots,
            generation,
            reloading,
            stopping,
            credit,
            connections,
            classes,
            addresses,
        }
    }
}
