//! Sockets of one address, one per slot, among which the kernel spreads connections: policy `reuseport`.
//!
//! They belong to the primary and stay open while their slot exists, whatever becomes of its workers: closing one would
//! reset the connections that wait on it and shift the kernel's order of the others. A replacement takes over its
//! predecessor's.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::socket::{BACKLOG, Bound};
use crate::address::BoundAddress;

/// Where the kernel says whether connections move on when the socket they wait on is closed.
const MIGRATES: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

/// The sockets of all slots but the first, which has the one that was bound.
#[derive(Debug, Default)]
pub(crate) struct Group {
    others: BTreeMap<u32, OwnedFd>,
}

impl Group {
    /// The socket of a slot, made when it is first asked for.
    pub(crate) fn socket<'a>(&'a mut self, bound: &'a Bound, slot: u32) -> io::Result<BorrowedFd<'a>> {
        if slot == 0 {
            return Ok(bound.socket.as_fd());
        }
        let socket: &OwnedFd = match self.others.entry(slot) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(sibling(bound)?),
        };
        Ok(socket.as_fd())
    }

    /// As [`socket`](Self::socket), the common one where the slot has none.
    pub(crate) fn get<'a>(&'a self, bound: &'a Bound, slot: u32) -> BorrowedFd<'a> {
        self.others.get(&slot).map_or(bound.socket.as_fd(), |socket| socket.as_fd())
    }

    /// Closes what belongs to slots that are gone for good.
    pub(crate) fn keep(&mut self, is_there: impl Fn(u32) -> bool) {
        self.others.retain(|slot, _| is_there(*slot));
    }
}

/// One more socket that listens where `bound` does, blocking until somebody wants it otherwise.
fn sibling(bound: &Bound) -> io::Result<OwnedFd> {
    let BoundAddress::Tcp(at) = &bound.address else {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "policy reuseport is for TCP; policy shared serves every kind of socket",
        ));
    };
    let first = socket2::SockRef::from(&bound.socket);
    // The kernel takes that of a socket that listens already, too: it then founds the group.
    first.set_reuse_port(true)?;
    let socket = Socket::new(Domain::for_address(*at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(first.only_v6()?)?;
    }
    socket.bind(&(*at).into())?;
    socket.listen(BACKLOG as i32)?;
    Ok(socket.into())
}

/// Whether connections that wait on a socket are lost when it is closed.
pub(crate) fn closing_resets() -> bool {
    std::fs::read_to_string(MIGRATES).is_ok_and(|text| text.trim() == "0")
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::address::Address;
    use crate::cluster::socket::{Options, listen};

    fn waiting(socket: BorrowedFd<'_>) -> usize {
        rustix::io::ioctl_fionbio(socket, true).unwrap();
        std::iter::from_fn(|| everycore_sys::accept::accept(socket).unwrap()).count()
    }

    #[test]
    fn the_kernel_spreads_over_the_sockets_of_all_slots() {
        let bound = listen(&Address::Tcp("127.0.0.1:0".parse().unwrap()), &Options::default()).unwrap();
        let at = bound.address.tcp().unwrap();
        let mut group = Group::default();
        for slot in 0..3 {
            group.socket(&bound, slot).unwrap();
        }
        let _clients: Vec<_> = (0..300).map(|_| TcpStream::connect(at).unwrap()).collect();
        let counts = [0, 1, 2].map(|slot| waiting(group.get(&bound, slot)));
        assert_eq!(counts.iter().sum::<usize>(), 300, "{counts:?}");
        assert!(counts.iter().all(|count| (50..=150).contains(count)), "{counts:?}");

        group.keep(|slot| slot < 2);
        let _clients: Vec<_> = (0..100).map(|_| TcpStream::connect(at).unwrap()).collect();
        let counts = [0, 1].map(|slot| waiting(group.get(&bound, slot)));
        assert_eq!(counts.iter().sum::<usize>(), 100, "{counts:?}");
    }
}
