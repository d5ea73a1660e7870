//! What the primary does about what a Node worker says.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use everycore_core::{Assignment, Event as CoreEvent, ListenerKey, WorkerId};
use everycore_ipc::Message;
use serde_json::Value;

use super::acts::{self, Asked, FromNode, Query};
use crate::address::Address;
use crate::cluster::driver::Driver;
use crate::cluster::handoff::Arrival;
use crate::cluster::member::{Answer, Side};
use crate::cluster::socket::Options;
use crate::protocol::{ListenFailure, Mode};

/// `LISTEN_FDS` counts from here, and `listen({fd})` in a worker with it.
const FIRST_DESCRIPTOR: i32 = 3;

impl Driver {
    pub(in crate::cluster) fn hear_node(&mut self, worker: WorkerId, message: &Message) {
        let decoded = message
            .parse::<Value>()
            .map_err(|error| error.to_string())
            .and_then(|value| FromNode::decode(&value).map_err(|error| error.to_string()));
        match decoded {
            Ok(message) => self.hear_act(worker, message),
            Err(reason) => self.break_off(worker, reason),
        }
    }

    fn hear_act(&mut self, worker: WorkerId, message: FromNode) {
        match message {
            FromNode::Online => self.online(worker),
            FromNode::QueryServer { seq, query } => self.query_server(worker, seq, query),
            FromNode::Listening { query } => {
                // A worker says the query again, not the key: found the way it was granted.
                if let Some(listener) = self.find(worker, &query) {
                    self.listening(worker, listener);
                }
            }
            FromNode::Accepted { ack, accepted } => self.answered(worker, ack, accepted),
            FromNode::Close { key } => {
                if let Some(listener) = acts::listener(&key) {
                    self.closed_listener(worker, listener);
                }
            }
            FromNode::ExitedAfterDisconnect { seq } => {
                self.order(CoreEvent::Leaving { worker });
                let number = self.next_seq();
                self.tell_node(worker, &acts::ack(number, seq), None);
            }
            FromNode::Report { closed } => {
                if let Some(Side::Node(node)) = self.members.get_mut(&worker).map(|member| &mut member.side) {
                    node.report(closed);
                }
            }
            FromNode::Other => {}
        }
    }

    fn query_server(&mut self, worker: WorkerId, ack: i64, query: Query) {
        let data = query.data.clone();
        let number = self.next_seq();
        match self.grant_to_node(worker, query) {
            Ok((listener, shared)) => {
                let key = acts::key(listener);
                let data = self.node_data.entry(listener).or_insert(data).clone();
                let reply = match (&shared, self.listeners.get(listener)) {
                    (None, Some(listening)) => {
                        acts::handed_over(number, ack, &key, &data, &listening.bound.address)
                    }
                    _ => acts::shared(number, ack, &key, &data),
                };
                self.tell_node(worker, &reply, shared);
            }
            Err(failure) => self.tell_node(worker, &acts::refused(number, ack, "", failure.errno), None),
        }
    }

    /// The listener, and the socket itself where the worker accepts by itself.
    fn grant_to_node(
        &mut self,
        worker: WorkerId,
        query: Query,
    ) -> Result<(ListenerKey, Option<OwnedFd>), ListenFailure> {
        let key = match &query.what {
            Asked::Descriptor(number) => self.listeners.grant_numbered(worker, place(*number))?,
            Asked::Stream { .. } | Asked::Datagram { .. } => {
                let (address, options) = wanted(&query);
                self.listeners.grant_bound(worker, address, index(&query), &options)?
            }
        };
        let datagram = matches!(query.what, Asked::Datagram { .. });
        let Some(listening) = self.listeners.get(key) else {
            return Err(ListenFailure { errno: 0, message: String::new() });
        };
        if self.mode == Mode::Shared || datagram {
            let socket = listening.bound.socket.try_clone();
            return socket.map(|socket| (key, Some(socket))).map_err(|error| ListenFailure {
                errno: error.raw_os_error().unwrap_or(0),
                message: error.to_string(),
            });
        }
        if let Some(Side::Node(node)) = self.members.get_mut(&worker).map(|member| &mut member.side) {
            node.open(key);
        }
        Ok((key, None))
    }

    /// The listener a worker names by its query, with the real port.
    fn find(&self, worker: WorkerId, query: &Query) -> Option<ListenerKey> {
        match &query.what {
            Asked::Descriptor(number) => self.listeners.numbered(place(*number)),
            Asked::Stream { .. } | Asked::Datagram { .. } => {
                let (address, _) = wanted(query);
                self.listeners.find_held(worker, &address, index(query))
            }
        }
    }

    fn answered(&mut self, worker: WorkerId, ack: i64, accepted: bool) {
        let Some(Side::Node(node)) = self.members.get_mut(&worker).map(|member| &mut member.side) else {
            return;
        };
        match node.answered(ack, accepted) {
            None => {}
            Some(Answer::Taken(on)) => self.listeners.taken(on),
            Some(Answer::Declined(arrival)) => {
                self.core.returned(worker, 1);
                self.offer_elsewhere(worker, arrival);
            }
        }
    }

    /// A worker would not have a connection: another may, and when none will it waits a little.
    fn offer_elsewhere(&mut self, not: WorkerId, mut arrival: Arrival) {
        arrival.declined += 1;
        let serving = self.members.values().filter(|member| member.holds(arrival.on)).count();
        if arrival.declined as usize >= serving {
            return self.listeners.put_off(arrival);
        }
        let now = self.now();
        let Assignment::To(worker) = self.core.assign_except(arrival.on, arrival.peer, not, now) else {
            return self.listeners.put_off(arrival);
        };
        let handed = match self.members.get_mut(&worker) {
            Some(member) => member.hand(arrival),
            None => Err(arrival),
        };
        match handed {
            Ok(()) => self.flush_handoffs(worker),
            Err(arrival) => {
                self.core.returned(worker, 1);
                self.listeners.put_off(arrival);
            }
        }
    }

    fn next_seq(&mut self) -> i64 {
        self.seq += 1;
        self.seq
    }

    fn tell_node(&mut self, worker: WorkerId, message: &Value, handle: Option<OwnedFd>) {
        let Some(member) = self.members.get_mut(&worker) else { return };
        match member.tell_node(message, handle) {
            Ok(()) => self.flush_channel(worker),
            Err(error) => self.break_off(worker, format!("cannot be answered: {error}")),
        }
    }
}

/// Which inherited listener a descriptor number means.
fn place(number: i32) -> usize {
    usize::try_from(number - FIRST_DESCRIPTOR).unwrap_or(usize::MAX)
}

fn index(query: &Query) -> u32 {
    u32::try_from(query.index).unwrap_or(0)
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
        Asked::Stream { address, .. } => address.clone(),
        Asked::Datagram { ip, port, v6, only_v6, reuse } => {
            options.reuse_address = *reuse;
            options.dual_stack = !only_v6;
            let any = if *v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            Address::Udp((ip.unwrap_or(any), *port).into())
        }
        Asked::Descriptor(_) => Address::Any { port: 0 },
    };
    (address, options)
}
