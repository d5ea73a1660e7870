//! What can go wrong on a channel: with what came in, and with what is to go out.

use std::fmt;
use std::io;

use crate::message::{MessageError, Outgoing};
use crate::wire::{Codec, WireError};

/// The channel is at an end; the process is not. Close the connection and treat the peer as gone.
#[non_exhaustive]
pub enum ChannelError {
    /// The kernel refuses to read from or write to the socket.
    Io(io::Error),
    /// The peer has closed its end, so nothing more can be written. What it sent before can still be received.
    PeerGone,
    /// The peer ended in the middle of a message.
    PartialFrame {
        /// How many bytes of it had come.
        bytes: usize,
    },
    /// The peer sent what is not a message of this codec.
    Wire(WireError),
    /// The deadline has passed. The channel is as it was.
    TimedOut,
    /// The future was not polled inside a tokio runtime with I/O enabled.
    NoRuntime,
}

impl fmt::Debug for ChannelError {
    /// As a `main` that returns it prints it: for people, with the causes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::causes::write(self, f)
    }
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(_) => f.write_str("the channel's socket failed"),
            Self::PeerGone => f.write_str("the peer has closed its end of the channel"),
            Self::PartialFrame { bytes } => {
                write!(f, "the peer ended in the middle of a message, after {bytes} bytes of it")
            }
            Self::Wire(_) => f.write_str("the peer sent something that is not a message"),
            Self::TimedOut => f.write_str("the peer did not act before the deadline"),
            Self::NoRuntime => {
                f.write_str("a channel waits with tokio; await it inside a runtime with I/O enabled")
            }
        }
    }
}

impl std::error::Error for ChannelError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Wire(error) => Some(error),
            Self::PeerGone | Self::PartialFrame { .. } | Self::TimedOut | Self::NoRuntime => None,
        }
    }
}

impl From<WireError> for ChannelError {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl From<io::Error> for ChannelError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::PeerGone,
            _ => Self::Io(error),
        }
    }
}

/// Why a message was not sent. Where it was not queued, it comes back, handles and all.
#[non_exhaustive]
pub enum SendError {
    /// The peer does not read fast enough and the queue has reached a limit. Send later, or to somebody else.
    Full(Box<Outgoing>),
    /// The channel has ended, or our side of it was closed.
    Closed(Box<Outgoing>),
    /// The message is larger than [`crate::Limits::frame`].
    TooLarge {
        /// The limit in bytes.
        limit: usize,
        /// The message.
        outgoing: Box<Outgoing>,
    },
    /// More handles than a message of this codec can carry.
    TooManyHandles {
        /// How many it can.
        limit: usize,
        /// The message.
        outgoing: Box<Outgoing>,
    },
    /// The codec has no way to say this: raw bytes under `json`, or a request under the codecs of Node.
    NotInCodec {
        /// The codec of the channel.
        codec: Codec,
        /// The message.
        outgoing: Box<Outgoing>,
    },
    /// The handle is no TCP, UDP or Unix stream socket: it would end a Node peer, or spoil its channel for good.
    Lethal(Box<Outgoing>),
    /// A message for the program whose `cmd` begins with `NODE_`: a Node peer would take it for one of its library's,
    /// and the program would never see it.
    Reserved(Box<Outgoing>),
    /// The value cannot be written as a message.
    Unwritable(MessageError),
    /// The channel failed with the message on its way; whether the peer got it is not known.
    Failed(ChannelError),
}

impl SendError {
    /// The message that was not queued, if there is one.
    pub fn into_outgoing(self) -> Option<Outgoing> {
        match self {
            Self::Full(outgoing) | Self::Closed(outgoing) => Some(*outgoing),
            Self::Lethal(outgoing) | Self::Reserved(outgoing) => Some(*outgoing),
            Self::TooLarge { outgoing, .. }
            | Self::TooManyHandles { outgoing, .. }
            | Self::NotInCodec { outgoing, .. } => Some(*outgoing),
            Self::Unwritable(_) | Self::Failed(_) => None,
        }
    }
}

impl fmt::Debug for SendError {
    /// As a `main` that returns it prints it: for people, with the causes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::causes::write(self, f)
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("the queue to the peer is full; it does not read fast enough"),
            Self::Closed(_) => f.write_str("the channel is closed"),
            Self::TooLarge { limit, outgoing } => {
                let bytes = outgoing.message.bytes().len();
                write!(f, "a message of {bytes} bytes exceeds the limit of {limit} bytes")
            }
            Self::TooManyHandles { limit, outgoing } => {
                let count = outgoing.message.handles().len();
                write!(f, "a message with {count} handles exceeds the limit of {limit}")
            }
            Self::NotInCodec { codec, .. } => {
                write!(f, "a message of this kind cannot be sent in the codec {codec}")
            }
            Self::Lethal(_) => f.write_str(
                "a Node process can only take TCP, UDP and Unix stream sockets; send another handle",
            ),
            Self::Reserved(_) => {
                f.write_str("a Node process would swallow a message whose cmd begins with NODE_; rename it")
            }
            Self::Unwritable(_) => f.write_str("the value cannot be sent"),
            Self::Failed(_) => f.write_str("the message may not have reached the peer"),
        }
    }
}

impl std::error::Error for SendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unwritable(error) => Some(error),
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}

impl From<MessageError> for SendError {
    fn from(error: MessageError) -> Self {
        Self::Unwritable(error)
    }
}

impl From<ChannelError> for SendError {
    fn from(error: ChannelError) -> Self {
        Self::Failed(error)
    }
}
