//! The other end of a child's channel: what this process was started with.
//!
//! A parent, Everycore or Node, leaves a socket under some number and says so in the environment. Both are taken once,
//! while this process has a single thread, so that nothing it starts takes them for its own. Neighbour:
//! [`crate::Child`] is the parent's side.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use everycore_sys::inherit::{Expect, InheritError, adopt_fd, take_environment};

use crate::channel::Channel;
use crate::child::{CHANNEL_FD, CHANNEL_IDENTITY, SERIALIZATION_MODE, UNIQUE_ID};
use crate::connection::Connection;
use crate::limits::Limits;
use crate::wire::Codec;

/// The channel was given out; whoever asks again is told so.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// It was that of a worker of Node's `cluster`.
static TAKEN_OF_WORKER: AtomicBool = AtomicBool::new(false);

/// The channel to whoever forked this process, Rust or Node; `None` when nobody did.
///
/// Call it first thing in `main`, before a runtime or any thread is started. The channel can be made before the runtime
/// it is awaited in.
///
/// # Errors
/// Threads are running already, or the channel was taken before. Variables without the channel they speak of, left over
/// from another process, are no error: they are removed, and there is no parent.
///
/// ```
/// match everycore_ipc::parent()? {
///     Some(channel) => drop(channel), // a child: receive and send
///     None => {}                      // started by hand
/// }
/// # Ok::<(), everycore_ipc::ParentError>(())
/// ```
pub fn parent() -> Result<Option<Channel>, ParentError> {
    let Some(inherited) = inherited()? else { return Ok(None) };
    inherited.connection(Limits::default()).map(|connection| Some(Channel::new(connection)))
}

/// What a parent left to this process.
#[derive(Debug)]
pub struct Inherited {
    /// The channel's socket, closed on exec from now on.
    pub socket: OwnedFd,
    /// How messages are written on it.
    pub codec: Codec,
    /// The worker's number, when a Node cluster started this process: `NODE_UNIQUE_ID`.
    pub unique_id: Option<String>,
}

impl Inherited {
    /// Our end of the channel, for [`crate::blocking::Channel`] or an event loop.
    ///
    /// # Errors
    /// None that can happen on a socket that was just checked.
    pub fn connection(self, limits: Limits) -> Result<Connection, ParentError> {
        Connection::new(self.socket, self.codec, limits).map_err(ParentError::Socket)
    }
}

/// Like [`parent`], before a channel is made of it.
///
/// # Errors
/// As [`parent`].
pub fn inherited() -> Result<Option<Inherited>, ParentError> {
    let values = take_environment(&[CHANNEL_FD, SERIALIZATION_MODE, CHANNEL_IDENTITY, UNIQUE_ID])?;
    let [number, mode, identity, unique_id] = values.try_into().unwrap_or_default();
    let Some(number) = number else {
        return if TAKEN.load(Ordering::Acquire) { Err(ParentError::Taken) } else { Ok(None) };
    };
    let Some(socket) = take_socket(&number, mode.as_deref(), identity.as_deref()) else { return Ok(None) };
    TAKEN.store(true, Ordering::Release);
    TAKEN_OF_WORKER.store(unique_id.is_some(), Ordering::Release);
    let unique_id = unique_id.and_then(|id| id.into_string().ok());
    Ok(Some(Inherited { socket, codec: codec(mode)?, unique_id }))
}

/// Whether this process is a worker of Node's `cluster` and [`parent`] or [`inherited`] has given out its channel: nothing
/// in the environment shows that any more, and it must not take itself for a primary.
pub fn has_taken_worker() -> bool {
    TAKEN_OF_WORKER.load(Ordering::Acquire)
}

/// The socket that the variables speak of, if it is there and can be it.
fn take_socket(number: &OsStr, mode: Option<&OsStr>, identity: Option<&OsStr>) -> Option<OwnedFd> {
    let number: RawFd = number.to_str()?.parse().ok()?;
    let socket = if mode == Some(OsStr::new(NATIVE)) {
        adopt_fd(number, &[Expect::UnixStream, Expect::Identity(identity?)])
    } else {
        // Node says no more than the number.
        adopt_fd(number, &[Expect::UnixStream])
    };
    socket.ok()
}

const NATIVE: &str = "native";

fn codec(mode: Option<OsString>) -> Result<Codec, ParentError> {
    match mode.as_ref().map(|mode| mode.to_str()) {
        None | Some(Some("json")) => Ok(Codec::Json),
        Some(Some("advanced")) => Ok(Codec::Advanced),
        Some(Some(NATIVE)) => Ok(Codec::Native),
        Some(_) => Err(ParentError::Mode { mode: mode.unwrap_or_default() }),
    }
}

/// Why a process cannot have the channel to its parent.
#[non_exhaustive]
pub enum ParentError {
    /// Threads run already, so the environment cannot be changed any more. Call [`parent`] first.
    Threads(InheritError),
    /// An earlier call has taken the channel; keep what it returned.
    Taken,
    /// The parent writes messages in a way that this version does not know.
    Mode {
        /// What it calls it, in `NODE_CHANNEL_SERIALIZATION_MODE`.
        mode: OsString,
    },
    /// The kernel refuses to work with the socket.
    Socket(io::Error),
}

impl From<InheritError> for ParentError {
    fn from(error: InheritError) -> Self {
        Self::Threads(error)
    }
}

impl fmt::Debug for ParentError {
    /// As a `main` that returns it prints it: for people, with the causes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::causes::write(self, f)
    }
}

impl fmt::Display for ParentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Threads(_) => f.write_str("the channel to the parent process was asked for too late"),
            Self::Taken => {
                f.write_str("the channel to the parent process was taken by an earlier call; keep it")
            }
            Self::Mode { mode } => {
                write!(
                    f,
                    "the parent process writes messages as {:?}, which this version does not know",
                    mode
                )
            }
            Self::Socket(_) => f.write_str("the channel to the parent process cannot be used"),
        }
    }
}

impl std::error::Error for ParentError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Threads(error) => Some(error),
            Self::Socket(error) => Some(error),
            Self::Taken | Self::Mode { .. } => None,
        }
    }
}
