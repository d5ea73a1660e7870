//! Says it when all workers are there and none listens where the cluster was bound: whoever connects would wait without
//! end, and nobody would know why.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use everycore_core::ListenerKey;

use super::driver::Driver;
use super::event::Event;

/// Workers that are ready may still be opening what they serve beside.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bound listeners that nobody serves.
#[derive(Default)]
pub(super) struct Unserved {
    due: Option<Instant>,
    /// Said once each.
    told: BTreeSet<ListenerKey>,
}

impl Unserved {
    /// When to look.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.due
    }
}

impl Driver {
    /// A worker has become ready.
    pub(super) fn look_for_unserved_later(&mut self) {
        if self.core.is_settled() && self.unserved().next().is_some() {
            self.unserved.due = Some(Instant::now() + PATIENCE);
        }
    }

    /// Tells of them when it is time to.
    pub(super) fn look_for_unserved(&mut self, now: Instant) {
        if self.unserved.due.is_none_or(|due| due > now) {
            return;
        }
        self.unserved.due = None;
        // Of programs that do not use the library nobody knows where they listen; while some are on their way, who is.
        let all_speak = self.members.values().all(|member| member.joined);
        if !all_speak || !self.core.is_settled() {
            return;
        }
        let unserved: Vec<(ListenerKey, String)> = self.unserved().collect();
        for (key, which) in unserved {
            self.unserved.told.insert(key);
            let text = format!(
                "no worker listens on {which}: connections wait there until one does; have the program listen on it, or do not bind it"
            );
            self.tell(Event::Warning { text });
        }
    }

    fn unserved(&self) -> impl Iterator<Item = (ListenerKey, String)> {
        let unserved = |key| !self.core.is_served(key) && !self.unserved.told.contains(&key);
        self.listeners.described().filter(move |(key, _)| unserved(*key))
    }
}
