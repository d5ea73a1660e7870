//! Two ends of a channel that hand each other handles over a wire that loses some.

use std::collections::VecDeque;

use crate::handoff::{Answer, Handoff, Item, Parcel, Settled};

/// A message, numbered by its sender.
type Number = u32;

#[derive(Debug)]
enum Frame {
    Plain(Number),
    Handle { number: Number, arrives: bool },
    Answer(Answer),
}

/// One end: what it wants to send, what it wrote, what it got.
struct End {
    handoff: Handoff<Number, Number>,
    window: usize,
    submitted: Vec<(Number, bool)>,
    /// Let go by the handoff, not yet written.
    outbox: VecDeque<Item<Number, Number>>,
    /// Answers, which go ahead of the outbox.
    answers: VecDeque<Answer>,
    /// Written, not yet read by the other end.
    wire: VecDeque<Frame>,
    delivered: Vec<Number>,
    arrived: Vec<Number>,
    refused: Vec<Number>,
    handles_written: usize,
    answers_heard: usize,
    nacks_heard: usize,
}

impl End {
    fn new(window: usize) -> Self {
        Self {
            handoff: Handoff::new(window),
            window,
            submitted: Vec::new(),
            outbox: VecDeque::new(),
            answers: VecDeque::new(),
            wire: VecDeque::new(),
            delivered: Vec::new(),
            arrived: Vec::new(),
            refused: Vec::new(),
            handles_written: 0,
            answers_heard: 0,
            nacks_heard: 0,
        }
    }

    fn submit(&mut self, with_handle: bool) {
        let number = self.submitted.len() as Number;
        self.submitted.push((number, with_handle));
        let released = match with_handle {
            true => self.handoff.submit(Item::Parcel(Parcel::new(number))),
            false if self.handoff.lets_plain_pass() => Some(Item::Plain(number)),
            false => self.handoff.submit(Item::Plain(number)),
        };
        self.release(released);
    }

    fn release(&mut self, mut released: Option<Item<Number, Number>>) {
        while let Some(item) = released {
            self.outbox.push_back(item);
            released = self.handoff.next();
        }
    }

    /// Writes one frame; whether its handle survives the way is decided now.
    fn write(&mut self, arrives: bool) -> bool {
        if let Some(answer) = self.answers.pop_front() {
            self.wire.push_back(Frame::Answer(answer));
            return true;
        }
        match self.outbox.pop_front() {
            None => return false,
            Some(Item::Plain(number)) => self.wire.push_back(Frame::Plain(number)),
            Some(Item::Parcel(parcel)) => {
                self.wire.push_back(Frame::Handle { number: parcel.load, arrives });
                self.handoff.written(parcel);
                self.handles_written += 1;
            }
        }
        let unanswered = self.handles_written - self.answers_heard;
        assert!(
            unanswered <= self.window,
            "{unanswered} handles are unanswered, the window is {}",
            self.window
        );
        true
    }

    /// Reads one frame of the other end.
    fn read(&mut self, peer: &mut Self) -> bool {
        match peer.wire.pop_front() {
            None => return false,
            Some(Frame::Plain(number)) => self.delivered.push(number),
            Some(Frame::Handle { number, arrives: true }) => {
                self.delivered.push(number);
                self.answers.push_back(Answer::Ack);
            }
            Some(Frame::Handle { arrives: false, .. }) => self.answers.push_back(Answer::Nack),
            Some(Frame::Answer(answer)) => self.hear(answer),
        }
        true
    }

    fn hear(&mut self, answer: Answer) {
        self.answers_heard += 1;
        self.nacks_heard += usize::from(answer == Answer::Nack);
        match self.handoff.answered(answer).expect("a peer that answers each handle once owes no answer") {
            Settled::Arrived(number) => self.arrived.push(number),
            Settled::Refused(number) => self.refused.push(number),
            Settled::Again => {}
        }
        let released = self.handoff.next();
        self.release(released);
    }

    /// What must hold when nothing is on its way any more. `got` is what the other end got.
    fn assert_settled(&self, got: &[Number]) {
        assert_eq!(self.handoff.in_flight(), 0, "a handle is unanswered for ever");
        assert_eq!(self.handles_written, self.answers_heard, "one answer per handle");
        let mut accounted: Vec<Number> = got.iter().chain(&self.refused).copied().collect();
        accounted.sort_unstable();
        let all: Vec<Number> = (0..self.submitted.len() as Number).collect();
        assert_eq!(accounted, all, "each message arrives once or comes back once");
        let handles = |numbers: &[Number]| -> Vec<Number> {
            numbers.iter().filter(|number| self.submitted[**number as usize].1).copied().collect()
        };
        assert_eq!(handles(got), self.arrived, "what the sender thinks has arrived is what has");
        if self.window == 1 || self.nacks_heard == 0 {
            assert!(got.is_sorted(), "order is kept: {got:?}");
        }
    }
}

/// Each byte is one step of one end: submit, write, read, lose. Afterwards both ends run until nothing moves.
///
/// # Panics
///
/// When a message is lost, doubled or out of order, a handle is not answered exactly once, or the window is passed.
pub fn handoff(steps: &[u8]) {
    let [windows, steps @ ..] = steps else { return };
    let mut ends = [End::new(1 + usize::from(windows & 7)), End::new(1 + usize::from(windows >> 4 & 7))];
    for step in steps {
        let [one, other] = &mut ends;
        let (end, peer) = if step & 1 == 0 { (one, other) } else { (other, one) };
        match step >> 1 & 7 {
            0 => end.submit(false),
            1 | 2 => end.submit(true),
            3 => _ = end.write(false),
            4 | 5 => _ = end.write(true),
            _ => _ = end.read(peer),
        }
    }
    let mut moving = true;
    while moving {
        let [one, other] = &mut ends;
        moving = one.write(true) | other.write(true) | one.read(other) | other.read(one);
    }
    let [one, other] = &ends;
    one.assert_settled(&other.delivered);
    other.assert_settled(&one.delivered);
}
