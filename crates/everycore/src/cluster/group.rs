//! Sockets of one address, one per slot, among which the kernel spreads connections or datagrams: policy `reuseport`.
//!
//! They belong to the primary, and a replacement takes over its predecessor's. Closing one would reset the connections that
//! wait on it and shift the kernel's order of the others, so those of TCP stay open while the cluster lives, and other
//! workers accept there (`adoption`). Two are closed all the same: a UDP socket of a slot that is empty for a while, whose
//! clients would speak to nobody, and, where the workers do not use the library, one of a slot that is gone for good.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::socket::{Bound, length};
use crate::address::BoundAddress;

/// Where the kernel says whether connections move on when the socket they wait on is closed.
const MIGRATES: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

/// The sockets of all slots that have asked for theirs.
#[derive(Debug, Default)]
pub(crate) struct Group {
    sockets: BTreeMap<u32, OwnedFd>,
    /// The slot that has the socket that was bound: the first to ask.
    founder: Option<u32>,
}

impl Group {
    /// The socket of a slot, made when it is first asked for.
    pub(crate) fn socket<'a>(&'a mut self, bound: &Bound, slot: u32) -> io::Result<BorrowedFd<'a>> {
        let socket: &OwnedFd = match self.sockets.entry(slot) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => match self.founder {
                Some(_) => place.insert(sibling(bound)?),
                None => {
                    let socket = place.insert(bound.socket.try_clone()?);
                    self.founder = Some(slot);
                    socket
                }
            },
        };
        Ok(socket.as_fd())
    }

    /// As [`socket`](Self::socket), the common one where the slot has none.
    pub(crate) fn get<'a>(&'a self, bound: &'a Bound, slot: u32) -> BorrowedFd<'a> {
        self.sockets.get(&slot).map_or(bound.socket.as_fd(), |socket| socket.as_fd())
    }

    /// The slots that have one.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> {
        self.sockets.keys().copied()
    }

    /// Closes the socket of a slot; the last one stays, to hold the address.
    pub(crate) fn give_up(&mut self, bound: &mut Bound, slot: u32) {
        let Some(socket) = self.sockets.remove(&slot) else { return };
        if self.founder != Some(slot) {
            return;
        }
        let heir = self.sockets.iter().next().map(|(slot, socket)| (*slot, socket.try_clone()));
        match heir {
            Some((heir, Ok(of_heir))) => {
                self.founder = Some(heir);
                bound.socket = of_heir;
            }
            // Nobody else has one, or there is no descriptor to spare: it waits for its slot.
            Some((_, Err(_))) | None => drop(self.sockets.insert(slot, socket)),
        }
    }

    /// The common one, and those of all slots.
    pub(crate) fn all<'a>(&'a self, bound: &'a Bound) -> impl Iterator<Item = BorrowedFd<'a>> {
        std::iter::once(bound.socket.as_fd()).chain(self.sockets.values().map(|socket| socket.as_fd()))
    }
}

/// One more socket that listens where `bound` does, blocking until somebody wants it otherwise.
fn sibling(bound: &Bound) -> io::Result<OwnedFd> {
    let (at, is_tcp) = match &bound.address {
        BoundAddress::Tcp(at) => (at, true),
        BoundAddress::Udp(at) => (at, false),
        BoundAddress::Unix(_) => return bound.socket.try_clone(),
    };
    let first = socket2::SockRef::from(&bound.socket);
    // The kernel takes that of a socket that listens already, too: it then founds the group.
    first.set_reuse_port(true)?;
    let (kind, protocol) = if is_tcp { (Type::STREAM, Protocol::TCP) } else { (Type::DGRAM, Protocol::UDP) };
    let socket = Socket::new(Domain::for_address(*at), kind, Some(protocol))?;
    socket.set_reuse_address(first.reuse_address()?)?;
    socket.set_reuse_port(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(first.only_v6()?)?;
    }
    bound.options.apply(&socket, is_tcp)?;
    socket.bind(&(*at).into())?;
    if is_tcp {
        socket.listen(length(bound.options.backlog))?;
    }
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
    use crate::options::ListenOptions;

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

        let mut bound = bound;
        group.give_up(&mut bound, 0);
        let _clients: Vec<_> = (0..100).map(|_| TcpStream::connect(at).unwrap()).collect();
        let counts = [1, 2].map(|slot| waiting(group.get(&bound, slot)));
        assert_eq!(counts.iter().sum::<usize>(), 100, "{counts:?}");
        group.give_up(&mut bound, 2);
        group.give_up(&mut bound, 1);
        let _client = TcpStream::connect(at).unwrap();
        assert_eq!(waiting(bound.socket.as_fd()), 1, "the last one holds the address");
    }

    #[test]
    fn sockets_of_all_slots_have_the_same_options() {
        let options = Options::from("backlog=7&nodelay&rcvbuf=8192".parse::<ListenOptions>().unwrap());
        for address in ["127.0.0.1:0", "udp://127.0.0.1:0", "[::1]:0"] {
            let bound = listen(&address.parse().unwrap(), &options).unwrap();
            let mut group = Group::default();
            let read = |socket: BorrowedFd<'_>| {
                let socket = socket2::SockRef::from(&socket);
                let nodelay = address.starts_with("udp") || socket.tcp_nodelay().unwrap();
                (socket.recv_buffer_size().unwrap(), nodelay, socket.local_addr().unwrap())
            };
            let first = read(group.socket(&bound, 0).unwrap());
            assert_eq!(read(group.socket(&bound, 1).unwrap()), first);
            assert!(first.1 && first.0 < 65_536);
        }
    }
}
