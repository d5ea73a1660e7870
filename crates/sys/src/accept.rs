//! Accepts connections: all that wait, or a fair share of them.
//!
//! [`accept`] serves a primary that owns its listener. [`FairAccept`] serves workers that
//! share one: the kernel, left alone, gives nearly everything to the worker that waited last. Listeners must be
//! non-blocking; accepted sockets are non-blocking and closed on exec.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

/// A connection just accepted. Not a byte of it has been read.
#[derive(Debug)]
pub struct Accepted {
    /// The connection: non-blocking, closed on exec.
    pub socket: OwnedFd,
    /// Where it comes from; `None` for a Unix socket.
    pub peer: Option<SocketAddr>,
}

/// Accepts one connection; `None` when none is waiting.
///
/// Connections that ended while they waited are passed over.
///
/// # Errors
/// Out of descriptors or memory ([`is_exhaustion`]): pause, the connection stays in the backlog. Others mean that the
/// descriptor is no listener.
pub fn accept<Fd: AsFd>(listener: Fd) -> io::Result<Option<Accepted>> {
    loop {
        match acceptfrom_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok((socket, address)) => {
                let peer = address.and_then(|address| SocketAddr::try_from(address).ok());
                return Ok(Some(Accepted { socket, peer }));
            }
            Err(Errno::AGAIN) => return Ok(None),
            Err(errno) if is_about_one_connection(errno) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Lets a TCP listener hold a connection back until the client has said something (`TCP_DEFER_ACCEPT`), or until
/// `limit`, in whole seconds, is over.
///
/// # Errors
/// The socket is no TCP socket.
pub fn defer(listener: BorrowedFd<'_>, limit: std::time::Duration) -> io::Result<()> {
    let seconds = libc::c_int::try_from(limit.as_secs()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the value is one int that lives through the call, and its length is told.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether accepting failed because this process or the system is out of descriptors, memory or watches.
pub fn is_exhaustion(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| {
        matches!(
            Errno::from_raw_os_error(code),
            Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::NOSPC
        )
    })
}

/// Errors that accept reports though they belong to the connection: it broke before we saw it. The next one is fine.
fn is_about_one_connection(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::INTR
            | Errno::CONNABORTED
            | Errno::PROTO
            | Errno::NETDOWN
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::NONET
            | Errno::HOSTUNREACH
            | Errno::NETUNREACH
    )
}

/// One worker's part in a listener that several processes accept on.
///
/// It has an epoll set of its own with nothing but the listener in it. One connection wakes one of the workers that
/// wait in [`FairAccept::wait`]; take **one** connection per wake-up and go back to waiting, so that who is busy takes
/// fewer. After every 16 the listener leaves the set and joins again, which puts this worker at the end of the
/// kernel's queue.
///
/// Another event loop can watch the set instead ([`AsFd`]). Then the kernel wakes every idle worker, and the fastest gets
/// the connection: nothing is lost, but light load is spread less evenly (`examples/shared_accept.rs` measures it,
/// decision 0006 says what follows).
///
/// Any number of threads may share it.
#[derive(Debug)]
pub struct FairAccept {
    // Before the listener: leaves the set while the set exists.
    epoll: OwnedFd,
    listener: OwnedFd,
    /// How many were accepted, to count sixteen by.
    accepted: AtomicU32,
    /// The listener has left the set and could not join again.
    outside: AtomicBool,
    /// What else ends a wait has been added to the set.
    also: OnceLock<()>,
}

impl FairAccept {
    const READD_AFTER: u32 = 16;

    /// Joins those who accept on `listener`, which must be non-blocking.
    ///
    /// # Errors
    /// Out of descriptors, or it cannot be watched.
    pub fn new(listener: OwnedFd) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (accepted, outside) = (AtomicU32::new(0), AtomicBool::new(false));
        let fair = Self { epoll, listener, accepted, outside, also: OnceLock::new() };
        fair.join()?;
        Ok(fair)
    }

    /// Accepts one connection; `None` when another worker was faster.
    ///
    /// # Errors
    /// As [`accept`]; exhaustion also when none is waiting and nothing would tell of the next one.
    pub fn accept(&self) -> io::Result<Option<Accepted>> {
        let accepted = accept(&self.listener)?;
        if accepted.is_none() {
            self.be_inside()?;
        } else if (self.accepted.fetch_add(1, Ordering::Relaxed).wrapping_add(1))
            .is_multiple_of(Self::READD_AFTER)
        {
            self.readd();
        }
        Ok(accepted)
    }

    /// Goes to the end of the kernel's queue. Cannot fail: somebody has a connection in hand.
    fn readd(&self) {
        // Another thread that is just doing the same joins for both.
        if epoll::delete(&self.epoll, &self.listener).is_ok() && self.join().is_err() {
            self.outside.store(true, Ordering::Relaxed);
        }
    }

    /// Joins again, should that have failed before.
    fn be_inside(&self) -> io::Result<()> {
        // Read first: a thread that looks often should not write for it.
        if self.outside.load(Ordering::Relaxed)
            && self.outside.swap(false, Ordering::Relaxed)
            && let Err(error) = self.join()
            && error.raw_os_error() != Some(Errno::EXIST.raw_os_error())
        {
            self.outside.store(true, Ordering::Relaxed);
            return Err(error);
        }
        Ok(())
    }

    /// Waits until a connection may be there, at most `timeout` (for ever when `None`); false when time ran out.
    ///
    /// # Errors
    /// Out of memory or watches: nothing would end the wait.
    pub fn wait(&self, timeout: Option<std::time::Duration>) -> io::Result<bool> {
        self.be_inside()?;
        self.sleep(timeout)
    }

    fn sleep(&self, timeout: Option<std::time::Duration>) -> io::Result<bool> {
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
        let timeout = timeout.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok(count) => Ok(count > 0),
            Err(Errno::INTR) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    /// As [`wait`](Self::wait) without a timeout, for any number of threads: one of them wakes for a connection, and all
    /// of them when `also` is readable and stays so. The first call decides what that is. Call it when
    /// [`accept`](Self::accept) has found none.
    ///
    /// # Errors
    /// It cannot be watched: out of memory or watches.
    pub fn wait_also(&self, also: BorrowedFd<'_>) -> io::Result<()> {
        if self.also.get().is_none() {
            match epoll::add(&self.epoll, also, epoll::EventData::new_u64(0), epoll::EventFlags::IN) {
                // Two threads came first.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            let _ = self.also.set(());
        }
        self.sleep(None).map(drop)
    }

    /// The listener itself.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    fn join(&self) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
        Ok(epoll::add(&self.epoll, &self.listener, epoll::EventData::new_u64(0), flags)?)
    }
}

impl AsRawFd for FairAccept {
    /// For event loops that want the number, such as tokio's.
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

impl AsFd for FairAccept {
    /// The epoll set: readable while a connection waits.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_listener_that_could_not_join_again_does_so_before_the_next_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let fair = FairAccept::new(OwnedFd::from(listener)).unwrap();
        let leave = || {
            epoll::delete(&fair.epoll, &fair.listener).unwrap();
            fair.outside.store(true, Ordering::Relaxed);
        };
        leave();
        assert!(fair.accept().unwrap().is_none());
        let _client = TcpStream::connect(address).unwrap();
        assert!(fair.sleep(Some(Duration::from_secs(30))).unwrap(), "a look that finds nothing joins");
        leave();
        assert!(fair.wait(Some(Duration::from_secs(30))).unwrap(), "whoever waits joins");
        // Somebody else did meanwhile.
        fair.outside.store(true, Ordering::Relaxed);
        assert!(fair.wait(Some(Duration::from_secs(30))).unwrap());
    }
}
