//! What a turn of the loop does about connections: looks at the workers' counters, takes back what stuck ones hold,
//! accepts where somebody is free, and sends what was assigned.

use everycore_core::{ListenerKey, WorkerId};
use everycore_sys::descriptors::close_together;

use super::Driver;
use crate::cluster::event::Event;
use crate::cluster::handoff::Back;
use crate::cluster::member::Side;
use crate::cluster::spread::{Classifier, Drained};
use crate::protocol::Mode;

impl Driver {
    /// Reads every worker's counters into the core.
    pub(in crate::cluster) fn observe(&mut self) {
        self.audience.outdate();
        let now = self.now();
        let watches = self.pace.watch().is_some();
        let told = self.members.iter_mut().filter_map(|(worker, member)| {
            let tells = member.is_served_by_hand() || watches && member.tells_of_itself();
            tells.then(|| (*worker, member.counters()))
        });
        self.core.observe_all(told, now);
    }

    /// Accepts where connections wait, after taking back what stuck workers hold.
    pub(super) fn serve_listeners(&mut self) {
        if self.mode == Mode::Shared {
            if self.pace.watch().is_some() {
                self.observe();
            }
            return;
        }
        self.observe();
        self.read_remains();
        self.relieve_stuck();
        let before = self.listeners.handed;
        self.go_on_leaving();
        let mut arriving = std::mem::take(&mut self.arriving);
        arriving.extend(self.listeners.starved());
        arriving.extend(self.listeners.waited_on());
        arriving.sort_unstable();
        arriving.dedup();
        for key in arriving.drain(..) {
            self.drain(key);
        }
        self.arriving = arriving;
        self.warn_of_misnamed();
        self.pace.turned(self.listeners.handed > before);
    }

    pub(in crate::cluster) fn drain(&mut self, key: ListenerKey) {
        let now = self.now();
        let drained = match self.core.is_served(key) {
            true => {
                let mut classifier = Classifier { selector: &mut self.selector, sources: &self.sources };
                self.listeners.drain(key, &mut self.core, &mut self.members, &mut classifier, now)
            }
            false => self.listeners.starve(key),
        };
        while let Some(worker) = self.listeners.touched() {
            self.flush_handoffs(worker);
        }
        close_together(&mut self.gone);
        // Also one that has starved meanwhile may still have to pause.
        let is_paused = drained == Drained::Paused
            || self.listeners.get(key).is_some_and(|listening| listening.is_paused());
        let watch = !is_paused && drained != Drained::Unserved;
        // Once in each pause: afterwards nobody watches the listener until it is tried again.
        let paused = self.listeners.get(key).filter(|l| drained == Drained::Paused && l.is_watched());
        if let Some(why) = paused.and_then(|listening| listening.pauses_for()) {
            let text = format!("accept: {why}; connections wait in the kernel's queue meanwhile");
            self.tell(Event::Warning { text });
        }
        if let Err(error) = self.listeners.watch(key, watch, &self.sources) {
            self.tell(Event::Warning { text: format!("cannot watch a listener: {error}") });
        }
    }

    /// A client whose first words decide where it goes has said something, or its time is over.
    pub(super) fn look_again(&mut self, number: u32, is_last: bool) {
        let Some(router) = self.core.router() else { return };
        let mut classifier = Classifier { selector: &mut self.selector, sources: &self.sources };
        self.listeners.look_again(number, router, &mut classifier, is_last);
    }

    /// Says it when the classifier function names classes that there are not.
    pub(super) fn warn_of_misnamed(&mut self) {
        for name in self.selector.take_misnamed() {
            self.tell(Event::Warning {
                text: format!(
                    "route: the function names class {name:?}, which does not exist; the rules decide instead"
                ),
            });
        }
    }

    /// Sends what was assigned to a worker; what does not fit is next for somebody else, and counted here.
    pub(in crate::cluster) fn flush_handoffs(&mut self, worker: WorkerId) -> usize {
        let Some(member) = self.members.get_mut(&worker) else { return 0 };
        let left = member.flush_handoffs(&mut self.seq, &mut self.gone);
        let is_node = matches!(member.side, Side::Node(_));
        let count = left.len();
        if !left.is_empty() {
            self.core.returned(worker, left.len() as u64);
            self.listeners.take_back(left);
        }
        if is_node {
            self.flush_channel(worker);
        }
        count
    }

    /// Reads back what there was no room for when its worker gave it up.
    pub(in crate::cluster) fn read_remains(&mut self) {
        for (worker, mut channel) in std::mem::take(&mut self.remains) {
            let mut back = Back::default();
            let is_empty = channel.read_back(&mut back);
            if let Some(member) = self.members.get_mut(&worker) {
                member.gave_back(back.count());
            }
            self.came_back(worker, back);
            if !is_empty {
                self.remains.push((worker, channel));
            }
        }
    }

    fn relieve_stuck(&mut self) {
        let now = self.now();
        let stuck: Vec<WorkerId> = self.core.withdrawable(now).collect();
        for worker in stuck {
            self.withdraw(worker);
        }
    }

    /// Takes back what a worker has not taken.
    pub(in crate::cluster) fn withdraw(&mut self, worker: WorkerId) {
        let Some(member) = self.members.get_mut(&worker) else { return };
        let back = member.withdraw();
        self.came_back(worker, back);
    }

    fn came_back(&mut self, worker: WorkerId, back: Back) {
        self.core.returned(worker, back.arrivals.len() as u64);
        self.listeners.take_back(back.arrivals);
        if back.lost > 0 {
            self.core.lost(worker, back.lost);
            let text = format!(
                "out of descriptors: connections that worker {worker} had not taken were lost on their way back: {}",
                back.lost
            );
            self.tell(Event::Warning { text });
        }
    }
}
