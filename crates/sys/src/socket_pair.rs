//! The two ends of a channel: pairs of connected Unix sockets.
//!
//! Neighbours: [`crate::scm_rights`] moves bytes and descriptors over them, [`crate::spawn()`] gives one end to a child.

use std::io;
use std::os::fd::OwnedFd;

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
pub fn set_mode<Fd: std::os::fd::AsFd>(fd: Fd, mode: Mode) -> io::Result<()> {
    rustix::io::ioctl_fionbio(fd, mode == Mode::NonBlocking)?;
    Ok(())
}

fn pair(kind: SocketType, mode: Mode) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = match mode {
        Mode::Blocking => SocketFlags::CLOEXEC,
        Mode::NonBlocking => SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
    };
    Ok(socketpair(AddressFamily::UNIX, kind, flags, None)?)
}
