//! Node's handle protocol, the sender's half: which messages may go now, and what an answer means.
//!
//! Pure: no bytes, no descriptors, no time. Every handle is answered with ACK or NACK, in order. What was refused is
//! sent again as it was, a few times, and then given back. With a window of one everything behind a handle waits for
//! its answer, so that order holds whatever happens; with a larger window only handles wait. The receiver's half is one
//! rule, kept by the connection: exactly one answer per handle, ahead of everything else. Neighbour:
//! [`crate::connection`] carries it out.

use std::collections::VecDeque;

/// How often a refused handle is sent again. Node does the same.
const RETRIES: u8 = 3;

/// The answer to a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It arrived.
    Ack,
    /// It did not.
    Nack,
}

/// Something to be written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item<P, H> {
    /// A message without a handle.
    Plain(P),
    /// A message with one.
    Parcel(Parcel<H>),
}

/// A message with a handle, on its way until it is answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parcel<H> {
    pub(crate) load: H,
    retries: u8,
}

impl<H> Parcel<H> {
    pub(crate) fn new(load: H) -> Self {
        Self { load, retries: 0 }
    }
}

/// What came of a handle that was answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Settled<H> {
    /// The peer has it; our copy may be closed.
    Arrived(H),
    /// The peer refused it; it will be sent again.
    Again,
    /// The peer refused it too often; here it is back.
    Refused(H),
}

/// The peer answered a handle that it was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SurplusAnswer;

#[derive(Debug)]
pub(crate) struct Handoff<P, H> {
    window: usize,
    /// Let go and not yet answered, whether written or not.
    in_flight: usize,
    /// Held back, in order.
    waiting: VecDeque<Item<P, H>>,
    /// Written and not answered, in order.
    unanswered: VecDeque<Parcel<H>>,
}

impl<P, H> Handoff<P, H> {
    /// At most `window` handles are on their way at once; at least one.
    pub(crate) fn new(window: usize) -> Self {
        Self { window: window.max(1), in_flight: 0, waiting: VecDeque::new(), unanswered: VecDeque::new() }
    }

    /// Adds a message; it comes back when it may be written at once.
    pub(crate) fn submit(&mut self, item: Item<P, H>) -> Option<Item<P, H>> {
        self.waiting.push_back(item);
        // Unless others wait before it, it is the next, and may go.
        if self.waiting.len() == 1 { self.next() } else { None }
    }

    /// Whether a message without a handle may be written at once.
    pub(crate) fn lets_plain_pass(&self) -> bool {
        self.waiting.is_empty() && (self.in_flight == 0 || self.window > 1)
    }

    /// The next message that may be written.
    pub(crate) fn next(&mut self) -> Option<Item<P, H>> {
        let may_go = match self.waiting.front()? {
            Item::Plain(_) => self.in_flight == 0 || self.window > 1,
            Item::Parcel(_) => self.in_flight < self.window,
        };
        if !may_go {
            return None;
        }
        let item = self.waiting.pop_front();
        if let Some(Item::Parcel(_)) = &item {
            self.in_flight += 1;
        }
        item
    }

    /// A message with a handle was written to its end.
    pub(crate) fn written(&mut self, parcel: Parcel<H>) {
        self.unanswered.push_back(parcel);
    }

    /// The peer answered: this concerns the handle written first of those without an answer.
    pub(crate) fn answered(&mut self, answer: Answer) -> Result<Settled<H>, SurplusAnswer> {
        let mut parcel = self.unanswered.pop_front().ok_or(SurplusAnswer)?;
        self.in_flight -= 1;
        match answer {
            Answer::Ack => Ok(Settled::Arrived(parcel.load)),
            Answer::Nack if parcel.retries == RETRIES => Ok(Settled::Refused(parcel.load)),
            Answer::Nack => {
                parcel.retries += 1;
                self.waiting.push_front(Item::Parcel(parcel));
                Ok(Settled::Again)
            }
        }
    }

    /// How many handles were let go and are not answered.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// What is held back.
    pub(crate) fn waiting(&self) -> impl ExactSizeIterator<Item = &Item<P, H>> {
        self.waiting.iter()
    }

    /// Gives back every message with a handle that the peer has not confirmed, in order: the channel is at an end.
    /// `unwritten` are those that were let go and did not get out.
    pub(crate) fn give_back(&mut self, unwritten: Vec<Parcel<H>>) -> Vec<H> {
        let unanswered = self.unanswered.drain(..).chain(unwritten).map(|parcel| parcel.load);
        let waiting = self.waiting.drain(..).filter_map(|item| match item {
            Item::Parcel(parcel) => Some(parcel.load),
            Item::Plain(_) => None,
        });
        let back = unanswered.chain(waiting).collect();
        self.in_flight = 0;
        back
    }
}
