//! What goes wrong in a worker without being anybody's error: told to a hook, once per episode, and counted.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::address::BoundAddress;

/// Something that went wrong behind the program's back; see [`Worker::on_trouble`](crate::Worker::on_trouble).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// There is no descriptor left for the next connection. It waits, and where the primary hands connections off
    /// another worker gets it. Accepting goes on as soon as there is room; this is said once until then.
    OutOfDescriptors {
        /// Where the connection waits.
        address: BoundAddress,
    },
    /// A connection was handed over just when the last descriptor had been used up, and the kernel closed it.
    ConnectionLost {
        /// Where it came in.
        address: BoundAddress,
    },
    /// Under a primary of Node's: messages came with a connection or another handle just when the last descriptor had been
    /// used up, and the kernel closed it. Node hands no more connections of that server to this worker.
    HandlesLost {
        /// How many, since the worker's start.
        count: u64,
    },
    /// The primary said something that this version does not understand, so this worker drains and leaves, as if the primary
    /// had died.
    PrimaryBroke {
        /// What it said, or how it broke off.
        reason: String,
    },
    /// The program has not taken messages for a second while the inbox was full, so newer ones were dropped.
    MessagesDropped {
        /// How many, since the worker's start.
        count: u64,
    },
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfDescriptors { address } => write!(
                f,
                "out of descriptors: connections on {address} wait until some are closed; raise the limit (ulimit -n)"
            ),
            Self::ConnectionLost { address } => write!(
                f,
                "out of descriptors: a connection on {address} was lost on its way; raise the limit (ulimit -n)"
            ),
            Self::HandlesLost { count } => write!(
                f,
                "out of descriptors: {count} handles of the primary were lost on their way; raise the limit (ulimit -n)"
            ),
            Self::PrimaryBroke { reason } => write!(
                f,
                "the primary sent what this worker does not understand, which drains and leaves: {reason}; build both from one release"
            ),
            Self::MessagesDropped { count } => {
                write!(f, "{count} messages of the primary were dropped since the program does not take them")
            }
        }
    }
}

type Hook = Arc<dyn Fn(&Trouble) + Send + Sync>;

/// The hook, and how often there was something to tell.
#[derive(Default)]
pub(crate) struct Troubles {
    hook: Mutex<Option<Hook>>,
    count: AtomicU64,
}

impl Troubles {
    pub(crate) fn set_hook(&self, hook: impl Fn(&Trouble) + Send + Sync + 'static) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(hook));
    }

    pub(crate) fn tell(&self, trouble: &Trouble) {
        self.count.fetch_add(1, Ordering::Relaxed);
        // Called without the lock: the hook may set another one.
        let hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(hook) = hook {
            hook(trouble);
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}
