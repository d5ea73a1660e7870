//! One port, every core: a cluster of worker processes behind shared listeners.

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
pub use options::{ListenOptions, ListenOptionsError};
pub use role::{Role, role};
pub use secret::Secret;
pub use worker::{
    BlockingStream, Incoming, Lease, Listener, Parts, Received, Secrets, Stream, Trouble, UdpSocket, Worker,
};
