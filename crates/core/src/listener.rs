//! What one worker serves, what it was handed, and what it made of it.
//!
//! The counters come from memory the worker can write: they are hints. They are never believed to go back,
//! nor to exceed what was handed over.

use std::time::Duration;

use crate::credit::low_water;
use crate::id::ListenerKey;
use crate::recency::Recency;
use crate::settings::CreditSettings;
use crate::time::Time;

/// What a worker says about the connections it was handed. All but `turn` and `awake` only grow. A connection that
/// it declined, or that was read back, counts in none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections it has taken from the primary.
    pub taken: u64,
    /// Connections that are through their first turn: they return credit.
    pub ready: u64,
    /// Connections it has closed.
    pub closed: u64,
    /// Which turn of its loop it is in.
    pub turn: u64,
    /// Whether it is working rather than asleep.
    pub awake: bool,
}

/// The connections of one worker, from the primary's point of view.
#[derive(Clone, Debug)]
pub(crate) struct HandOffs {
    listeners: Vec<ListenerKey>,
    /// Those it serves no more, whose connections it may still hold.
    former: Vec<ListenerKey>,
    sent: u64,
    returned: u64,
    /// Gone on their way back.
    lost: u64,
    seen: Counters,
    /// When its counters were last read. It is judged by what was known then: a primary that has slept knows nothing.
    observed_at: Time,
    /// When it last went forward, or was given something to do.
    progress_at: Time,
    /// Since when the next connection lies there untaken.
    untaken_since: Option<Time>,
    /// The same, or since the last sign of life after that.
    quiet_since: Option<Time>,
    /// Since when it has been in the present turn.
    awake_since: Option<Time>,
    /// How often in a row it gave connections back instead of taking one.
    strikes: u32,
    /// It gave connections back and gets none before then.
    paused_until: Option<Time>,
    hung: Option<Hung>,
    /// Weighted count of the latest hand-offs: see [`Recency`].
    pub(crate) recent: u32,
}

/// Out of rotation for leaving a connection untaken.
#[derive(Clone, Copy, Debug)]
struct Hung {
    since: Time,
    manner: Manner,
    /// When it may be tried with a single connection: one that sleeps with nothing to take shows no sign of life
    /// although it is well.
    trial: Trial,
}

/// How a worker hangs, and so what would show that it does not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// It stood still; any sign of life will do.
    Blocked,
    /// It was alive and took nothing; it has to take something.
    Refusing,
}

#[derive(Clone, Copy, Debug)]
enum Trial {
    NotBefore(Time),
    Due,
}

/// What an observation showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Observed {
    Nothing,
    /// What was known of it has changed.
    Something,
    Recovered,
}

/// Listeners a worker is known to have served before. More than a worker has at once.
const FORMER: usize = 1024;

impl HandOffs {
    pub(crate) fn new(now: Time) -> Self {
        HandOffs {
            listeners: Vec::new(),
            former: Vec::new(),
            sent: 0,
            returned: 0,
            lost: 0,
            seen: Counters::default(),
            observed_at: now,
            progress_at: now,
            untaken_since: None,
            quiet_since: None,
            awake_since: None,
            strikes: 0,
            paused_until: None,
            hung: None,
            recent: 0,
        }
    }

    /// Whether that is news.
    pub(crate) fn listens(&mut self, listener: ListenerKey) -> bool {
        match self.listeners.binary_search(&listener) {
            Ok(_) => false,
            Err(place) => {
                self.listeners.insert(place, listener);
                true
            }
        }
    }

    pub(crate) fn stopped_listening(&mut self, listener: ListenerKey) {
        let Ok(place) = self.listeners.binary_search(&listener) else { return };
        self.listeners.remove(place);
        if let Err(place) = self.former.binary_search(&listener) {
            self.former.insert(place, listener);
            // Keys are never used again, so the smallest is the one most likely to be of a listener that is no more.
            if self.former.len() > FORMER {
                self.former.remove(0);
            }
        }
    }

    pub(crate) fn serves(&self, listener: ListenerKey) -> bool {
        self.listeners.binary_search(&listener).is_ok()
    }

    /// Whether it may hold connections of this listener.
    pub(crate) fn has_served(&self, listener: ListenerKey) -> bool {
        self.ever_served().any(|served| served == listener)
    }

    /// Every listener whose connections it may hold.
    pub(crate) fn ever_served(&self) -> impl Iterator<Item = ListenerKey> {
        self.listeners.iter().chain(&self.former).copied()
    }

    pub(crate) fn listeners(&self) -> &[ListenerKey] {
        &self.listeners
    }

    /// Everything ever handed over and not come back, nor lost on its way.
    pub(crate) fn kept(&self) -> u64 {
        self.sent - self.returned - self.lost
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    pub(crate) fn returned_count(&self) -> u64 {
        self.returned
    }

    pub(crate) fn lost_count(&self) -> u64 {
        self.lost
    }

    pub(crate) fn taken(&self) -> u64 {
        self.seen.taken
    }

    #[cfg(test)]
    pub(crate) fn seen(&self) -> Counters {
        self.seen
    }

    /// On its way: handed over, not taken, not come back.
    pub(crate) fn untaken(&self) -> u64 {
        self.kept() - self.seen.taken
    }

    /// Handed over and not yet through the first turn: what counts against the credit.
    pub(crate) fn load(&self) -> u64 {
        self.kept() - self.seen.ready
    }

    /// Handed over and not yet closed.
    pub(crate) fn live(&self) -> u64 {
        self.kept() - self.seen.closed
    }

    pub(crate) fn closed(&self) -> u64 {
        self.seen.closed
    }

    /// One more was handed to it; it weighs so much in the count of the latest.
    pub(crate) fn handed(&mut self, weight: u32, now: Time, retry: Duration) {
        if self.load() == 0 {
            self.progress_at = now;
        }
        self.untaken_since.get_or_insert(now);
        self.quiet_since.get_or_insert(now);
        if let Some(hung) = &mut self.hung {
            hung.trial = Trial::NotBefore(now + retry);
        }
        self.sent += 1;
        self.recent = self.recent.saturating_add(weight);
    }

    pub(crate) fn scale_recent(&mut self) {
        self.recent = Recency::scaled(self.recent);
    }

    /// Takes back what it could not be sent, had not taken, or declined. It gets a pause, longer each time until it
    /// takes something: it may be full, and the others must not wait for it again and again.
    pub(crate) fn returned(&mut self, count: u64, now: Time, (pause, longest): (Duration, Duration)) {
        self.returned += count.min(self.kept());
        self.keeps_less();
        if count > 0 {
            let pause = pause.saturating_mul(2_u32.saturating_pow(self.strikes)).min(longest);
            self.paused_until = Some(now + pause);
            self.strikes = self.strikes.saturating_add(1);
        }
    }

    /// Strikes off what it no longer has and nobody else will get.
    pub(crate) fn lost(&mut self, count: u64) {
        self.lost += count.min(self.kept());
        self.keeps_less();
    }

    fn keeps_less(&mut self) {
        let kept = self.kept();
        self.seen.taken = self.seen.taken.min(kept);
        self.seen.ready = self.seen.ready.min(kept);
        self.seen.closed = self.seen.closed.min(kept);
        self.settle_waiting();
    }

    /// Nothing new is what most looks find: then only the time has changed.
    #[inline]
    pub(crate) fn saw_before(&mut self, counters: Counters, now: Time) -> bool {
        let is_old = counters == self.seen && self.awake_since.is_some() == counters.awake;
        if is_old {
            self.observed_at = now;
        }
        is_old
    }

    pub(crate) fn observe(&mut self, counters: Counters, now: Time) -> Observed {
        if self.saw_before(counters, now) {
            return Observed::Nothing;
        }
        self.observed_at = now;
        let before = self.seen;
        let kept = self.kept();
        self.seen = Counters {
            taken: counters.taken.min(kept).max(before.taken),
            ready: counters.ready.min(kept).max(before.ready),
            closed: counters.closed.min(kept).max(before.closed),
            turn: counters.turn,
            awake: counters.awake,
        };
        let turned = self.seen.turn != before.turn;
        let took = self.seen.taken != before.taken;
        let stepped = turned || self.seen.ready != before.ready;
        if stepped {
            self.progress_at = now;
        }
        if took {
            self.untaken_since = Some(now);
        }
        if took || stepped {
            self.quiet_since = Some(now);
        }
        if took || self.seen.closed != before.closed {
            self.strikes = 0;
            self.paused_until = None;
        }
        self.awake_since = match (self.seen.awake, turned, self.awake_since) {
            (false, _, _) => None,
            (true, false, Some(since)) => Some(since),
            (true, _, _) => Some(now),
        };
        self.settle_waiting();
        self.recover(took, stepped, now)
    }

    fn recover(&mut self, took: bool, stepped: bool, now: Time) -> Observed {
        match self.hung {
            Some(Hung { manner: Manner::Blocked, .. }) if took || stepped => {}
            Some(Hung { manner: Manner::Refusing, .. }) if took => {}
            Some(_) | None => return Observed::Something,
        }
        self.hung = None;
        self.strikes = 0;
        self.paused_until = None;
        // It has its time for what it holds, counted from now.
        self.untaken_since = self.untaken_since.map(|_| now);
        Observed::Recovered
    }

    fn settle_waiting(&mut self) {
        if self.untaken() == 0 {
            self.untaken_since = None;
            self.quiet_since = None;
        }
    }

    /// Whether time alone, or the credit, may change what it is good for. One that sleeps and has nothing to do stays as it
    /// is.
    pub(crate) fn is_restless(&self) -> bool {
        self.load() > 0 || self.awake_since.is_some() || self.paused_until.is_some() || self.hung.is_some()
    }

    /// Whether nothing more should go there for now: for `patience` it has not gone forward.
    pub(crate) fn still(&self, patience: Duration, now: Time) -> bool {
        let held_up = self.load() > 0 && now - self.progress_at >= patience;
        held_up || self.awake_since.is_some_and(|since| now - since >= patience)
    }

    /// Whether it may be handed one more.
    pub(crate) fn is_free(&self, credit: u64, settings: &CreditSettings, now: Time) -> bool {
        if self.paused_until.is_some_and(|until| now < until) {
            return false;
        }
        match &self.hung {
            None => self.load() < credit && !self.still(settings.stuck_after, now),
            Some(hung) => {
                let due = match hung.trial {
                    Trial::Due => true,
                    Trial::NotBefore(at) => now >= at,
                };
                due && self.untaken() == 0 && (hung.manner == Manner::Refusing || !self.seen.awake)
            }
        }
    }

    /// Whether what it has not taken had better go to somebody else.
    pub(crate) fn is_withdrawable(&self, settings: &CreditSettings, now: Time) -> bool {
        self.untaken_since.is_some_and(|since| now - since >= settings.withdraw_after)
    }

    /// The count of `ready` at which it is low.
    pub(crate) fn wake_at(&self, credit: u64) -> u64 {
        self.kept().saturating_sub(low_water(credit)).max(self.seen.ready + 1)
    }

    /// Whether it has little left to do, or would not say so: one that sleeps does not go on by itself, and one that is
    /// only tried is not waited for.
    pub(crate) fn is_low(&self, credit: u64) -> bool {
        self.load() <= low_water(credit) || !self.seen.awake || self.is_hung()
    }

    pub(crate) fn is_hung(&self) -> bool {
        self.hung.is_some()
    }

    /// Takes it out of rotation when it has left something untaken for `patience`; whether that is news.
    pub(crate) fn check_hung(&mut self, patience: Duration, now: Time) -> bool {
        self.paused_until = self.paused_until.filter(|&until| now < until);
        if let Some(hung) = &mut self.hung {
            if matches!(hung.trial, Trial::NotBefore(at) if now >= at) {
                hung.trial = Trial::Due;
            }
            return false;
        }
        match self.untaken_since {
            Some(since) if self.observed_at - since >= patience => {
                let manner = if self.is_silent_for(patience) { Manner::Blocked } else { Manner::Refusing };
                self.hung = Some(Hung { since, manner, trial: Trial::NotBefore(now + patience) });
                true
            }
            _ => false,
        }
    }

    /// Since when it has given no sign of life although there was reason to.
    pub(crate) fn silent_since(&self) -> Option<Time> {
        let blocked = self.hung.filter(|hung| hung.manner == Manner::Blocked).map(|hung| hung.since);
        [blocked, self.quiet_since, self.awake_since].into_iter().flatten().min()
    }

    /// Whether that has lasted for `patience`.
    pub(crate) fn is_silent_for(&self, patience: Duration) -> bool {
        self.silent_since().is_some_and(|since| self.observed_at - since >= patience)
    }

    /// When to look at it again.
    pub(crate) fn deadline(&self, patience: Duration) -> Option<Time> {
        let hung = match &self.hung {
            None => self.untaken_since.map(|since| since + patience),
            Some(Hung { trial: Trial::NotBefore(at), .. }) => Some(*at),
            Some(Hung { trial: Trial::Due, .. }) => None,
        };
        [hung, self.paused_until].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests;
