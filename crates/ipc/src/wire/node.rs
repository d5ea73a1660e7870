//! The messages between Node's own libraries, whatever codec they travel in.

use std::ops::Range;

use bytes::Bytes;

use crate::handle::HandleKind;

/// How often a message may be wrapped into `NODE_HANDLE` beyond the first time. Node does it once, when it sends again.
pub(crate) const MAX_WRAPS: usize = 4;

/// A payload inside a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// These bytes of it.
    At(Range<usize>),
    /// Written anew, because it cannot stand alone as it is.
    Own(Bytes),
}

/// A frame from a Node peer, by what has to be done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// For the program.
    User(Payload),
    /// For the library above: cluster messages, and answers about sockets it sent.
    Internal(Payload),
    /// A message with a handle beside it.
    Handle {
        /// The message.
        inner: Inner,
        /// What the sender counts the socket under.
        key: Option<String>,
    },
    /// Our handle arrived.
    Ack,
    /// Our handle did not arrive.
    Nack,
    /// The peer asks how many sockets of this key are open here.
    CountAsked(String),
    /// The peer asks to be told when no socket of this key is open here.
    CloseAsked(String),
    /// A command nobody knows: ignored, as Node does.
    Unknown,
}

/// The message inside a message with a handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Inner {
    /// For the program.
    User(Payload),
    /// For the library above.
    Internal(Payload),
    /// None that anybody knows. The handle is to be answered all the same.
    Unknown,
}

/// The fields of a message of the library that say what it is.
pub(crate) struct Envelope<M> {
    /// Begins with `NODE_` and goes on.
    pub(crate) command: String,
    pub(crate) key: Option<String>,
    pub(crate) msg: Option<M>,
}

impl<M> Envelope<M> {
    /// What is to be done with the message; `whole` is its payload. `open` reads the message inside a message with a
    /// handle, which may be another one.
    pub(crate) fn read(self, whole: Payload, wraps: usize, open: impl FnOnce(M) -> Heard) -> Heard {
        match (&*self.command, self.key) {
            ("NODE_HANDLE_ACK", _) => Heard::Ack,
            ("NODE_HANDLE_NACK", _) => Heard::Nack,
            ("NODE_HANDLE", _) if wraps > MAX_WRAPS => Heard::Unknown,
            ("NODE_HANDLE", key) => match self.msg.map(open) {
                // Node wraps a message it sends again a second time. It is one message all the same.
                Some(Heard::Handle { inner, key: inner_key }) => {
                    Heard::Handle { inner, key: inner_key.or(key) }
                }
                Some(Heard::User(payload)) => Heard::Handle { inner: Inner::User(payload), key },
                Some(Heard::Internal(payload)) => Heard::Handle { inner: Inner::Internal(payload), key },
                _ => Heard::Handle { inner: Inner::Unknown, key },
            },
            ("NODE_SOCKET_GET_COUNT", Some(key)) => Heard::CountAsked(key),
            ("NODE_SOCKET_NOTIFY_CLOSE", Some(key)) => Heard::CloseAsked(key),
            ("NODE_CLUSTER" | "NODE_SOCKET_COUNT" | "NODE_SOCKET_ALL_CLOSED", _) => Heard::Internal(whole),
            _ => Heard::Unknown,
        }
    }
}

/// Whether a `cmd` makes a message one of the library's.
pub(crate) fn is_command(cmd: &str) -> bool {
    cmd.len() > "NODE_".len() && cmd.starts_with("NODE_")
}

/// What goes around a message when a handle travels beside it.
pub(crate) struct Wrapping<'a> {
    /// What Node calls the handle.
    pub(crate) kind: &'static str,
    /// For UDP sockets that become a `dgram.Socket`.
    pub(crate) dgram: Option<&'static str>,
    /// What the sender counts the socket under.
    pub(crate) key: Option<&'a str>,
}

/// What Node calls a handle of this kind in a message for the program; `None` when it could not take it.
pub(crate) fn user_type(kind: HandleKind) -> Option<&'static str> {
    match kind {
        HandleKind::TcpListener | HandleKind::UnixListener => Some("net.Server"),
        HandleKind::TcpStream | HandleKind::UnixStream => Some("net.Socket"),
        HandleKind::UdpSocket => Some("dgram.Socket"),
        HandleKind::Other => None,
    }
}

/// What Node calls a handle of this kind in a cluster message; `None` when it could not take it.
pub(crate) fn cluster_type(kind: HandleKind) -> Option<&'static str> {
    match kind {
        HandleKind::UdpSocket => Some("dgram.Native"),
        HandleKind::Other => None,
        _ => Some("net.Native"),
    }
}
