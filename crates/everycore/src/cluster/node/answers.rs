//! What the primary does about what a Node worker says.

use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use everycore_core::{Event as CoreEvent, ListenerKey, WorkerId};
use everycore_ipc::{Kind, Message, Outgoing};
use rustix::io::Errno;
use serde_json::Value;

use super::acts::{self, Asked, FromNode, Query};
use crate::address::{Address, BoundAddress};
use crate::cluster::driver::Driver;
use crate::cluster::event::Event;
use crate::cluster::member::{Answer, Node, Side};
use crate::cluster::socket::Options;
use crate::protocol::{ListenFailure, Mode, ProtocolError};

/// `LISTEN_FDS` counts from here, and `listen({fd})` in a worker with it.
const FIRST_DESCRIPTOR: i32 = 3;

/// Refused queries of one worker, within ten seconds, that observers hear of.
const TOLD: u32 = 8;

/// Refused queries of one worker, within ten seconds, that are answered.
const BORNE: u32 = 1000;

/// As long as a path may be on Linux, in bytes.
const PATH_MAX: usize = 4096;

impl Driver {
    pub(in crate::cluster) fn hear_node(&mut self, worker: WorkerId, message: &Message) {
        if let Some(answer) = FromNode::accepted(message.bytes()) {
            return self.hear_act(worker, answer);
        }
        match message.parse::<Value>() {
            Ok(value) => self.hear_act(worker, FromNode::decode(&value)),
            Err(error) => self.break_off(worker, error.to_string()),
        }
    }

    fn hear_act(&mut self, worker: WorkerId, message: FromNode) {
        match message {
            FromNode::Online => self.online(worker),
            // Whoever leaves does not listen any more; an error would end the program, which may still be at work.
            FromNode::QueryServer { .. } if self.core.is_leaving(worker) => {}
            FromNode::QueryServer { seq, query } => self.query_server(worker, seq, query),
            FromNode::Listening { query } => {
                if let Some(listener) = self.find(worker, &query).or_else(|| self.own(worker, &query)) {
                    self.listening(worker, listener);
                }
            }
            FromNode::Accepted { ack, accepted } => {
                let answer = self.node(worker).and_then(|node| node.answered(ack, accepted));
                self.settle(worker, answer);
            }
            FromNode::Close { key } => self.close_server(worker, &key),
            FromNode::ExitedAfterDisconnect { seq } => {
                self.order(CoreEvent::Leaving { worker });
                if let Some(seq) = seq {
                    let number = self.next_seq();
                    self.tell_node(worker, &acts::ack(number, seq), None);
                }
            }
            FromNode::Report { live, late, is_deno } => {
                if let Some(member) = self.members.get_mut(&worker)
                    && let Side::Node(node) = &mut member.side
                {
                    node.is_deno = is_deno;
                    if let Some(link) = member.link.as_mut().filter(|_| is_deno) {
                        link.connection.send_handles_alone(true);
                    }
                }
                self.report(worker, live, late);
            }
            FromNode::Other => {}
        }
    }

    // --- servers ---

    fn query_server(&mut self, worker: WorkerId, ack: i64, query: Result<Query, ProtocolError>) {
        let granted = query
            .map_err(ListenFailure::from)
            .and_then(|query| self.granting(worker, |driver| driver.grant_to_node(worker, query)));
        let number = self.next_seq();
        match granted {
            Ok(Granted { reply, shared }) => self.tell_node(worker, &reply.written(number, ack), shared),
            Err(failure) => {
                self.tell_refusal(worker, &failure);
                self.tell_node(worker, &acts::refused(number, ack, "", failure.errno), None);
            }
        }
    }

    fn grant_to_node(&mut self, worker: WorkerId, query: Query) -> Result<Granted, ListenFailure> {
        if self.is_bun(worker) {
            return Err(ListenFailure {
                errno: Errno::OPNOTSUPP.raw_os_error(),
                message: "Bun takes no socket from its primary, so only its HTTP servers are spread over workers (node:http, Bun.serve); run net and dgram servers with node".into(),
            });
        }
        let by_hand = self.mode == Mode::HandOff && !matches!(query.what, Asked::Datagram { .. });
        if !by_hand && self.node(worker).is_some_and(|node| node.is_deno) {
            return Err(ListenFailure {
                errno: Errno::OPNOTSUPP.raw_os_error(),
                message: "Deno takes no socket from its primary, only connections: choose policy least, rr or sticky".into(),
            });
        }
        if by_hand && self.core.is_limited() && self.node(worker).is_some_and(|node| !node.reports()) {
            return Err(ListenFailure {
                errno: Errno::OPNOTSUPP.raw_os_error(),
                message: "max_connections cannot be kept: the worker does not load the script that reports what it has closed (node --permission, Deno without --allow-all)".into(),
            });
        }
        let key = match &query.what {
            Asked::Descriptor(number) => self.listeners.grant_numbered(worker, place(*number))?,
            Asked::Stream { .. } | Asked::Datagram { .. } => {
                let (address, options) = wanted(&query);
                self.listeners.grant_bound(worker, address, index(&query), &options)?
            }
        };
        let slot = self.info(worker).slot;
        let Some(listening) = self.listeners.get(key) else { return Err(invalid("the listener closed")) };
        let address = listening.bound.address.clone();
        let shared = match by_hand {
            true => None,
            false => Some(self.listeners.share(key, slot).map_err(|error| ListenFailure {
                errno: error.raw_os_error().unwrap_or(0),
                message: format!("cannot pass the listener on: {error}"),
            })?),
        };
        if let Some(node) = self.node(worker) {
            node.open(key, &query, by_hand);
        }
        // The first worker's, so that TLS tickets of one are good for all.
        let data = self.listeners.data(key, query.data);
        Ok(Granted { reply: acts::Reply { key, data, at: by_hand.then_some(address) }, shared })
    }

    /// The listener a worker names by its query, with the real port.
    fn find(&self, worker: WorkerId, query: &Query) -> Option<ListenerKey> {
        let Side::Node(node) = &self.members.get(&worker)?.side else { return None };
        node.find(query, |key| self.listeners.get(key)?.bound.address.port())
    }

    /// What a worker has bound for itself: Bun never asks, and our script tells what else does not.
    fn own(&mut self, worker: WorkerId, query: &Query) -> Option<ListenerKey> {
        let address = match &query.what {
            Asked::Stream { address: Address::Tcp(at), .. } => BoundAddress::Tcp(*at),
            Asked::Stream { address: Address::Any { port }, .. } => {
                BoundAddress::Tcp((Ipv6Addr::UNSPECIFIED, *port).into())
            }
            // Longer than any path the kernel takes: made up.
            Asked::Stream { address: Address::Unix(path), .. } if path.as_os_str().len() > PATH_MAX => {
                return None;
            }
            Asked::Stream { address: Address::Unix(path), .. } => BoundAddress::Unix(path.clone()),
            _ => return None,
        };
        if !query.is_own && !self.is_bun(worker) {
            return None;
        }
        match self.listeners.note_own(worker, address) {
            Ok(key) => Some(key),
            Err(failure) => {
                self.tell_refusal(worker, &failure);
                None
            }
        }
    }

    fn is_bun(&self, worker: WorkerId) -> bool {
        let link = self.members.get(&worker).and_then(|member| member.link.as_ref());
        link.is_some_and(|link| link.connection.is_bun())
    }

    fn close_server(&mut self, worker: WorkerId, key: &str) {
        let Some(listener) = acts::listener(key) else { return };
        if self.node(worker).is_some_and(|node| node.was_given(listener)) {
            self.closed_listener(worker, listener);
        }
    }

    /// A worker hears only a number: the whole story is for observers. A worker that asks in vain without end has its
    /// channel closed.
    fn tell_refusal(&mut self, worker: WorkerId, failure: &ListenFailure) {
        let Some(refusals) = self.node(worker).map(|node| node.refusals.count(Instant::now())) else {
            return;
        };
        let more = match refusals {
            ..TOLD => "",
            TOLD => "; more of them are not told",
            BORNE => return self.break_off(worker, format!("asked {BORNE} times for listeners in vain")),
            _ => return,
        };
        let reason = format!("was refused a listener: {}{more}", failure.message);
        let worker = self.info(worker);
        self.tell(Event::Error { worker, reason });
    }

    // --- connections ---

    fn report(&mut self, worker: WorkerId, live: u64, late: Duration) {
        let Some(node) = self.node(worker) else { return };
        let (forgiven, blocked) = (node.report(live), node.tells_blocked(late, Instant::now()));
        self.core.returned(worker, forgiven);
        if blocked {
            let worker = self.info(worker);
            self.tell(Event::Blocked { worker, duration: late });
        }
    }

    fn settle(&mut self, worker: WorkerId, answer: Option<Answer>) {
        match answer {
            None | Some(Answer::Taken) => {}
            // It counts as handed over for a while, so that the next one goes elsewhere.
            Some(Answer::Declined(arrival)) => self.listeners.take_back(vec![arrival]),
            Some(Answer::Closed(arrival)) => {
                self.core.returned(worker, 1);
                self.listeners.take_back(vec![arrival]);
            }
        }
    }

    /// Deals with what a worker would not have, however often it was sent: it is out of descriptors.
    pub(in crate::cluster) fn take_undelivered(&mut self, worker: WorkerId) {
        let Some(link) = self.members.get_mut(&worker).and_then(|member| member.link.as_mut()) else {
            return;
        };
        for outgoing in link.connection.take_undelivered() {
            match (outgoing.kind, addressed(&outgoing)) {
                (Kind::Internal, Some(Addressed::Connection(seq))) => {
                    let answer = self.node(worker).and_then(|node| node.lacked_room(seq));
                    self.settle(worker, answer);
                }
                (Kind::Internal, Some(Addressed::Query { ack, key })) => {
                    self.close_server(worker, &key);
                    let number = self.next_seq();
                    let errno = Errno::MFILE.raw_os_error();
                    self.tell_node(worker, &acts::refused(number, ack, "", errno), None);
                }
                _ => {
                    let worker = self.info(worker);
                    let reason = "has no room for the handle of a message, which was dropped".into();
                    self.tell(Event::Error { worker, reason });
                }
            }
        }
    }

    /// Workers that refused a connection are asked again.
    pub(in crate::cluster) fn relent(&mut self, now: Instant) {
        for (worker, member) in &mut self.members {
            if let Side::Node(node) = &mut member.side {
                self.core.returned(*worker, node.relent(now));
            }
        }
    }

    fn node(&mut self, worker: WorkerId) -> Option<&mut Node> {
        match &mut self.members.get_mut(&worker)?.side {
            Side::Node(node) => Some(node),
            Side::Library(_) => None,
        }
    }

    fn next_seq(&mut self) -> i64 {
        self.seq += 1;
        self.seq
    }

    fn tell_node(&mut self, worker: WorkerId, message: &Value, handle: Option<OwnedFd>) {
        let Some(member) = self.members.get_mut(&worker) else { return };
        match member.tell_node(message, handle) {
            Ok(()) => {
                self.flush_channel(worker);
            }
            Err(error) => self.break_off(worker, format!("cannot be answered: {error}")),
        }
    }
}

/// The answer to a query, and the socket itself where the worker accepts by itself.
struct Granted {
    reply: acts::Reply,
    shared: Option<OwnedFd>,
}

/// What a message with a handle was about.
enum Addressed {
    Connection(i64),
    Query { ack: i64, key: String },
}

fn addressed(outgoing: &Outgoing) -> Option<Addressed> {
    let message: Value = outgoing.message.parse().ok()?;
    let number = |name: &str| message.get(name).and_then(Value::as_i64);
    match number("ack") {
        Some(ack) => Some(Addressed::Query { ack, key: message.get("key")?.as_str()?.to_owned() }),
        None => number("seq").map(Addressed::Connection),
    }
}

/// The connections among messages that never arrived.
pub(in crate::cluster) fn unconfirmed(undelivered: &[Outgoing]) -> Vec<i64> {
    let internal = undelivered.iter().filter(|outgoing| outgoing.kind == Kind::Internal);
    internal
        .filter_map(|outgoing| match addressed(outgoing)? {
            Addressed::Connection(seq) => Some(seq),
            Addressed::Query { .. } => None,
        })
        .collect()
}

/// Which inherited listener a descriptor number means.
fn place(number: i32) -> usize {
    usize::try_from(number - FIRST_DESCRIPTOR).unwrap_or(usize::MAX)
}

fn index(query: &Query) -> u32 {
    u32::try_from(query.index).unwrap_or(u32::MAX)
}

/// What a stream or datagram query asks for, in our terms.
fn wanted(query: &Query) -> (Address, Options) {
    let mut options = Options {
        backlog: query.backlog,
        readable_all: query.all.0,
        writable_all: query.all.1,
        ..Options::default()
    };
    let address = match &query.what {
        Asked::Stream { address: Address::Tcp(at), only_v6: false } if at.ip() == Ipv6Addr::UNSPECIFIED => {
            Address::Any { port: at.port() }
        }
        Asked::Stream { address: Address::Any { port }, only_v6: true } => {
            Address::Tcp((Ipv6Addr::UNSPECIFIED, *port).into())
        }
        Asked::Stream { address, only_v6 } => {
            options.dual_stack = !only_v6;
            address.clone()
        }
        Asked::Datagram { at, only_v6, reuse } => {
            options.reuse_address = *reuse;
            options.dual_stack = !only_v6;
            Address::Udp(*at)
        }
        // Looked up by its number instead.
        Asked::Descriptor(_) => Address::Any { port: 0 },
    };
    (address, options)
}

fn invalid(message: &str) -> ListenFailure {
    ListenFailure { errno: Errno::INVAL.raw_os_error(), message: message.to_owned() }
}

impl From<ProtocolError> for ListenFailure {
    fn from(error: ProtocolError) -> Self {
        invalid(&error.to_string())
    }
}
