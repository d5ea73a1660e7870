//! Which half of the program this process runs, decided once from what it finds at its start.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use everycore_ipc::{Codec, Connection, Incoming, Inherited, Limits, Message, Outgoing, Received};
use everycore_sys::inherit::{self, Expect};
use rustix::event::{PollFd, PollFlags, poll};

use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::protocol::{CHANNEL_VARIABLE, FromWorker, ToWorker, VERSION, Welcome};
use crate::worker::Worker;
use crate::worker::under_node::UnderNode;

/// How long the primary's first frame may take. It is in the channel before the worker starts.
const WELCOME: Duration = Duration::from_secs(10);

/// How long a worker of Node's drains, which says nothing about it.
const DRAIN: Duration = Duration::from_secs(8);

/// What this process is.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per process, and it is taken apart at once")]
pub enum Role {
    /// The one that forks and supervises: set it up and [`run`](Cluster::run) it.
    Primary(Cluster),
    /// One that was forked to do the work.
    Worker(Worker),
}

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Says whether this process is the primary or a worker of it. Call it once, first thing in `main`.
///
/// A worker is known by an inherited channel, named in the variable `EVERYCORE_CHANNEL`. The variable is removed, so
/// that programs this one starts do not take themselves for workers; one without a channel to match, inherited by
/// accident, means *primary*. The same holds for `NODE_CHANNEL_FD` together with `NODE_UNIQUE_ID`: then the primary is a
/// real Node process, and this one a worker of its `cluster`. The channel of a plain fork is another one, and is left to
/// [`everycore_ipc::parent`], whichever is asked first.
///
/// ```no_run
/// use everycore::Role;
///
/// fn main() -> everycore::Result<()> {
///     match everycore::role()? {
///         Role::Primary(cluster) => cluster.workers(4).run().map(drop),
///         Role::Worker(worker) => worker.block_on(async |worker| {
///             let mut listener = worker.listen("127.0.0.1:8000").await?;
///             while let Ok((_stream, peer)) = listener.accept().await {
///                 eprintln!("{worker} serves {peer}");
///             }
///             Ok(())
///         }),
///     }
/// }
/// ```
///
/// # Errors
/// [`Error::RoleTooLate`] when threads run already, a started runtime for instance; [`Error::Setting`] the second time,
/// and in a worker of Node's whose channel [`everycore_ipc::parent`] has given out;
/// [`Error::Channel`] or [`Error::Protocol`] when the primary does not say who this worker is.
pub fn role() -> Result<Role> {
    if !inherit::is_single_threaded() {
        let threads = std::fs::read_dir("/proc/self/task").map_or(2, Iterator::count);
        return Err(Error::RoleTooLate { threads });
    }
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(Error::Setting(
            "this process has asked for its role before; call everycore::role() once and pass the result on"
                .into(),
        ));
    }
    Ok(match in_cluster()? {
        Some(channel) => Role::Worker(join(channel)?),
        None => match under_node()? {
            Some(inherited) => Role::Worker(join_node(inherited)?),
            None => Role::Primary(Cluster::builder()),
        },
    })
}

/// The channel that a primary of ours has left to this process. A variable of another form is not about one, and stays.
fn in_cluster() -> Result<Option<OwnedFd>> {
    let Some(value) = std::env::var(CHANNEL_VARIABLE).ok().filter(|value| channel_of(value).is_some()) else {
        return Ok(None);
    };
    inherit::take_environment(&[CHANNEL_VARIABLE]).map_err(|_| Error::RoleTooLate { threads: 2 })?;
    Ok(inherited(&value))
}

/// What a `cluster` of Node's has left to this process. A channel without a worker's number is that of a plain `fork`, and
/// so is one in a way of writing that Node has not: they are left to [`everycore_ipc::parent`].
fn under_node() -> Result<Option<Inherited>> {
    if everycore_ipc::has_taken_worker() {
        return Err(Error::Setting(
            "this process is a worker of Node's cluster, and everycore_ipc has given out its channel; call \
             everycore::role() instead, or before"
                .into(),
        ));
    }
    let is_native = std::env::var(SERIALIZATION_MODE).is_ok_and(|mode| mode == Codec::Native.to_string());
    if is_native || std::env::var_os(UNIQUE_ID).is_none() {
        return Ok(None);
    }
    everycore_ipc::inherited().map_err(|error| Error::Channel {
        doing: "taking over what Node has left in the environment",
        source: io::Error::other(error),
    })
}

/// Node's variable for a worker's number.
const UNIQUE_ID: &str = "NODE_UNIQUE_ID";

/// Node's variable for how messages are written.
const SERIALIZATION_MODE: &str = "NODE_CHANNEL_SERIALIZATION_MODE";

/// Says that this worker is there. Node says nothing by itself: who the worker is stands in the environment.
pub(crate) fn join_node(inherited: Inherited) -> Result<Worker> {
    let failed = |error: &dyn std::fmt::Display| Error::Channel {
        doing: "joining Node's cluster",
        source: io::Error::other(error.to_string()),
    };
    // As Node reads it: what is no number is 0.
    let worker = inherited.unique_id.as_deref().and_then(|id| id.parse().ok()).unwrap_or(0);
    let welcome = Welcome {
        name: program_name(),
        worker,
        slot: u32::saturating_sub(worker, 1),
        generation: 0,
        class: None,
        drain_ms: DRAIN.as_millis() as u64,
    };
    let mut connection = inherited.connection(Limits::default()).map_err(|error| failed(&error))?;
    let mut node = UnderNode::new();
    if let Some(online) = node.say(FromWorker::Hello { version: VERSION }) {
        connection.queue(Outgoing::internal(online)).map_err(|_| Error::Disconnected)?;
    }
    // A primary that is gone already shows with the first read.
    let _ = connection.flush();
    Worker::under_node(connection, node, welcome).map_err(|error| failed(&error))
}

fn program_name() -> String {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&program).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The channel the variable speaks of; `None` when it is not here, or is another one by now.
fn inherited(variable: &str) -> Option<OwnedFd> {
    let (number, identity) = channel_of(variable)?;
    inherit::adopt_fd(number, &[Expect::UnixStream, Expect::Identity(identity.as_ref())]).ok()
}

/// Number and identity in the variable; `None` when it says something else.
fn channel_of(variable: &str) -> Option<(RawFd, &str)> {
    let (number, identity) = variable.split_once(',')?;
    let (device, inode) = identity.split_once(':')?;
    let is_number = |text: &str| text.parse::<u64>().is_ok();
    (is_number(device) && is_number(inode)).then_some((number.parse().ok()?, identity))
}

/// Reads the welcome and answers it.
pub(crate) fn join(channel: OwnedFd) -> Result<Worker> {
    let failed = |doing| move |source| Error::Channel { doing, source };
    // Programs that know no channel are sent TERM when their primary dies; this one sees the channel end, and drains.
    let _ = rustix::process::set_parent_process_death_signal(None);
    let mut connection = Connection::new(channel, Codec::Native, Limits::default())
        .map_err(failed("taking over its descriptor"))?;
    let mut frame = first_frame(&mut connection)?;
    let welcome = match ToWorker::decode(frame.bytes()) {
        Ok(ToWorker::Welcome(welcome)) => welcome,
        Ok(other) => return Err(Error::Protocol(format!("{other:?} instead of a welcome"))),
        Err(error) => return Err(Error::Protocol(error.to_string())),
    };
    let [page, bell] = handles(&mut frame)?;
    let hello = Message::raw(FromWorker::Hello { version: VERSION }.encode());
    connection.queue(Outgoing::internal(hello)).map_err(|_| Error::Disconnected)?;
    connection.flush().map_err(|error| failed("answering the welcome")(io::Error::other(error)))?;
    Worker::new(connection, welcome, page, bell).map_err(failed("setting up what came with the welcome"))
}

fn first_frame(connection: &mut Connection) -> Result<Message> {
    let doing = "waiting for the welcome";
    let deadline = Instant::now() + WELCOME;
    loop {
        match connection.receive() {
            Ok(Received::Message(Incoming::Internal(message))) => return Ok(message),
            Ok(Received::Message(_)) => return Err(Error::Protocol("a message before the welcome".into())),
            Ok(Received::Closed) => return Err(Error::PrimaryGone),
            Ok(Received::Blocked | Received::More) => {}
            Err(error) => return Err(Error::Channel { doing, source: io::Error::other(error) }),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Channel { doing, source: io::ErrorKind::TimedOut.into() });
        }
        let timeout = crate::worker::timespec(left);
        let mut fds = [PollFd::new(connection, PollFlags::IN)];
        // An interrupted or failed poll shows in the next receive.
        let _ = poll(&mut fds, Some(&timeout));
    }
}

fn handles(welcome: &mut Message) -> Result<[OwnedFd; 2]> {
    let handles: Vec<OwnedFd> = welcome.take_handles().into_iter().map(|handle| handle.into_fd()).collect();
    let count = handles.len();
    handles.try_into().map_err(|_| Error::Protocol(format!("a welcome with {count} handles instead of 2")))
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd, IntoRawFd};

    use everycore_sys::socket_pair;
    use rustix::io::FdFlags;

    use super::*;
    use crate::worker::testing::FakePrimary;

    #[test]
    fn the_welcome_says_who_the_worker_is() {
        let (_primary, worker) = FakePrimary::with_worker();
        assert_eq!((worker.id(), worker.slot(), worker.generation(), worker.name()), (7, 2, 3, "web"));
        assert_eq!(worker.pid(), std::process::id());
        assert!(worker.is_connected() && !worker.is_draining());
        assert_eq!(worker.to_string(), format!("worker 7 (pid {})", std::process::id()));
    }

    #[test]
    fn what_is_no_welcome_is_refused() {
        let channel = |send: fn(&mut Connection)| {
            let (ours, theirs) = socket_pair::stream_pair().unwrap();
            let mut primary = Connection::new(ours, Codec::Native, Limits::default()).unwrap();
            send(&mut primary);
            primary.flush().unwrap();
            drop(primary);
            join(theirs).unwrap_err()
        };
        let gone = channel(|_| {});
        assert!(matches!(gone, Error::PrimaryGone), "{gone:?}");
        let early = channel(|primary| primary.queue(Message::json("hi").unwrap()).unwrap());
        assert!(matches!(early, Error::Protocol(_)), "{early:?}");
        let wrong = channel(|primary| {
            let frame = Message::raw(ToWorker::Disconnect { stopping: false }.encode());
            primary.queue(Outgoing::internal(frame)).unwrap();
        });
        assert!(matches!(wrong, Error::Protocol(_)), "{wrong:?}");
        let empty = channel(|primary| {
            let (name, class) = ("web".into(), None);
            let welcome = Welcome { name, worker: 1, slot: 0, generation: 1, class, drain_ms: 1 };
            let frame = Message::raw(ToWorker::Welcome(welcome).encode());
            primary.queue(Outgoing::internal(frame)).unwrap();
        });
        assert!(empty.to_string().contains("0 handles"), "{empty}");
    }

    #[test]
    fn only_the_very_channel_that_the_variable_names_is_taken() {
        let (channel, _primary) = socket_pair::stream_pair().unwrap();
        let identity = inherit::identity(&channel).unwrap();
        let number = channel.as_raw_fd();
        assert!(inherited(&format!("{number},{identity}")).is_none(), "it was not inherited");
        rustix::io::fcntl_setfd(channel.as_fd(), FdFlags::empty()).unwrap();
        assert!(inherited(&format!("{number},{identity}0")).is_none(), "it is another one");
        assert!(inherited("9").is_none() && inherited("x,y").is_none() && inherited("").is_none());
        let taken = inherited(&format!("{},{identity}", channel.into_raw_fd())).unwrap();
        assert_eq!(taken.as_raw_fd(), number);
        assert!(rustix::io::fcntl_getfd(&taken).unwrap().contains(FdFlags::CLOEXEC));
    }

    #[test]
    fn beside_other_threads_it_is_too_late() {
        assert!(matches!(role(), Err(Error::RoleTooLate { threads: 2.. })));
    }
}
