//! The user's callback, and whether the picture of the cluster that it may ask for is one of now.

use std::sync::Arc;

use super::Observer;
use super::event::Event;
use super::handle::{Primary, Shared};
use super::snapshot::Snapshot;

/// Who hears of what happens.
pub(super) struct Audience {
    observer: Option<Observer>,
    /// The handles know the picture as of now.
    pictured: bool,
}

impl Audience {
    pub(super) fn new(observer: Option<Observer>) -> Self {
        Self { observer, pictured: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.observer.is_none()
    }

    /// What was last pictured may not be so any more.
    pub(super) fn outdate(&mut self) {
        self.pictured = false;
    }

    /// Tells the observer, with the snapshot it may ask for. A picture costs more than a message, so of many messages
    /// read in a row the first alone has one taken.
    pub(super) fn tell(&mut self, event: Event, shared: &Arc<Shared>, picture: impl FnOnce() -> Snapshot) {
        let Some(observer) = &mut self.observer else { return };
        if !std::mem::replace(&mut self.pictured, true) {
            shared.remember(picture());
        }
        observer(&Primary { shared: Arc::clone(shared) }, event);
    }
}
