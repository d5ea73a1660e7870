//! What a message is for: [`Outgoing`] says it of one to be sent, [`Incoming`] of one that came.

use super::Message;

/// What a message is for, and with it who gets to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From program to program.
    User,
    /// Between the libraries at both ends; programs never see it.
    Internal,
    /// A question; the answer will name the same number.
    Request(u64),
    /// The answer to the request of that number.
    Reply(u64),
}

/// A message to send, and what it is for.
#[derive(Debug)]
pub struct Outgoing {
    /// What it is for.
    pub kind: Kind,
    /// What it says and carries.
    pub message: Message,
}

impl Outgoing {
    /// A message for the other program.
    pub fn user(message: Message) -> Self {
        Self { kind: Kind::User, message }
    }

    /// A message for the library at the other end.
    pub fn internal(message: Message) -> Self {
        Self { kind: Kind::Internal, message }
    }

    /// A question; `id` comes back with the answer. Native codec only.
    pub fn request(id: u64, message: Message) -> Self {
        Self { kind: Kind::Request(id), message }
    }

    /// The answer to the request `id`. Native codec only.
    pub fn reply(id: u64, message: Message) -> Self {
        Self { kind: Kind::Reply(id), message }
    }
}

impl From<Message> for Outgoing {
    fn from(message: Message) -> Self {
        Self::user(message)
    }
}

/// A message that came in, by what it is for.
#[derive(Debug)]
pub enum Incoming {
    /// From the other program.
    User(Message),
    /// From the library at the other end: under the codecs of Node a cluster message (`NODE_CLUSTER`).
    Internal(Message),
    /// A question of the other program. Native codec only.
    Request {
        /// To be named in the answer.
        id: u64,
        /// The question.
        message: Message,
    },
    /// An answer. Native codec only.
    Reply {
        /// The number of the request.
        id: u64,
        /// The answer.
        message: Message,
    },
}

impl Incoming {
    #[inline(always)]
    pub(crate) fn new(kind: Kind, message: Message) -> Self {
        match kind {
            Kind::User => Self::User(message),
            Kind::Internal => Self::Internal(message),
            Kind::Request(id) => Self::Request { id, message },
            Kind::Reply(id) => Self::Reply { id, message },
        }
    }

    /// The message, whatever it is for.
    pub fn message(&self) -> &Message {
        match self {
            Self::User(message) | Self::Internal(message) => message,
            Self::Request { message, .. } | Self::Reply { message, .. } => message,
        }
    }

    /// The message alone, whatever it is for.
    pub fn into_message(self) -> Message {
        match self {
            Self::User(message) | Self::Internal(message) => message,
            Self::Request { message, .. } | Self::Reply { message, .. } => message,
        }
    }
}
