//! Bytes and descriptors over a Unix socket.
//!
//! [`send`] and [`receive`] serve message channels: any number of descriptors beside a piece of a stream. They never wait,
//! whatever the socket's mode: [`receive_waiting`] does what that says.
//! [`send_each`] and [`receive_one`] serve the hand-off of connections: small records with one descriptor each, no
//! allocation, never waiting. Everything received is an [`OwnedFd`] with close-on-exec set before it can leak.
//! Neighbour: [`crate::socket_pair`] makes the sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The kernel's limit of descriptors in one message.
pub const MAX_DESCRIPTORS: usize = 253;

/// What [`receive`] took off the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecvMsg {
    /// Bytes written to the buffer; 0 means that the peer has closed its end.
    pub bytes: usize,
    /// Descriptors were sent that did not arrive: this process has no room for more of them. Those that did arrive
    /// were handed out all the same.
    pub truncated: bool,
}

/// Sends bytes and, with the first of them, descriptors. Returns how many bytes went.
///
/// All descriptors travel with the first byte, so a partial send never has to send them again. Never waits and never raises
/// `SIGPIPE`.
///
/// # Errors
/// `WouldBlock` when the peer's buffer is full; too many descriptors in flight ([`is_back_pressure`] covers both);
/// `BrokenPipe` when the peer is gone; `InvalidInput` for more than [`MAX_DESCRIPTORS`] or for descriptors without a byte.
pub fn send<Fd: AsFd>(socket: Fd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    send_vectored(socket, &[IoSlice::new(bytes)], fds)
}

/// Like [`send`], with the bytes gathered from several places.
///
/// # Errors
/// As [`send`].
pub fn send_vectored<Fd: AsFd>(
    socket: Fd,
    bytes: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    if fds.len() > MAX_DESCRIPTORS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "more than 253 descriptors in one message"));
    }
    if !fds.is_empty() && bytes.iter().all(|slice| slice.is_empty()) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "descriptors need at least one byte beside them",
        ));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let pushed = control.push(SendAncillaryMessage::ScmRights(fds));
        debug_assert!(pushed, "the space was made for the largest message");
    }
    loop {
        match sendmsg(&socket, bytes, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Receives bytes into `buffer` and appends the descriptors that came with them to `fds`. Never waits.
///
/// On a stream one call may return the bytes of many sends, but never passes the end of one that carried
/// descriptors.
///
/// # Errors
/// `WouldBlock` when nothing is there; `ConnectionReset` when the peer went away with bytes of ours unread.
pub fn receive<Fd: AsFd>(socket: Fd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<RecvMsg> {
    receive_with(socket.as_fd(), buffer, fds, RecvFlags::DONTWAIT)
}

/// Like [`receive`], and waits for the first byte if the socket is in blocking mode.
///
/// # Errors
/// As [`receive`].
pub fn receive_waiting<Fd: AsFd>(
    socket: Fd,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<RecvMsg> {
    receive_with(socket.as_fd(), buffer, fds, RecvFlags::empty())
}

fn receive_with(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    flags: RecvFlags,
) -> io::Result<RecvMsg> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | flags;
    let message = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Err(Errno::INTR) => {}
            result => break result?,
        }
    };
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = item {
            fds.extend(received);
        }
    }
    Ok(RecvMsg { bytes: message.bytes, truncated: message.flags.contains(ReturnFlags::CTRUNC) })
}

/// Sends each record as a message of its own, with its one descriptor. Returns how many went.
///
/// Never waits and never allocates; one system call for up to 32 records. What was not sent is still the caller's.
///
/// # Errors
/// Only when not even the first record went; [`is_back_pressure`] tells a full peer from a dead one.
pub fn send_each<Fd: AsFd>(socket: Fd, records: &[(&[u8], BorrowedFd<'_>)]) -> io::Result<usize> {
    let socket = socket.as_fd();
    let mut sent = 0;
    for chunk in records.chunks(CHUNK) {
        match send_chunk(socket, chunk) {
            Ok(count) => sent += count,
            Err(error) if sent == 0 => return Err(error),
            Err(_) => return Ok(sent),
        }
        if sent % CHUNK != 0 {
            break;
        }
    }
    Ok(sent)
}

/// Receives one record with at most one descriptor; `None` when the peer has closed its end.
///
/// For sockets that keep record bounds. Never waits and never allocates. A record without its descriptor (the sender
/// sent none, or this process has no room for it) arrives as `(bytes, None)`.
///
/// # Errors
/// `WouldBlock` when nothing is there; `InvalidData` when the record is larger than the buffer (it is consumed).
pub fn receive_one<Fd: AsFd>(socket: Fd, buffer: &mut [u8]) -> io::Result<Option<(usize, Option<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Err(Errno::INTR) => {}
            result => break result?,
        }
    };
    let mut fd = None;
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = item {
            // A sender that breaks the rule gets its first descriptor through; the others close here.
            for one in received {
                fd.get_or_insert(one);
            }
        }
    }
    if message.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a record is larger than the buffer for it"));
    }
    if message.bytes == 0 && fd.is_none() {
        return Ok(None);
    }
    Ok(Some((message.bytes, fd)))
}

/// Whether a failed send means "later", not "never": the peer's buffer is full (`EAGAIN`), or too many descriptors
/// are on their way (`ETOOMANYREFS`, for a process without privileges), or the kernel is short of memory (`ENOBUFS`).
pub fn is_back_pressure(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| {
        matches!(Errno::from_raw_os_error(code), Errno::AGAIN | Errno::TOOMANYREFS | Errno::NOBUFS)
    })
}

/// Records per system call; bounds the stack space of [`send_chunk`].
const CHUNK: usize = 32;

/// Room for the header and one descriptor, aligned as the kernel wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct OneDescriptor {
    header: libc::cmsghdr,
    fd: libc::c_int,
    padding: libc::c_int,
}

/// One `sendmmsg` for up to [`CHUNK`] records.
fn send_chunk(socket: BorrowedFd<'_>, records: &[(&[u8], BorrowedFd<'_>)]) -> io::Result<usize> {
    let mut bytes: [MaybeUninit<libc::iovec>; CHUNK] = [MaybeUninit::uninit(); CHUNK];
    let mut controls: [MaybeUninit<OneDescriptor>; CHUNK] = [MaybeUninit::uninit(); CHUNK];
    let mut messages: [MaybeUninit<libc::mmsghdr>; CHUNK] = [MaybeUninit::uninit(); CHUNK];
    let slots = bytes.iter_mut().zip(&mut controls).zip(&mut messages);
    let mut count = 0;
    for ((record, fd), ((bytes, control), message)) in records.iter().zip(slots) {
        bytes.write(libc::iovec { iov_base: record.as_ptr().cast_mut().cast(), iov_len: record.len() });
        control.write(one_descriptor(*fd));
        message.write(one_message(bytes.as_mut_ptr(), control.as_mut_ptr()));
        count += 1;
    }
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    loop {
        // SAFETY: the first `count` messages were written above; each points to one iovec over a live slice and to
        // one control block, all of which stay in place until the call returns. The kernel only reads the slices.
        let sent =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr().cast(), count, flags as _) };
        match usize::try_from(sent) {
            Ok(sent) => return Ok(sent),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

fn one_descriptor(fd: BorrowedFd<'_>) -> OneDescriptor {
    // SAFETY: CMSG_LEN only computes; it is unsafe because libc declares it so.
    let len = unsafe { libc::CMSG_LEN(size_of::<libc::c_int>() as u32) };
    // SAFETY: all-zero bytes are a valid cmsghdr; musl adds private padding, so it cannot be written as a literal.
    let mut header: libc::cmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.cmsg_len = len as _;
    header.cmsg_level = libc::SOL_SOCKET;
    header.cmsg_type = libc::SCM_RIGHTS;
    OneDescriptor { header, fd: fd.as_raw_fd(), padding: 0 }
}

fn one_message(bytes: *mut libc::iovec, control: *mut OneDescriptor) -> libc::mmsghdr {
    // SAFETY: all-zero bytes are a valid mmsghdr (null pointers, zero lengths).
    let mut message: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_hdr.msg_iov = bytes;
    message.msg_hdr.msg_iovlen = 1;
    message.msg_hdr.msg_control = control.cast();
    message.msg_hdr.msg_controllen = size_of::<OneDescriptor>() as _;
    message
}
