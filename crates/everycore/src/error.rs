//! What can go wrong in a cluster, one variant per thing a reader can act on.

use std::{fmt, io};

use everycore_sys::SpawnError;

use crate::address::{Address, AddressError};

/// A cluster operation's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a cluster operation failed.
///
/// Its `Debug` form is the sentence for people with the cause behind it, since that is what a `main` prints that returns it.
#[non_exhaustive]
pub enum Error {
    /// [`role`](crate::role) came too late: other threads were running already.
    RoleTooLate {
        /// How many threads the process had.
        threads: usize,
    },
    /// The channel this worker inherited is unusable.
    Channel {
        /// What was being done.
        doing: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The primary said something this version does not understand.
    Protocol(String),
    /// The channel to the primary, or to the worker, is closed.
    Disconnected,
    /// A text is no address.
    Address(AddressError),
    /// The primary could not bind the address.
    Bind {
        /// What was asked for.
        address: Address,
        /// Kind and error number of the cause.
        source: io::Error,
        /// The whole story for people: who holds the address, what to do.
        message: String,
    },
    /// No listener was bound under this name before the workers started.
    NoSuchListener {
        /// The name asked for.
        name: String,
    },
    /// The primary has a listener of this name and could not give it to this worker.
    Listener {
        /// The name asked for.
        name: String,
        /// Kind and error number of the cause.
        source: io::Error,
        /// The whole story for people.
        message: String,
    },
    /// There is no such worker, or it is gone.
    NoSuchWorker {
        /// The id asked for.
        worker: u32,
    },
    /// A message could not be encoded, or is larger than the channel takes.
    Message(String),
    /// The queue to this worker is full: it does not read.
    QueueFull {
        /// Which worker.
        worker: u32,
    },
    /// So many orders wait for the primary's thread that it takes no more: it is given orders faster than it can carry them
    /// out, or no longer runs.
    OrdersFull {
        /// How many wait.
        waiting: usize,
    },
    /// Nobody answers requests: the primary's program observes no events, or has declined this one.
    Unheard,
    /// A request was not answered in time.
    TimedOut {
        /// How long was waited.
        after: std::time::Duration,
    },
    /// No worker can be started: the program is not there, cannot be executed, or not as the user or in the directory that
    /// was asked for.
    Start {
        /// What failed.
        source: SpawnError,
    },
    /// A setting cannot be used.
    Setting(String),
    /// A system call of the primary failed.
    System {
        /// What was being done.
        doing: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The primary has ended.
    PrimaryGone,
    /// No worker is left, and none will follow: each slot's failed too often.
    GivenUp {
        /// How the last one ended that was not told to.
        last: String,
    },
}

/// The words of an error of the kernel's, with what to do where a limit is what was met.
pub(crate) fn advised(error: &io::Error) -> String {
    match rustix::io::Errno::from_io_error(error) {
        Some(rustix::io::Errno::MFILE) => format!("{error}; raise the limit on open files (ulimit -n)"),
        Some(rustix::io::Errno::NFILE) => {
            format!("{error}; raise the machine's limit on open files (fs.file-max)")
        }
        Some(rustix::io::Errno::AGAIN) => {
            format!("{error}; raise the limit on processes (ulimit -u, pids.max)")
        }
        _ => error.to_string(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoleTooLate { threads } => write!(
                f,
                "the process already runs {threads} threads, and its role has to be found before any is started: call everycore::role(), or Cluster::run_with, first thing in a main without #[tokio::main]"
            ),
            Self::Channel { doing, .. } => write!(f, "channel to the primary: {doing}"),
            Self::Protocol(what) => {
                write!(f, "the primary sent what this worker does not understand: {what}")
            }
            Self::Disconnected => f.write_str("the channel is closed"),
            Self::Address(error) => error.fmt(f),
            Self::Bind { message, .. } => f.write_str(message),
            Self::NoSuchListener { name } => write!(
                f,
                "no listener is named '{name}'; bind it with Cluster::bind(\"{name}\", ADDRESS) or run -b {name}=ADDRESS"
            ),
            Self::Listener { name, message, .. } => write!(f, "listener '{name}': {message}"),
            Self::NoSuchWorker { worker } => write!(f, "there is no worker {worker}"),
            Self::Message(what) => write!(f, "message: {what}"),
            Self::QueueFull { worker } => {
                write!(
                    f,
                    "worker {worker} does not read its channel and the queue to it is full; send again later"
                )
            }
            Self::OrdersFull { waiting } => {
                write!(f, "{waiting} orders wait for the primary already; give this one again later")
            }
            Self::Unheard => f.write_str(
                "nobody answers: the primary's program hears no requests (Cluster::on_event), or has no answer to this one",
            ),
            Self::TimedOut { after } => write!(f, "no reply within {after:?}"),
            Self::Start { source } => source.fmt(f),
            Self::Setting(what) => f.write_str(what),
            Self::System { doing, .. } => f.write_str(doing),
            Self::PrimaryGone => f.write_str("the primary has ended"),
            Self::GivenUp { last } => {
                write!(f, "no worker could be kept, each slot was given up after its last failure; the last of all: {last}")
            }
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        match self {
            Self::Channel { source, .. } | Self::System { source, .. } => write!(f, ": {}", advised(source)),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Channel { source, .. }
            | Self::Bind { source, .. }
            | Self::Listener { source, .. }
            | Self::System { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<AddressError> for Error {
    fn from(error: AddressError) -> Self {
        Self::Address(error)
    }
}
