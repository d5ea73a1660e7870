//! One worker process from fork to exit: its state, and the rungs of the ladder that ends it.
//!
//! Transitions push the effects they call for and touch nothing but the worker. Whether its slot is filled
//! again is decided in `primary/ends.rs`.

use crate::event::Effect;
use crate::id::{Generation, ListenerKey, Slot, WorkerId};
use crate::listener::HandOffs;
use crate::notice::{ExitReason, ExitStatus, Notice};
use crate::recycle::Allowance;
use crate::restart::Run;
use crate::settings::{Deadlines, Readiness, RestartSettings};
use crate::time::Time;

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// One worker.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) slot: Slot,
    pub(crate) generation: Generation,
    pub(crate) pid: Option<u32>,
    pub(crate) state: State,
    pub(crate) forked_at: Time,
    pub(crate) ready_since: Option<Time>,
    pub(crate) recycle: Option<Recycle>,
    pub(crate) allowance: Allowance,
    /// Ready, it was seen to use less memory than it may.
    pub(crate) was_small: bool,
    pub(crate) handoffs: HandOffs,
    channel: Channel,
}

/// Where a worker is in its life. Whatever waits for somebody else has a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Forked.
    Starting { until: Time },
    /// Started, not ready.
    Online { until: Time },
    /// Ready. The only state that waits for nothing.
    Listening,
    /// To finish what it has and leave.
    Disconnecting(Leave),
    /// `TERM` was sent.
    Terminating(Leave),
    /// `KILL` was sent, and is sent again at the deadline.
    Killed(Leave),
}

/// How a worker leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leave {
    pub(crate) until: Time,
    /// `None`: its channel ended and nobody had asked for it.
    pub(crate) why: Option<ExitReason>,
    /// Whether a disconnect was asked for, by us or by itself.
    pub(crate) asked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    Open,
    Ended,
}

/// The wish to have a worker replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recycle {
    pub(crate) reason: ExitReason,
    pub(crate) not_before: Time,
}

/// Until when each rung of the ladder lasts, should it begin now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grace {
    drain_until: Time,
    term_until: Time,
}

impl Grace {
    pub(crate) fn new(deadlines: &Deadlines, now: Time) -> Self {
        Grace { drain_until: now + deadlines.drain, term_until: now + deadlines.term }
    }
}

/// Who asked a worker to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The primary: it has to tell the worker.
    ByUs,
    /// The worker: it knows.
    ByItself,
}

impl Worker {
    pub(crate) fn new(
        id: WorkerId,
        slot: Slot,
        generation: Generation,
        now: Time,
        start_until: Time,
    ) -> Self {
        Worker {
            id,
            slot,
            generation,
            pid: None,
            state: State::Starting { until: start_until },
            forked_at: now,
            ready_since: None,
            recycle: None,
            allowance: Allowance::default(),
            was_small: false,
            handoffs: HandOffs::new(now),
            channel: Channel::Open,
        }
    }

    /// Whether it is on its way out.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leave().is_some()
    }

    /// Whether it is ready to serve and not on its way out.
    pub(crate) fn is_ready(&self) -> bool {
        match self.state {
            State::Listening => true,
            State::Starting { .. } | State::Online { .. } => false,
            State::Disconnecting(_) | State::Terminating(_) | State::Killed(_) => false,
        }
    }

    /// It goes when it has a successor. The first reason given is the one that counts.
    pub(crate) fn is_to_be_replaced(&mut self, reason: ExitReason, now: Time) {
        self.recycle.get_or_insert(Recycle { reason, not_before: now });
    }

    /// When it will have served for long enough, unless it is to be replaced already.
    pub(crate) fn retires_at(&self) -> Option<Time> {
        let since = self.ready_since.filter(|_| self.is_ready() && self.recycle.is_none())?;
        Some(since + self.allowance.lifetime?)
    }

    /// Whether it holds its slot: nobody decided yet on what comes after it.
    pub(crate) fn holds_slot(&self) -> bool {
        self.leave().is_none_or(|leave| leave.why.is_none())
    }

    pub(crate) fn leave(&self) -> Option<Leave> {
        match self.state {
            State::Starting { .. } | State::Online { .. } | State::Listening => None,
            State::Disconnecting(leave) | State::Terminating(leave) | State::Killed(leave) => Some(leave),
        }
    }

    /// When the present state has lasted too long.
    pub(crate) fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Starting { until } | State::Online { until } => Some(until),
            State::Listening => None,
            State::Disconnecting(leave) | State::Terminating(leave) | State::Killed(leave) => {
                Some(leave.until)
            }
        }
    }

    /// What kind of run it was, should it end now.
    pub(crate) fn run(&self, settings: &RestartSettings, now: Time) -> Run {
        match self.ready_since {
            Some(since) if now - since >= settings.healthy_after => Run::Healthy,
            _ => Run::Short,
        }
    }

    pub(crate) fn spawned(&mut self, pid: u32, effects: &mut Vec<Effect>) {
        if self.pid.is_none() {
            self.pid = Some(pid);
            effects.push(Effect::Notify(Notice::Spawned { worker: self.id, pid }));
        }
    }

    pub(crate) fn online(&mut self, readiness: Readiness, now: Time, effects: &mut Vec<Effect>) {
        let State::Starting { until } = self.state else { return };
        self.state = State::Online { until };
        effects.push(Effect::Notify(Notice::Online { worker: self.id }));
        if readiness == Readiness::Online {
            self.becomes_ready(now, effects);
        }
    }

    pub(crate) fn listening(
        &mut self,
        on: ListenerKey,
        readiness: Readiness,
        now: Time,
        effects: &mut Vec<Effect>,
    ) {
        self.online(readiness, now, effects);
        if self.is_leaving() || !self.handoffs.listens(on) {
            return;
        }
        effects.push(Effect::Notify(Notice::Listening { worker: self.id, listener: on }));
        if readiness == Readiness::Listening {
            self.becomes_ready(now, effects);
        }
    }

    pub(crate) fn ready(&mut self, readiness: Readiness, now: Time, effects: &mut Vec<Effect>) {
        self.online(readiness, now, effects);
        if readiness == Readiness::Notified {
            self.becomes_ready(now, effects);
        }
    }

    fn becomes_ready(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if let State::Online { .. } = self.state {
            self.state = State::Listening;
            self.ready_since = Some(now);
            effects.push(Effect::Notify(Notice::Ready { worker: self.id }));
        }
    }

    /// It was no more than a guess that it is ready, and about to end it counts as never ready.
    pub(crate) fn mistaken(&mut self, effects: &mut Vec<Effect>) {
        // One that was told to leave ends because of that.
        if self.holds_slot() && self.ready_since.take().is_some() {
            effects.push(Effect::Notify(Notice::Mistaken { worker: self.id }));
        }
    }

    pub(crate) fn stopped_listening(&mut self, listener: ListenerKey, effects: &mut Vec<Effect>) {
        self.handoffs.stopped_listening(listener);
        self.withdraw(effects);
    }

    /// The first rung: it leaves when it has finished. One that has not started has nothing to finish and
    /// goes to the second rung at once.
    pub(crate) fn disconnect(
        &mut self,
        why: ExitReason,
        asked: Asked,
        grace: Grace,
        effects: &mut Vec<Effect>,
    ) {
        match (self.state, asked) {
            (State::Starting { .. }, Asked::ByUs) => self.terminate(why, grace, effects),
            (State::Starting { .. } | State::Online { .. } | State::Listening, _) => {
                self.drain(Some(why), grace, effects);
                if asked == Asked::ByUs {
                    effects.push(Effect::Disconnect { worker: self.id });
                }
            }
            (State::Disconnecting(leave), _) => {
                self.state = State::Disconnecting(Leave { why: leave.why.or(Some(why)), ..leave });
            }
            (State::Terminating(_) | State::Killed(_), _) => {}
        }
    }

    fn drain(&mut self, why: Option<ExitReason>, grace: Grace, effects: &mut Vec<Effect>) {
        self.leaves_rotation(effects);
        self.state = State::Disconnecting(Leave { until: grace.drain_until, why, asked: why.is_some() });
    }

    /// The second rung: `TERM`.
    pub(crate) fn terminate(&mut self, why: ExitReason, grace: Grace, effects: &mut Vec<Effect>) {
        match self.state {
            State::Starting { .. } | State::Online { .. } | State::Listening | State::Disconnecting(_) => {
                self.leaves_rotation(effects);
                self.state = State::Terminating(self.leave_until(grace.term_until, why));
                effects.push(Effect::Signal { worker: self.id, signal: SIGTERM });
            }
            State::Terminating(_) | State::Killed(_) => {}
        }
    }

    /// The last rung: `KILL`, from wherever it is.
    pub(crate) fn kill(&mut self, why: ExitReason, grace: Grace, effects: &mut Vec<Effect>) {
        self.leaves_rotation(effects);
        self.state = State::Killed(self.leave_until(grace.term_until, why));
        effects.push(Effect::Signal { worker: self.id, signal: SIGKILL });
    }

    /// The first reason given is the one that counts.
    fn leave_until(&self, until: Time, why: ExitReason) -> Leave {
        match self.leave() {
            None => Leave { until, why: Some(why), asked: false },
            Some(leave) => Leave { until, why: leave.why.or(Some(why)), ..leave },
        }
    }

    /// Its channel ended. Unless it was asked to leave, it has the time of a drain to end as well.
    pub(crate) fn disconnected(&mut self, grace: Grace, effects: &mut Vec<Effect>) {
        if !self.is_leaving() {
            self.drain(None, grace, effects);
        }
        self.note_disconnect(effects);
    }

    /// Its process ended.
    pub(crate) fn exited(&mut self, status: ExitStatus, effects: &mut Vec<Effect>) {
        self.note_disconnect(effects);
        // Whatever it claims to have taken: a look at its end of the channel costs one call.
        if self.handoffs.kept() > 0 {
            effects.push(Effect::Withdraw { worker: self.id });
        }
        effects.push(Effect::Notify(Notice::Exit {
            worker: self.id,
            slot: self.slot,
            generation: self.generation,
            status,
            reason: self.exit_reason(status),
            exited_after_disconnect: self.leave().is_some_and(|leave| leave.asked),
        }));
        effects.push(Effect::Forget { worker: self.id });
    }

    fn exit_reason(&self, status: ExitStatus) -> ExitReason {
        self.leave().and_then(|leave| leave.why).unwrap_or(match status {
            ExitStatus::Code(_) | ExitStatus::Unknown => ExitReason::Code,
            ExitStatus::Signal(_) => ExitReason::Signal,
        })
    }

    fn note_disconnect(&mut self, effects: &mut Vec<Effect>) {
        if self.channel == Channel::Open {
            self.channel = Channel::Ended;
            effects.push(Effect::Notify(Notice::Disconnect { worker: self.id }));
        }
    }

    /// To be called before the state says that it leaves: what it has not taken is asked back once.
    fn leaves_rotation(&self, effects: &mut Vec<Effect>) {
        if !self.is_leaving() {
            self.withdraw(effects);
        }
    }

    pub(crate) fn withdraw(&self, effects: &mut Vec<Effect>) {
        if self.handoffs.untaken() > 0 {
            effects.push(Effect::Withdraw { worker: self.id });
        }
    }
}
