//! Messages of the primary that the program has not read yet.
//!
//! Bounded. A full inbox stops the reading of the channel, so that a fast primary is held back by a slow worker. But
//! orders such as *disconnect* come through the same channel: a program that leaves a full inbox untouched for
//! [`PATIENCE`] loses what comes after it (counted), and orders get through. Pure: time is an argument. Neighbour:
//! `link` fills it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use everycore_ipc::Message;

/// Messages beyond which the inbox is full.
pub(crate) const MESSAGES: usize = 1024;

/// Bytes beyond which the inbox is full.
pub(crate) const BYTES: usize = 16 << 20;

/// How long a full inbox holds back the channel, counted from the last message the program took.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// A message, and under which number it wants an answer.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) message: Message,
    pub(crate) request: Option<u64>,
}

/// What the channel's reader may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Read on.
    Free,
    /// Stop reading until a message is taken, or until then.
    Full(Instant),
    /// Read on; messages of the program are dropped.
    Overdue,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    items: VecDeque<Item>,
    bytes: usize,
    full_since: Option<Instant>,
    dropped: u64,
}

impl Inbox {
    pub(crate) fn room(&self, now: Instant) -> Room {
        match self.full_since {
            None => Room::Free,
            Some(since) if now < since + PATIENCE => Room::Full(since + PATIENCE),
            Some(_) => Room::Overdue,
        }
    }

    /// Keeps a message, or drops it when the inbox is full; false then.
    pub(crate) fn push(&mut self, item: Item, now: Instant) -> bool {
        if self.full_since.is_some() {
            self.dropped += 1;
            return false;
        }
        self.bytes += item.message.bytes().len();
        self.items.push_back(item);
        if self.is_full() {
            self.full_since = Some(now);
        }
        true
    }

    /// Takes the oldest; the second value says that there is room again where there was none.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Item, bool)> {
        let item = self.items.pop_front()?;
        self.bytes -= item.message.bytes().len();
        let was_full = self.full_since.is_some();
        self.full_since = self.is_full().then_some(now);
        Some((item, was_full && self.full_since.is_none()))
    }

    /// How many messages were lost to a full inbox.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    fn is_full(&self) -> bool {
        self.items.len() >= MESSAGES || self.bytes >= BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(bytes: usize) -> Item {
        Item { message: Message::raw(vec![0; bytes]), request: None }
    }

    #[test]
    fn a_full_inbox_holds_the_channel_back_until_something_is_taken() {
        let now = Instant::now();
        let mut inbox = Inbox::default();
        for _ in 0..MESSAGES {
            assert_eq!(inbox.room(now), Room::Free);
            assert!(inbox.push(item(1), now));
        }
        assert_eq!(inbox.room(now), Room::Full(now + PATIENCE));
        let (_, room_again) = inbox.pop(now).unwrap();
        assert!(room_again);
        assert_eq!(inbox.room(now), Room::Free);
    }

    #[test]
    fn a_program_that_never_reads_loses_messages_and_not_its_orders() {
        let now = Instant::now();
        let later = now + PATIENCE;
        let mut inbox = Inbox::default();
        inbox.push(item(BYTES), now);
        inbox.push(item(1), now);
        assert_eq!(inbox.room(later), Room::Overdue);
        assert!(!inbox.push(item(1), later));
        assert_eq!(inbox.dropped(), 2);
        assert!(inbox.pop(later).is_some_and(|(_, room_again)| room_again));
        assert!(inbox.pop(later).is_none());
    }

    #[test]
    fn whoever_still_takes_messages_is_slow_and_not_deaf() {
        let now = Instant::now();
        let mut inbox = Inbox::default();
        for _ in 0..MESSAGES - 1 {
            inbox.push(item(0), now);
        }
        inbox.push(item(BYTES), now);
        let later = now + PATIENCE;
        assert!(inbox.pop(later).is_some_and(|(_, room_again)| !room_again), "still too many bytes");
        assert_eq!(inbox.room(later), Room::Full(later + PATIENCE));
    }
}
