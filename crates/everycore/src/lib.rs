//! One port, every core: a cluster of worker processes behind shared listeners.
//!
//! The first process of a program is the *primary*: it binds the addresses and starts *workers*, copies of itself unless
//! told otherwise, one per core. Connections are handed to workers that are free; workers that end are replaced; a new
//! version comes up beside the old one. It is the model of Node.js's `cluster`.
//!
//! ```no_run
//! use everycore::{Cluster, Event, Worker};
//! use tokio::io::AsyncWriteExt;
//!
//! fn main() -> everycore::Result<()> {
//!     Cluster::builder()
//!         .bind("hello", "127.0.0.1:8000")?
//!         .on_event(|_, event| {
//!             if let Event::Exit { worker, status, .. } = event {
//!                 eprintln!("{worker} {status}");
//!             }
//!         })
//!         .run_with(serve)?;
//!     Ok(())
//! }
//!
//! async fn serve(worker: Worker) -> everycore::Result<()> {
//!     let mut listener = worker.listener("hello").await?;
//!     // Ends when the worker is to leave.
//!     while let Ok((mut stream, _)) = listener.accept().await {
//!         let hello = format!("hello from {worker}\n");
//!         tokio::spawn(async move { stream.write_all(hello.as_bytes()).await });
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Where to find what
//!
//! | To | see |
//! |---|---|
//! | decide which half of the program this process runs | [`Cluster::run_with`], or [`role`] and [`Role`] |
//! | say what to run, and by which rules | [`Cluster`]; [`RestartSettings`], [`RecycleSettings`], [`Readiness`] |
//! | choose who gets a connection | [`Policy`], [`SchedulingPolicy`]; [`Route`] and [`Class`] |
//! | say where to listen, and how | [`Address`], [`ListenOptions`] |
//! | talk to the primary while it runs | [`Primary`]; it tells of itself by [`Event`]s and in a [`Snapshot`] |
//! | do the work | [`Worker`]: [`Listener`] and [`Stream`], [`UdpSocket`]; messages; the way out |
//! | hear of what went wrong behind a worker's back | [`Trouble`] |
//! | run Node programs as workers | [`NodeSettings`], [`Dialect`] |
//! | fork programs without a cluster | the crate `everycore-ipc` |
//!
//! # Features
//!
//! None is on by default.
//!
//! * `axum`: [`Listener`] under `axum::serve`, and `Worker::serve`, which lets go of clients in order.
//! * `stream`: [`ListenerStream`], a listener's connections, is a `futures_core::Stream`.
//! * `tls`: `tls::Ticketer`: TLS sessions of rustls that resume with any worker.
//!
//! Linux only: handing connections over, and noticing who died, rests on what its kernel has.

#![forbid(unsafe_code)]

mod address;
mod cluster;
mod error;
mod options;
mod protocol;
mod role;
mod secret;
#[cfg(feature = "tls")]
pub mod tls;
mod worker;

pub use address::{Address, AddressError, BoundAddress, IntoAddress};
pub use cluster::{
    Candidate, Candidates, Class, ClassCounts, ClassSnapshot, Cluster, Dialect, Event, ExitReason,
    ExitStatus, Generation, LeastConnections, ListenerKey, NodeSettings, Opening, Outcome, Phase, Policy,
    Primary, Readiness, RecycleSettings, Reply, RestartPolicy, RestartSettings, RoundRobin, Route, Routing,
    Running, SchedulingPolicy, Serialization, Slot, SlotSnapshot, SlotState, Snapshot, Sticky, Time, Totals,
    UnknownPolicy, Urgency, WhenFull, WorkerCommand, WorkerId, WorkerInfo, WorkerPipes, WorkerSnapshot,
    WorkerSpec, WorkerStdio, auto,
};
pub use error::{Error, Result};
pub use everycore_ipc::{Handle, HandleKind, Message};
pub use everycore_sys::SpawnError;
pub use options::{ListenOptions, ListenOptionsError};
pub use role::{Role, role};
pub use secret::Secret;
pub use worker::{
    BlockingStream, Delivery, Lease, Listener, ListenerStream, Parts, Secrets, Stream, Trouble, UdpSocket,
    Worker,
};
