//! The two ends of a channel: pairs of connected Unix sockets.
//!
//! Neighbours: [`crate::scm_rights`] moves bytes and descriptors over them, [`crate::spawn()`] gives one end to a child.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// Whether an operation that cannot be done at once waits, or fails with [`io::ErrorKind::WouldBlock`].
///
/// The mode belongs to the socket itself, so every duplicate of the descriptor shares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Calls wait; what a program that knows nothing of us expects to inherit.
    Blocking,
    /// Calls fail with `WouldBlock` instead of waiting.
    NonBlocking,
}

/// Makes a connected pair of byte streams (`SOCK_STREAM`), both non-blocking and closed on exec.
///
/// # Errors
/// The process or the system is out of descriptors or memory.
pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(SocketType::STREAM, Mode::NonBlocking)
}

/// Makes a connected pair that keeps the bounds of each record (`SOCK_SEQPACKET`), both non-blocking and closed on exec.
///
/// # Errors
/// The process or the system is out of descriptors or memory.
pub fn record_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(SocketType::SEQPACKET, Mode::NonBlocking)
}

/// Makes a stream pair for a forked program: our end is non-blocking, the child's end has the mode asked for.
///
/// Node expects a blocking end and changes it by itself. Both ends close on exec; [`crate::spawn()`] clears that for
/// the copy the child gets.
///
/// # Errors
/// The process or the system is out of descriptors or memory.
pub fn channel_pair(childs_mode: Mode) -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, childs) = pair(SocketType::STREAM, Mode::NonBlocking)?;
    set_mode(&childs, childs_mode)?;
    Ok((ours, childs))
}

/// Sets the mode of an open descriptor, for every holder of it.
///
/// # Errors
/// The kernel refuses, which for a socket it never does.
pub fn set_mode<Fd: AsFd>(fd: Fd, mode: Mode) -> io::Result<()> {
    rustix::io::ioctl_fionbio(fd, mode == Mode::NonBlocking)?;
    Ok(())
}

/// How much of what was sent the other end has not read: 0 when it has read everything. What it counts is the kernel's
/// memory, not bytes.
///
/// # Errors
/// It is not a socket.
pub fn unread_by_peer<Fd: AsFd>(socket: Fd) -> io::Result<usize> {
    let mut held: libc::c_int = 0;
    // SAFETY: the descriptor is open while it is borrowed, and the kernel writes one `int` there for this request.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut held) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(held.try_into().unwrap_or(0)) }
}

fn pair(kind: SocketType, mode: Mode) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = match mode {
        Mode::Blocking => SocketFlags::CLOEXEC,
        Mode::NonBlocking => SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
    };
    Ok(socketpair(AddressFamily::UNIX, kind, flags, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_peer_has_not_read_is_known() {
        let (here, there) = stream_pair().unwrap();
        assert_eq!(unread_by_peer(&here).unwrap(), 0);
        rustix::io::write(&here, b"hello").unwrap();
        assert!(unread_by_peer(&here).unwrap() > 0);
        assert_eq!(unread_by_peer(&there).unwrap(), 0);
        rustix::io::read(&there, &mut [0; 5]).unwrap();
        assert_eq!(unread_by_peer(&here).unwrap(), 0);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(unread_by_peer(file).is_err());
    }
}
