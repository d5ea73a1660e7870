//! Parents, children, messages and handles, between Rust programs and with Node.js on either end.
//!
//! A channel is a Unix stream socket between two processes. A [`Message`] is any value serde can write, or raw bytes,
//! with [`Handle`]s beside it. [`Channel`] sends and receives them under tokio, [`blocking::Channel`] without a runtime,
//! and [`Connection`] serves an event loop of your own.
//!
//! ```no_run
//! use everycore_ipc::{Event, fork, parent};
//!
//! # fn child() -> Result<(), Box<dyn std::error::Error>> {
//! // The child, first thing in `main`: the channel to whoever forked it, Rust or Node.
//! let channel = parent()?.ok_or("to be started by its parent")?;
//! # let _ = channel;
//! # Ok(())
//! # }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // The parent: a Rust program, or `fork("worker.js")`.
//! let mut child = fork("./worker").spawn()?;
//! child.send(&("resize", 640, 480)).await?;
//! let listener = std::net::TcpListener::bind("127.0.0.1:8000")?;
//! child.send_with("serve this", listener).await?;
//! while let Some(event) = child.event().await? {
//!     match event {
//!         Event::Message(message) => println!("{}", message.parse::<String>()?),
//!         Event::Exit(status) => println!("{status}"),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | To | see |
//! |---|---|
//! | start a program with a channel | [`fork()`] and [`Fork`], then [`Child`] |
//! | be such a program | [`parent()`]; [`inherited`] without a runtime |
//! | send sockets, files, listeners | [`Handle`] |
//! | choose how messages are written | [`Codec`]: Node's `json` and `advanced`, or `native` between Rust programs |
//! | bound what a peer may send and leave unread | [`Limits`] |
//! | read and write what only V8's format has | [`v8`] |

#![forbid(unsafe_code)]

pub mod blocking;
mod causes;
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
pub use everycore_sys::{PidFd, WaitStatus};
pub use handle::{Handle, HandleError, HandleKind};
pub use limits::Limits;
pub use message::{Cause, Format, Incoming, Kind, Message, MessageError, Outgoing};
#[doc(hidden)]
pub use parent::has_taken_worker;
pub use parent::{Inherited, ParentError, inherited, parent};
pub use sockets::OpenSocket;
pub use wire::{Codec, WireError, v8};
