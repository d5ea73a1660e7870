//! Sees from outside whether a process serves a listening socket it inherited: some thread of it, or of a
//! descendant, has the socket in an epoll set or is blocked in accept, poll or select on it.
//!
//! Reads `/proc` only. Parsing is pure; `look` is the one function that looks.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Processes looked at per question: a worker with more descendants than this is judged by the first ones.
const MAX_PROCESSES: usize = 64;

/// Entries of a poll array, or bits of a select set, looked at.
const MAX_POLLED: usize = 1024;

/// What can be seen of a process and a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sight {
    /// Nobody has the socket, or somebody has who cannot be looked into.
    Unknown,
    /// Somebody has it, and nobody waits for its connections.
    Held,
    /// Somebody waits for its connections.
    Served,
}

/// What process `pid` and its descendants do with the socket of this inode.
pub(crate) fn look(pid: u32, inode: u64) -> Sight {
    let mut queue = vec![pid];
    let mut seen = BTreeSet::new();
    let (mut held, mut hidden) = (false, false);
    while let Some(pid) = queue.pop() {
        if seen.len() == MAX_PROCESSES {
            return Sight::Unknown;
        }
        if !seen.insert(pid) {
            continue;
        }
        let process = PathBuf::from(format!("/proc/{pid}"));
        let threads = numbered(&process.join("task"));
        match Descriptors::of(&process, inode) {
            Ok(descriptors) if descriptors.serve(&process, &threads, inode) => return Sight::Served,
            Ok(descriptors) => {
                held |= !descriptors.holders.is_empty();
                hidden |= descriptors.has_ring;
            }
            // It has just ended.
            Err(error) if is_gone(&error) => {}
            Err(_) => hidden = true,
        }
        for thread in &threads {
            let children = read(&process.join(format!("task/{thread}/children")));
            queue.extend(children.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    if held && !hidden { Sight::Held } else { Sight::Unknown }
}

/// Whether a process could not be looked at because it is no more.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// The descriptors of a process that matter here.
struct Descriptors {
    /// Those of the socket.
    holders: BTreeSet<u32>,
    epolls: Vec<u32>,
    /// It may wait in an `io_uring`, into which nobody can look.
    has_ring: bool,
}

impl Descriptors {
    fn of(process: &Path, inode: u64) -> io::Result<Self> {
        let directory = process.join("fd");
        fs::read_dir(&directory)?;
        let mut found = Self { holders: BTreeSet::new(), epolls: Vec::new(), has_ring: false };
        for fd in numbered(&directory) {
            let Ok(target) = fs::read_link(directory.join(fd.to_string())) else { continue };
            match target.to_str() {
                Some("anon_inode:[eventpoll]") => found.epolls.push(fd),
                Some("anon_inode:[io_uring]") => found.has_ring = true,
                Some(target) if socket_inode(target) == Some(inode) => {
                    found.holders.insert(fd);
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// Whether the process waits for connections of the socket.
    fn serve(&self, process: &Path, threads: &[u32], inode: u64) -> bool {
        let Self { holders, epolls, .. } = self;
        !holders.is_empty()
            && (epolls
                .iter()
                .any(|epoll| polls(&read(&process.join(format!("fdinfo/{epoll}"))), inode, holders))
                || threads.iter().any(|thread| {
                    let call = read(&process.join(format!("task/{thread}/syscall")));
                    match Call::parse(&call) {
                        Some(call) => call.waits_on(process, holders),
                        // Without the right to see the call, the name of the kernel function it waits in has to do.
                        None => {
                            call.is_empty()
                                && read(&process.join(format!("task/{thread}/wchan"))).contains("_accept")
                        }
                    }
                }))
    }
}

/// The inode in `socket:[123]`.
fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Whether an epoll descriptor's `fdinfo` shows the socket with an interest in readiness to read.
fn polls(fdinfo: &str, inode: u64, holders: &BTreeSet<u32>) -> bool {
    const READABLE: u32 = 0x1;
    fdinfo.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (mut watched, mut events, mut found) = (None, 0, None);
        while let Some(field) = fields.next() {
            match field {
                "tfd:" => watched = fields.next().and_then(|fd| fd.parse().ok()),
                "events:" => {
                    events = fields.next().and_then(|e| u32::from_str_radix(e, 16).ok()).unwrap_or(0)
                }
                field => {
                    if let Some(number) = field.strip_prefix("ino:") {
                        found = u64::from_str_radix(number, 16).ok();
                    }
                }
            }
        }
        // Inode numbers repeat between file systems; the descriptor's own link settles it.
        found == Some(inode) && events & READABLE != 0 && watched.is_some_and(|fd| holders.contains(&fd))
    })
}

/// A system call a thread is blocked in: its number and arguments.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    number: u64,
    arguments: [u64; 6],
}

impl Call {
    /// Reads `/proc/PID/task/TID/syscall`; `None` for a thread that runs, or is blocked outside a call.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split_ascii_whitespace();
        let number = fields.next()?.parse().ok()?;
        let mut arguments = [0; 6];
        for argument in &mut arguments {
            *argument = u64::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok()?;
        }
        Some(Self { number, arguments })
    }

    /// Whether the call returns when a connection arrives on one of `holders`.
    fn waits_on(&self, process: &Path, holders: &BTreeSet<u32>) -> bool {
        let [first, second, ..] = self.arguments;
        match Wait::of(self.number) {
            Some(Wait::Accept) => u32::try_from(first).is_ok_and(|fd| holders.contains(&fd)),
            Some(Wait::Poll) => {
                let length = usize::try_from(second).map_or(MAX_POLLED, |length| length.min(MAX_POLLED));
                in_poll_array(&memory(process, first, length * POLL_ENTRY), holders)
            }
            Some(Wait::Select) => in_select_set(&memory(process, second, MAX_POLLED / 8), holders, first),
            None => false,
        }
    }
}

/// Bytes of one `struct pollfd`: a descriptor, and two short sets of events.
const POLL_ENTRY: usize = 8;

/// Whether an array of `struct pollfd` asks for readiness to read on one of `holders`.
fn in_poll_array(array: &[u8], holders: &BTreeSet<u32>) -> bool {
    const READABLE: u16 = 0x1;
    array.chunks_exact(POLL_ENTRY).any(|entry| {
        let fd = i32::from_ne_bytes([entry[0], entry[1], entry[2], entry[3]]);
        let events = u16::from_ne_bytes([entry[4], entry[5]]);
        events & READABLE != 0 && u32::try_from(fd).is_ok_and(|fd| holders.contains(&fd))
    })
}

/// Whether a `fd_set` of `count` descriptors contains one of `holders`. Bytes of the set count upwards, since
/// the supported machines are little-endian.
fn in_select_set(set: &[u8], holders: &BTreeSet<u32>, count: u64) -> bool {
    holders.iter().filter(|fd| u64::from(**fd) < count).any(|fd| {
        let (byte, bit) = ((fd / 8) as usize, fd % 8);
        set.get(byte).is_some_and(|byte| byte & (1 << bit) != 0)
    })
}

/// What the calls that wait for a connection have as arguments.
#[derive(Debug, PartialEq, Eq)]
enum Wait {
    /// (descriptor, …)
    Accept,
    /// (array, length, …)
    Poll,
    /// (count, set, …)
    Select,
}

impl Wait {
    /// By the numbers of this machine; epoll is seen in its set, whether a thread waits in it or not.
    fn of(number: u64) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return match number {
            43 | 288 => Some(Self::Accept),
            7 | 271 => Some(Self::Poll),
            23 | 270 => Some(Self::Select),
            _ => None,
        };
        #[cfg(target_arch = "aarch64")]
        return match number {
            202 | 242 => Some(Self::Accept),
            73 => Some(Self::Poll),
            72 => Some(Self::Select),
            _ => None,
        };
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        return {
            let _ = number;
            None
        };
    }
}

/// The numeric entries of a directory of `/proc`; none when it cannot be read.
fn numbered(directory: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A file of `/proc` as text; empty when it cannot be read.
fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Up to `length` bytes of a process's memory; as many as can be read.
fn memory(process: &Path, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let read = File::open(process.join("mem")).and_then(|file| file.read_at(&mut bytes, address));
    bytes.truncate(read.unwrap_or(0));
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags, epoll};

    use super::*;

    fn listener() -> (TcpListener, u64) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
        (listener, inode)
    }

    fn eventually_serves(inode: u64) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while look(std::process::id(), inode) != Sight::Served {
            assert!(Instant::now() < deadline, "never seen to serve");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_socket_only_held_is_not_served() {
        let (_listener, inode) = listener();
        assert_eq!(look(std::process::id(), inode), Sight::Held);
    }

    #[test]
    fn a_socket_in_an_epoll_set_is_served() {
        let (listener, inode) = listener();
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        epoll::add(&set, &listener, epoll::EventData::new_u64(0), epoll::EventFlags::OUT).unwrap();
        assert_eq!(look(std::process::id(), inode), Sight::Held);
        epoll::modify(&set, &listener, epoll::EventData::new_u64(0), epoll::EventFlags::IN).unwrap();
        assert_eq!(look(std::process::id(), inode), Sight::Served);
    }

    #[test]
    fn a_thread_blocked_in_accept_serves() {
        let (listener, inode) = listener();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || listener.accept().unwrap());
        eventually_serves(inode);
        TcpStream::connect(address).unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn a_thread_blocked_in_poll_serves() {
        let (listener, inode) = listener();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let other = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut fds = [
                PollFd::from_borrowed_fd(other.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
            ];
            rustix::event::poll(&mut fds, None).unwrap();
        });
        eventually_serves(inode);
        TcpStream::connect(address).unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn a_process_that_is_gone_serves_nothing() {
        assert_eq!(look(u32::MAX, 1), Sight::Unknown);
    }

    #[test]
    fn epoll_entries_are_told_apart() {
        let holders = BTreeSet::from([3]);
        let text = "pos:\t0\nflags:\t02000002\ntfd:        3 events:       19 data:                3  pos:0 ino:4b21 sdev:9\n";
        assert!(polls(text, 0x4b21, &holders));
        assert!(!polls(text, 0x4b22, &holders), "another socket");
        assert!(!polls(text, 0x4b21, &BTreeSet::from([4])), "a file with the same number elsewhere");
        assert!(!polls(&text.replace("19", "18"), 0x4b21, &holders), "not for reading");
        assert!(!polls("tfd: events: ino:zz", 0x4b21, &holders), "nonsense");
    }

    #[test]
    fn calls_are_read() {
        let call = Call::parse("43 0x3 0x0 0x10 0x0 0x0 0xff 0x7ffe7a427808 0x7f5d0fec42ad\n").unwrap();
        assert_eq!((call.number, call.arguments), (43, [3, 0, 16, 0, 0, 255]));
        for text in ["running\n", "-1 0x7ffe 0x7f5d\n", "", "43 0x3"] {
            assert_eq!(Call::parse(text), None, "{text}");
        }
    }

    #[test]
    fn sets_are_searched() {
        let holders = BTreeSet::from([11]);
        let entry = |fd: i32, events: u16| [&fd.to_ne_bytes()[..], &events.to_ne_bytes(), &[0; 2]].concat();
        assert!(in_poll_array(&[entry(-1, 1), entry(11, 1)].concat(), &holders));
        assert!(!in_poll_array(&entry(11, 4), &holders));
        assert!(in_select_set(&[0, 0b1000], &holders, 12));
        assert!(!in_select_set(&[0, 0b1000], &holders, 11), "beyond the count");
        assert!(!in_select_set(&[0], &holders, 12), "a set cut short");
    }

    #[test]
    fn only_socket_links_have_an_inode() {
        assert_eq!(socket_inode("socket:[19233]"), Some(19233));
        assert_eq!(socket_inode("pipe:[19233]"), None);
    }
}
