//! The primary of the limit programs that hand off: accept, send, close, in turn and without looking.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    accept_with, sendmsg, socketpair,
};

/// Descriptors in one message, at most.
pub(super) const BATCH: usize = 32;

/// Connections accepted in one go.
const DRAIN: usize = 64;

/// How long to gather, and above how many arrivals per second.
const GATHER: (Duration, f64) = (Duration::from_micros(100), 5_000.0);

/// A channel that keeps the bounds of messages: the primary's end blocks, so a full worker holds everything up.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&far, true)?;
    Ok((near, far))
}

/// Accepts and hands off for ever.
pub(super) fn run(listener: &OwnedFd, workers: &[(OwnedFd, OwnedFd)], gathers: bool) -> io::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; 1];
    let mut batches: Vec<Vec<OwnedFd>> = workers.iter().map(|_| Vec::with_capacity(DRAIN)).collect();
    let mut rate = Rate::new();
    let mut next = 0;
    loop {
        if gathers && rate.is_high() {
            let pause = Timespec { tv_sec: 0, tv_nsec: GATHER.0.subsec_nanos().into() };
            // Woken early by a signal: then less is gathered.
            let _ = rustix::thread::nanosleep(&pause);
        } else {
            match epoll::wait(&epoll, &mut events[..], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        for _ in 0..DRAIN {
            match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(accepted) => {
                    batches[next].push(accepted);
                    next = (next + 1) % workers.len();
                    rate.count();
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        rate.look();
        for (batch, (near, _)) in batches.iter_mut().zip(workers) {
            for piece in batch.chunks(if gathers { BATCH } else { 1 }) {
                send(near, piece)?;
            }
            batch.clear();
        }
    }
}

fn send(near: &OwnedFd, connections: &[OwnedFd]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = connections.iter().map(AsFd::as_fd).collect();
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    // Room for a peer's address, as a real record has it.
    sendmsg(near, &[IoSlice::new(&[0u8; 20])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Arrivals per second, looked at every ten milliseconds.
struct Rate {
    count: u32,
    since: Instant,
    high: bool,
}

impl Rate {
    fn new() -> Self {
        Self { count: 0, since: Instant::now(), high: false }
    }

    fn count(&mut self) {
        self.count += 1;
    }

    fn look(&mut self) {
        let elapsed = self.since.elapsed();
        if elapsed >= Duration::from_millis(10) {
            self.high = f64::from(self.count) / elapsed.as_secs_f64() > GATHER.1;
            (self.count, self.since) = (0, Instant::now());
        }
    }

    fn is_high(&self) -> bool {
        self.high
    }
}
