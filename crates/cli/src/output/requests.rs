//! Counts the requests that workers tell of in Node's way, `process.send({cmd: 'notifyRequest'})`, and says how many.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use everycore::Message;
use serde_json::Value;

use super::count;

/// A message that says no more than this is short.
const LONGEST: usize = 256;

/// Where no line changes, the count is told so often while it grows.
const EVERY: Duration = Duration::from_secs(10);

/// The number, shared between who counts and who shows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests(Arc<AtomicU64>);

impl Requests {
    /// Counts a message, if it tells of a request.
    pub(crate) fn hear(&self, message: &Message) -> bool {
        let tells = tells_of_request(message);
        if tells {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        tells
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The last word about them, if there were any.
    pub(crate) fn last_word(&self) -> Option<String> {
        let total = self.total();
        (total > 0).then(|| format!("{} reported by workers", count(total, "request")))
    }
}

fn tells_of_request(message: &Message) -> bool {
    message.bytes().len() <= LONGEST
        && message
            .parse::<Value>()
            .is_ok_and(|value| value.get("cmd").is_some_and(|cmd| cmd == "notifyRequest"))
}

/// Says when the count is to be told where no line changes.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    told: Option<Instant>,
}

impl Pace {
    /// Whether it is time; the first time comes after one period.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let told = *self.told.get_or_insert(now);
        let due = now.saturating_duration_since(told) >= EVERY;
        if due {
            self.told = Some(now);
        }
        due
    }
}

/// The rate, over the last second or so.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    since: Option<(Instant, u64)>,
    per_second: u64,
}

impl Rate {
    /// `12,345 requests (210/s)`; nothing before the first.
    pub(crate) fn line(&mut self, total: u64, now: Instant) -> Option<String> {
        let (since, before) = *self.since.get_or_insert((now, total));
        let took = now.saturating_duration_since(since);
        if took >= Duration::from_secs(1) {
            self.per_second = ((total - before) as f64 / took.as_secs_f64()).round() as u64;
            self.since = Some((now, total));
        }
        (total > 0).then(|| format!("{} ({}/s)", count(total, "request"), super::grouped(self.per_second)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_nodes_message_counts() {
        let requests = Requests::default();
        let hear = |value: &Value| requests.hear(&Message::json(value).unwrap());
        assert!(hear(&json!({"cmd": "notifyRequest"})) && hear(&json!({"cmd": "notifyRequest", "ms": 3})));
        for other in [
            json!("notifyRequest"),
            json!({"cmd": "other"}),
            json!(["cmd"]),
            json!({"cmd": "notifyRequest", "x": "y".repeat(LONGEST)}),
        ] {
            assert!(!hear(&other), "{other}");
        }
        assert_eq!(requests.total(), 2);
        assert_eq!(requests.last_word().unwrap(), "2 requests reported by workers");
    }

    #[test]
    fn it_is_told_once_in_a_period() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert!(!pace.is_due(now) && !pace.is_due(now + EVERY / 2));
        assert!(pace.is_due(now + EVERY) && !pace.is_due(now + EVERY));
    }

    #[test]
    fn the_rate_is_that_of_the_last_second() {
        let (mut rate, now) = (Rate::default(), Instant::now());
        assert_eq!(rate.line(0, now), None);
        assert_eq!(rate.line(1, now + Duration::from_millis(100)).unwrap(), "1 request (0/s)");
        assert_eq!(rate.line(2000, now + Duration::from_secs(2)).unwrap(), "2,000 requests (1,000/s)");
    }
}
