//! When the loop sleeps: on which sources, and for how long.
//!
//! With nobody free for a connection the listeners are left out, and the workers' counters wake it.

use std::time::{Duration, Instant};

use everycore_core::ListenerKey;

use super::Driver;
use crate::cluster::member::Wish;
use crate::cluster::sources::{Listen, Wake};

impl Driver {
    pub(super) fn wait(&mut self) -> std::io::Result<()> {
        let idle = self.channels.is_idle();
        let is_node = self.launcher.is_node();
        if idle
            && self.pace.is_busy()
            // Those who were left waiting are gathered already; the next worker that is low is what counts. Of Node workers
            // answers are gathered, too.
            && (is_node || !self.listeners.has_starved())
            && let Some(gathering) = self.core.gather(self.now())
        {
            if is_node && self.members.values().any(|member| member.is_urgent()) {
                return self.wait_for_anything(idle);
            }
            let limit = if is_node {
                // Not on the channels: each connection would wake us twice, with Node's two answers to it.
                std::thread::sleep(gathering);
                Duration::ZERO
            } else {
                gathering
            };
            self.sources.wait(Listen::Off, Some(limit), &mut self.wakes)?;
            match self.listeners.only_watched() {
                // The one that was busy before: trying to accept says all there is to know.
                Some(key) => self.wakes.push(Wake::Listener(key)),
                None => self.sources.look(&mut self.wakes)?,
            }
            return Ok(());
        }
        self.wait_for_anything(idle)
    }

    fn wait_for_anything(&mut self, idle: bool) -> std::io::Result<()> {
        let listen = self.settle_starvation()?;
        let limit = if idle { self.time_to_wait() } else { Some(Duration::ZERO) };
        self.sources.wait(listen, limit, &mut self.wakes)?;
        self.unwish();
        Ok(())
    }

    /// Decides whether new connections are of interest, and asks busy workers to ring where they are not.
    fn settle_starvation(&mut self) -> std::io::Result<Listen> {
        let starved = self.listeners.starved();
        let some_wait = self.listeners.waited_on().next().is_some();
        if starved.is_empty() && !some_wait {
            return Ok(Listen::On);
        }
        self.wish();
        // What a worker finished before it could see the wish rings no bell.
        self.observe();
        let now = self.now();
        let is_over = |key: &ListenerKey| {
            let held_up = self.listeners.get(*key).is_some_and(|listening| listening.held_up);
            !held_up && self.core.anyone_low(*key, now)
        };
        if starved.iter().any(is_over) {
            self.wakes.extend(starved.iter().map(|key| Wake::Listener(*key)));
            return Ok(Listen::Off);
        }
        let over = self.listeners.waits_over(&self.core, now);
        if !over.is_empty() {
            self.wakes.extend(over.into_iter().map(Wake::Listener));
            return Ok(Listen::Off);
        }
        if self.listeners.all_starved() {
            return Ok(Listen::Off);
        }
        // Others are served on: only the starved ones must not wake us for every connection.
        for key in starved {
            self.listeners.watch(key, false, &self.sources)?;
        }
        Ok(Listen::On)
    }

    fn wish(&mut self) {
        for (worker, member) in &mut self.members {
            let wish = match self.core.wake_at_closed(*worker) {
                Some(at) => Wish::Closed(at),
                None => Wish::Ready(self.core.wake_at(*worker)),
            };
            member.wish(wish);
        }
    }

    fn unwish(&mut self) {
        if !self.listeners.starved().is_empty() || self.listeners.waited_on().next().is_some() {
            self.members.values_mut().for_each(|member| member.unwish());
        }
    }

    fn time_to_wait(&mut self) -> Option<Duration> {
        if !self.wakes.is_empty() {
            return Some(Duration::ZERO);
        }
        let core = self.core.next_deadline().map(|deadline| deadline - self.now());
        let instants = self
            .members
            .values()
            .flat_map(|member| [member.requests.next_deadline(), member.sulks_until()])
            .flatten()
            .chain(self.listeners.next_retry())
            .chain(self.listeners.next_abandoned())
            .chain(self.readying.next_look())
            .chain(self.leftovers.next_look())
            .chain(self.unserved.next_look())
            .chain(self.scales.next())
            .chain(self.secrets.next_rotation())
            .min()
            .map(|instant| instant.saturating_duration_since(Instant::now()));
        let throttled =
            self.members.values().any(|m| m.link.as_ref().is_some_and(|link| link.connection.is_throttled()));
        // A worker that others wait for may come to count as stopped by the mere passing of time.
        let waited_for = self.listeners.waited_on().next().is_some();
        let left_over =
            !self.remains.is_empty() || !self.held_back.is_empty() || self.adoptions.is_unsettled();
        let untaken = throttled
            || waited_for
            || left_over
            || self.members.values_mut().any(|member| member.has_untaken());
        let tick = self.pace.tick(untaken);
        [core, instants, tick, self.pace.watch()].into_iter().flatten().min()
    }
}
