//! Who is at the other end of a Unix socket.
//!
//! Used by the control socket to let only its owner and root in.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

/// The process that connected (or made the pair), as it was at that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCred {
    /// Its process id; `None` when it is not visible from this process' namespace.
    pub pid: Option<u32>,
    /// Its effective user id.
    pub uid: u32,
    /// Its effective group id.
    pub gid: u32,
}

/// Asks the kernel who is at the other end of a connected Unix socket.
///
/// # Errors
/// The descriptor is no socket.
pub fn peer_cred<Fd: AsFd>(socket: Fd) -> io::Result<PeerCred> {
    let mut cred = MaybeUninit::<libc::ucred>::zeroed();
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes, the size of the structure, which is plain numbers and was zeroed.
    let (result, cred) = unsafe {
        let result = libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            cred.as_mut_ptr().cast(),
            &raw mut len,
        );
        (result, cred.assume_init())
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let pid = u32::try_from(cred.pid).ok().filter(|pid| *pid != 0);
    Ok(PeerCred { pid, uid: cred.uid, gid: cred.gid })
}
