//! Accepts connections: all that wait, or a fair share of them.
//!
//! [`accept`] and [`accept_until_empty`] serve a primary that owns its listener. [`FairAccept`] serves workers that
//! share one: the kernel, left alone, gives nearly everything to the worker that waited last. Listeners must be
//! non-blocking; accepted sockets are non-blocking and closed on exec.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

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

/// Accepts until nobody waits any more or `limit` is reached; returns how many were given to `each`.
///
/// # Errors
/// As [`accept`], and only when not even one was accepted; the next call will say it again.
pub fn accept_until_empty<Fd: AsFd>(
    listener: Fd,
    limit: usize,
    mut each: impl FnMut(Accepted),
) -> io::Result<usize> {
    let listener = listener.as_fd();
    let mut count = 0;
    while count < limit {
        match accept(listener) {
            Ok(Some(accepted)) => each(accepted),
            Ok(None) => break,
            Err(error) if count == 0 => return Err(error),
            Err(_) => break,
        }
        count += 1;
    }
    Ok(count)
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

/// Whether accepting failed because this process or the system is out of descriptors or memory.
pub fn is_exhaustion(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| {
        matches!(Errno::from_raw_os_error(code), Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
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
#[derive(Debug)]
pub struct FairAccept {
    // Before the listener: leaves the set while the set exists.
    epoll: OwnedFd,
    listener: OwnedFd,
    since_readded: AtomicU32,
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
        let fair = Self { epoll, listener, since_readded: AtomicU32::new(0), also: OnceLock::new() };
        fair.join()?;
        Ok(fair)
    }

    /// Accepts one connection; `None` when another worker was faster.
    ///
    /// # Errors
    /// As [`accept`].
    pub fn accept(&self) -> io::Result<Option<Accepted>> {
        let accepted = accept(&self.listener)?;
        if accepted.is_some() && self.since_readded.fetch_add(1, Ordering::Relaxed) + 1 >= Self::READD_AFTER {
            self.since_readded.store(0, Ordering::Relaxed);
            epoll::delete(&self.epoll, &self.listener)?;
            self.join()?;
        }
        Ok(accepted)
    }

    /// Waits until a connection may be there, at most `timeout` (for ever when `None`); false when time ran out.
    ///
    /// # Errors
    /// None that a caller could act on.
    pub fn wait(&self, timeout: Option<std::time::Duration>) -> io::Result<bool> {
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
    /// of them when `also` is readable and stays so. The first call decides what that is.
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
        self.wait(None).map(drop)
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
