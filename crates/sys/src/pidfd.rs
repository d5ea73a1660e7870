//! Waits for and signals a child without races.
//!
//! A pidfd names one process for ever, so a signal can never hit a stranger that got the same pid, and a child can be
//! waited for in any event loop without a handler for `SIGCHLD`. Neighbour: [`crate::spawn()`] makes them.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, waitid};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitStatus {
    /// It returned this code, 0 to 255.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The number, as in `kill -l`.
        signal: i32,
        /// Whether the kernel wrote a core file.
        core_dumped: bool,
    },
    /// It has ended, but somebody else took the status: `SIGCHLD` is ignored in this process, or foreign code waits
    /// for all children.
    Unknown,
}

impl WaitStatus {
    /// Whether it returned code 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for WaitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal { signal, core_dumped } => {
                match crate::signals::name(*signal) {
                    Some(name) => write!(f, "killed by {name}")?,
                    None => write!(f, "killed by signal {signal}")?,
                }
                if *core_dumped { f.write_str(" (core dumped)") } else { Ok(()) }
            }
            Self::Unknown => f.write_str("exited, status unknown"),
        }
    }
}

/// A handle to one process. Becomes readable when that process has ended. Closed on exec.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
    pid: u32,
    /// Set once the status was taken: from then on the pid may belong to somebody else. The lock is held across the
    /// system call, or a second thread would find the child gone and call its status unknown.
    status: Mutex<Option<WaitStatus>>,
}

impl PidFd {
    /// Takes a descriptor that the kernel made for process `pid`: fresh from a spawn, or kept over an exec.
    pub fn from_fd(fd: OwnedFd, pid: u32) -> Self {
        Self { fd, pid, status: Mutex::new(None) }
    }

    /// Opens a handle to a running process. Only for a child of ours is it sure to be the one that was meant.
    ///
    /// # Errors
    /// `NotFound`-like (`ESRCH`) when there is no such process.
    pub fn open(pid: u32) -> io::Result<Self> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(Self::from_fd(rustix::process::pidfd_open(raw, PidfdFlags::empty())?, pid))
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal, by number, to the process. Signal 0 only asks whether it may be signalled.
    ///
    /// # Errors
    /// `ESRCH` when it has ended and was waited for; `PermissionDenied`; `InvalidInput` for no such signal.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        send_signal(self.fd.as_fd(), signal, 0)
    }

    /// Sends a signal to the process group that the process leads.
    ///
    /// Needs Linux 6.9 to reach a group whose leader was waited for already; before that such a call fails with
    /// `ESRCH`, since the number of the group can no longer be trusted.
    ///
    /// # Errors
    /// `ESRCH` when nobody is left in the group; `PermissionDenied`; `InvalidInput` for no such signal.
    pub fn signal_group(&self, signal: i32) -> io::Result<()> {
        const PIDFD_SIGNAL_PROCESS_GROUP: u32 = 1 << 2;
        match send_signal(self.fd.as_fd(), signal, PIDFD_SIGNAL_PROCESS_GROUP) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.signal_group_by_number(signal),
            result => result,
        }
    }

    /// Takes the exit status if the process has ended, without waiting. Asked again, it gives the same answer.
    ///
    /// # Errors
    /// None that a caller could act on; the descriptor would have to be no pidfd.
    pub fn try_wait(&self) -> io::Result<Option<WaitStatus>> {
        let mut known = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            *known = self.ask()?;
        }
        Ok(*known)
    }

    /// Waits until the process has ended and takes its status.
    ///
    /// # Errors
    /// As [`PidFd::try_wait`].
    pub fn wait(&self) -> io::Result<WaitStatus> {
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            self.has_ended(None)?;
        }
    }

    fn ask(&self) -> io::Result<Option<WaitStatus>> {
        match waitid(WaitId::PidFd(self.fd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(None) | Err(Errno::INTR) => Ok(None),
            Ok(Some(status)) => Ok(Some(exit_status(&status))),
            // Not ours to wait for (any more). Whether it has ended the descriptor still tells.
            Err(Errno::CHILD) => {
                let ended = self.has_ended(Some(Timespec { tv_sec: 0, tv_nsec: 0 }))?;
                Ok(ended.then_some(WaitStatus::Unknown))
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn has_ended(&self, timeout: Option<Timespec>) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn signal_group_by_number(&self, signal: i32) -> io::Result<()> {
        let known = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_some() {
            return Err(Errno::SRCH.into());
        }
        // As long as nobody has waited for the leader its pid, and with it the group's number, cannot be reused.
        kill_group(self.pid, signal)
    }
}

impl AsRawFd for PidFd {
    /// For event loops that want the number, such as tokio's.
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<PidFd> for OwnedFd {
    fn from(pidfd: PidFd) -> Self {
        pidfd.fd
    }
}

fn exit_status(status: &WaitIdStatus) -> WaitStatus {
    if let Some(code) = status.exit_status() {
        return WaitStatus::Code(code);
    }
    match status.terminating_signal() {
        Some(signal) => WaitStatus::Signal { signal, core_dumped: status.dumped() },
        None => WaitStatus::Unknown,
    }
}

fn send_signal(pidfd: BorrowedFd<'_>, signal: i32, flags: u32) -> io::Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: takes four plain values; a null siginfo asks the kernel to fill in the usual one.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn kill_group(leader: u32, signal: i32) -> io::Result<()> {
    let leader = i32::try_from(leader).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: takes two plain values.
    let result = unsafe { libc::kill(-leader, signal) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
