//! Orders from handles and from Unix signals.

use std::time::Instant;

use everycore_core::{Event as CoreEvent, Urgency, WorkerId};
use everycore_ipc::{Outgoing, SendError};

use super::driver::Driver;
use super::event::Event;
use super::handle::Order;
use crate::error::Error;

/// `HUP INT QUIT TERM TTIN TTOU`, as Linux numbers them on every architecture.
pub(super) const SIGNALS: [i32; 6] = [HUP, INT, QUIT, TERM, TTIN, TTOU];
const HUP: i32 = 1;
const INT: i32 = 2;
const QUIT: i32 = 3;
const TERM: i32 = 15;
const TTIN: i32 = 21;
const TTOU: i32 = 22;

/// Whether signals are taken, and how often a stop was ordered by one.
pub(super) struct StopKeys {
    takes_signals: bool,
    stops: u32,
    had_terminal: bool,
}

impl StopKeys {
    pub(super) fn new(takes_signals: bool) -> Self {
        Self { takes_signals, stops: 0, had_terminal: has_terminal() }
    }

    pub(super) fn takes_signals(&self) -> bool {
        self.takes_signals
    }

    fn urgency(&mut self) -> Urgency {
        self.stops += 1;
        if self.stops > 1 { Urgency::Fast } else { Urgency::Graceful }
    }
}

/// Whether this process has a controlling terminal that is still there.
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

impl Driver {
    pub(super) fn read_signals(&mut self) {
        while let Some(signal) = self.signals.as_ref().and_then(|pipe| pipe.read()) {
            match signal {
                TERM | INT | QUIT => {
                    let urgency = self.stop.urgency();
                    self.order(CoreEvent::Stop { urgency });
                }
                // A terminal that hangs up takes the session with it; only without one is HUP the order to reload.
                HUP if self.stop.had_terminal && !has_terminal() => {
                    let urgency = self.stop.urgency();
                    self.order(CoreEvent::Stop { urgency });
                }
                HUP => self.order(CoreEvent::Reload),
                TTIN => self.scale_by(1),
                TTOU => self.scale_by(-1),
                _ => {}
            }
            self.carry_out_effects();
        }
    }

    fn scale_by(&mut self, step: i64) {
        let workers = i64::from(self.core.snapshot().slots.len() as u32) + step;
        match u32::try_from(workers) {
            Ok(workers) if workers >= 1 => self.order(CoreEvent::Scale { workers }),
            _ => self.tell(Event::Warning { text: "one worker is the least a cluster keeps".into() }),
        }
    }

    pub(super) fn obey_orders(&mut self) {
        let _ = self.shared.wake().silence();
        for order in self.shared.take_orders() {
            self.obey(order);
            self.carry_out_effects();
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Send { worker, message } => self.send(WorkerId::new(worker), Outgoing::user(message)),
            Order::Reply { worker, id, message } => {
                self.send(WorkerId::new(worker), Outgoing::reply(id, message))
            }
            Order::Request { worker, message, timeout, reply } => {
                let worker = WorkerId::new(worker);
                let Some(member) = self.members.get_mut(&worker).filter(|member| member.link.is_some())
                else {
                    let _ = reply.send(Err(Error::Disconnected));
                    return;
                };
                let id = member.requests.open(reply, timeout, Instant::now());
                self.send(worker, Outgoing::request(id, message));
            }
            Order::Disconnect { worker } => {
                self.order(CoreEvent::Disconnect { worker: WorkerId::new(worker) })
            }
            Order::DisconnectAll => self.order(CoreEvent::DisconnectAll),
            Order::Kill { worker, signal } => {
                self.order(CoreEvent::Kill { worker: WorkerId::new(worker), signal });
            }
            Order::Reload => self.order(CoreEvent::Reload),
            Order::Scale { workers } => self.order(CoreEvent::Scale { workers }),
            Order::Stop { urgency } => self.order(CoreEvent::Stop { urgency }),
            Order::Snapshot { reply } => {
                let _ = reply.send(self.core.snapshot());
            }
        }
    }

    /// Queues a message to a worker and writes what it reads of it.
    fn send(&mut self, worker: WorkerId, outgoing: Outgoing) {
        let Some(member) = self.members.get_mut(&worker) else { return };
        match member.queue(outgoing) {
            Ok(()) => self.flush_channel(worker),
            Err(error) => {
                let reason = match error {
                    SendError::Full { .. } => {
                        "does not read its channel, and the queue to it is full: a message was dropped"
                            .to_owned()
                    }
                    other => format!("cannot be sent to: {other}"),
                };
                let worker = member.info;
                self.tell(Event::Error { worker, reason });
            }
        }
    }
}
