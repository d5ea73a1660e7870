//! One short function per [`Effect`]. None waits; what fails comes back to the core as an event.

use everycore_core::{Effect, Notice, WorkerId};
use everycore_sys::signals::number::{CONT, KILL, TERM};

use super::autopsy;
use super::driver::{Driver, later};
use super::event::{Event, WorkerInfo};
use super::member::Side;
use super::sources::Wake;

impl Driver {
    pub(super) fn carry_out_effects(&mut self) {
        loop {
            let effects = self.core.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                self.carry_out(effect);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Spawn { worker, slot, generation } => self.spawn(worker, slot, generation),
            Effect::Disconnect { worker } => self.disconnect(worker),
            Effect::Signal { worker, signal } => self.signal(worker, signal),
            Effect::Withdraw { worker } => self.relieve(worker),
            Effect::Forget { worker } => self.forget(worker),
            Effect::Notify(notice) => self.announce(notice),
        }
    }

    /// What a worker that leaves has not taken goes to others; with no others it serves that itself.
    fn relieve(&mut self, worker: WorkerId) {
        let lives =
            self.members.get(&worker).is_some_and(|member| member.process.is_some() && member.link.is_some());
        let others = self.listeners.held_by(worker).into_iter().any(|key| self.core.is_served(key));
        if !lives || others {
            self.withdraw(worker);
        }
    }

    pub(super) fn signal(&mut self, worker: WorkerId, signal: i32) {
        if matches!(signal, TERM | KILL) {
            // Whoever is signalled knows: there is nothing to hold back any more.
            self.held_back.remove(&worker);
        }
        // What it was told before comes before.
        self.flush_channel(worker);
        let Some(process) = self.members.get(&worker).and_then(|member| member.process.as_ref()) else {
            return;
        };
        // The last rung is for the whole family: a shell around the program must not leave it behind.
        let sent = if signal == KILL { process.signal_group(signal) } else { process.signal(signal) };
        match sent {
            // One that was stopped hears it only when it goes on.
            Ok(()) if signal == TERM => drop(process.signal(CONT)),
            Ok(()) => {}
            // Gone already: its exit is on the way.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
            Err(error) => {
                let info = self.info(worker);
                self.tell(Event::Error { worker: info, reason: format!("cannot be signalled: {error}") });
            }
        }
    }

    fn forget(&mut self, worker: WorkerId) {
        // Whatever it still held comes back before its channels go, or as soon as there is room for it.
        self.withdraw(worker);
        if let Some(mut member) = self.members.remove(&worker) {
            self.remains.extend(member.remains().into_iter().map(|channel| (worker, channel)));
            if let Side::Library(library) = &member.side {
                self.sources.remove(&library.bell, Wake::Bell(worker));
            }
            if let Some(link) = &member.link {
                self.sources.remove(&link.connection, Wake::Channel(worker));
            }
            if let Some(process) = &member.process {
                self.sources.remove(process, Wake::Process(worker));
            }
        }
        self.shared.disconnected(worker.get());
        self.shared.unpiped(worker.get());
        self.held_back.remove(&worker);
        self.listeners.forget(worker, &self.sources);
        self.readying.forget(worker);
        if self.core.is_settled() {
            self.abandon_old_listeners();
        }
    }

    /// The worker as events name it; one that is gone keeps at least its id.
    pub(super) fn info(&self, worker: WorkerId) -> WorkerInfo {
        let unknown = WorkerInfo { id: worker.get(), slot: 0, generation: 0, pid: None };
        self.members.get(&worker).map_or(unknown, |member| member.info)
    }

    /// A new version may listen elsewhere, and so may a replacement. Those who are ready may still be opening what they
    /// serve beside.
    fn abandon_old_listeners(&mut self) {
        let core = &self.core;
        let patience = self.readying.patience(&self.deadlines);
        self.listeners.abandon(later(patience), |worker| !core.is_leaving(worker));
    }

    fn announce(&mut self, notice: Notice) {
        let event = match notice {
            // Told once the process exists, by `Spawned`: observers want its pid.
            Notice::Fork { .. } => return,
            Notice::Spawned { worker, .. } => Event::Fork { worker: self.info(worker) },
            Notice::Online { worker } => Event::Online { worker: self.info(worker) },
            Notice::Listening { worker, listener } => {
                let Some(address) = self.listeners.address(listener).cloned() else { return };
                Event::Listening { worker: self.info(worker), address }
            }
            Notice::Ready { worker } => {
                self.readying.ready(worker);
                if self.core.is_settled() {
                    self.abandon_old_listeners();
                }
                self.look_for_unserved_later();
                Event::Ready { worker: self.info(worker) }
            }
            Notice::Disconnect { worker } => Event::Disconnect { worker: self.info(worker) },
            Notice::Exit { worker, slot, generation, status, reason, exited_after_disconnect } => {
                let pid = self.info(worker).pid;
                let worker =
                    WorkerInfo { id: worker.get(), slot: slot.get(), generation: generation.get(), pid };
                if !exited_after_disconnect {
                    self.ending.failed(format!("{worker} {status}"));
                }
                Event::Exit { worker, status, reason, exited_after_disconnect }
            }
            Notice::Error { worker, reason } => {
                let worker = self.info(worker);
                self.ending.failed(format!("{worker}: {reason}"));
                Event::Error { worker, reason }
            }
            Notice::Hung { worker } => Event::Hung { worker: self.info(worker) },
            Notice::Late { worker, within } => Event::Late { worker: self.info(worker), within },
            Notice::Mistaken { worker } => Event::Mistaken { worker: self.info(worker) },
            Notice::Overdue { worker, within, open, kill_after } => {
                Event::Overdue { worker: self.info(worker), within, open, kill_after }
            }
            Notice::TooLarge { worker, resident, limit, postponed } => {
                Event::TooLarge { worker: self.info(worker), resident, limit, postponed }
            }
            Notice::TimedOut { worker, after } => {
                let worker = self.info(worker);
                let doing = worker.pid.map(autopsy::threads).unwrap_or_default();
                Event::TimedOut { worker, after, doing }
            }
            Notice::Recovered { worker } => Event::Recovered { worker: self.info(worker) },
            Notice::RestartScheduled { slot, delay, failures } => {
                Event::RestartScheduled { slot: slot.get(), delay, failures }
            }
            Notice::SlotErrored { slot, failures, .. } => Event::SlotErrored { slot: slot.get(), failures },
            Notice::ReloadStarted { generation } => Event::ReloadStarted { generation: generation.get() },
            Notice::ReloadProgress { done, total } => Event::ReloadProgress { done, total },
            Notice::ReloadDone { generation } => {
                self.abandon_old_listeners();
                Event::ReloadDone { generation: generation.get() }
            }
            Notice::ReloadFailed { generation, reason } => {
                Event::ReloadFailed { generation: generation.get(), reason }
            }
            Notice::Scaled { workers } => Event::Scaled { workers },
            Notice::Refused { class, refused } => Event::Refused { class, refused },
            Notice::Stopping => Event::Stopping,
            Notice::StoppingNow { kill_after } => Event::StoppingNow { kill_after },
        };
        self.tell(event);
    }
}
