//! Questions to a worker that wait for their answers, each with a deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use everycore_ipc::Message;
use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// One worker's open questions.
#[derive(Default)]
pub(crate) struct Requests {
    next: u64,
    open: BTreeMap<u64, Waiting>,
    /// Those with a deadline, the next one first: looked at in every turn of the loop, however many are open.
    due: BTreeSet<(Instant, u64)>,
}

struct Waiting {
    reply: oneshot::Sender<Result<Message>>,
    /// `None`: never.
    deadline: Option<Instant>,
    timeout: Duration,
}

impl Requests {
    /// Opens a question; the number names it on the channel.
    pub(crate) fn open(
        &mut self,
        reply: oneshot::Sender<Result<Message>>,
        timeout: Duration,
        now: Instant,
    ) -> u64 {
        self.next += 1;
        let deadline = now.checked_add(timeout);
        self.due.extend(deadline.map(|deadline| (deadline, self.next)));
        self.open.insert(self.next, Waiting { reply, deadline, timeout });
        self.next
    }

    /// Answers a question; an unknown number is an answer that came too late.
    pub(crate) fn close(&mut self, id: u64, answer: Result<Message>) {
        if let Some(waiting) = self.open.remove(&id) {
            if let Some(deadline) = waiting.deadline {
                self.due.remove(&(deadline, id));
            }
            // Whoever asked may have stopped waiting.
            let _ = waiting.reply.send(answer);
        }
    }

    /// Fails what is overdue.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some((_, id)) = self.due.first().copied().filter(|(deadline, _)| *deadline <= now) {
            self.due.pop_first();
            let after = self.open.get(&id).map_or(Duration::ZERO, |waiting| waiting.timeout);
            self.close(id, Err(Error::TimedOut { after }));
        }
    }

    /// When the next question is overdue.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.due.first().map(|(deadline, _)| *deadline)
    }

    /// Fails all: the worker has gone.
    pub(crate) fn disconnect(&mut self) {
        self.due.clear();
        for (_, waiting) in std::mem::take(&mut self.open) {
            let _ = waiting.reply.send(Err(Error::Disconnected));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_reaches_its_question_and_lateness_is_an_error() {
        let mut requests = Requests::default();
        let now = Instant::now();
        let (first, mut first_answer) = oneshot::channel();
        let (second, mut second_answer) = oneshot::channel();
        let one = requests.open(first, Duration::from_secs(1), now);
        requests.open(second, Duration::from_secs(9), now);
        assert_eq!(requests.next_deadline(), Some(now + Duration::from_secs(1)));
        requests.expire(now + Duration::from_secs(2));
        assert!(matches!(first_answer.try_recv().unwrap(), Err(Error::TimedOut { .. })));
        requests.close(one, Ok(Message::raw("late")));
        requests.disconnect();
        assert!(matches!(second_answer.try_recv().unwrap(), Err(Error::Disconnected)));
        assert_eq!(requests.next_deadline(), None);
    }

    #[test]
    fn a_question_may_wait_for_ever() {
        let mut requests = Requests::default();
        let now = Instant::now();
        let (reply, mut answer) = oneshot::channel();
        requests.open(reply, Duration::MAX, now);
        assert_eq!(requests.next_deadline(), None);
        requests.expire(now + Duration::from_secs(3600));
        assert!(answer.try_recv().is_err());
    }
}
