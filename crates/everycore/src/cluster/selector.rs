//! Chooses the class of an accepted connection: asks the function, shows it the first bytes, else the rules.
//!
//! Nothing here waits. A connection whose first bytes have not come is kept by `peeks`.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use everycore_core::{ClassKey, Inbound, Router};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::handoff::Arrival;
use super::route::{Choose, Opening, Peek, Routing};
use crate::address::BoundAddress;

/// Names that are no class's and have been told; a function that makes names up is told of no more than this.
const TOLD: usize = 16;

/// See the module.
pub(crate) struct Selector {
    choose: Option<Choose>,
    peek: Option<Peek>,
    buffer: Vec<u8>,
    /// Names of classes that there are not.
    misnamed: Vec<String>,
    told: usize,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selected {
    Class(ClassKey),
    /// The client has to say more first.
    Pending,
}

/// Where a connection was accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site<'a> {
    pub(crate) listener: &'a str,
    pub(crate) address: &'a BoundAddress,
}

/// What can be seen of what a client says first.
struct Seen {
    length: usize,
    /// It will be no more.
    is_all: bool,
}

impl Selector {
    pub(crate) fn new(choose: Option<Choose>, peek: Option<Peek>) -> Self {
        let buffer = vec![0; peek.map_or(0, |peek| peek.bytes)];
        Self { choose, peek, buffer, misnamed: Vec::new(), told: 0 }
    }

    /// How long a client may take, where first bytes are looked at.
    pub(crate) fn peek(&self) -> Option<Peek> {
        self.peek
    }

    /// Chooses, or wants to see more, unless this is the last time.
    pub(crate) fn select(
        &mut self,
        router: &Router,
        arrival: &Arrival,
        site: Site<'_>,
        is_last: bool,
    ) -> Selected {
        let Self { choose, peek, buffer, misnamed, told } = self;
        let local = site.address.tcp();
        let by_rules = || {
            let inbound = Inbound { peer: arrival.peer, listener: site.listener, local };
            Selected::Class(router.class_for(&inbound))
        };
        let Some(choose) = choose else { return by_rules() };
        let seen = match peek {
            Some(_) => look(&arrival.socket, buffer),
            None => Seen { length: 0, is_all: true },
        };
        let is_last = is_last || seen.is_all;
        if seen.length == 0 && !is_last {
            return Selected::Pending;
        }
        let opening = Opening {
            peer: arrival.peer,
            listener: site.listener,
            local: exact(local, arrival),
            first_bytes: &buffer[..seen.length],
            is_last,
        };
        match choose(&opening) {
            Routing::More if !is_last => Selected::Pending,
            Routing::More | Routing::ByRules => by_rules(),
            Routing::To(name) => router.class_named(&name).map_or_else(
                || {
                    if *told < TOLD && !misnamed.iter().any(|known| *known == name) {
                        misnamed.push(name.into_owned());
                        *told += 1;
                    }
                    by_rules()
                },
                Selected::Class,
            ),
        }
    }

    /// Names that the function gave and that are no class's, since this was last asked.
    pub(crate) fn take_misnamed(&mut self) -> Vec<String> {
        std::mem::take(&mut self.misnamed)
    }
}

/// The address the client connected to, also where the listener is bound to all of them.
fn exact(bound: Option<SocketAddr>, arrival: &Arrival) -> Option<SocketAddr> {
    match bound {
        Some(at) if at.ip().is_unspecified() => {
            let name = rustix::net::getsockname(&arrival.socket).ok();
            name.and_then(|name| SocketAddr::try_from(name).ok()).or(bound)
        }
        bound => bound,
    }
}

/// Looks without taking anything away.
fn look(socket: &OwnedFd, buffer: &mut [u8]) -> Seen {
    let room = buffer.len();
    match rustix::net::recv(socket, buffer, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, length)) => {
            let is_all = length == 0 || length >= room || has_ended(socket);
            Seen { length: length.min(room), is_all }
        }
        Err(Errno::AGAIN | Errno::INTR) => Seen { length: 0, is_all: false },
        // The client is gone already: whoever gets the connection finds out.
        Err(_) => Seen { length: 0, is_all: true },
    }
}

/// Whether the client has ended its side; what it said before that can still be read.
fn has_ended(socket: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
    rustix::event::poll(&mut fds, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}
