//! Orders from handles and from Unix signals.

use std::time::Instant;

use everycore_core::{Event as CoreEvent, WorkerId};
use everycore_ipc::{Message, Outgoing, SendError};

use super::driver::Driver;
use super::event::Event;
use super::handle::Order;
use super::member::Side;
use super::signals::Meaning;
use crate::error::Error;

impl Driver {
    pub(super) fn read_signals(&mut self) {
        while let Some(meaning) = self.signals.next(self.core.slots()) {
            match meaning {
                Meaning::Stop(urgency) => self.order(CoreEvent::Stop { urgency }),
                Meaning::Reload => self.order(CoreEvent::Reload),
                Meaning::Scale(workers) => self.order(CoreEvent::Scale { workers }),
                Meaning::TooFew => self.warn("one worker is the least a cluster keeps".into()),
                Meaning::Child => self.reap_orphans(),
                Meaning::Reserved => self.warn(
                    "USR1 and USR2 are kept for reopening logs and for upgrades, which this version does not do"
                        .into(),
                ),
                Meaning::Nothing => {}
            }
            self.carry_out_effects();
        }
    }

    pub(super) fn obey_orders(&mut self) {
        let _ = self.shared.wake().silence();
        for order in self.shared.take_orders() {
            self.obey(order);
            self.carry_out_effects();
        }
        self.send_unsent();
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Send { worker, message } => self.send(WorkerId::new(worker), message, Outgoing::user),
            Order::Reply { worker, id, message } => {
                self.send(WorkerId::new(worker), message, |message| Outgoing::reply(id, message));
            }
            Order::Request { worker, message, timeout, reply } => {
                let worker = WorkerId::new(worker);
                let Some(member) = self.members.get_mut(&worker).filter(|member| member.link.is_some())
                else {
                    let _ = reply.send(Err(Error::Disconnected));
                    return;
                };
                if let Side::Node(_) = member.side {
                    let why = "a Node worker cannot be asked: its channel knows no requests; send a message instead";
                    let _ = reply.send(Err(Error::Setting(why.into())));
                    return;
                }
                let id = member.requests.open(reply, timeout, Instant::now());
                self.ask(worker, id, message);
            }
            Order::Decline { worker, id } => self.decline(WorkerId::new(worker), id),
            Order::Disconnect { worker } => {
                self.order(CoreEvent::Disconnect { worker: WorkerId::new(worker) })
            }
            Order::DisconnectAll => self.order(CoreEvent::DisconnectAll),
            Order::Kill { worker, signal } => {
                self.order(CoreEvent::Kill { worker: WorkerId::new(worker), signal });
            }
            Order::Reload => self.order(CoreEvent::Reload),
            Order::Scale { workers } => self.order(CoreEvent::Scale { workers }),
            Order::RotateSecrets => self.rotate_secrets(),
            Order::Stop { urgency } => self.order(CoreEvent::Stop { urgency }),
            Order::SetupPrimary { settings } => self.setup_primary(*settings),
            Order::Snapshot { reply } => {
                let _ = reply.send(self.snapshot());
            }
        }
    }

    /// Queues a question; whoever asked hears at once when that cannot be.
    fn ask(&mut self, worker: WorkerId, id: u64, message: Message) {
        self.ordered(worker, &message);
        let Err(error) = self.queue(worker, Outgoing::request(id, message)) else { return };
        let error = match error {
            SendError::Full(_) => Error::QueueFull { worker: worker.get() },
            SendError::Closed(_) => Error::Disconnected,
            other => Error::Message(other.to_string()),
        };
        if let Some(member) = self.members.get_mut(&worker) {
            member.requests.close(id, Err(error));
        }
    }

    /// An order to queue this message is being carried out.
    fn ordered(&self, worker: WorkerId, message: &Message) {
        if let Some(link) = self.members.get(&worker).and_then(|member| member.link.as_ref()) {
            link.queued.release(message.bytes().len());
        }
    }

    /// Queues a message to a worker, to go out at the end of this turn.
    fn send(&mut self, worker: WorkerId, message: Message, kind: impl FnOnce(Message) -> Outgoing) {
        self.ordered(worker, &message);
        match self.queue(worker, kind(message)) {
            Ok(()) => {}
            Err(error) => {
                let reason = match error {
                    SendError::Full { .. } => {
                        "does not read its channel, and the queue to it is full: a message was dropped"
                            .to_owned()
                    }
                    other => format!("cannot be sent to: {other}"),
                };
                let worker = self.info(worker);
                self.tell(Event::Error { worker, reason });
            }
        }
    }
}
