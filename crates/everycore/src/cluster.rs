//! The primary's half: [`Cluster`] says what to run, [`Primary`] talks to it while it runs.
//!
//! `driver` is the only loop, `effects` carries out what the core decided, `listener` accepts and hands off,
//! `member` holds what the primary keeps of one worker. Decisions are `everycore-core`'s alone.

mod adoption;
mod audience;
mod autopsy;
mod channel;
mod driver;
mod effects;
mod ending;
mod event;
mod farewell;
mod fit;
mod group;
mod handle;
mod handoff;
mod launch;
mod leftovers;
mod listener;
mod member;
mod node;
mod notify;
mod orders;
mod orphans;
mod peeks;
mod printable;
mod probe;
mod program;
mod readiness;
mod requests;
mod route;
mod scales;
mod secrets;
mod selector;
mod signals;
mod snapshot;
mod socket;
mod sources;
mod spread;
mod unserved;
mod waiting;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

pub use event::{Event, WorkerInfo};
pub use everycore_core::{
    Candidate, Candidates, ClassCounts, ClassSnapshot, ExitReason, ExitStatus, Generation, LeastConnections,
    ListenerKey, Phase, Policy, RecycleSettings, RestartPolicy, RestartSettings, RoundRobin,
    SchedulingPolicy, Slot, SlotSnapshot, SlotState, Sticky, Time, Totals, UnknownPolicy, Urgency, WhenFull,
    WorkerId, WorkerSnapshot,
};
pub use handle::{Primary, Reply};
pub use node::{NodeSettings, WorkerPipes, WorkerStdio};
pub use program::{Dialect, Serialization, WorkerCommand, WorkerSpec};
pub use route::{Class, Opening, Route, Routing};
pub use snapshot::Snapshot;

use crate::address::{Address, BoundAddress, IntoAddress};
use crate::error::{Error, Result};
use crate::options::ListenOptions;
use program::Program;

/// What makes a worker count as ready: only then may its predecessor be drained in a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Readiness {
    /// It listens through the library. The default.
    Listening,
    /// It has joined its channel.
    Online,
    /// It said so: [`Worker::ready`](crate::Worker::ready), or the message `"ready"` or `{"ready": true}`.
    Message,
    /// It sent `READY=1` to the socket named by `NOTIFY_SOCKET`.
    Notify,
    /// It listens through the library or, not using it, waits on an inherited socket or has stayed up for a second. The
    /// last does not count any more once a worker of the cluster was seen to wait on an inherited socket: from then on as
    /// [`Inherited`](Self::Inherited).
    Socket,
    /// It waits on an inherited socket or, using the library, listens through it. Having stayed up counts after half of the
    /// [time to start](Cluster::start_timeout), and after a second where it cannot be seen what a program waits for: it
    /// cannot be looked into, or uses `io_uring`.
    Inherited,
    /// It has stayed up for this long.
    StaysUp(Duration),
}

/// How a cluster ended, if not by an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Somebody asked for it.
    Stopped,
    /// All workers ended by themselves, and the restart policy wants none again.
    Completed,
}

/// Workers, the addresses they serve and the rules they live by; then [`run`](Self::run) it.
///
/// ```no_run
/// use everycore::{Cluster, Event};
///
/// fn main() -> everycore::Result<()> {
///     Cluster::builder()
///         .bind("http", "127.0.0.1:8000")?
///         .workers(everycore::auto())
///         .on_event(|_, event| if let Event::Exit { worker, status, .. } = event { eprintln!("{worker} {status}") })
///         .run_with(|worker| async move {
///             let mut listener = worker.listener("http").await?;
///             while let Ok((_stream, peer)) = listener.accept().await {
///                 eprintln!("worker {} serves {peer}", worker.id());
///             }
///             Ok(())
///         })
///         .map(drop)
/// }
/// ```
pub struct Cluster {
    pub(crate) name: Option<String>,
    pub(crate) workers: Option<usize>,
    pub(crate) policy: Option<Policy>,
    pub(crate) scheduling: Option<Box<dyn SchedulingPolicy>>,
    pub(crate) route: Option<Route>,
    pub(crate) limits: everycore_core::Limits,
    pub(crate) readiness: Readiness,
    pub(crate) restart: RestartSettings,
    pub(crate) deadlines: everycore_core::Deadlines,
    pub(crate) recycle: RecycleSettings,
    pub(crate) hung: Option<Duration>,
    pub(crate) binds: Vec<(String, Address, ListenOptions)>,
    pub(crate) signals: bool,
    pub(crate) reap_orphans: bool,
    pub(crate) secret_rotation: Duration,
    pub(crate) program: Program,
    pub(crate) dialect: Dialect,
    pub(crate) preload: bool,
    pub(crate) observer: Option<Observer>,
}

/// As long as rustls keeps a key for session tickets.
const SECRET_ROTATION: Duration = Duration::from_secs(6 * 60 * 60);

/// The callback that hears every event, on the primary's thread.
pub(crate) type Observer = Box<dyn FnMut(&Primary, Event) + Send>;

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("workers", &self.workers)
            .field("binds", &self.binds)
            .finish_non_exhaustive()
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            name: None,
            workers: None,
            policy: None,
            scheduling: None,
            route: None,
            limits: everycore_core::Limits::default(),
            readiness: Readiness::Listening,
            restart: RestartSettings::default(),
            deadlines: everycore_core::Deadlines::default(),
            recycle: RecycleSettings::default(),
            hung: None,
            binds: Vec::new(),
            signals: true,
            reap_orphans: false,
            secret_rotation: SECRET_ROTATION,
            program: Program::default(),
            dialect: Dialect::default(),
            preload: true,
            observer: None,
        }
    }
}

impl Cluster {
    /// A cluster with the defaults: this very program as worker, one per available CPU, policy `least`.
    pub fn builder() -> Self {
        Self::default()
    }

    /// How many workers to keep; the default is [`auto`].
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// How connections reach workers. Not set: `NODE_CLUSTER_SCHED_POLICY` (`rr` or `none`) decides, else `least`.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Chooses workers by a policy of one's own; the primary hands every connection over. It runs for each connection,
    /// on the primary's thread: keep it short, and never wait in it. `examples/custom_policy.rs` has one.
    #[must_use]
    pub fn scheduling(mut self, policy: impl SchedulingPolicy + 'static) -> Self {
        self.scheduling = Some(Box::new(policy));
        self
    }

    /// Tells classes of workers apart, and sends each connection to one of them: policy `route`. The number of workers is
    /// that of all classes together.
    #[must_use]
    pub fn route(mut self, route: Route) -> Self {
        self.route = Some(route);
        self
    }

    /// How many connections a worker may hold at a time; any number unless set. When every worker is full, further ones
    /// wait in the kernel's backlog until one is closed.
    ///
    /// Only where the primary hands connections over to workers that report what was closed: those that use this library,
    /// and Node's and Deno's with the script they load first ([`preload`](Self::preload)). Anything else is an error of
    /// [`run`](Self::run). Node workers are then handed connections also where no policy was chosen (`least`).
    #[must_use]
    pub fn max_connections(mut self, limit: u64) -> Self {
        self.limits.per_worker = Some(limit);
        self
    }

    /// As [`max_connections`](Self::max_connections), for all workers together that serve a listener. What such a worker
    /// holds counts for each of its listeners.
    #[must_use]
    pub fn max_connections_per_listener(mut self, limit: u64) -> Self {
        self.limits.per_listener = Some(limit);
        self
    }

    /// What workers and tools call this cluster; the default is the program's file name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Binds an address before any worker starts. Workers take it with
    /// [`Worker::listener`](crate::Worker::listener), and from then on may listen on bound addresses only.
    ///
    /// # Errors
    /// [`Error::Address`] if the text is no address. Whether it can be bound shows in [`run`](Self::run).
    pub fn bind(self, name: impl Into<String>, address: impl IntoAddress) -> Result<Self> {
        self.bind_with(name, address, ListenOptions::new())
    }

    /// As [`bind`](Self::bind), with options for the socket.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_with(
        self,
        name: impl Into<String>,
        address: impl IntoAddress,
        options: ListenOptions,
    ) -> Result<Self> {
        let name = name.into();
        if self.binds.iter().any(|(taken, ..)| *taken == name) {
            return Err(Error::Setting(format!(
                "two listeners are named '{name}'; give each its own name, or say bind_also"
            )));
        }
        self.bind_also(name, address, options)
    }

    /// Binds one more address under a name: the worker's one listener of that name serves them all.
    ///
    /// ```
    /// use everycore::{Cluster, ListenOptions};
    /// let cluster = Cluster::builder()
    ///     .bind("http", "127.0.0.1:8000")?
    ///     .bind_also("http", "unix:/run/app.sock", ListenOptions::new().mode(0o660))?;
    /// # Ok::<(), everycore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_also(
        mut self,
        name: impl Into<String>,
        address: impl IntoAddress,
        options: ListenOptions,
    ) -> Result<Self> {
        let address = address.into_address()?;
        if matches!(address, Address::Inherited(_)) {
            socket::look_for_inherited()?;
        }
        self.binds.push((name.into(), address, options));
        Ok(self)
    }

    /// Runs another program as worker, instead of this one.
    #[must_use]
    pub fn exec(mut self, program: impl Into<OsString>) -> Self {
        self.program.exec = Some(program.into());
        self
    }

    /// The workers' arguments; the default is this program's own.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.program.args = Some(args.into_iter().map(Into::into).collect());
        self
    }

    /// Sets a variable in the workers' environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.program.env.push((name.into(), value.into()));
        self
    }

    /// The workers' working directory; the default is this process's.
    #[must_use]
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Self {
        self.program.cwd = Some(directory.into());
        self
    }

    /// Decides program, arguments, environment and output of each worker as it is started, instead of `exec`,
    /// `args` and `env`.
    #[must_use]
    pub fn command(
        mut self,
        command: impl FnMut(&WorkerSpec) -> std::io::Result<WorkerCommand> + Send + 'static,
    ) -> Self {
        self.program.command = Some(Box::new(command));
        self
    }

    /// Also gives workers the bound sockets themselves, as `LISTEN_FDS` does: for programs that do not use this
    /// library.
    #[must_use]
    pub fn inherit_listeners(mut self, inherit: bool) -> Self {
        self.program.inherit_listeners = inherit;
        self
    }

    /// What the workers speak; [`Dialect::Node`] drives unmodified Node programs.
    #[must_use]
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// Workers are Node programs, started by these settings instead of [`exec`](Self::exec) and [`args`](Self::args).
    /// As with Node's `setupPrimary`, a further call changes what it sets and keeps the rest; while the cluster runs,
    /// [`Primary::setup_primary`](crate::Primary::setup_primary) is that call.
    #[must_use]
    pub fn setup_primary(mut self, settings: NodeSettings) -> Self {
        self.dialect = Dialect::Node(self.program.set_node(settings));
        self
    }

    /// Whether Node workers load a small script of ours ahead of their program; they do unless told otherwise. It
    /// reports open connections, so that policy `least` knows their numbers, and how late the event loop is
    /// ([`Event::Blocked`]). While a worker leaves it has HTTP clients hear `Connection: close`, so that a reload loses no
    /// request on a kept connection. Workers serve without it, too, and it is left out where the program's own
    /// permissions would refuse it. `NODE_OPTIONS` names it, for the worker itself alone.
    #[must_use]
    pub fn preload(mut self, preload: bool) -> Self {
        self.preload = preload;
        self
    }

    /// What makes a worker ready.
    #[must_use]
    pub fn readiness(mut self, readiness: Readiness) -> Self {
        self.readiness = readiness;
        self
    }

    /// When a worker that ended is replaced.
    #[must_use]
    pub fn restart(mut self, restart: RestartSettings) -> Self {
        self.restart = restart;
        self
    }

    /// When a worker that serves well is replaced all the same: after so many connections, after some time, or when it
    /// has grown too large (looked at once a second). Its successor is ready first, and never are two replaced at once.
    ///
    /// Connections are counted where the primary hands them over; elsewhere that limit is an error of
    /// [`run`](Self::run).
    #[must_use]
    pub fn recycle(mut self, recycle: RecycleSettings) -> Self {
        self.recycle = recycle;
        self
    }

    /// The user that workers run as; the primary stays what it is. They get no further groups unless
    /// [`groups`](Self::groups) names some, set-user-id programs give them nothing, and they may listen only on what was
    /// bound before they started: the primary must not bind for them what they could not.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        self.program.ids.uid = Some(uid);
        self
    }

    /// The group that workers run as. See [`uid`](Self::uid).
    #[must_use]
    pub fn gid(mut self, gid: u32) -> Self {
        self.program.ids.gid = Some(gid);
        self
    }

    /// The further groups of workers that run as somebody else. See [`uid`](Self::uid).
    #[must_use]
    pub fn groups(mut self, groups: impl Into<Vec<u32>>) -> Self {
        self.program.ids.groups = Some(groups.into());
        self
    }

    /// How long a worker may take to become ready; 60 s unless set. A missed deadline is a failure.
    #[must_use]
    pub fn start_timeout(mut self, limit: Duration) -> Self {
        self.deadlines.start = limit;
        self
    }

    /// How long a leaving worker may drain before it gets `TERM`; 8 s unless set.
    #[must_use]
    pub fn graceful_timeout(mut self, limit: Duration) -> Self {
        self.deadlines.drain = limit;
        self
    }

    /// How long a worker may take after `TERM` before it gets `KILL`; 2 s unless set.
    #[must_use]
    pub fn term_timeout(mut self, limit: Duration) -> Self {
        self.deadlines.term = limit;
        self
    }

    /// How long to keep serving after the order to stop, for load balancers to notice; 0 unless set.
    #[must_use]
    pub fn drain_delay(mut self, delay: Duration) -> Self {
        self.deadlines.drain_delay = delay;
        self
    }

    /// Ends a worker that has been silent for this long, by `TERM` (and `CONT`, should it have been stopped), and by `KILL`
    /// after [`term_timeout`](Self::term_timeout); never unless set. What it has not taken goes to others.
    #[must_use]
    pub fn hung_timeout(mut self, limit: Duration) -> Self {
        self.hung = Some(limit);
        self
    }

    /// How long each of the [secrets](crate::Secrets) that workers share is current; 6 hours unless set, at least a
    /// second, at most 7 days. No secret is made before a worker asks.
    #[must_use]
    pub fn secret_rotation(mut self, period: Duration) -> Self {
        self.secret_rotation = period;
        self
    }

    /// Whether [`run`](Self::run) takes the process's signals: `TERM`, `INT`, `QUIT` stop (twice: at once), `HUP`
    /// reloads, `TTIN` and `TTOU` add and remove a worker, of whom `TTOU` leaves one. Without a controlling terminal `WINCH` lets all
    /// workers go and keeps the ports, until `HUP` or `TTIN`; on one, a `HUP` that comes with the terminal's end stops. `USR1` and `USR2`
    /// do nothing yet, and a warning says so. On unless set.
    #[must_use]
    pub fn signals(mut self, take: bool) -> Self {
        self.signals = take;
        self
    }

    /// Also waits for every other child of this process that ends: what is expected of a container's first process, to
    /// which the kernel gives the children of those who died. Not for a program that starts children of its own: their
    /// status would be taken from it. Needs the process's [`signals`](Self::signals). Off unless set.
    #[must_use]
    pub fn reap_orphans(mut self, reap: bool) -> Self {
        self.reap_orphans = reap;
        self
    }

    /// Calls `observer` for every event, on the primary's thread: keep it short, and never wait in it.
    #[must_use]
    pub fn on_event(mut self, observer: impl FnMut(&Primary, Event) + Send + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// Is the primary, on this thread, until the cluster has ended.
    ///
    /// # Errors
    /// An address that cannot be bound, a setting that cannot be used, a failure of the primary itself, or
    /// [`Error::GivenUp`] when no worker could be kept. What else goes wrong with workers is told by events.
    pub fn run(self) -> Result<Outcome> {
        driver::Driver::new(self)?.run()
    }

    /// Is whatever this process is: the primary, or a worker that runs `worker`.
    ///
    /// The program's error may be any that can hold ours, `Box<dyn std::error::Error>` for one. A closure in which it meets
    /// only `?` has to name it at its end; a function names it anyway.
    ///
    /// ```no_run
    /// use tokio::io::AsyncWriteExt;
    ///
    /// # fn main() -> everycore::Result<()> {
    /// everycore::Cluster::builder().bind("hello", "127.0.0.1:7000")?.run_with(async |worker| {
    ///     let mut listener = worker.listener("hello").await?;
    ///     while let Ok((mut stream, _)) = listener.accept().await {
    ///         tokio::spawn(async move { stream.write_all(b"hello\n").await });
    ///     }
    ///     Ok::<(), everycore::Error>(())
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run) and [`role`](crate::role), and what `worker` returned.
    pub fn run_with<F, W, E>(self, worker: W) -> Result<Outcome, E>
    where
        W: FnOnce(crate::Worker) -> F,
        F: Future<Output = Result<(), E>>,
        E: From<Error>,
    {
        match crate::role()? {
            crate::Role::Primary(_) => Ok(self.run()?),
            crate::Role::Worker(this) => this.block_on(worker).map(|()| Outcome::Stopped),
        }
    }

    /// Starts the primary on a thread of its own.
    ///
    /// # Errors
    /// As [`run`](Self::run), as far as it shows at the start.
    pub fn start(self) -> Result<Running> {
        let driver = driver::Driver::new(self)?;
        let primary = driver.primary();
        let addresses = driver.addresses();
        let thread = std::thread::Builder::new()
            .name("everycore".into())
            .spawn(move || driver.run())
            .map_err(|source| Error::System { doing: "starting the primary's thread", source })?;
        Ok(Running { primary, addresses, thread })
    }
}

/// A primary on its own thread.
#[derive(Debug)]
pub struct Running {
    primary: Primary,
    addresses: Vec<(String, BoundAddress)>,
    thread: JoinHandle<Result<Outcome>>,
}

impl Running {
    /// To talk to it.
    pub fn primary(&self) -> &Primary {
        &self.primary
    }

    /// Where the listener of this name is bound: the real port where 0 was asked for.
    pub fn address(&self, name: &str) -> Option<&BoundAddress> {
        self.addresses.iter().find(|(known, _)| known == name).map(|(_, address)| address)
    }

    /// Blocks until the cluster has ended.
    ///
    /// # Errors
    /// As [`Cluster::run`].
    pub fn wait(self) -> Result<Outcome> {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Workers to run unless told otherwise: the CPUs this process may use, by affinity and cgroup quota.
pub fn auto() -> usize {
    everycore_sys::cpu::available_cpus()
}

pub(crate) fn at_least_one(workers: usize) -> Result<NonZeroUsize> {
    NonZeroUsize::new(workers).ok_or_else(|| {
        Error::Setting("a cluster needs at least one worker; leave the number out for one per CPU".into())
    })
}
