//! What can go wrong with a request, told apart by what was lost.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

/// Why a request got no proper answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// Nobody listens.
    Refused,
    /// Reset before the request was sent: safe to try again.
    ResetBeforeRequest,
    /// Reset after the request was sent, before any of the answer came.
    ResetAfterRequest,
    /// The connection ended after the request was sent, before any of the answer came.
    EndedWithoutAnswer,
    /// The connection ended or was reset in the middle of the answer.
    CutShort,
    /// No answer in time.
    NoAnswer,
    /// The answer is not one, or its status is not 200.
    BadAnswer,
    /// Answered, and then the end of the connection did not come in time.
    NoEnd,
    /// Answered, and then reset instead of ended.
    ResetAfterAnswer,
    /// The generator itself ran out of ports or descriptors: the figure is worth nothing.
    Generator,
}

impl Failure {
    /// All of them, in the order they are printed.
    pub(crate) const ALL: [Failure; 10] = [
        Self::Refused,
        Self::ResetBeforeRequest,
        Self::ResetAfterRequest,
        Self::EndedWithoutAnswer,
        Self::CutShort,
        Self::NoAnswer,
        Self::BadAnswer,
        Self::NoEnd,
        Self::ResetAfterAnswer,
        Self::Generator,
    ];

    /// Whether a request was sent and no answer came: what nobody may lose in a reload.
    pub(crate) fn is_lost_request(self) -> bool {
        match self {
            Self::ResetAfterRequest
            | Self::EndedWithoutAnswer
            | Self::CutShort
            | Self::NoAnswer
            | Self::BadAnswer => true,
            Self::Refused
            | Self::ResetBeforeRequest
            | Self::NoEnd
            | Self::ResetAfterAnswer
            | Self::Generator => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::ResetBeforeRequest => "reset before the request",
            Self::ResetAfterRequest => "reset after the request",
            Self::EndedWithoutAnswer => "ended without an answer",
            Self::CutShort => "answer cut short",
            Self::NoAnswer => "no answer in time",
            Self::BadAnswer => "bad answer",
            Self::NoEnd => "no end after the answer",
            Self::ResetAfterAnswer => "reset after the answer",
            Self::Generator => "generator out of ports or descriptors",
        })
    }
}

/// One request that failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failed {
    /// How.
    pub(crate) failure: Failure,
    /// The client's end of the connection, as the server saw it.
    pub(crate) from: Option<SocketAddr>,
    /// When the connection was begun.
    pub(crate) began: Instant,
    /// When it failed.
    pub(crate) ended: Instant,
}

/// How often each failure happened, and the first of them one by one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failures {
    counts: [u64; Failure::ALL.len()],
    /// At most [`Failures::KEPT`].
    pub(crate) each: Vec<Failed>,
}

impl Failures {
    const KEPT: usize = 10_000;

    pub(super) fn add(&mut self, failed: Failed) {
        self.counts[failed.failure as usize] += 1;
        if self.each.len() < Self::KEPT {
            self.each.push(failed);
        }
    }

    /// How often this one happened.
    pub(crate) fn count(&self, failure: Failure) -> u64 {
        self.counts[failure as usize]
    }

    /// All together.
    pub(crate) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Requests that were sent and not answered.
    pub(crate) fn lost_requests(&self) -> u64 {
        Failure::ALL
            .iter()
            .filter(|failure| failure.is_lost_request())
            .map(|failure| self.count(*failure))
            .sum()
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut none = true;
        for failure in Failure::ALL {
            let count = self.count(failure);
            if count > 0 {
                write!(f, "{}{count} {failure}", if none { "" } else { ", " })?;
                none = false;
            }
        }
        if none { f.write_str("none") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_kind_and_printed_in_order() {
        let mut failures = Failures::default();
        assert_eq!(failures.to_string(), "none");
        let now = Instant::now();
        for failure in [Failure::NoEnd, Failure::Refused, Failure::CutShort, Failure::Refused] {
            failures.add(Failed { failure, from: None, began: now, ended: now });
        }
        assert_eq!(failures.to_string(), "2 refused, 1 answer cut short, 1 no end after the answer");
        assert_eq!((failures.total(), failures.lost_requests()), (4, 1));
    }

    #[test]
    fn every_failure_has_its_place() {
        for (place, failure) in Failure::ALL.into_iter().enumerate() {
            assert_eq!(failure as usize, place);
        }
    }
}
