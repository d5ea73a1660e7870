//! Orders from handles and from Unix signals.

use std::time::{Duration, Instant};

use everycore_core::{Event as CoreEvent, Urgency, WorkerId};
use everycore_ipc::{Message, Outgoing, SendError};
use everycore_sys::signals::number::{CHLD, HUP, INT, QUIT, TERM, TTIN, TTOU, USR1, USR2, WINCH};

use super::driver::Driver;
use super::event::Event;
use super::handle::Order;
use super::member::Side;
use crate::error::Error;

/// Those that are taken.
const SIGNALS: [i32; 10] = [HUP, INT, QUIT, USR1, USR2, TERM, CHLD, TTIN, TTOU, WINCH];

/// A second order to stop means "at once", unless it is a `TERM` that comes so soon that it is the same one: `timeout`
/// and others signal a process and its group. Whoever presses Ctrl-C twice means it.
const SAME_ORDER: Duration = Duration::from_millis(200);

/// Whether signals are taken, and whether a stop was ordered by one.
pub(super) struct StopKeys {
    takes_signals: bool,
    /// When the last one was.
    stopped: Option<Instant>,
    had_terminal: bool,
    reaps_orphans: bool,
    /// How many workers there were before `WINCH` let them go.
    parked: Option<u32>,
}

impl StopKeys {
    pub(super) fn new(takes_signals: bool, reaps_orphans: bool) -> Self {
        let had_terminal = has_terminal();
        Self { takes_signals, stopped: None, had_terminal, reaps_orphans, parked: None }
    }

    pub(super) fn takes_signals(&self) -> bool {
        self.takes_signals
    }

    /// The signals to take; one that whoever started us has ignored, as `nohup` does, stays ignored. To resize a
    /// terminal is no order.
    pub(super) fn signals(&self) -> Vec<i32> {
        let wanted = |signal: &i32| match *signal {
            HUP => !is_ignored(HUP),
            CHLD => self.reaps_orphans,
            WINCH => !self.had_terminal,
            _ => true,
        };
        SIGNALS.into_iter().filter(wanted).collect()
    }

    /// How urgent a signal's order to stop is; `None` when it is the one that was given just now.
    fn urgency(&mut self, signal: i32, now: Instant) -> Option<Urgency> {
        match self.stopped {
            Some(last) if signal == TERM && now.duration_since(last) <= SAME_ORDER => None,
            before => {
                self.stopped = Some(now);
                Some(if before.is_some() { Urgency::Fast } else { Urgency::Graceful })
            }
        }
    }
}

/// Whether this process was started with a signal ignored.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

/// Whether this process has a controlling terminal that is still there.
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

impl Driver {
    pub(super) fn read_signals(&mut self) {
        while let Some(signal) = self.signals.as_ref().and_then(|pipe| pipe.read()) {
            match signal {
                TERM | INT | QUIT => self.stop_by(signal),
                // A terminal that hangs up takes the session with it; only without one is HUP the order to reload.
                HUP if self.stop.had_terminal && !has_terminal() => self.stop_by(signal),
                HUP => match self.stop.parked.take().filter(|_| self.slots() == 0) {
                    Some(workers) => self.order(CoreEvent::Scale { workers }),
                    None => self.order(CoreEvent::Reload),
                },
                WINCH if self.slots() > 0 => {
                    self.stop.parked = Some(self.slots());
                    self.order(CoreEvent::Scale { workers: 0 });
                }
                CHLD => self.reap_orphans(),
                USR1 | USR2 => self.tell(Event::Warning {
                    text: "USR1 and USR2 are kept for reopening logs and for upgrades, which this version does not do"
                        .into(),
                }),
                TTIN => self.scale_by(1),
                TTOU => self.scale_by(-1),
                _ => {}
            }
            self.carry_out_effects();
        }
    }

    fn stop_by(&mut self, signal: i32) {
        if let Some(urgency) = self.stop.urgency(signal, Instant::now()) {
            self.order(CoreEvent::Stop { urgency });
        }
    }

    fn slots(&self) -> u32 {
        self.core.snapshot().slots.len() as u32
    }

    fn scale_by(&mut self, step: i64) {
        let workers = i64::from(self.slots()) + step;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_that_comes_twice_is_one_order_and_a_later_one_is_another() {
        let mut stop = StopKeys::new(true, false);
        let began = Instant::now();
        let mut at = |millis, signal| stop.urgency(signal, began + Duration::from_millis(millis));
        assert_eq!(at(0, TERM), Some(Urgency::Graceful));
        assert_eq!(at(10, TERM), None, "the core takes any further order as an urgent one");
        assert_eq!(at(200, TERM), None);
        assert_eq!(at(201, TERM), Some(Urgency::Fast));
        assert_eq!(at(202, TERM), None, "the second comes twice as well");
        assert_eq!(at(203, INT), Some(Urgency::Fast));
    }

    #[test]
    fn who_presses_the_keys_twice_means_it() {
        let mut stop = StopKeys::new(true, false);
        let now = Instant::now();
        assert_eq!(stop.urgency(INT, now), Some(Urgency::Graceful));
        assert_eq!(stop.urgency(INT, now), Some(Urgency::Fast));
    }
}
