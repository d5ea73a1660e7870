//! What a process finds at its start: variables that are meant for it alone, and descriptors they speak of.
//!
//! Both are taken once, early, so that nothing this process starts mistakes them for its own. Neighbour:
//! [`crate::spawn()`] puts them there.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketType, sockopt};

/// Why variables could not be taken.
#[derive(Debug)]
#[non_exhaustive]
pub enum InheritError {
    /// Other threads run already; one of them may be reading the environment at this moment.
    Threads {
        /// The variable that was to be taken.
        variable: String,
    },
}

impl fmt::Display for InheritError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Threads { variable } => write!(
                f,
                "cannot take {variable} out of the environment while other threads run; do it first thing in main, \
                 before a runtime or any thread is started"
            ),
        }
    }
}

impl std::error::Error for InheritError {}

/// Reads the named variables and removes those that are set. The values come in the order of the names.
///
/// Removing is what keeps this process' own children from taking them for theirs.
///
/// # Errors
/// [`InheritError::Threads`] when one of them is set and other threads run. When none is set there is nothing to do,
/// with or without threads.
pub fn take_environment(names: &[&str]) -> Result<Vec<Option<OsString>>, InheritError> {
    let values: Vec<_> = names.iter().map(std::env::var_os).collect();
    let Some(first) = names.iter().zip(&values).find_map(|(name, value)| value.is_some().then_some(*name))
    else {
        return Ok(values);
    };
    if !is_single_threaded() {
        return Err(InheritError::Threads { variable: first.to_owned() });
    }
    for (name, value) in names.iter().zip(&values) {
        if value.is_some() {
            remove_variable(name);
        }
    }
    Ok(values)
}

/// Whether this is the only thread of its process. When that cannot be found out, it is not.
pub fn is_single_threaded() -> bool {
    // The kernel refuses this to a process with threads, and for one without it does nothing: a call instead of the six
    // and the 32 KiB that it takes to read a directory, for every worker that starts.
    // SAFETY: changes nothing in the one case where it succeeds.
    match unsafe { libc::unshare(libc::CLONE_THREAD) } {
        0 => true,
        // Also what a filter of system calls may answer, and a process that shares its memory otherwise.
        _ => std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1),
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the one place where it is known that there are no other threads"
)]
fn remove_variable(name: &str) {
    // SAFETY: the caller has just seen that this is the only thread, and it starts none in between.
    unsafe { std::env::remove_var(name) };
}

/// What an inherited descriptor must be, for [`adopt_fd`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect<'a> {
    /// A stream socket of the Unix family: a message channel.
    UnixStream,
    /// The very file that [`identity`] described in the parent.
    Identity(&'a OsStr),
}

/// Takes over a descriptor that this process was started with; sets close-on-exec.
///
/// Only a descriptor that is *not* yet closed on exec is taken. What the parent left to us cannot have that mark, and
/// everything that Rust's library or this crate opens has it, so a stale or made-up number cannot take a descriptor
/// away from its owner, and none is taken twice.
///
/// # Errors
/// `NotFound` when the number is not open; `AlreadyExists` when it is open but was not inherited, or was taken
/// before; `InvalidData` when it is not what was expected (it is left alone then).
pub fn adopt_fd(number: RawFd, expect: &[Expect<'_>]) -> io::Result<OwnedFd> {
    let refused = |kind, why: &str| Err(io::Error::new(kind, format!("descriptor {number} {why}")));
    if number < 0 {
        return refused(io::ErrorKind::NotFound, "is not a descriptor number");
    }
    // SAFETY: only used for questions, in this function; a number that is not open makes them fail with EBADF.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    let Ok(flags) = rustix::io::fcntl_getfd(fd) else {
        return refused(io::ErrorKind::NotFound, "is not open");
    };
    if flags.contains(FdFlags::CLOEXEC) {
        return refused(io::ErrorKind::AlreadyExists, "was not inherited, or is taken already");
    }
    for expected in expect {
        if !meets(fd, *expected)? {
            return refused(io::ErrorKind::InvalidData, "is not what the environment says");
        }
    }
    rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?;
    // SAFETY: it is open, and by the rule above nobody in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Describes an open file so that another process that got it can recognise it: device and inode number.
///
/// # Errors
/// None for an open descriptor.
pub fn identity<Fd: AsFd>(fd: Fd) -> io::Result<String> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(format!("{}:{}", stat.st_dev, stat.st_ino))
}

fn meets(fd: BorrowedFd<'_>, expected: Expect<'_>) -> io::Result<bool> {
    match expected {
        Expect::UnixStream => Ok(sockopt::socket_domain(fd)
            .is_ok_and(|domain| domain == AddressFamily::UNIX)
            && sockopt::socket_type(fd).is_ok_and(|kind| kind == SocketType::STREAM)),
        Expect::Identity(wanted) => Ok(identity(fd)?.as_str() == wanted),
    }
}

/// A descriptor from a service manager.
#[derive(Debug)]
pub struct ListenFd {
    /// Its name in `LISTEN_FDNAMES`; `unknown` when it has none, as systemd says it.
    pub name: String,
    /// The descriptor, closed on exec. Not checked to be a socket.
    pub fd: OwnedFd,
}

/// Takes the sockets that a service manager passed (`LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`) and removes the
/// variables. Empty when there are none or they are meant for another process.
///
/// # Errors
/// [`InheritError::Threads`] when there are some and other threads run.
pub fn listen_fds() -> Result<Vec<ListenFd>, InheritError> {
    const FIRST: RawFd = 3;
    let values = take_environment(&["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"])?;
    let [pid, count, names] = values.as_slice() else { return Ok(Vec::new()) };
    let number =
        |value: &Option<OsString>| value.as_ref().and_then(|text| text.to_str()?.parse::<u32>().ok());
    if number(pid) != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let names = names.as_ref().map(|names| names.to_string_lossy().into_owned()).unwrap_or_default();
    let mut names = names.split(':').filter(|name| !name.is_empty());
    let count = number(count).and_then(|count| RawFd::try_from(count).ok()).unwrap_or(0).min(4096);
    let mut found = Vec::new();
    for offset in 0..count {
        let name = names.next().unwrap_or("unknown").to_owned();
        if let Ok(fd) = adopt_fd(FIRST + offset, &[]) {
            found.push(ListenFd { name, fd });
        }
    }
    Ok(found)
}
