//! The worker of the limit programs: one epoll set, one turn per event, answers made beforehand.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, accept_with, recv, recvmsg,
    send,
};

use super::Kind;
use super::handoff::BATCH;

/// What stands for the source of connections among the events.
const SOURCE: u64 = u64::MAX;

/// The kernel puts who joined last at the end of its queue: after so many accepts the listener leaves and joins again.
const REJOIN: u32 = 16;

/// Serves for ever.
pub(super) fn run(kind: Kind, source: OwnedFd) -> io::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut worker = Worker {
        epoll,
        source,
        kind,
        kept: Vec::new(),
        free: Vec::new(),
        accepted: 0,
        answers: Answers::new(),
    };
    worker.join()?;
    let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; 64];
    loop {
        let (ready, _) = match epoll::wait(&worker.epoll, &mut events[..], None) {
            Ok(ready) => ready,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        for event in ready.iter() {
            match event.data.u64() {
                SOURCE => worker.take()?,
                index => worker.serve_kept(index as usize)?,
            }
        }
    }
}

struct Worker {
    epoll: OwnedFd,
    source: OwnedFd,
    kind: Kind,
    kept: Vec<Option<OwnedFd>>,
    free: Vec<usize>,
    accepted: u32,
    answers: Answers,
}

struct Answers {
    stays: Vec<u8>,
    closes: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        let body = format!("{}\n", std::process::id());
        let answer =
            |end: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}{end}\r\n\r\n{body}", body.len());
        Self { stays: answer("").into_bytes(), closes: answer("\r\nConnection: close").into_bytes() }
    }
}

/// What becomes of a connection after a turn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Waits,
    Over,
}

impl Worker {
    fn join(&self) -> io::Result<()> {
        let exclusive = match self.kind {
            Kind::Shared | Kind::SharedGreedy => epoll::EventFlags::EXCLUSIVE,
            Kind::Reuseport | Kind::HandOff | Kind::HandOffGathered => epoll::EventFlags::empty(),
        };
        let flags = epoll::EventFlags::IN | exclusive;
        Ok(epoll::add(&self.epoll, &self.source, epoll::EventData::new_u64(SOURCE), flags)?)
    }

    /// The source has something.
    fn take(&mut self) -> io::Result<()> {
        match self.kind {
            Kind::Shared => self.accept(1),
            Kind::SharedGreedy | Kind::Reuseport => self.accept(64),
            Kind::HandOff | Kind::HandOffGathered => self.receive(),
        }
    }

    fn accept(&mut self, most: u32) -> io::Result<()> {
        for _ in 0..most {
            match accept_with(&self.source, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(connection) => self.begin(connection)?,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => return Err(errno.into()),
            }
            self.accepted += 1;
            if matches!(self.kind, Kind::Shared | Kind::SharedGreedy) && self.accepted.is_multiple_of(REJOIN)
            {
                epoll::delete(&self.epoll, &self.source)?;
                self.join()?;
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut record = [0u8; 20];
        match recvmsg(
            &self.source,
            &mut [IoSliceMut::new(&mut record)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(connections) = message {
                for connection in connections {
                    self.begin(connection)?;
                }
            }
        }
        Ok(())
    }

    /// The first turn: on loopback the request has come with the connection.
    fn begin(&mut self, connection: OwnedFd) -> io::Result<()> {
        if self.turn(&connection) == Turn::Over {
            return Ok(());
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.kept.push(None);
            self.kept.len() - 1
        });
        epoll::add(&self.epoll, &connection, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
        self.kept[index] = Some(connection);
        Ok(())
    }

    fn serve_kept(&mut self, index: usize) -> io::Result<()> {
        let Some(connection) = self.kept[index].take() else { return Ok(()) };
        match self.turn(&connection) {
            Turn::Waits => self.kept[index] = Some(connection),
            Turn::Over => self.free.push(index),
        }
        Ok(())
    }

    fn turn(&self, connection: &OwnedFd) -> Turn {
        let mut buffer = [0u8; 1024];
        let request = match recv(connection, &mut buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => return Turn::Over,
            Ok((length, _)) => &buffer[..length],
            Err(Errno::AGAIN | Errno::INTR) => return Turn::Waits,
            Err(_) => return Turn::Over,
        };
        burn_if_asked(request);
        let closes = contains(request, b"Connection: close");
        let answer = if closes { &self.answers.closes } else { &self.answers.stays };
        // What does not go out at once is lost with the connection: an answer fits any buffer.
        let sent = send(connection, answer, SendFlags::NOSIGNAL);
        if closes || sent != Ok(answer.len()) { Turn::Over } else { Turn::Waits }
    }
}

fn burn_if_asked(request: &[u8]) {
    let Some(rest) = request.strip_prefix(b"GET /block?ms=") else { return };
    let digits = rest.split(|byte| *byte == b' ').next().unwrap_or_default();
    let millis = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(millis) {
        std::hint::spin_loop();
    }
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}
