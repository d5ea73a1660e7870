//! Limit programs: what the system calls alone cost, with nothing around them.
//!
//! `everycore-bench raw KIND ADDRESS WORKERS` binds, starts itself as so many workers (each finds its socket as standard
//! input) and, where it hands off, accepts. They know nothing of credit, restarts or messages, and read HTTP only as far as
//! the load generator speaks it. Neighbours: `worker` serves, `handoff` is the primary that accepts.

mod handoff;
mod worker;

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use everycore_sys::{Spawn, Spawned, spawn};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use rustix::process::Signal;

/// How connections reach the workers of a limit program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// One listener in every worker's epoll set, exclusive; one accept per wake-up, joined anew after 16.
    Shared,
    /// The same, each worker accepting until it is empty.
    SharedGreedy,
    /// A listener per worker on one port.
    Reuseport,
    /// A primary accepts and hands each connection over at once, in turn.
    HandOff,
    /// A primary gathers for 100 µs and hands over up to 32 connections in one message.
    HandOffGathered,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Shared, Self::SharedGreedy, Self::Reuseport, Self::HandOff, Self::HandOffGathered];

    /// Its name in tables and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Shared => "raw-shared",
            Self::SharedGreedy => "raw-shared-greedy",
            Self::Reuseport => "raw-reuseport",
            Self::HandOff => "raw-handoff",
            Self::HandOffGathered => "raw-handoff-gathered",
        }
    }

    /// What it is.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Shared => "limit: EPOLLEXCLUSIVE, one accept per wake-up, joined anew after 16",
            Self::SharedGreedy => "limit: EPOLLEXCLUSIVE, accept until empty",
            Self::Reuseport => "limit: SO_REUSEPORT, accept until empty",
            Self::HandOff => "limit: blind round robin, one descriptor per message, far end kept",
            Self::HandOffGathered => {
                "limit: blind round robin, gathered, up to 32 descriptors per message, far end kept"
            }
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The primary: binds, starts the workers, hands off if that is its kind. Ends by signal only.
///
/// # Errors
/// A bad command line, or the kernel refuses something.
pub(crate) fn primary(args: &[String]) -> io::Result<()> {
    let [kind, address, workers] = args else { return Err(usage()) };
    let kind = Kind::named(kind).ok_or_else(usage)?;
    let address: SocketAddrV4 = address.parse().map_err(|_| usage())?;
    let workers: usize = workers.parse().map_err(|_| usage())?;
    match kind {
        Kind::Shared | Kind::SharedGreedy => {
            let listener = listener(address, false)?;
            let workers: Vec<_> =
                (0..workers).map(|_| start(kind, listener.as_fd())).collect::<io::Result<_>>()?;
            wait(&workers)
        }
        Kind::Reuseport => {
            let start_one = |_| start(kind, listener(address, true)?.as_fd());
            wait(&(0..workers).map(start_one).collect::<io::Result<Vec<_>>>()?)
        }
        Kind::HandOff | Kind::HandOffGathered => {
            let pairs: Vec<_> = (0..workers).map(|_| handoff::pair()).collect::<io::Result<_>>()?;
            let _workers: Vec<_> =
                pairs.iter().map(|(_, far)| start(kind, far.as_fd())).collect::<io::Result<_>>()?;
            // The far ends stay open: with them a primary can read back what a dead worker has not read.
            handoff::run(&listener(address, false)?, &pairs, kind == Kind::HandOffGathered)
        }
    }
}

/// The worker, with its socket as standard input.
///
/// # Errors
/// As [`primary`].
pub(crate) fn worker(args: &[String]) -> io::Result<()> {
    let kind = args.first().and_then(|name| Kind::named(name)).ok_or_else(usage)?;
    worker::run(kind, std::io::stdin().as_fd().try_clone_to_owned()?)
}

fn usage() -> io::Error {
    let kinds = Kind::ALL.map(Kind::name).join("|");
    io::Error::new(io::ErrorKind::InvalidInput, format!("usage: raw {kinds} ADDRESS WORKERS"))
}

fn listener(address: SocketAddrV4, reuseport: bool) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let listener = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    sockopt::set_socket_reuseport(&listener, reuseport)?;
    bind(&listener, &address)?;
    listen(&listener, 4096)?;
    Ok(listener)
}

fn start(kind: Kind, socket: BorrowedFd<'_>) -> io::Result<Spawned> {
    let mut program = Spawn::new(std::env::current_exe()?);
    program.args = ["raw-worker", kind.name()].map(Into::into).to_vec();
    program.descriptors = vec![(socket, 0)];
    program.death_signal = Some(Signal::TERM.as_raw());
    spawn(&program).map_err(|error| io::Error::other(error.to_string()))
}

fn wait(workers: &[Spawned]) -> io::Result<()> {
    for worker in workers {
        worker.pidfd.wait()?;
    }
    Ok(())
}
