//! [`UdpSocket`]: one datagram socket, read by every worker.
//!
//! Neighbours: `registration` tells the primary that it is open; the primary keeps the socket whatever becomes of the
//! workers.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::drain::Drain;
use super::driver::watch;
use super::registration::{Claim, Grant};
use super::source::Means;
use super::{Worker, named};
use crate::address::{Address, BoundAddress, IntoAddress};
use crate::error::{Error, Result};

/// A UDP socket that all workers share: each datagram goes to one of them, whichever reads first.
///
/// Two datagrams of one client may reach different workers, and what a worker had read when it dies is lost, as UDP
/// allows. Datagrams nobody has read yet stay in the kernel for the others.
///
/// ```no_run
/// # async fn serve(worker: everycore::Worker) -> everycore::Result<()> {
/// let socket = worker.udp("dns").await?;
/// let mut buffer = [0; 1500];
/// while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
///     let _ = socket.send_to(&buffer[..length], from).await;
/// }
/// # Ok(())
/// # }
/// ```
pub struct UdpSocket {
    socket: Arc<StdUdpSocket>,
    /// Only an asynchronous program watches.
    watched: Option<AsyncFd<Arc<StdUdpSocket>>>,
    address: SocketAddr,
    drain: Arc<Drain>,
    _claim: Claim,
}

impl Worker {
    /// The UDP socket bound under this name before the workers started, with
    /// [`Cluster::bind`](crate::Cluster::bind)`("dns", "udp://127.0.0.1:5353")`.
    ///
    /// # Errors
    /// [`Error::NoSuchListener`], [`Error::Listener`], [`Error::Setting`] if it is no UDP socket, or one of several
    /// ([`udp_all`](Self::udp_all)), [`Error::PrimaryGone`].
    pub async fn udp(&self, name: &str) -> Result<UdpSocket> {
        self.open_udp(only(name, self.ask_grant(named(name, 0)).await?)?)?.watched()
    }

    /// All UDP sockets bound under this name, in the order in which they were bound: those of
    /// [`Cluster::bind_also`](crate::Cluster::bind_also) too. Each has to be read.
    ///
    /// # Errors
    /// As [`udp`](Self::udp).
    pub async fn udp_all(&self, name: &str) -> Result<Vec<UdpSocket>> {
        let mut sockets = Vec::new();
        for place in 0.. {
            let grant = self.ask_grant(named(name, place)).await?;
            let more = grant.more;
            sockets.push(self.open_udp(grant)?.watched()?);
            if !more {
                break;
            }
        }
        Ok(sockets)
    }

    /// A UDP socket on this address, `"udp://127.0.0.1:5353"` or a `SocketAddr`, which the primary binds once for all
    /// workers.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Bind`] as the primary reports it, [`Error::PrimaryGone`].
    pub async fn udp_on(&self, address: impl IntoAddress) -> Result<UdpSocket> {
        let wanted = self.wanted_any(datagram(address.into_address()?)?, None)?;
        self.open_udp(self.ask_grant(wanted).await?)?.watched()
    }

    /// As [`udp`](Self::udp), for a program without a runtime.
    ///
    /// # Errors
    /// As `udp`.
    pub fn udp_blocking(&self, name: &str) -> Result<UdpSocket> {
        self.open_udp(only(name, self.ask_grant_blocking(named(name, 0))?)?)
    }

    /// As [`udp_all`](Self::udp_all), for a program without a runtime.
    ///
    /// # Errors
    /// As `udp`.
    pub fn udp_all_blocking(&self, name: &str) -> Result<Vec<UdpSocket>> {
        let mut sockets = Vec::new();
        for place in 0.. {
            let grant = self.ask_grant_blocking(named(name, place))?;
            let more = grant.more;
            sockets.push(self.open_udp(grant)?);
            if !more {
                break;
            }
        }
        Ok(sockets)
    }

    /// As [`udp_on`](Self::udp_on), for a program without a runtime.
    ///
    /// # Errors
    /// As `udp_on`.
    pub fn udp_on_blocking(&self, address: impl IntoAddress) -> Result<UdpSocket> {
        let wanted = self.wanted_any(datagram(address.into_address()?)?, None)?;
        self.open_udp(self.ask_grant_blocking(wanted)?)
    }

    fn open_udp(&self, grant: Grant) -> Result<UdpSocket> {
        let Grant { means, address, claim, .. } = grant;
        let (BoundAddress::Udp(address), Means::Shared(socket)) = (&address, means) else {
            return Err(Error::Setting(format!(
                "{address} is no UDP socket; take it with Worker::listener, or bind udp://IP:PORT"
            )));
        };
        claim.registration.told();
        Ok(UdpSocket {
            socket: Arc::new(StdUdpSocket::from(socket)),
            watched: None,
            address: *address,
            drain: Arc::clone(&self.core.link.drain),
            _claim: claim,
        })
    }
}

/// Whoever takes one of several sockets would leave what comes to the others unread.
fn only(name: &str, grant: Grant) -> Result<Grant> {
    match grant.more {
        true => Err(Error::Setting(format!(
            "'{name}' is bound to several addresses, each a socket of its own; take them with Worker::udp_all"
        ))),
        false => Ok(grant),
    }
}

fn datagram(address: Address) -> Result<Address> {
    match address {
        Address::Udp(_) => Ok(address),
        Address::Tcp(at) => Ok(Address::Udp(at)),
        other => Err(Error::Setting(format!("{other} is no UDP address; write udp://IP:PORT"))),
    }
}

impl UdpSocket {
    fn watched(mut self) -> Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        let watched = watch(Arc::clone(&self.socket), interest)
            .map_err(|source| Error::Channel { doing: "watching a UDP socket", source })?;
        self.watched = Some(watched);
        Ok(self)
    }

    /// Where datagrams are sent to: the real port, if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The socket itself. It never blocks, and that cannot be changed: all workers share it.
    pub fn as_std(&self) -> &StdUdpSocket {
        &self.socket
    }

    /// Waits for a datagram: its length, cut to the buffer's, and its sender. May be cancelled at any time.
    ///
    /// # Errors
    /// The worker drains (`NotConnected`): what still comes is for the others. The socket was made by a `_blocking`
    /// method. Otherwise what the kernel says.
    pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let watched = self.watch()?;
        let mut begun = std::pin::pin!(self.drain.begun());
        std::future::poll_fn(|cx| {
            loop {
                if begun.as_mut().poll(cx).is_ready() {
                    return std::task::Poll::Ready(Err(ended()));
                }
                let mut readiness = std::task::ready!(watched.poll_read_ready(cx))?;
                if let Ok(received) = readiness.try_io(|socket| socket.get_ref().recv_from(buffer)) {
                    return std::task::Poll::Ready(received);
                }
            }
        })
        .await
    }

    /// Sends a datagram, and waits for room where there is none.
    ///
    /// # Errors
    /// As the kernel says; the socket was made by a `_blocking` method.
    pub async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<usize> {
        let watched = self.watch()?;
        loop {
            let mut readiness = watched.writable().await?;
            if let Ok(sent) = readiness.try_io(|socket| socket.get_ref().send_to(datagram, to)) {
                return sent;
            }
        }
    }

    /// As [`recv_from`](Self::recv_from), for a program without a runtime.
    ///
    /// # Errors
    /// As `recv_from`.
    pub fn recv_from_blocking(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            if self.drain.has_begun() {
                return Err(ended());
            }
            match self.socket.recv_from(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(self.socket.as_fd(), PollFlags::IN, Some(self.drain.as_fd()))?;
                }
                other => return other,
            }
        }
    }

    /// As [`send_to`](Self::send_to), for a program without a runtime.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn send_to_blocking(&self, datagram: &[u8], to: SocketAddr) -> io::Result<usize> {
        loop {
            match self.socket.send_to(datagram, to) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(self.socket.as_fd(), PollFlags::OUT, None)?;
                }
                other => return other,
            }
        }
    }

    fn watch(&self) -> io::Result<&AsyncFd<Arc<StdUdpSocket>>> {
        self.watched.as_ref().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::Unsupported,
                "the socket was taken by udp_blocking; take it with udp under a runtime",
            )
        })
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the worker drains and reads no more datagrams")
}

fn wait(fd: BorrowedFd<'_>, events: PollFlags, or: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut fds = vec![PollFd::from_borrowed_fd(fd, events)];
    fds.extend(or.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    match poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket").field("address", &self.address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{FromWorker, Mode, ToWorker, Wanted};
    use crate::worker::testing::{FakePrimary, run};

    /// Grants what is bound under the name, at the place that is asked for, of two.
    fn grant(primary: &mut FakePrimary, sockets: &[StdUdpSocket; 2]) {
        let FromWorker::Listen { request, what: Wanted::Named { place, .. } } = primary.hear() else {
            panic!("no question for a listener");
        };
        let socket = &sockets[place as usize];
        let address = BoundAddress::Udp(socket.local_addr().unwrap());
        let granted =
            ToWorker::Granted { request, key: place, mode: Mode::Shared, address, more: place == 0 };
        primary.tell(&granted, vec![socket.try_clone().unwrap().into()]);
    }

    #[test]
    fn of_several_sockets_under_a_name_all_are_given_or_none() {
        let (mut primary, worker) = FakePrimary::with_worker();
        let sockets = [(); 2].map(|()| {
            let socket = StdUdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        });
        let addresses = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
        std::thread::scope(|scope| {
            let asks = scope.spawn(|| worker.udp_blocking("dns").unwrap_err().to_string());
            grant(&mut primary, &sockets);
            let error = asks.join().unwrap();
            assert!(error.contains("Worker::udp_all"), "{error}");
            assert_eq!(primary.hear(), FromWorker::Closed { key: 0 }, "it is given back");

            let asks = scope.spawn(|| worker.udp_all_blocking("dns").unwrap());
            grant(&mut primary, &sockets);
            assert_eq!(primary.hear(), FromWorker::Listening { key: 0 });
            grant(&mut primary, &sockets);
            let given = asks.join().unwrap();
            assert_eq!(given.iter().map(UdpSocket::local_addr).collect::<Vec<_>>(), addresses);
        });
        let (mut primary, worker) = FakePrimary::with_worker();
        let plays = std::thread::spawn(move || {
            grant(&mut primary, &sockets);
            assert_eq!(primary.hear(), FromWorker::Listening { key: 0 });
            grant(&mut primary, &sockets);
            primary
        });
        let given = run(worker.udp_all("dns")).unwrap();
        assert_eq!(given.iter().map(UdpSocket::local_addr).collect::<Vec<_>>(), addresses);
        drop(plays.join().unwrap());
    }
}
