//! The hand-off to a real Node worker: `newconn` messages, each answered with `accepted`.
//!
//! Our copy of a connection stays until the worker has said that it took it: what a dead worker has not answered goes
//! to another. Its messages cannot be read back from a live worker, so a busy one keeps what it was sent. A worker that
//! would not have a connection gets no other for a while: the one it refused stays on its account so long.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use everycore_core::{Counters, ListenerKey};
use everycore_ipc::{Handle, Outgoing};

use super::Link;
use crate::cluster::handoff::Arrival;
use crate::cluster::node::acts::{self, Asked, Query};

/// First and longest time without connections for a worker that refused one.
const SULK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// An event loop that stood still for so long is news.
const BLOCKED: Duration = Duration::from_secs(1);

/// Refusals are counted over so long, and observers hear of late loops once in so long.
const SPAN: Duration = Duration::from_secs(10);

/// What was handed to one Node worker.
#[derive(Default)]
pub(crate) struct Node {
    grants: BTreeMap<ListenerKey, Grant>,
    batch: Vec<Arrival>,
    /// Sent and not answered, by the number of the message.
    unanswered: BTreeMap<i64, Arrival>,
    counters: Counters,
    /// Connections closed, by the reports of our preloaded script; without it nothing is known.
    closed: Option<u64>,
    told_blocked: Option<Instant>,
    sulk: Sulk,
    pub(crate) refusals: Refusals,
    /// By its own report it is Deno.
    pub(crate) is_deno: bool,
}

/// Queries that were refused, in the present span of time.
#[derive(Default)]
pub(crate) struct Refusals {
    since: Option<Instant>,
    count: u32,
}

/// A server the worker was given.
struct Grant {
    what: Asked,
    index: u64,
    by_hand: bool,
}

/// The time without connections after a refusal.
#[derive(Default)]
struct Sulk {
    until: Option<Instant>,
    length: Duration,
    /// Connections refused and still on the worker's account.
    charged: u64,
}

impl Refusals {
    /// Counts one, and says which of the last ten seconds it is, about.
    pub(crate) fn count(&mut self, now: Instant) -> u32 {
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) >= SPAN {
            (self.since, self.count) = (Some(now), 0);
        }
        self.count = self.count.saturating_add(1);
        self.count
    }
}

/// What a worker said to a `newconn`.
pub(crate) enum Answer {
    /// It has the connection; our copy is closed.
    Taken,
    /// It would not have it, and is left in peace for a while.
    Declined(Arrival),
    /// It would not have it, since it has closed that server.
    Closed(Arrival),
}

impl Node {
    /// A listener was granted.
    pub(crate) fn open(&mut self, key: ListenerKey, query: &Query, by_hand: bool) {
        self.grants.insert(key, Grant { what: query.what.clone(), index: query.index, by_hand });
    }

    /// Whether the listener was granted and not given up.
    pub(crate) fn was_given(&self, key: ListenerKey) -> bool {
        self.grants.contains_key(&key)
    }

    /// The listener that the worker means when it says that it listens; `port` knows the real ones.
    pub(crate) fn find(
        &self,
        told: &Query,
        port: impl Fn(ListenerKey) -> Option<u16>,
    ) -> Option<ListenerKey> {
        let told_so = |key: ListenerKey, grant: &Grant| {
            grant.index == told.index && grant.what.is_told_as(&told.what, port(key))
        };
        self.grants.iter().find(|(key, grant)| told_so(**key, grant)).map(|(key, _)| *key)
    }

    pub(super) fn has_keys(&self) -> bool {
        self.grants.values().any(|grant| grant.by_hand)
    }

    pub(super) fn holds(&self, key: ListenerKey) -> bool {
        self.grants.get(&key).is_some_and(|grant| grant.by_hand)
    }

    pub(super) fn close(&mut self, key: ListenerKey) {
        self.grants.remove(&key);
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    pub(super) fn has_unanswered(&self) -> bool {
        !self.unanswered.is_empty()
    }

    /// Whether it is handed connections and has answered them all, so that it may have nothing to do.
    pub(super) fn is_urgent(&self) -> bool {
        self.has_keys() && self.unanswered.is_empty()
    }

    pub(super) fn hand(&mut self, arrival: Arrival) -> Result<(), Arrival> {
        if !self.holds(arrival.on) {
            return Err(arrival);
        }
        self.batch.push(arrival);
        Ok(())
    }

    pub(super) fn flush(&mut self, link: Option<&mut Link>, seq: &mut i64) -> Vec<Arrival> {
        let Some(link) = link else { return std::mem::take(&mut self.batch) };
        let mut batch = std::mem::take(&mut self.batch).into_iter();
        while let Some(arrival) = batch.next() {
            *seq += 1;
            let Ok(copy) = arrival.socket.try_clone() else { return back(arrival, batch) };
            let message = acts::new_connection(*seq, arrival.on).with_handle(handle(copy, arrival.peer));
            if link.connection.queue(Outgoing::internal(message)).is_err() {
                return back(arrival, batch);
            }
            self.unanswered.insert(*seq, arrival);
        }
        Vec::new()
    }

    /// Only a worker that is gone gives back what it was sent.
    pub(super) fn withdraw(&mut self, gone: bool) -> Vec<Arrival> {
        let mut back = std::mem::take(&mut self.batch);
        if gone {
            back.extend(std::mem::take(&mut self.unanswered).into_values());
        }
        back
    }

    /// The channel has ended. `unconfirmed` are the connections whose messages never arrived. Of the others that were
    /// not answered the program may have seen some: those with nothing left to read it has begun to serve, and they end
    /// with it. Returns how many refused connections are on the worker's account no longer.
    pub(crate) fn end(&mut self, unconfirmed: &[i64]) -> u64 {
        let before = self.unanswered.len();
        self.unanswered.retain(|seq, arrival| unconfirmed.contains(seq) || has_unread(arrival));
        self.counters.taken += (before - self.unanswered.len()) as u64;
        self.forgive()
    }

    /// The worker has answered: what became of the connection, or `None` for an answer to nothing.
    pub(crate) fn answered(&mut self, ack: i64, accepted: bool) -> Option<Answer> {
        let arrival = self.unanswered.remove(&ack)?;
        self.counters.turn = self.counters.turn.wrapping_add(1);
        if !accepted {
            return Some(self.decline(arrival));
        }
        self.sulk.length = Duration::ZERO;
        self.counters.taken += 1;
        self.counters.ready += 1;
        self.counters.closed = self.closed.unwrap_or(self.counters.taken);
        Some(Answer::Taken)
    }

    /// A connection did not arrive, however often it was sent: the worker has no descriptor left.
    pub(crate) fn lacked_room(&mut self, seq: i64) -> Option<Answer> {
        let arrival = self.unanswered.remove(&seq)?;
        Some(self.decline(arrival))
    }

    fn decline(&mut self, arrival: Arrival) -> Answer {
        if !self.holds(arrival.on) {
            return Answer::Closed(arrival);
        }
        self.sulk.charged += 1;
        if self.sulk.until.is_none() {
            self.sulk.length = (self.sulk.length * 2).clamp(SULK.0, SULK.1);
            self.sulk.until = Some(Instant::now() + self.sulk.length);
        }
        Answer::Declined(arrival)
    }

    /// When the worker may be offered connections again.
    pub(super) fn sulks_until(&self) -> Option<Instant> {
        self.sulk.until
    }

    /// Takes what it refused off the worker's account, once the time is over; returns how many that were.
    pub(crate) fn relent(&mut self, now: Instant) -> u64 {
        if self.sulk.until.is_some_and(|until| until <= now) { self.forgive() } else { 0 }
    }

    fn forgive(&mut self) -> u64 {
        self.sulk.until = None;
        std::mem::take(&mut self.sulk.charged)
    }

    /// So many connections are open, the worker reports. It says so behind every answer of before, so all else that
    /// it took is closed. One that was closed makes room for one that was refused; the number is that of
    /// [`relent`](Self::relent).
    pub(crate) fn report(&mut self, live: u64) -> u64 {
        let before = self.closed.unwrap_or(0);
        let closed = self.counters.taken.saturating_sub(live).max(before);
        self.closed = Some(closed);
        self.counters.closed = closed;
        if closed > before { self.forgive() } else { 0 }
    }

    /// Whether it has reported its connections, as it does before all else where our script is loaded.
    pub(crate) fn reports(&self) -> bool {
        self.closed.is_some()
    }

    /// Whether observers are to hear that its loop was late: if it was by much, and not all the time.
    pub(crate) fn tells_blocked(&mut self, late: Duration, now: Instant) -> bool {
        let is_news =
            late >= BLOCKED && self.told_blocked.is_none_or(|told| now.duration_since(told) >= SPAN);
        if is_news {
            self.told_blocked = Some(now);
        }
        is_news
    }
}

/// What was accepted from an address of the internet needs no looking at.
fn handle(socket: OwnedFd, peer: Option<SocketAddr>) -> Handle {
    match peer {
        Some(_) => Handle::TcpStream(socket.into()),
        None => Handle::from_fd(socket),
    }
}

fn back(arrival: Arrival, rest: impl Iterator<Item = Arrival>) -> Vec<Arrival> {
    std::iter::once(arrival).chain(rest).collect()
}

fn has_unread(arrival: &Arrival) -> bool {
    rustix::io::ioctl_fionread(arrival.socket.as_fd()).is_ok_and(|bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use serde_json::Value;

    use super::*;
    use crate::address::Address;

    const ON: ListenerKey = ListenerKey::new(1);

    /// A worker that was handed so many connections, and their clients.
    fn handed(count: i64) -> (Node, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut node = Node::default();
        node.open(ON, &query(), true);
        let clients = (1..=count)
            .map(|seq| {
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (socket, peer) = listener.accept().unwrap();
                node.unanswered
                    .insert(seq, Arrival { on: ON, peer: Some(peer), class: None, socket: socket.into() });
                client
            })
            .collect();
        (node, clients)
    }

    fn query() -> Query {
        let what = Asked::Stream { address: Address::Any { port: 0 }, only_v6: false };
        Query { what, index: 0, backlog: None, data: Value::Null, all: (false, false), is_own: false }
    }

    #[test]
    fn it_is_urgent_while_it_has_nothing_to_answer() {
        let (mut node, _clients) = handed(1);
        assert!(!node.is_urgent());
        node.answered(1, true);
        assert!(node.is_urgent());
        node.close(ON);
        assert!(!node.is_urgent(), "it is handed nothing more");
    }

    #[test]
    fn an_answer_counts_once_and_one_to_nothing_does_not() {
        let (mut node, _clients) = handed(2);
        assert!(matches!(node.answered(1, true), Some(Answer::Taken)));
        assert!(node.answered(1, true).is_none());
        assert!(node.answered(7, false).is_none());
        assert_eq!((node.counters.taken, node.counters.ready), (1, 1));
    }

    #[test]
    fn refused_connections_stay_on_the_account_for_a_while() {
        let (mut node, _clients) = handed(3);
        assert!(matches!(node.answered(1, false), Some(Answer::Declined(_))));
        assert!(matches!(node.lacked_room(2), Some(Answer::Declined(_))));
        let until = node.sulks_until().unwrap();
        assert_eq!(node.relent(until - Duration::from_millis(1)), 0);
        assert_eq!(node.relent(until), 2);
        assert_eq!((node.relent(until), node.sulks_until()), (0, None));
        let first = node.sulk.length;
        assert!(matches!(node.answered(3, false), Some(Answer::Declined(_))));
        assert_eq!(node.sulk.length, first * 2);
    }

    #[test]
    fn a_closed_connection_makes_room_at_once() {
        let (mut node, _clients) = handed(2);
        assert_eq!(node.report(0), 0);
        node.answered(1, true);
        node.answered(2, false);
        assert_eq!(node.report(1), 0);
        assert_eq!((node.counters.closed, node.report(0)), (0, 1));
        assert_eq!(node.report(9), 0);
        assert_eq!(node.counters.closed, 1, "never fewer than before");
    }

    #[test]
    fn a_late_loop_is_news_once_in_a_while() {
        let (mut node, now) = (Node::default(), Instant::now());
        assert!(!node.tells_blocked(BLOCKED / 2, now));
        assert!(node.tells_blocked(BLOCKED, now) && !node.tells_blocked(BLOCKED, now + SPAN / 2));
        assert!(node.tells_blocked(BLOCKED, now + SPAN));
    }

    #[test]
    fn refusals_are_counted_over_a_while() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        assert_eq!(
            (refusals.count(now), refusals.count(now + SPAN / 2), refusals.count(now + SPAN)),
            (1, 2, 1)
        );
    }

    #[test]
    fn a_server_that_was_closed_is_no_refusal() {
        let (mut node, _clients) = handed(1);
        node.close(ON);
        assert!(matches!(node.answered(1, false), Some(Answer::Closed(_))));
        assert_eq!(node.sulks_until(), None);
    }

    #[test]
    fn of_a_dead_workers_connections_those_it_may_have_begun_end_with_it() {
        let (mut node, mut clients) = handed(3);
        clients[0].write_all(b"unread").unwrap();
        // Loopback delivers before the write returns.
        node.end(&[2]);
        let left: Vec<i64> = node.unanswered.keys().copied().collect();
        assert_eq!(left, [1, 2]);
        assert_eq!(node.withdraw(true).len(), 2);
    }
}
