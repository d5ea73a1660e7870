//! Every slot's socket is accepted from as long as anybody can, whatever happens to its worker.

use std::collections::{BTreeMap, BTreeSet};

use everycore_core::*;

use super::world::{HTTP, World};

/// The shell's half of adoption.
#[derive(Default)]
pub(crate) struct Sockets {
    adoptions: Adoptions,
    /// Slots that have had a worker, and so a socket.
    slots: BTreeSet<Slot>,
    /// Who accepts from whose, as they were told.
    adopted: BTreeMap<Slot, WorkerId>,
    told: u32,
}

/// Some workers are of another kind.
fn can_adopt(worker: WorkerId) -> bool {
    !worker.get().is_multiple_of(5)
}

impl World {
    pub(crate) fn adopt(&mut self) {
        let Some(Sockets { adoptions, slots, adopted, told }) = &mut self.sockets else { return };
        let picture = self.primary.snapshot();
        let serving: Vec<&WorkerSnapshot> =
            picture.workers.iter().filter(|one| self.primary.is_serving(one.worker, HTTP)).collect();
        slots.extend(picture.workers.iter().map(|worker| worker.slot));
        for adoption in adoptions.settle(&self.primary, slots.iter().map(|slot| (HTTP, *slot)), can_adopt) {
            match adoption {
                Adoption::Adopt { worker, slot, .. } => {
                    assert!(can_adopt(worker) && serving.iter().any(|one| one.worker == worker));
                    let before = adopted.remove(&slot);
                    assert_ne!(before, Some(worker), "{worker} is told twice");
                    *told += 1;
                    // Now and then a channel is full.
                    if told.is_multiple_of(4) {
                        adoptions.failed(HTTP, slot);
                    } else {
                        adopted.insert(slot, worker);
                    }
                }
                Adoption::Release { worker, slot, .. } => {
                    assert_eq!(
                        adopted.remove(&slot),
                        Some(worker),
                        "who was never told has nothing to release"
                    );
                }
            }
        }
        for slot in slots.iter() {
            let adopter =
                adopted.get(slot).filter(|adopter| serving.iter().any(|one| one.worker == **adopter));
            if serving.iter().any(|one| one.slot == *slot) {
                assert_eq!(adopter, None, "slot {slot} has a worker of its own");
            } else if serving.iter().any(|one| can_adopt(one.worker)) && !adoptions.is_unsettled() {
                assert!(adopter.is_some(), "nobody accepts from the socket of slot {slot}");
            }
        }
    }
}
