//! Who accepts from the sockets of slots that have no worker, where every slot has sockets of its own (`reuseport`).
//!
//! The kernel gives every socket its share, whether somebody accepts there or not. So a slot's sockets are adopted by
//! workers of other slots while its own is starting, waits to be started again, has been given up or scaled away.
//! [`Primary`] knows who serves; which sockets there are, and who could adopt one, the shell says.

use std::collections::BTreeMap;

use crate::id::{ListenerKey, Slot, WorkerId};
use crate::primary::Primary;

/// Who was told to accept from whose sockets.
#[derive(Clone, Debug, Default)]
pub struct Adoptions {
    adopters: BTreeMap<(ListenerKey, Slot), WorkerId>,
    unsettled: bool,
}

/// Something to tell a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// Accept from this slot's socket too. Should the worker not be told, say so by [`Adoptions::failed`].
    Adopt {
        /// Who is to accept.
        worker: WorkerId,
        /// From a socket of this listener.
        listener: ListenerKey,
        /// The slot that the socket belongs to.
        slot: Slot,
    },
    /// Accept there no longer. To a worker that is gone nothing has to be said.
    Release {
        /// Who has accepted.
        worker: WorkerId,
        /// From a socket of this listener.
        listener: ListenerKey,
        /// The slot that the socket belongs to.
        slot: Slot,
    },
}

impl Adoptions {
    /// What has to be told so that every one of the `sockets` is accepted from, as long as anybody can: by workers that
    /// serve the same listener and of whom `can_adopt` is true. Each goes to whoever has adopted fewest.
    pub fn settle(
        &mut self,
        primary: &Primary,
        sockets: impl IntoIterator<Item = (ListenerKey, Slot)>,
        can_adopt: impl Fn(WorkerId) -> bool,
    ) -> Vec<Adoption> {
        self.unsettled = false;
        let is_orphan = |&(listener, slot): &(ListenerKey, Slot)| {
            primary.serving_slots(listener).all(|(_, serving)| serving != slot)
        };
        let orphans: Vec<(ListenerKey, Slot)> = sockets.into_iter().filter(is_orphan).collect();
        let mut told = Vec::new();
        self.adopters.retain(|socket, worker| {
            let stays = orphans.contains(socket);
            if !stays {
                told.push(Adoption::Release { worker: *worker, listener: socket.0, slot: socket.1 });
            }
            stays
        });
        for (listener, slot) in orphans {
            let present = self.adopters.get(&(listener, slot));
            if present.is_some_and(|adopter| primary.is_serving(*adopter, listener)) {
                continue;
            }
            self.adopters.remove(&(listener, slot));
            let able = primary.serving_slots(listener).map(|(worker, _)| worker).filter(|id| can_adopt(*id));
            if let Some(worker) = able.min_by_key(|worker| (self.count(*worker), *worker)) {
                self.adopters.insert((listener, slot), worker);
                told.push(Adoption::Adopt { worker, listener, slot });
            }
        }
        told
    }

    /// Whoever was to adopt this socket could not be told: the next [`settle`](Self::settle) tries again.
    pub fn failed(&mut self, listener: ListenerKey, slot: Slot) {
        self.adopters.remove(&(listener, slot));
        self.unsettled = true;
    }

    /// Whether to [`settle`](Self::settle) again although nothing happens: somebody could not be told.
    pub fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    fn count(&self, worker: WorkerId) -> usize {
        self.adopters.values().filter(|adopter| **adopter == worker).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::notice::ExitStatus;
    use crate::settings::Settings;
    use crate::time::Time;

    const HTTP: ListenerKey = ListenerKey::new(1);

    fn id(worker: u32) -> WorkerId {
        WorkerId::new(worker)
    }

    fn adopt(worker: u32, slot: u32) -> Adoption {
        Adoption::Adopt { worker: id(worker), listener: HTTP, slot: Slot::new(slot) }
    }

    fn release(worker: u32, slot: u32) -> Adoption {
        Adoption::Release { worker: id(worker), listener: HTTP, slot: Slot::new(slot) }
    }

    /// A cluster whose first workers serve.
    struct Cluster(Primary, Adoptions);

    impl Cluster {
        fn serving(workers: u32) -> Self {
            let settings = Settings { workers, ..Settings::default() }.validated().unwrap();
            let mut cluster = Self(Primary::new(settings, Time::ZERO), Adoptions::default());
            (1..=workers).for_each(|worker| cluster.serves(worker));
            cluster
        }

        fn serves(&mut self, worker: u32) {
            let worker = id(worker);
            self.0.handle(Event::Spawned { worker, pid: 1 }, Time::ZERO);
            self.0.handle(Event::Online { worker }, Time::ZERO);
            self.0.handle(Event::Listening { worker, listener: HTTP }, Time::ZERO);
        }

        fn crashes(&mut self, worker: u32) {
            self.0.handle(Event::Exited { worker: id(worker), status: ExitStatus::Code(1) }, Time::ZERO);
        }

        /// With sockets of so many slots, all but one worker able to adopt.
        fn settles(&mut self, slots: u32, unable: u32) -> Vec<Adoption> {
            let sockets = (0..slots).map(|slot| (HTTP, Slot::new(slot)));
            self.1.settle(&self.0, sockets, |worker| worker != id(unable))
        }
    }

    #[test]
    fn a_slot_without_a_worker_is_adopted_until_it_has_one_again() {
        let mut cluster = Cluster::serving(2);
        assert_eq!(cluster.settles(2, 0), []);
        cluster.crashes(1);
        assert_eq!(cluster.settles(2, 0), [adopt(2, 0)]);
        assert_eq!(cluster.settles(2, 0), [], "told once");
        cluster.0.handle_deadline(cluster.0.next_deadline().unwrap());
        cluster.serves(3);
        assert_eq!(cluster.settles(2, 0), [release(2, 0)]);
    }

    #[test]
    fn each_goes_to_whoever_has_adopted_fewest() {
        let mut cluster = Cluster::serving(3);
        assert_eq!(cluster.settles(6, 2), [adopt(1, 3), adopt(3, 4), adopt(1, 5)]);
        cluster.crashes(1);
        assert_eq!(
            cluster.settles(6, 2),
            [adopt(3, 0), adopt(3, 3), adopt(3, 5)],
            "and anew when it is gone"
        );
    }

    #[test]
    fn a_socket_that_is_closed_is_released() {
        let mut cluster = Cluster::serving(1);
        assert_eq!(cluster.settles(2, 0), [adopt(1, 1)]);
        assert_eq!(cluster.settles(1, 0), [release(1, 1)]);
    }

    #[test]
    fn who_could_not_be_told_is_told_again() {
        let mut cluster = Cluster::serving(1);
        assert_eq!(cluster.settles(2, 0), [adopt(1, 1)]);
        cluster.1.failed(HTTP, Slot::new(1));
        assert!(cluster.1.is_unsettled());
        assert_eq!(cluster.settles(2, 0), [adopt(1, 1)]);
        assert!(!cluster.1.is_unsettled());
    }

    #[test]
    fn where_nobody_can_adopt_nobody_is_told() {
        let mut cluster = Cluster::serving(1);
        assert_eq!(cluster.settles(2, 1), []);
        assert!(!cluster.1.is_unsettled(), "to try again would change nothing");
    }
}
