//! Descriptors that travel with a message, as what the kernel says they are.
//!
//! A peer may claim anything about a descriptor, so its kind is read from the kernel. Neighbours: [`crate::Message`]
//! carries handles, [`crate::Connection`] sends and receives them.

use std::fmt;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketType, sockopt};

/// An open socket, or between Rust programs any descriptor, on its way to another process.
///
/// Streams *move*: put the stream itself into the handle and it is closed here once it has gone. Listeners and UDP
/// sockets are *shared*: send a duplicate ([`Handle::duplicate`]) and keep yours, or send your own and stop listening.
///
/// The non-blocking flag belongs to the socket, not to the process: whoever holds a copy sees the same flag. Handles for
/// a Node peer are made non-blocking when they are sent; a receiver must never make a shared listener blocking.
///
/// ```
/// use everycore_ipc::{Handle, HandleKind};
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let handle = Handle::duplicate(&listener)?;
/// assert_eq!(handle.kind(), HandleKind::TcpListener);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub enum Handle {
    /// A TCP socket that listens, or is bound and can be told to.
    TcpListener(TcpListener),
    /// A TCP connection.
    TcpStream(TcpStream),
    /// A Unix-domain stream socket that listens, or is bound and can be told to.
    UnixListener(UnixListener),
    /// A Unix-domain connection.
    UnixStream(UnixStream),
    /// A UDP socket.
    UdpSocket(UdpSocket),
    /// Anything else. Travels between Rust programs only: it would kill a Node peer.
    Other(OwnedFd),
}

/// What a [`Handle`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandleKind {
    /// See [`Handle::TcpListener`].
    TcpListener,
    /// See [`Handle::TcpStream`].
    TcpStream,
    /// See [`Handle::UnixListener`].
    UnixListener,
    /// See [`Handle::UnixStream`].
    UnixStream,
    /// See [`Handle::UdpSocket`].
    UdpSocket,
    /// See [`Handle::Other`].
    Other,
}

impl Handle {
    /// Finds out from the kernel what a descriptor is, and sets close-on-exec on it.
    pub fn from_fd(fd: OwnedFd) -> Self {
        // Fails only for a descriptor that is not open, which an OwnedFd is.
        let _ = rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC);
        match inspect(fd.as_fd()) {
            HandleKind::TcpListener => Self::TcpListener(fd.into()),
            HandleKind::TcpStream => Self::TcpStream(fd.into()),
            HandleKind::UnixListener => Self::UnixListener(fd.into()),
            HandleKind::UnixStream => Self::UnixStream(fd.into()),
            HandleKind::UdpSocket => Self::UdpSocket(fd.into()),
            HandleKind::Other => Self::Other(fd),
        }
    }

    /// A handle on the same open socket or file, which stays with its owner: the way to *share* a listener.
    ///
    /// # Errors
    /// This process is out of descriptors.
    pub fn duplicate<Fd: AsFd>(fd: Fd) -> io::Result<Self> {
        Ok(Self::from_fd(fd.as_fd().try_clone_to_owned()?))
    }

    /// What it is.
    pub fn kind(&self) -> HandleKind {
        match self {
            Self::TcpListener(_) => HandleKind::TcpListener,
            Self::TcpStream(_) => HandleKind::TcpStream,
            Self::UnixListener(_) => HandleKind::UnixListener,
            Self::UnixStream(_) => HandleKind::UnixStream,
            Self::UdpSocket(_) => HandleKind::UdpSocket,
            Self::Other(_) => HandleKind::Other,
        }
    }

    /// The descriptor alone.
    pub fn into_fd(self) -> OwnedFd {
        match self {
            Self::TcpListener(socket) => socket.into(),
            Self::TcpStream(socket) => socket.into(),
            Self::UnixListener(socket) => socket.into(),
            Self::UnixStream(socket) => socket.into(),
            Self::UdpSocket(socket) => socket.into(),
            Self::Other(fd) => fd,
        }
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::TcpListener(socket) => socket.as_fd(),
            Self::TcpStream(socket) => socket.as_fd(),
            Self::UnixListener(socket) => socket.as_fd(),
            Self::UnixStream(socket) => socket.as_fd(),
            Self::UdpSocket(socket) => socket.as_fd(),
            Self::Other(fd) => fd.as_fd(),
        }
    }
}

impl From<OwnedFd> for Handle {
    fn from(fd: OwnedFd) -> Self {
        Self::from_fd(fd)
    }
}

impl From<Handle> for OwnedFd {
    fn from(handle: Handle) -> Self {
        handle.into_fd()
    }
}

/// Conversions between a variant and the type inside it.
macro_rules! socket_type {
    ($($socket:ident),*) => {$(
        impl From<$socket> for Handle {
            fn from(socket: $socket) -> Self {
                Self::$socket(socket)
            }
        }

        impl TryFrom<Handle> for $socket {
            type Error = HandleError;

            fn try_from(handle: Handle) -> Result<Self, HandleError> {
                match handle {
                    Handle::$socket(socket) => Ok(socket),
                    handle => Err(HandleError::WrongKind { wanted: HandleKind::$socket, handle }),
                }
            }
        }
    )*};
}

socket_type!(TcpListener, TcpStream, UnixListener, UnixStream, UdpSocket);

impl fmt::Display for HandleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TcpListener => "TCP listener",
            Self::TcpStream => "TCP stream",
            Self::UnixListener => "Unix listener",
            Self::UnixStream => "Unix stream",
            Self::UdpSocket => "UDP socket",
            Self::Other => "descriptor that is no stream or UDP socket",
        })
    }
}

/// Why a handle cannot be used as asked.
#[non_exhaustive]
pub enum HandleError {
    /// It is something else; here it is back.
    WrongKind {
        /// What was asked for.
        wanted: HandleKind,
        /// The handle, unchanged.
        handle: Handle,
    },
}

impl fmt::Debug for HandleError {
    /// As a `main` that returns it prints it: for people, with the causes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::causes::write(self, f)
    }
}

impl fmt::Display for HandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongKind { wanted, handle } => write!(f, "expected a {wanted}, found a {}", handle.kind()),
        }
    }
}

impl std::error::Error for HandleError {}

fn inspect(fd: BorrowedFd<'_>) -> HandleKind {
    // Not a socket at all: the first question fails.
    let (Ok(kind), Ok(domain)) = (sockopt::socket_type(fd), sockopt::socket_domain(fd)) else {
        return HandleKind::Other;
    };
    let internet = matches!(domain, AddressFamily::INET | AddressFamily::INET6);
    match kind {
        SocketType::STREAM if internet && listens(fd) => HandleKind::TcpListener,
        SocketType::STREAM if internet => HandleKind::TcpStream,
        SocketType::STREAM if domain == AddressFamily::UNIX && listens(fd) => HandleKind::UnixListener,
        SocketType::STREAM if domain == AddressFamily::UNIX => HandleKind::UnixStream,
        SocketType::DGRAM if internet => HandleKind::UdpSocket,
        _ => HandleKind::Other,
    }
}

/// Whether a stream socket listens, or has never been connected, so that listening is all it is good for.
///
/// A connection that was reset has no peer any more, just like a socket that never had one; but it reports an end of
/// input, and a fresh socket does not.
fn listens(fd: BorrowedFd<'_>) -> bool {
    if sockopt::socket_acceptconn(fd).unwrap_or(false) {
        return true;
    }
    let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::RDHUP)];
    if poll(&mut polled, Some(&Timespec::default())).is_err() {
        return false;
    }
    let seen = polled[0].revents();
    seen.contains(PollFlags::HUP) && !seen.contains(PollFlags::RDHUP)
}
