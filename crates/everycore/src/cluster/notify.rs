//! The notify socket workers find in `NOTIFY_SOCKET`: one datagram socket per cluster, spoken to by programs
//! that know `READY=1`.
//!
//! The socket has an abstract name: nothing to clean up, and reachable for workers under another user. Anyone
//! may send to it, so the sender's pid as the kernel states it decides whose word it is; [`NotifySocket::recv`]
//! hands it out beside what was said. Parsing is pure.

use std::ffi::OsString;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::{fs, process};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

/// Longest datagram understood; longer ones are ignored whole.
const MAX_DATAGRAM: usize = 4096;

/// How far up from a sender its worker is looked for: wrappers such as `sh -c` and `uv run` nest a few levels.
const MAX_ANCESTORS: usize = 16;

/// The receiving end.
#[derive(Debug)]
pub(crate) struct NotifySocket {
    socket: UnixDatagram,
    name: String,
}

/// One datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notification {
    /// Who sent it, by the kernel's word; perhaps a descendant of a worker: see [`worker_of`].
    pub(crate) pid: u32,
    /// `READY=1`: its start-up is done.
    pub(crate) ready: bool,
}

impl NotifySocket {
    /// Binds a socket under a name nobody else has.
    pub(crate) fn bind() -> io::Result<Self> {
        // Process ids repeat between containers that share a network namespace, and abstract names do not.
        let mut attempt = 0_u32;
        loop {
            let name = format!("everycore/notify/{}/{attempt}", process::id());
            match UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?) {
                Ok(socket) => {
                    socket.set_nonblocking(true)?;
                    rustix::net::sockopt::set_socket_passcred(&socket, true)?;
                    return Ok(Self { socket, name });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempt < 1000 => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The value of `NOTIFY_SOCKET` for workers.
    pub(crate) fn variable(&self) -> OsString {
        format!("@{}", self.name).into()
    }

    /// The next datagram, or `None` when there is none yet. What is no notification is skipped.
    pub(crate) fn recv(&self) -> io::Result<Option<Notification>> {
        loop {
            let mut bytes = [0; MAX_DATAGRAM];
            // Room for the credentials alone: descriptors sent along are closed by the kernel, which is also
            // what a sender waiting at a `BARRIER=1` waits for.
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let received =
                match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
                    Ok(received) => received,
                    Err(rustix::io::Errno::AGAIN) => return Ok(None),
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(error) => return Err(error.into()),
                };
            let sender = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmCredentials(credentials) => {
                    u32::try_from(credentials.pid.as_raw_nonzero().get()).ok()
                }
                _ => None,
            });
            if received.flags.contains(ReturnFlags::TRUNC) {
                continue;
            }
            if let Some(pid) = sender {
                return Ok(Some(Notification { pid, ready: says_ready(&bytes[..received.bytes]) }));
            }
        }
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether one of its lines, `KEY=VALUE` each, is `READY=1`; whatever else there is says nothing we act on.
fn says_ready(datagram: &[u8]) -> bool {
    datagram.split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
}

/// The worker a sender belongs to: itself, or the nearest ancestor for which `is_worker` holds. `None` for a
/// stranger, and for a sender that is gone already.
pub(crate) fn worker_of(sender: u32, is_worker: impl Fn(u32) -> bool) -> Option<u32> {
    let mut pid = sender;
    for _ in 0..MAX_ANCESTORS {
        if is_worker(pid) {
            return Some(pid);
        }
        pid = parent_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    }
    None
}

/// The parent's pid in `/proc/PID/stat`: the second field after the command, whose name may contain anything.
fn parent_in(stat: &str) -> Option<u32> {
    let (_, after) = stat.rsplit_once(')')?;
    after.split_ascii_whitespace().nth(1)?.parse().ok().filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender_to(socket: &NotifySocket) -> UnixDatagram {
        let sender = UnixDatagram::unbound().unwrap();
        let variable = socket.variable().into_string().unwrap();
        let name = variable.strip_prefix('@').unwrap();
        sender.connect_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
        sender
    }

    #[test]
    fn a_notification_names_its_sender() {
        let socket = NotifySocket::bind().unwrap();
        assert_eq!(socket.recv().unwrap(), None);
        let sender = sender_to(&socket);
        sender.send(b"STATUS=warming up\nREADY=1\nMAINPID=1").unwrap();
        assert_eq!(socket.recv().unwrap(), Some(Notification { pid: process::id(), ready: true }));
        assert_eq!(socket.recv().unwrap(), None);
    }

    #[test]
    fn a_datagram_too_long_is_skipped_and_the_next_one_read() {
        let socket = NotifySocket::bind().unwrap();
        let sender = sender_to(&socket);
        sender.send(&[b'x'; MAX_DATAGRAM + 1]).unwrap();
        sender.send(b"READY=1\n").unwrap();
        assert!(socket.recv().unwrap().unwrap().ready);
    }

    #[test]
    fn descriptors_sent_along_are_closed() {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        let socket = NotifySocket::bind().unwrap();
        let sender = sender_to(&socket);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let fds = [theirs.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let line = [io::IoSlice::new(b"BARRIER=1")];
        sendmsg(&sender, &line, &mut control, SendFlags::empty()).unwrap();
        drop(theirs);
        assert!(!socket.recv().unwrap().unwrap().ready);
        let mut byte = [0];
        assert_eq!(io::Read::read(&mut &ours, &mut byte).unwrap(), 0, "the other end is closed");
    }

    #[test]
    fn two_sockets_have_two_names() {
        let (first, second) = (NotifySocket::bind().unwrap(), NotifySocket::bind().unwrap());
        assert_ne!(first.variable(), second.variable());
    }

    #[test]
    fn only_whole_known_lines_count() {
        assert!(!says_ready(b"XREADY=1\nREADY=10\nREADY=0\nSTOPPING=1\n\xff"));
        assert!(says_ready(b"STATUS=\xff\nREADY=1"));
    }

    #[test]
    fn a_senders_worker_is_found_among_its_ancestors() {
        let me = process::id();
        assert_eq!(worker_of(me, |pid| pid == me), Some(me));
        let parent = std::os::unix::process::parent_id();
        assert_eq!(worker_of(me, |pid| pid == parent), Some(parent));
        assert_eq!(worker_of(me, |_| false), None);
        assert_eq!(worker_of(u32::MAX, |_| false), None);
    }

    #[test]
    fn a_command_name_cannot_fake_a_parent() {
        assert_eq!(parent_in("7 (a) S 1 (b)) S 42 7 7"), Some(42));
        assert_eq!(parent_in("1 (init) S 0 1"), None);
        assert_eq!(parent_in("junk"), None);
    }
}
