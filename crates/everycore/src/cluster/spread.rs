//! The way of a connection from `accept` to a worker.
//!
//! Accepts only while the core has a free worker, or may keep connections for one; otherwise they wait in the kernel's
//! backlog, where no worker's crash can touch them. Which worker gets one is the core's decision; `handoff` carries it
//! there.

use std::io;
use std::time::Instant;

use everycore_core::{Assignment, Awaited, ListenerKey, Primary, Router, Time, WorkerId};

use super::handoff::Arrival;
use super::listener::{Listeners, Listening, Members};
use super::selector::{Selected, Selector};
use super::sources::Sources;

/// Connections accepted in one go before anything else gets its turn.
const DRAIN: usize = 64;

/// Connections still accepted when the last workers leave, from a queue that we cannot close: a crowd that never ends must
/// not keep them, and whoever holds the socket besides goes on with it.
const REST: usize = 4096;

/// What became of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    /// Nothing waits any more.
    Empty,
    /// More may wait.
    More,
    /// Something may wait, and nobody is free for it.
    Starved,
    /// No worker serves it at all.
    Unserved,
    /// The primary is out of descriptors or memory; it tries again after a pause.
    Paused,
}

/// How the class of a connection is found.
pub(crate) struct Classifier<'a> {
    pub(crate) selector: &'a mut Selector,
    pub(crate) sources: &'a Sources,
}

impl Listeners {
    /// Accepts while someone is free, and hands over. The hot path: plain calls, no allocation per connection.
    pub(crate) fn drain(
        &mut self,
        key: ListenerKey,
        core: &mut Primary,
        members: &mut Members,
        classifier: &mut Classifier<'_>,
        now: Time,
    ) -> Drained {
        let Some(listening) = self.by_key.get_mut(&key) else { return Drained::Empty };
        listening.rest = 0;
        if self.inherited {
            listening.unblock();
        }
        // A pause is about accepting: who was accepted goes on, and frees a descriptor.
        let paused = listening.is_paused();
        let mut hands =
            Hands { core: &mut *core, members, touched: &mut self.touched, handed: &mut self.handed, now };
        let patient = hands.core.may_wait();
        let peeks = classifier.selector.peek().is_some();
        if patient {
            listening.call_in(&mut hands);
        }
        let mut outcome = Drained::More;
        for _ in 0..DRAIN {
            if paused && listening.homeless.is_empty() {
                outcome = Drained::Paused;
                break;
            }
            // Where first words decide, everybody may need a place to say them.
            let needs_place = peeks && listening.homeless.is_empty();
            let may_accept =
                patient && listening.has_place() || !needs_place && hands.core.anyone_free(key, now);
            if !may_accept {
                outcome = Drained::Starved;
                break;
            }
            let mut arrival = match listening.next(key) {
                Ok(Some(arrival)) => arrival,
                Ok(None) => {
                    outcome = Drained::Empty;
                    break;
                }
                Err(_) => {
                    outcome = Drained::Paused;
                    break;
                }
            };
            if let (None, Some(router)) = (arrival.class, hands.core.router()) {
                match listening.select(arrival, &mut self.last_peek, router, classifier) {
                    Some(selected) => arrival = selected,
                    None => continue,
                }
            }
            match hands.give(arrival, !listening.has_place()) {
                Given::Gone => {}
                Given::ToWaitFor(awaited, arrival) => listening.room.push(awaited, arrival),
                Given::Back(arrival) => {
                    listening.homeless.push_front(arrival);
                    outcome = Drained::Starved;
                    break;
                }
            }
        }
        // What was given back rings no bell: it is looked at in every turn until it has gone.
        listening.starved =
            outcome == Drained::Starved || (outcome == Drained::More && !listening.homeless.is_empty());
        listening.held_up = outcome == Drained::Starved && hands.core.anyone_free(key, now);
        self.care(key);
        match outcome {
            Drained::Starved => core.drained(true),
            Drained::Empty => core.drained(false),
            Drained::More | Drained::Unserved | Drained::Paused => {}
        }
        outcome
    }

    /// A client has said something, or its time is over.
    pub(crate) fn look_again(
        &mut self,
        number: u32,
        router: &Router,
        classifier: &mut Classifier<'_>,
        is_last: bool,
    ) {
        let here = self.cared_for().find(|(_, listening)| listening.peeks.get(number).is_some());
        let Some(key) = here.map(|(key, _)| key) else { return };
        let Some(listening) = self.by_key.get_mut(&key) else { return };
        let Some(arrival) = listening.peeks.get(number) else { return };
        match classifier.selector.select(router, arrival, listening.site(), is_last) {
            Selected::Pending => {}
            Selected::Class(class) => {
                let chosen = listening.peeks.take(number, classifier.sources);
                listening.homeless.extend(chosen.map(|arrival| Arrival { class: Some(class), ..arrival }));
                listening.starved = true;
                self.care(key);
            }
        }
    }

    /// Clients that have not said enough in their time.
    pub(crate) fn overdue(&self, now: Instant) -> Option<u32> {
        self.cared_for().find_map(|(_, listening)| listening.peeks.overdue(now))
    }

    /// The next of those who wait on a listener whose last workers leave, with its class.
    pub(crate) fn next_of_rest(
        &mut self,
        key: ListenerKey,
        router: Option<&Router>,
        classifier: &mut Classifier<'_>,
    ) -> io::Result<Option<Arrival>> {
        let Some(listening) = self.by_key.get_mut(&key) else { return Ok(None) };
        if self.inherited {
            listening.unblock();
        }
        listening.homeless.extend(listening.room.take_all());
        listening.homeless.extend(listening.peeks.take_all(classifier.sources));
        if listening.homeless.is_empty() && !listening.bound.is_ours {
            if listening.rest >= REST {
                return Ok(None);
            }
            listening.rest += 1;
        }
        let next = listening.next(key);
        let Ok(Some(mut arrival)) = next else {
            self.care(key);
            return next;
        };
        if let (None, Some(router)) = (arrival.class, router)
            && let Selected::Class(class) =
                classifier.selector.select(router, &arrival, listening.site(), true)
        {
            arrival.class = Some(class);
        }
        self.care(key);
        Ok(Some(arrival))
    }
}

impl Listening {
    /// Finds a connection's class; one that has to say more first is kept here.
    fn select(
        &mut self,
        mut arrival: Arrival,
        last_peek: &mut u32,
        router: &Router,
        classifier: &mut Classifier<'_>,
    ) -> Option<Arrival> {
        let mut selected = classifier.selector.select(router, &arrival, self.site(), false);
        if let (Selected::Pending, Some(peek)) = (selected, classifier.selector.peek()) {
            *last_peek = last_peek.wrapping_add(1);
            let until = Instant::now() + peek.within;
            match self.peeks.add(*last_peek, arrival, until, classifier.sources) {
                Ok(()) => return None,
                // The kernel has no memory to watch it: what is there has to do.
                Err((back, _)) => arrival = back,
            }
            selected = classifier.selector.select(router, &arrival, self.site(), true);
        }
        if let Selected::Class(class) = selected {
            arrival.class = Some(class);
        }
        Some(arrival)
    }

    /// Hands over what waited and need not any longer.
    fn call_in(&mut self, hands: &mut Hands<'_>) {
        let mut last = None;
        while let Some(awaited) = self.room.after(last) {
            last = Some(awaited);
            while let Some(arrival) = self.room.pop(awaited) {
                match hands.give(arrival, false) {
                    Given::Gone => {}
                    Given::ToWaitFor(other, arrival) if other != awaited => self.room.push(other, arrival),
                    Given::ToWaitFor(_, arrival) | Given::Back(arrival) => {
                        self.room.push_front(awaited, arrival);
                        break;
                    }
                }
            }
        }
    }
}

/// What it takes to hand connections over.
struct Hands<'a> {
    core: &'a mut Primary,
    members: &'a mut Members,
    touched: &'a mut Vec<WorkerId>,
    handed: &'a mut u64,
    now: Time,
}

/// What became of a connection.
enum Given {
    /// It was handed over, or closed.
    Gone,
    /// Whoever is to have it is busy.
    ToWaitFor(Awaited, Arrival),
    /// Nobody takes it for now.
    Back(Arrival),
}

impl Hands<'_> {
    /// Hands a connection to whoever the core chooses; to somebody free where nobody more may wait.
    fn give(&mut self, arrival: Arrival, is_full: bool) -> Given {
        let assignment = match self.core.assign(arrival.on, arrival.from(), self.now) {
            Assignment::WaitFor(_) if is_full => {
                self.core.assign_overflow(arrival.on, arrival.from(), self.now)
            }
            assignment => assignment,
        };
        let worker = match assignment {
            Assignment::To(worker) => worker,
            Assignment::WaitFor(awaited) => return Given::ToWaitFor(awaited, arrival),
            Assignment::Wait => return Given::Back(arrival),
            // Dropped, and so closed.
            Assignment::Refuse => return Given::Gone,
        };
        let handed = match self.members.get_mut(&worker) {
            Some(member) => member.hand(arrival),
            None => Err(arrival),
        };
        match handed {
            Ok(()) => {
                *self.handed += 1;
                if !self.touched.contains(&worker) {
                    self.touched.push(worker);
                }
                Given::Gone
            }
            // Its hand-off channel went while the core still counted on it: the connection stays ours.
            Err(arrival) => {
                self.core.returned(worker, 1);
                Given::Back(arrival)
            }
        }
    }
}

#[cfg(test)]
mod tests;
