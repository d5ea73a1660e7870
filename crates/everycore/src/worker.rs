//! The worker's half: who this process is in its cluster, its listeners, its messages, its way out.
//!
//! | File | Duty |
//! |---|---|
//! | `listener`, `source` | connections, handed over or accepted on a shared listener |
//! | `stream`, `socket`, `fin`, `blocking` | one connection |
//! | `load` | the counters the primary reads; when its bell is rung |
//! | `link`, `driver`, `inbox` | the control channel: sorted, driven, bounded |
//! | `messages` | what the program says and hears |
//! | `drain`, `runtime` | the way out; the program's life from start to end |
//!
//! Neighbours: `role` makes the [`Worker`], `protocol` has the words.

#[cfg(feature = "axum")]
mod axum;
mod blocking;
mod drain;
mod driver;
mod fin;
mod inbox;
mod link;
mod listener;
mod load;
mod messages;
mod registration;
mod runtime;
mod socket;
mod source;
mod spare;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
mod trouble;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use everycore_ipc::Connection;
use everycore_sys::counters::WorkerPage;
use everycore_sys::eventfd::EventFd;

pub use blocking::BlockingStream;
pub use listener::{Incoming, Listener};
pub use load::Lease;
pub use messages::Received;
pub use stream::{Parts, Stream};
pub use trouble::Trouble;

pub(crate) use driver::timespec;

use self::drain::{Drain, Why};
use self::driver::{ensure_task, ensure_thread};
use self::link::{Link, ListenAnswer};
use self::load::Load;
use self::messages::wait_blocking;
use self::registration::{Index, Indices};
use self::trouble::Troubles;
use crate::address::{Address, IntoAddress};
use crate::error::{Error, Result};
use crate::protocol::{ListenFailure, Wanted, Welcome};

/// How long the primary may take to note that this worker leaves.
/// How long idle connections stay open when nobody is left to go to.
const LAST_SILENCE: Duration = Duration::from_secs(1);

/// How long the answer to an own wish to leave is waited for.
const LEAVE_NOTED: Duration = Duration::from_secs(5);

/// This process as a worker of its cluster. Cheap to clone; may be used from any thread.
///
/// Two ways to use it. [`block_on`](Self::block_on) runs an asynchronous program and suits most; a program with a tokio
/// runtime of its own uses the same methods and ends with [`finish`](Self::finish). A program without a runtime uses the
/// methods that end in `_blocking`, from as many threads as it likes.
///
/// When its primary dies, a worker drains and ends by itself: [`draining`](Self::draining) resolves, listeners end.
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
        let load = Load::new(WorkerPage::open(page)?, EventFd::from(bell));
        let troubles = Arc::<Troubles>::default();
        let link = Link::new(connection, Drain::new()?, load, Arc::clone(&troubles))?;
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
        self.ask(self.wanted(address.into_address()?, None)).await
    }

    /// As [`listen`](Self::listen), with the number of connections that may wait to be accepted.
    ///
    /// # Errors
    /// As `listen`.
    pub async fn listen_with_backlog(&self, address: impl IntoAddress, backlog: u32) -> Result<Listener> {
        self.ask(self.wanted(address.into_address()?, Some(backlog))).await
    }

    /// Listens on what was bound under this name before the workers started.
    ///
    /// # Errors
    /// [`Error::NoSuchListener`], [`Error::PrimaryGone`].
    pub async fn listener(&self, name: &str) -> Result<Listener> {
        self.ask((Wanted::Named(name.to_owned()), None)).await
    }

    /// As [`listen`](Self::listen), for a program without a runtime.
    ///
    /// # Errors
    /// As `listen`.
    pub fn listen_blocking(&self, address: impl IntoAddress) -> Result<Listener> {
        self.ask_blocking(self.wanted(address.into_address()?, None))
    }

    /// As [`listener`](Self::listener), for a program without a runtime.
    ///
    /// # Errors
    /// As `listener`.
    pub fn listener_blocking(&self, name: &str) -> Result<Listener> {
        self.ask_blocking((Wanted::Named(name.to_owned()), None))
    }

    /// Tells the primary that the program is ready, where the cluster waits for that word.
    pub fn ready(&self) {
        self.core.link.tell(crate::protocol::FromWorker::Ready);
    }

    /// Resolves when the worker shall leave: the primary has asked it to, has died, or the program itself has called
    /// [`disconnect`](Self::disconnect). Outlives this handle, so it can be given away:
    /// `axum::serve(listener, app).with_graceful_shutdown(worker.draining())`.
    ///
    /// After the primary's death it resolves once the listeners have given out what was handed over before.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + Sync + use<> {
        let link = Arc::clone(&self.core.link);
        async move {
            // Without a runtime it could not wait anyway.
            let _ = ensure_task(&link);
            link.drain.settled().await;
        }
    }

    /// Resolves when the worker shall leave *and* its clients know: no connection is open any more, or those that are
    /// have been silent for long enough. The moment to close idle keep-alive connections; a server that does it
    /// sooner takes them from under requests on their way.
    ///
    /// Long enough is three quarters of the time to drain where others serve on, and a second where the whole cluster
    /// stops or the primary is gone: then nobody is left to answer the next request anyway.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + use<> {
        let (draining, worker) = (self.draining(), self.clone());
        async move {
            draining.await;
            let drain = &worker.core.link.drain;
            let last = drain.is_because(Why::Stopping) || drain.is_because(Why::PrimaryGone);
            let silence = worker.drain_time() * 3 / 4;
            let silence = if last { silence.min(LAST_SILENCE) } else { silence };
            let _ = tokio::time::timeout(silence, worker.idle()).await;
        }
    }

    /// Whether the worker shall leave, as of what was read from the channel so far.
    pub fn is_draining(&self) -> bool {
        self.core.link.drain.has_begun()
    }

    /// Resolves when no connection is open.
    pub async fn idle(&self) {
        self.core.link.load.idle().await;
    }

    /// Leaves by the program's own wish: the primary is told first, so that it takes the exit for what it is; then the
    /// drain begins. The program should come to its end by itself: listeners end and [`draining`](Self::draining)
    /// resolves.
    ///
    /// # Errors
    /// It is called outside of a tokio runtime.
    pub async fn disconnect(&self) -> Result<()> {
        let link = &self.core.link;
        ensure_task(link)?;
        if let Some(noted) = link.ask_to_leave() {
            // A primary that does not answer in time is not waited for; the drain has its deadline, too.
            let _ = tokio::time::timeout(LEAVE_NOTED, noted).await;
        }
        link.leave(Why::OwnWish);
        Ok(())
    }

    /// As [`disconnect`](Self::disconnect), for a program without a runtime.
    ///
    /// # Errors
    /// It is called from the runtime that serves the channel.
    pub fn disconnect_blocking(&self) -> Result<()> {
        let link = &self.core.link;
        ensure_thread(link)?;
        if let Some(mut noted) = link.ask_to_leave() {
            let _ = wait_blocking(link, &mut noted, Some(std::time::Instant::now() + LEAVE_NOTED));
        }
        link.leave(Why::OwnWish);
        Ok(())
    }

    /// Whether the channel to the primary is open, as far as is known.
    pub fn is_connected(&self) -> bool {
        !self.core.link.is_over()
    }

    /// Whether this worker leaves because it was asked to, or has asked to: what the primary will report as the exit's
    /// `exited_after_disconnect`.
    pub fn exited_after_disconnect(&self) -> bool {
        let drain = &self.core.link.drain;
        [Why::Asked, Why::Stopping, Why::OwnWish].into_iter().any(|why| drain.is_because(why))
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

    fn wanted(&self, address: Address, backlog: Option<u32>) -> (Wanted, Option<Index>) {
        let index = self.core.indices.claim(&address);
        (Wanted::Bound { address, index: index.number, backlog }, Some(index))
    }

    async fn ask(&self, (what, index): (Wanted, Option<Index>)) -> Result<Listener> {
        ensure_task(&self.core.link)?;
        let answer = self.core.link.ask_listener(what.clone())?;
        self.open(answer.await.map_err(|_| Error::PrimaryGone)?, what, index)
    }

    fn ask_blocking(&self, (what, index): (Wanted, Option<Index>)) -> Result<Listener> {
        ensure_thread(&self.core.link)?;
        let mut answer = self.core.link.ask_listener(what.clone())?;
        // The primary answers, or is gone: without a deadline of ours the wait ends either way.
        match wait_blocking(&self.core.link, &mut answer, None) {
            Some(Ok(answer)) => self.open(answer, what, index),
            Some(Err(_)) | None => Err(Error::PrimaryGone),
        }
    }

    fn open(&self, answer: ListenAnswer, what: Wanted, index: Option<Index>) -> Result<Listener> {
        let grant = answer.map_err(|failure| refused(failure, what))?;
        Listener::new(Arc::clone(&self.core), grant, index)
            .map_err(|source| Error::Channel { doing: "opening a granted listener", source })
    }
}

fn refused(failure: ListenFailure, what: Wanted) -> Error {
    let ListenFailure { errno, message } = failure;
    match what {
        Wanted::Named(name) => Error::NoSuchListener { name },
        Wanted::Bound { address, .. } => {
            let source = match errno {
                0 => io::Error::other(message.clone()),
                errno => io::Error::from_raw_os_error(errno),
            };
            Error::Bind { address, source, message }
        }
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
