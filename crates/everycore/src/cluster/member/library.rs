//! The hand-off to a worker that uses this library: record channels and a page of counters.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use everycore_core::{Counters, ListenerKey};
use everycore_sys::counters::PrimaryPage;
use everycore_sys::eventfd::EventFd;

use super::Wish;
use crate::cluster::handoff::{Arrival, Back, HandOff};

/// One worker's channels and counters.
pub(crate) struct Library {
    page: PrimaryPage,
    /// Rung by the worker when the starved primary asked for it.
    pub(crate) bell: EventFd,
    channels: BTreeMap<ListenerKey, HandOff>,
    /// Channels with connections that are not sent yet.
    filled: Vec<ListenerKey>,
    /// It had a channel once. What it says of itself is read from then on, also after it has given up its last listener:
    /// it may still hold connections.
    served: bool,
    /// Connections handed over and not given back, as the page's counters count them.
    sent: u64,
}

impl Library {
    pub(crate) fn new(page: PrimaryPage, bell: EventFd) -> Self {
        Self { page, bell, channels: BTreeMap::new(), filled: Vec::new(), served: false, sent: 0 }
    }

    /// Opens the channel of a listener that was granted.
    pub(crate) fn open(&mut self, channel: HandOff) {
        self.served = true;
        self.channels.insert(channel.on(), channel);
    }

    pub(super) fn has_served(&self) -> bool {
        self.served
    }

    pub(super) fn holds(&self, key: ListenerKey) -> bool {
        self.channels.contains_key(&key)
    }

    pub(super) fn counters(&mut self) -> Counters {
        let read = self.page.read(self.sent);
        Counters {
            taken: read.taken,
            ready: read.ready,
            closed: read.closed,
            turn: read.turn,
            awake: read.awake,
        }
    }

    pub(super) fn has_untaken(&mut self) -> bool {
        self.page.read(self.sent).taken < self.sent
    }

    pub(super) fn hand(&mut self, arrival: Arrival) -> Result<(), Arrival> {
        match self.channels.get_mut(&arrival.on) {
            Some(channel) => {
                if channel.is_empty() {
                    self.filled.push(arrival.on);
                }
                channel.push(arrival);
                self.count_sent(1);
                Ok(())
            }
            None => Err(arrival),
        }
    }

    pub(super) fn flush(&mut self, sent: &mut Vec<OwnedFd>) -> Vec<Arrival> {
        let mut left = Vec::new();
        for key in self.filled.drain(..) {
            if let Some(channel) = self.channels.get_mut(&key) {
                left.append(&mut channel.flush(sent));
            }
        }
        self.gave_back(left.len() as u64);
        left
    }

    /// The worker is told before it finds them, so that it looks for no more than there are.
    fn count_sent(&mut self, count: u64) {
        self.sent += count;
        self.page.set_sent(self.sent);
    }

    pub(super) fn withdraw(&mut self) -> Back {
        let mut back = Back::default();
        for channel in self.channels.values_mut() {
            // What is left for want of descriptors is tried again.
            channel.read_back(&mut back);
        }
        self.gave_back(back.count());
        back
    }

    /// The channel of a listener that it gives up.
    pub(super) fn close(&mut self, key: ListenerKey) -> Option<HandOff> {
        self.channels.remove(&key)
    }

    /// What it was handed and came back another way.
    pub(super) fn gave_back(&mut self, count: u64) {
        if count > 0 {
            self.sent -= count;
            self.page.set_sent(self.sent);
        }
    }

    /// The channels that are left of it.
    pub(super) fn remains(&mut self) -> Vec<HandOff> {
        std::mem::take(&mut self.channels).into_values().collect()
    }

    pub(super) fn wish(&mut self, wish: Wish) {
        if !self.channels.is_empty() {
            match wish {
                Wish::Ready(at) => self.page.set_wake(at, true),
                Wish::Closed(at) => self.page.set_wake_at_closed(at),
            }
        }
    }

    pub(super) fn unwish(&mut self) {
        if !self.channels.is_empty() {
            self.page.clear_wake();
        }
    }
}
