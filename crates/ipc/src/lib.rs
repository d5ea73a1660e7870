//! Parents, children, messages and handles, between Rust programs and with Node.js on either end.
//!
//! A channel is a Unix stream socket between two processes. A [`Message`] is any value serde can write, or raw bytes,
//! with [`Handle`]s beside it. [`Channel`] sends and receives them under tokio, [`blocking::Channel`] without a runtime,
//! and [`Connection`] serves an event loop of your own.

#![forbid(unsafe_code)]

pub mod blocking;
mod channel;
mod child;
mod connection;
#[doc(hidden)]
pub mod fuzz;
mod handle;
mod handoff;
mod limits;
mod message;
mod parent;
mod sockets;
mod wire;

pub use channel::Channel;
pub use child::{Child, ChildParts, Event, Fork, ForkError, OURS_ALONE, Stdio, fork};
pub use connection::{ChannelError, Connection, Faults, Flush, Received, SendError};
pub use everycore_sys::{ExitStatus, PidFd};
pub use handle::{Handle, HandleError, HandleKind};
pub use limits::Limits;
pub use message::{Cause, Format, Incoming, Kind, Message, MessageError, Outgoing};
#[doc(hidden)]
pub use parent::has_taken_worker;
pub use parent::{Inherited, ParentError, inherited, parent};
pub use sockets::OpenSocket;
pub use wire::{Codec, WireError, v8};
