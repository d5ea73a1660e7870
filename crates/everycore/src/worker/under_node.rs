//! What a worker says and hears whose primary is Node's `cluster`: our words into `NODE_CLUSTER` messages and back.
//!
//! Does no I/O but for looking at sockets it was given. `link` keeps one of these beside the channel and asks it for
//! every word; [`Deliveries`] has the connections. The primary's half, for Node *workers*, is `cluster::node`.

mod query;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use everycore_ipc::Message;
use rustix::io::Errno;
use serde_json::{Map, Value, json};

use super::deliveries::Deliveries;
use super::source::Means;
use super::spare::Spare;
use crate::address::{Address, BoundAddress};
use crate::protocol::{FromWorker, ListenFailure, Wanted};

/// What Node makes of a backlog of 0.
const BACKLOG: u32 = 511;

/// See the module.
pub(crate) struct UnderNode {
    /// Counts our messages, as Node counts its own.
    seq: i64,
    /// Questions for a server, by their number.
    queries: HashMap<i64, Query>,
    /// By the number that we call them.
    servers: HashMap<u32, Server>,
    last_key: u32,
    /// Words that the worker leaves, not answered yet.
    leaving: Vec<i64>,
    pub(crate) spare: Spare,
    /// Handles that came when there was no room for them.
    pub(crate) lost: u64,
}

/// A question that is not answered yet.
struct Query {
    request: u64,
    address: Address,
    backlog: u32,
    fields: Map<String, Value>,
}

/// A server that was granted.
struct Server {
    /// What the primary calls it.
    key: String,
    /// The question's fields again, with the real port.
    fields: Map<String, Value>,
    deliveries: Weak<Deliveries>,
}

/// What a message of the primary comes to.
#[derive(Debug)]
pub(crate) enum Heard {
    Granted {
        request: u64,
        key: u32,
        means: Means,
        address: BoundAddress,
    },
    Refused {
        request: u64,
        failure: ListenFailure,
        /// A server that was granted all the same, for the primary to take back.
        close: Option<Message>,
    },
    /// A connection for a listener.
    Connection {
        on: Arc<Deliveries>,
        seq: i64,
        socket: OwnedFd,
    },
    /// A connection for a listener that is closed: to be answered with no.
    Unwanted {
        seq: i64,
    },
    Disconnect,
    LeaveNoted,
    /// Nothing a worker has to know of.
    Other,
}

impl UnderNode {
    pub(crate) fn new() -> Self {
        Self {
            seq: -1,
            queries: HashMap::new(),
            servers: HashMap::new(),
            last_key: 0,
            leaving: Vec::new(),
            spare: Spare::new(),
            lost: 0,
        }
    }

    /// Says something of ours in Node's words; `None` for what Node has none for.
    pub(crate) fn say(&mut self, what: FromWorker) -> Option<Message> {
        match what {
            FromWorker::Hello { .. } => Some(self.act("online", Map::new())),
            FromWorker::Listen { request, what: Wanted::Bound { address, index, backlog } } => {
                let fields = query::fields(&address, index, backlog);
                let message = self.act("queryServer", fields.clone());
                let backlog = backlog.unwrap_or(BACKLOG);
                self.queries.insert(self.seq, Query { request, address, backlog, fields });
                Some(message)
            }
            FromWorker::Listening { key } => {
                let fields = self.servers.get(&key)?.fields.clone();
                Some(self.act("listening", fields))
            }
            FromWorker::Closed { key } => {
                let server = self.servers.remove(&key)?;
                Some(self.close(&server.key))
            }
            FromWorker::Leaving => {
                let message = self.act("exitedAfterDisconnect", Map::new());
                self.leaving.push(self.seq);
                Some(message)
            }
            // Nothing is bound by name there, no secrets are shared, and nobody asks whether a program is ready.
            FromWorker::Listen { what: Wanted::Named { .. }, .. }
            | FromWorker::Ready
            | FromWorker::Secrets
            | FromWorker::Unheard { .. } => None,
        }
    }

    /// What became of a connection.
    pub(crate) fn answer(&mut self, ack: i64, accepted: bool) -> Message {
        self.seq += 1;
        written(json!({"cmd": "NODE_CLUSTER", "ack": ack, "accepted": accepted, "seq": self.seq}))
    }

    /// Gives up all servers: the words for the primary, and what waits on them.
    pub(crate) fn close_all(&mut self) -> (Vec<Message>, Vec<Arc<Deliveries>>) {
        let servers: Vec<Server> = self.servers.drain().map(|(_, server)| server).collect();
        let words = servers.iter().map(|server| self.close(&server.key)).collect();
        (words, servers.iter().filter_map(|server| server.deliveries.upgrade()).collect())
    }

    /// Understands a message of the primary's library. What means nothing is ignored, as Node ignores it.
    pub(crate) fn hear(&mut self, mut message: Message) -> Heard {
        let Ok(Value::Object(fields)) = message.parse::<Value>() else { return Heard::Other };
        let socket = message.take_handle().map(|handle| handle.into_fd());
        if let Some(ack) = fields.get("ack").and_then(Value::as_i64) {
            return self.hear_answer(ack, &fields, socket);
        }
        match fields.get("act").and_then(Value::as_str) {
            Some("newconn") => self.hear_connection(&fields, socket),
            Some("disconnect") => Heard::Disconnect,
            _ => Heard::Other,
        }
    }

    fn hear_connection(&self, fields: &Map<String, Value>, socket: Option<OwnedFd>) -> Heard {
        let seq = fields.get("seq").and_then(Value::as_i64);
        let key = fields.get("key").and_then(Value::as_str);
        // Node never sends one without a socket: what lost its own is refused before it comes here.
        let (Some(seq), Some(key), Some(socket)) = (seq, key, socket) else { return Heard::Other };
        let server = self.servers.values().find(|server| server.key == key);
        match server.and_then(|server| server.deliveries.upgrade()) {
            Some(on) => Heard::Connection { on, seq, socket },
            None => Heard::Unwanted { seq },
        }
    }

    fn hear_answer(&mut self, ack: i64, fields: &Map<String, Value>, socket: Option<OwnedFd>) -> Heard {
        if let Some(at) = self.leaving.iter().position(|seq| *seq == ack) {
            self.leaving.remove(at);
            return Heard::LeaveNoted;
        }
        let Some(query) = self.queries.remove(&ack) else { return Heard::Other };
        let request = query.request;
        let key = fields.get("key").and_then(Value::as_str).map(str::to_owned);
        match self.grant(query, key.as_deref(), fields, socket) {
            Ok(granted) => granted,
            Err(failure) => {
                // The primary counts on this worker unless it said no itself.
                let close = key.filter(|_| errno(fields).is_none()).map(|key| self.close(&key));
                Heard::Refused { request, failure, close }
            }
        }
    }

    fn grant(
        &mut self,
        query: Query,
        key: Option<&str>,
        fields: &Map<String, Value>,
        socket: Option<OwnedFd>,
    ) -> Result<Heard, ListenFailure> {
        let Query { request, address, backlog, fields: mut asked } = query;
        if let Some(errno) = errno(fields) {
            return Err(failure(&address, errno));
        }
        let key = key.ok_or_else(|| ListenFailure {
            errno: 0,
            message: format!("{address}: the primary has answered without saying what to call the listener"),
        })?;
        let (at, means, deliveries) = match socket {
            Some(socket) => (opened(&socket, &address, backlog)?, Means::Shared(socket), Weak::new()),
            None if matches!(address, Address::Udp(_)) => {
                return Err(ListenFailure {
                    errno: Errno::MFILE.raw_os_error(),
                    message: format!("{address}: the socket was granted, but did not arrive"),
                });
            }
            None => {
                let at = told(&address, fields.get("sockname"))?;
                let deliveries = Deliveries::new(matches!(at, BoundAddress::Unix(_)))
                    .map(Arc::new)
                    .map_err(|error| failure(&address, error.raw_os_error().unwrap_or(0)))?;
                let weak = Arc::downgrade(&deliveries);
                (at, Means::Delivered(deliveries), weak)
            }
        };
        if let Some(port) = at.port() {
            asked.insert("port".into(), port.into());
        }
        self.last_key += 1;
        self.servers.insert(self.last_key, Server { key: key.to_owned(), fields: asked, deliveries });
        Ok(Heard::Granted { request, key: self.last_key, means, address: at })
    }

    fn close(&mut self, key: &str) -> Message {
        self.act("close", Map::from_iter([("key".to_owned(), key.into())]))
    }

    fn act(&mut self, act: &str, fields: Map<String, Value>) -> Message {
        self.seq += 1;
        let mut message =
            Map::from_iter([("cmd".to_owned(), "NODE_CLUSTER".into()), ("act".to_owned(), act.into())]);
        message.extend(fields);
        message.insert("seq".into(), self.seq.into());
        written(message.into())
    }
}

/// Text, numbers and null: there is nothing in it that could not be written.
fn written(message: Value) -> Message {
    Message::json(&message).unwrap_or_default()
}

/// The error of an answer, as the kernel counts it. `null`, 0 and nothing at all mean success.
fn errno(fields: &Map<String, Value>) -> Option<i32> {
    let errno = fields.get("errno").and_then(Value::as_i64).filter(|errno| *errno != 0)?;
    Some(i32::try_from(errno.unsigned_abs()).unwrap_or(0))
}

fn failure(address: &Address, errno: i32) -> ListenFailure {
    let error = io::Error::from_raw_os_error(errno);
    ListenFailure { errno, message: format!("bind {address}: {error}; the primary could not listen there") }
}

/// Where a server is whose connections are handed over, as the primary says.
fn told(address: &Address, name: Option<&Value>) -> Result<BoundAddress, ListenFailure> {
    if let Address::Unix(path) = address {
        return Ok(BoundAddress::Unix(path.clone()));
    }
    let at = name.and_then(|name| {
        let ip = name.get("address")?.as_str()?.parse().ok()?;
        Some(SocketAddr::new(ip, u16::try_from(name.get("port")?.as_u64()?).ok()?))
    });
    let at = at.ok_or_else(|| ListenFailure {
        errno: 0,
        message: format!("{address}: the primary has not said where the listener is"),
    })?;
    right_port(address, at.port())?;
    Ok(BoundAddress::Tcp(at))
}

/// Makes sure that a shared socket is what was asked for, and listens on it: the primary may only have bound it, and may
/// send one that is not even bound where the address is taken.
fn opened(socket: &OwnedFd, address: &Address, backlog: u32) -> Result<BoundAddress, ListenFailure> {
    let failed = |errno: Errno| failure(address, errno.raw_os_error());
    // It may be so already, and it must never be otherwise: it is everybody's.
    rustix::io::ioctl_fionbio(socket, true).map_err(failed)?;
    let name = rustix::net::getsockname(socket).map_err(failed)?;
    let at = SocketAddr::try_from(name).ok();
    if let Some(at) = at {
        right_port(address, at.port())?;
    }
    match (address, at) {
        (Address::Udp(_), Some(at)) => return Ok(BoundAddress::Udp(at)),
        (Address::Unix(path), None) => listen(socket, backlog).map(|()| BoundAddress::Unix(path.clone())),
        (_, Some(at)) => listen(socket, backlog).map(|()| BoundAddress::Tcp(at)),
        (_, None) => Err(Errno::AFNOSUPPORT),
    }
    .map_err(failed)
}

fn listen(socket: &OwnedFd, backlog: u32) -> Result<(), Errno> {
    rustix::net::listen(socket, i32::try_from(backlog).unwrap_or(i32::MAX))
}

/// Another port than the one asked for means that somebody has that one: Node's own workers take it so, too.
fn right_port(address: &Address, port: u16) -> Result<(), ListenFailure> {
    let asked = match address {
        Address::Tcp(at) | Address::Udp(at) => at.port(),
        Address::Any { port } => *port,
        Address::Unix(_) | Address::Inherited(_) => 0,
    };
    if port != 0 && (asked == 0 || asked == port) {
        return Ok(());
    }
    Err(failure(address, Errno::ADDRINUSE.raw_os_error()))
}
