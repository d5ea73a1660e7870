//! The processes' half of the world: what they do when their time has come.

use std::time::Duration;

use everycore_core::*;

use super::process::Behaviour;
use super::world::{Deed, HTTP, Happening, Place, World};

impl World {
    pub(crate) fn awaken(&mut self, worker: WorkerId) {
        let wait = self.dice.micros(5, 150);
        let Some(process) = self.processes.get_mut(&worker) else { return };
        if process.alive && !process.looks {
            process.looks = true;
            self.after(wait, Happening::Does(worker, Deed::Takes));
        }
    }

    pub(crate) fn does(&mut self, worker: WorkerId, deed: Deed) {
        let Some(process) = self.processes.get_mut(&worker) else { return };
        if !process.alive {
            return;
        }
        let asleep = process.hung;
        match deed {
            Deed::Dies(status) => self.dies(worker, status),
            Deed::Wakes => {
                process.hung = false;
                process.counters.awake = false;
                process.counters.turn += 1;
                self.awaken(worker);
            }
            Deed::Takes if asleep => process.looks = false,
            Deed::Takes => self.takes(worker),
            // Put off until it wakes; the exact moment does not matter.
            Deed::Starts | Deed::Leaves | Deed::LosesChannel(_) | Deed::Finishes(_) | Deed::Closes(_)
                if asleep =>
            {
                self.after(Duration::from_millis(500), Happening::Does(worker, deed));
            }
            Deed::Starts => self.starts(worker),
            Deed::Hangs(_) | Deed::Leaves | Deed::LosesChannel(_) if self.calm => {}
            Deed::Hangs(recovers) => {
                process.hung = true;
                process.counters.awake = self.dice.percent(50);
                if let Some(wait) = recovers {
                    self.after(wait, Happening::Does(worker, Deed::Wakes));
                }
            }
            Deed::Leaves => {
                self.after(Duration::ZERO, Happening::Heard(Event::Leaving { worker }));
                self.goes(worker);
            }
            Deed::LosesChannel(ends) => {
                self.after(Duration::ZERO, Happening::Heard(Event::Disconnected { worker }));
                if let Some(wait) = ends {
                    self.after(wait, Happening::Does(worker, Deed::Dies(ExitStatus::Code(0))));
                }
            }
            Deed::Finishes(connection) => {
                process.counters.ready += 1;
                process.counters.turn += 1;
                process.counters.awake = false;
                let wait = self.dice.micros(0, 5_000);
                self.after(wait, Happening::Does(worker, Deed::Closes(connection)));
                self.awaken(worker);
            }
            Deed::Closes(connection) => {
                process.counters.closed += 1;
                process.open.retain(|&open| open != connection);
                assert_eq!(self.connections[connection], Place::Taken(worker), "served once, by who took it");
                self.connections[connection] = Place::Served;
            }
        }
    }

    pub(crate) fn starts(&mut self, worker: WorkerId) {
        let says_online = self.processes[&worker].says_online;
        if says_online || self.settings.readiness == Readiness::Online {
            self.soon(Happening::Heard(Event::Online { worker }));
        }
        let mut wait = self.dice.millis(3, 50);
        self.after(wait, Happening::Heard(Event::Listening { worker, listener: HTTP }));
        if self.settings.readiness == Readiness::Notified {
            wait += self.dice.millis(1, 50);
            self.after(wait, Happening::Heard(Event::Ready { worker }));
        }
        match self.processes[&worker].behaviour {
            Behaviour::CrashesAfter(wait, status) => {
                self.after(wait, Happening::Does(worker, Deed::Dies(status)))
            }
            Behaviour::HangsAfter(wait, wakes) => {
                self.after(wait, Happening::Does(worker, Deed::Hangs(wakes)))
            }
            Behaviour::LeavesAfter(wait) => self.after(wait, Happening::Does(worker, Deed::Leaves)),
            Behaviour::LosesChannelAfter(wait, ends) => {
                self.after(wait, Happening::Does(worker, Deed::LosesChannel(ends)));
            }
            Behaviour::Healthy | Behaviour::Declines | Behaviour::Slow(_) | Behaviour::Stubborn { .. } => {}
            Behaviour::Unstartable | Behaviour::CrashesAtStart(_) | Behaviour::NeverReady => {
                unreachable!("it never gets this far")
            }
        }
    }

    pub(crate) fn takes(&mut self, worker: WorkerId) {
        let process = self.processes.get_mut(&worker).expect("it is there");
        process.looks = false;
        let Some(connection) = process.channel.pop_front() else { return };
        assert_eq!(self.connections[connection], Place::Sent(worker), "taken from where it was sent");
        process.counters.turn += 1;
        if process.leaving || process.behaviour == Behaviour::Declines && self.dice.percent(50) && !self.calm
        {
            self.connections[connection] = Place::Waiting;
            self.waiting.push(connection);
            self.primary.returned(worker, 1);
            return self.awaken(worker);
        }
        process.counters.taken += 1;
        process.counters.awake = true;
        process.open.push(connection);
        self.connections[connection] = Place::Taken(worker);
        let wait = match process.behaviour {
            Behaviour::Slow(turn) => turn,
            _ => self.dice.micros(10, 400),
        };
        self.after(wait, Happening::Does(worker, Deed::Finishes(connection)));
    }

    pub(crate) fn dies(&mut self, worker: WorkerId, status: ExitStatus) {
        let process = self.processes.get_mut(&worker).expect("it is there");
        if process.leaving && !process.open.is_empty() && status.is_success() && !process.hung {
            // It was asked to finish what it has.
            return self.after(Duration::from_millis(100), Happening::Does(worker, Deed::Dies(status)));
        }
        process.alive = false;
        for connection in std::mem::take(&mut process.open) {
            self.connections[connection] = Place::Lost;
        }
        let wait = self.dice.micros(0, 3_000);
        if self.dice.percent(50) {
            self.after(wait / 2, Happening::Heard(Event::Disconnected { worker }));
        }
        self.after(wait, Happening::Heard(Event::Exited { worker, status }));
    }
}
