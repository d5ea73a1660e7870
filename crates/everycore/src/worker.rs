//! The worker's half: who this process is in its cluster, its listeners, its messages, its way out.
//!
//! | File | Duty |
//! |---|---|
//! | `listener`, `incoming`, `source`, `spare`, `adopted` | connections, handed over or accepted on a listener |
//! | `stream`, `socket`, `fin`, `parts`, `blocking` | one connection |
//! | `udp` | a datagram socket shared with the other workers |
//! | `load` | the counters the primary reads; when its bell is rung |
//! | `link`, `driver`, `inbox` | the control channel: sorted, driven, bounded |
//! | `secrets` | what all workers share and nobody else knows |
//! | `under_node`, `deliveries` | the same words in Node's, and connections in messages, where the primary is Node's |
//! | `messages` | what the program says and hears |
//! | `drain`, `leave`, `runtime` | the way out; the program's life from start to end |
//!
//! Neighbours: `role` makes the [`Worker`], `protocol` has the words.

mod adopted;
#[cfg(feature = "axum")]
mod axum;
mod blocking;
mod deliveries;
mod drain;
mod driver;
mod fin;
mod inbox;
mod leave;
mod link;
mod listener;
mod listener_stream;
mod load;
mod messages;
mod parts;
mod registration;
mod runtime;
mod secrets;
mod socket;
mod source;
mod spare;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
mod trouble;
mod udp;
pub(crate) mod under_node;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use everycore_ipc::Connection;
use everycore_sys::counters::WorkerPage;
use everycore_sys::eventfd::EventFd;

pub use blocking::BlockingStream;
pub use listener::Listener;
pub use listener_stream::ListenerStream;
pub use load::Lease;
pub use messages::Delivery;
pub use parts::Parts;
pub use secrets::Secrets;
pub use stream::Stream;
pub use trouble::Trouble;
pub use udp::UdpSocket;

pub(crate) use driver::timespec;

use self::drain::Drain;
use self::driver::{ensure_task, ensure_thread};
use self::link::Link;
use self::load::Load;
use self::messages::wait_blocking;
use self::registration::{Grant, Index, Indices};
use self::trouble::Troubles;
use self::under_node::UnderNode;
use crate::address::{Address, BoundAddress, IntoAddress};
use crate::error::{Error, Result};
use crate::protocol::{ListenFailure, Wanted, Welcome};

/// This process as a worker of its cluster. Cheap to clone; may be used from any thread.
///
/// Two ways to use it. [`block_on`](Self::block_on) runs an asynchronous program and suits most; a program with a tokio
/// runtime of its own uses the same methods and ends with [`finish`](Self::finish). A program without a runtime uses the
/// methods that end in `_blocking`, from as many threads as it likes.
///
/// When its primary dies, a worker drains and ends by itself: [`draining`](Self::draining) resolves, listeners end.
///
/// The primary may also be a real Node process with `cluster.setupPrimary({exec})`: the worker then speaks Node's words
/// on Node's channel, and everything here works as far as Node has it. What Node has not: listeners by name, requests
/// ([`request`](Self::request)), and a time to drain: it is taken to be the eight seconds that are ours by default.
#[derive(Clone)]
pub struct Worker {
    core: Arc<Core>,
}

/// What all clones, listeners and connections share.
pub(crate) struct Core {
    welcome: Welcome,
    pub(crate) link: Arc<Link>,
    indices: Arc<Indices>,
    pub(crate) troubles: Arc<Troubles>,
}

impl Worker {
    /// A worker from what its primary gave it: the channel, who it is, the page of counters, the bell.
    pub(crate) fn new(
        connection: Connection,
        welcome: Welcome,
        page: OwnedFd,
        bell: OwnedFd,
    ) -> io::Result<Self> {
        Self::assemble(connection, None, welcome, page, bell.into())
    }

    /// A worker of Node's `cluster`. Its counters are its own: that primary reads none.
    pub(crate) fn under_node(connection: Connection, node: UnderNode, welcome: Welcome) -> io::Result<Self> {
        let (page, _unread) = everycore_sys::counters::create()?;
        Self::assemble(connection, Some(Box::new(node)), welcome, page, EventFd::new()?)
    }

    fn assemble(
        connection: Connection,
        node: Option<Box<UnderNode>>,
        welcome: Welcome,
        page: OwnedFd,
        bell: EventFd,
    ) -> io::Result<Self> {
        let load = Load::new(WorkerPage::open(page)?, bell);
        let troubles = Arc::<Troubles>::default();
        let link = Link::new(connection, node, Drain::new()?, load, Arc::clone(&troubles))?;
        Ok(Self { core: Arc::new(Core { welcome, link, indices: Arc::default(), troubles }) })
    }

    /// Its number, from 1; never given to another worker while the primary lives.
    pub fn id(&self) -> u32 {
        self.core.welcome.worker
    }

    /// The place it fills, from 0: the one that replaces it fills the same.
    pub fn slot(&self) -> u32 {
        self.core.welcome.slot
    }

    /// How many reloads came before it.
    pub fn generation(&self) -> u32 {
        self.core.welcome.generation
    }

    /// The class it belongs to, where the cluster tells [classes](crate::Route) apart.
    pub fn class(&self) -> Option<&str> {
        self.core.welcome.class.as_deref()
    }

    /// What the cluster is called.
    pub fn name(&self) -> &str {
        &self.core.welcome.name
    }

    /// The id of this process.
    pub fn pid(&self) -> u32 {
        std::process::id()
    }

    /// How long this worker may take to drain; after that it must expect `TERM`.
    pub fn drain_time(&self) -> Duration {
        Duration::from_millis(self.core.welcome.drain_ms)
    }

    /// Connections of this worker's listeners that are open.
    pub fn connections(&self) -> usize {
        self.core.link.load.live()
    }

    /// Listens on an address: `"127.0.0.1:8000"`, `":8000"`, `"unix:/run/app.sock"`, a `SocketAddr`. The primary binds it
    /// once for all workers.
    ///
    /// Several listeners of one worker on the same address are different sockets; the first of each worker belong
    /// together, the second too, and so on.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Bind`] as the primary reports it, [`Error::PrimaryGone`].
    pub async fn listen(&self, address: impl IntoAddress) -> Result<Listener> {
        Ok(self.ask(self.wanted(address.into_address()?, None)?).await?.0)
    }

    /// As [`listen`](Self::listen), with the number of connections that may wait to be accepted.
    ///
    /// # Errors
    /// As `listen`.
    pub async fn listen_with_backlog(&self, address: impl IntoAddress, backlog: u32) -> Result<Listener> {
        Ok(self.ask(self.wanted(address.into_address()?, Some(backlog))?).await?.0)
    }

    /// Listens on what was bound under this name before the workers started: on all its addresses, if it has several.
    ///
    /// # Errors
    /// [`Error::NoSuchListener`], [`Error::Listener`] if it is there and cannot be given, [`Error::PrimaryGone`].
    pub async fn listener(&self, name: &str) -> Result<Listener> {
        let (mut listener, mut more) = self.ask(named(name, 0)).await?;
        for place in 1.. {
            if !more {
                break;
            }
            let (next, still) = self.ask(named(name, place)).await?;
            listener.join(next);
            more = still;
        }
        Ok(listener)
    }

    /// As [`listen`](Self::listen), for a program without a runtime.
    ///
    /// # Errors
    /// As `listen`.
    pub fn listen_blocking(&self, address: impl IntoAddress) -> Result<Listener> {
        Ok(self.ask_blocking(self.wanted(address.into_address()?, None)?)?.0)
    }

    /// As [`listen_with_backlog`](Self::listen_with_backlog), for a program without a runtime.
    ///
    /// # Errors
    /// As `listen`.
    pub fn listen_with_backlog_blocking(&self, address: impl IntoAddress, backlog: u32) -> Result<Listener> {
        Ok(self.ask_blocking(self.wanted(address.into_address()?, Some(backlog))?)?.0)
    }

    /// As [`listener`](Self::listener), for a program without a runtime.
    ///
    /// # Errors
    /// As `listener`.
    pub fn listener_blocking(&self, name: &str) -> Result<Listener> {
        let (mut listener, mut more) = self.ask_blocking(named(name, 0))?;
        for place in 1.. {
            if !more {
                break;
            }
            let (next, still) = self.ask_blocking(named(name, place))?;
            listener.join(next);
            more = still;
        }
        Ok(listener)
    }

    /// Tells the primary that the program is ready, where the cluster waits for that word.
    pub fn ready(&self) {
        self.core.link.tell(crate::protocol::FromWorker::Ready);
    }

    /// Calls `hook` when something goes wrong behind the program's back, once per episode: descriptors run out, messages
    /// are dropped. A later hook replaces it. It may be called from any thread and must not block.
    ///
    /// ```no_run
    /// # fn log(worker: &everycore::Worker) {
    /// worker.on_trouble(|trouble| eprintln!("{trouble}"));
    /// # }
    /// ```
    pub fn on_trouble(&self, hook: impl Fn(&Trouble) + Send + Sync + 'static) {
        self.core.troubles.set_hook(hook);
    }

    /// How often there was something to tell the hook, with or without one.
    pub fn troubles(&self) -> u64 {
        self.core.troubles.count()
    }

    fn wanted(&self, address: Address, backlog: Option<u32>) -> Result<(Wanted, Option<Index>)> {
        if matches!(address, Address::Udp(_)) {
            return Err(no_listener(&address));
        }
        self.wanted_any(address, backlog)
    }

    fn wanted_any(&self, mut address: Address, backlog: Option<u32>) -> Result<(Wanted, Option<Index>)> {
        match &mut address {
            Address::Inherited(which) => {
                return Err(Error::Setting(format!(
                    "fd://{which}: only the primary inherits sockets; bind it there under a name"
                )));
            }
            // The primary may be in another directory.
            Address::Unix(path) if !path.as_os_str().as_encoded_bytes().starts_with(&[0]) => {
                *path = std::path::absolute(&*path)
                    .map_err(|source| Error::System { doing: "finding the working directory", source })?;
                if self.core.link.is_under_node() && path.to_str().is_none() {
                    return Err(Error::Setting(format!(
                        "{}: a primary of Node's takes paths of Unicode characters only; choose another",
                        Address::Unix(path.clone())
                    )));
                }
            }
            _ => {}
        }
        let index = self.core.indices.claim(&address);
        Ok((Wanted::Bound { address, index: index.number, backlog }, Some(index)))
    }

    async fn ask(&self, what: (Wanted, Option<Index>)) -> Result<(Listener, bool)> {
        self.open(self.ask_grant(what).await?)
    }

    fn ask_blocking(&self, what: (Wanted, Option<Index>)) -> Result<(Listener, bool)> {
        self.open(self.ask_grant_blocking(what)?)
    }

    async fn ask_grant(&self, (what, index): (Wanted, Option<Index>)) -> Result<Grant> {
        self.may_ask(&what)?;
        ensure_task(&self.core.link)?;
        let answer = self.core.link.ask_listener(what.clone(), index)?.await;
        answer.map_err(|_| Error::PrimaryGone)?.map_err(|failure| refused(failure, what))
    }

    fn ask_grant_blocking(&self, (what, index): (Wanted, Option<Index>)) -> Result<Grant> {
        self.may_ask(&what)?;
        ensure_thread(&self.core.link)?;
        let mut answer = self.core.link.ask_listener(what.clone(), index)?;
        // The primary answers, or is gone: without a deadline of ours the wait ends either way.
        match wait_blocking(&self.core.link, &mut answer, None) {
            Some(Ok(answer)) => answer.map_err(|failure| refused(failure, what)),
            Some(Err(_)) | None => Err(Error::PrimaryGone),
        }
    }

    /// A primary of Node's binds nothing beforehand.
    fn may_ask(&self, what: &Wanted) -> Result<()> {
        match what {
            Wanted::Named { name, .. } if self.core.link.is_under_node() => Err(Error::Setting(format!(
                "'{name}': the primary is Node's cluster, which binds nothing under a name; use Worker::listen or Worker::udp_on with an address"
            ))),
            _ => Ok(()),
        }
    }

    /// The listener, and whether its name has another address.
    fn open(&self, grant: Grant) -> Result<(Listener, bool)> {
        if let BoundAddress::Udp(at) = grant.address {
            return Err(no_listener(&Address::Udp(at)));
        }
        let more = grant.more;
        let listener = Listener::new(Arc::clone(&self.core), grant)
            .map_err(|source| Error::Channel { doing: "opening a granted listener", source })?;
        Ok((listener, more))
    }
}

fn named(name: &str, place: u32) -> (Wanted, Option<Index>) {
    (Wanted::Named { name: name.to_owned(), place }, None)
}

fn no_listener(address: &Address) -> Error {
    Error::Setting(format!("{address} is a UDP socket and has no connections; take it with Worker::udp"))
}

fn refused(failure: ListenFailure, what: Wanted) -> Error {
    let ListenFailure { errno, message } = failure;
    let source = match errno {
        0 => io::Error::other(message.clone()),
        errno => io::Error::from_raw_os_error(errno),
    };
    match what {
        Wanted::Named { name, .. } if errno == rustix::io::Errno::NOENT.raw_os_error() => {
            Error::NoSuchListener { name }
        }
        Wanted::Named { name, .. } => Error::Listener { name, source, message },
        Wanted::Bound { address, .. } => Error::Bind { address, source, message },
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Welcome { name, worker, slot, generation, .. } = &self.core.welcome;
        f.debug_struct("Worker")
            .field("name", name)
            .field("id", worker)
            .field("slot", slot)
            .field("generation", generation)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} (pid {})", self.id(), self.pid())
    }
}
