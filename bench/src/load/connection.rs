//! One connection of the generator: its socket, and where in its life it is.
//!
//! A socket serves one connection after the other. When the server has ended one, it is shut down, which sends what a
//! close would send, and is connected anew: the server sees the same packets, and the generator is spared making, binding,
//! registering and releasing a socket for each. One that has failed is closed.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, bind, connect, connect_unspec,
    recv, send, shutdown, socket_with,
};

use super::answer::{self, Answer};
use super::failure::Failure;

/// Room for an answer: the largest of all servers has some 250 bytes.
const ROOM: usize = 2048;

/// Loopback addresses the generator comes from in turn, 127.0.0.2 and up: each has ports of its own.
pub(super) const SOURCES: u32 = 32;

pub(super) struct Connection {
    socket: OwnedFd,
    pub(super) phase: Phase,
    /// When the present request was due.
    pub(super) due: Instant,
    /// When the connection was begun.
    pub(super) began: Instant,
    /// When the present wait is given up.
    pub(super) deadline: Instant,
    /// The present request burns CPU.
    pub(super) burns: bool,
    /// It was connected before, to whom the kernel still knows.
    used: bool,
    buffer: Box<[u8; ROOM]>,
    filled: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The socket waits for its next connection.
    Idle,
    /// The handshake is not over, or the request does not fit.
    Connecting,
    /// The request is sent.
    Awaiting,
    /// The answer is there, the end of the connection is not.
    Ending,
}

/// What reading brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing yet.
    Pending,
    /// The whole answer.
    Answered { worker: u32, closes: bool },
    /// The end, after the answer.
    Ended,
    /// It went wrong.
    Failed(Failure),
}

impl Connection {
    /// A socket that comes from the next of our addresses in turn.
    pub(super) fn new(turn: u32, reusing: Option<Room>) -> Result<Self, Failure> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
            .map_err(|_| Failure::Generator)?;
        let source = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + 1 + turn % SOURCES);
        bind(&socket, &SocketAddrV4::new(source, 0)).map_err(|_| Failure::Generator)?;
        let now = Instant::now();
        Ok(Self {
            socket,
            phase: Phase::Idle,
            due: now,
            began: now,
            deadline: now,
            burns: false,
            used: false,
            buffer: reusing.unwrap_or_else(|| Box::new([0; ROOM])),
            filled: 0,
        })
    }

    /// Begins to connect. The port is a new one each time.
    pub(super) fn begin(&mut self, target: SocketAddrV4) -> Result<(), Failure> {
        if self.used {
            // The address stays, and nothing is sent: both ends of the last connection are over.
            connect_unspec(&self.socket).map_err(|_| Failure::Generator)?;
        }
        self.used = true;
        match connect(&self.socket, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(connect_failure(errno)),
        }
        self.phase = Phase::Connecting;
        self.began = Instant::now();
        self.filled = 0;
        Ok(())
    }

    /// Ends our side of a connection whose other side has ended; false when the socket is good for nothing more.
    pub(super) fn finish(&mut self) -> bool {
        self.phase = Phase::Idle;
        shutdown(&self.socket, Shutdown::Write).is_ok()
    }

    /// Sends the request if the connection takes it by now. On loopback the handshake is over when `connect` returns.
    pub(super) fn send(&mut self, request: &[u8]) -> Result<(), Failure> {
        match send(&self.socket, request, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == request.len() => {
                self.phase = Phase::Awaiting;
                self.filled = 0;
                Ok(())
            }
            // A hundred bytes into an empty buffer: all or nothing, or something is very wrong.
            Ok(_) => Err(Failure::Generator),
            Err(Errno::AGAIN | Errno::NOTCONN) => Ok(()),
            Err(errno) => Err(connect_failure(errno)),
        }
    }

    /// Reads what is there. `ending`: the kernel said that the peer has sent its end.
    pub(super) fn read(&mut self, ending: bool) -> Progress {
        loop {
            let received = recv(&self.socket, &mut self.buffer[self.filled..], RecvFlags::empty());
            match received.map(|(_, bytes)| bytes) {
                Ok(0) => return self.ended(),
                Ok(bytes) => self.filled += bytes,
                Err(Errno::AGAIN) => return Progress::Pending,
                Err(Errno::INTR) => continue,
                Err(_) => return self.reset(),
            }
            if self.phase == Phase::Ending {
                return Progress::Failed(Failure::BadAnswer);
            }
            match answer::read(&self.buffer[..self.filled]) {
                Answer::Complete { worker, closes } => return Progress::Answered { worker, closes },
                Answer::Bad => return Progress::Failed(Failure::BadAnswer),
                Answer::Incomplete if self.filled == ROOM => return Progress::Failed(Failure::BadAnswer),
                // Cut short, then: the end comes with the next read.
                Answer::Incomplete if ending => {}
                Answer::Incomplete => return Progress::Pending,
            }
        }
    }

    /// Whether the server has ended a kept connection between two requests.
    pub(super) fn has_ended(&self) -> bool {
        let mut byte = [0u8; 1];
        !matches!(recv(&self.socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT), Err(Errno::AGAIN))
    }

    /// What it means that the deadline has passed.
    pub(super) fn timed_out(&self) -> Failure {
        match self.phase {
            // Accepted by nobody, nor refused: to the client the same as an answer that does not come.
            Phase::Idle | Phase::Connecting | Phase::Awaiting => Failure::NoAnswer,
            Phase::Ending => Failure::NoEnd,
        }
    }

    /// The client's end, as long as the socket still knows it.
    pub(super) fn from(&self) -> Option<std::net::SocketAddr> {
        rustix::net::getsockname(&self.socket).ok()?.try_into().ok()
    }

    /// Closes it and gives the room back.
    pub(super) fn into_room(self) -> Room {
        self.buffer
    }

    fn ended(&self) -> Progress {
        match self.phase {
            Phase::Ending => Progress::Ended,
            Phase::Idle | Phase::Connecting => Progress::Failed(Failure::ResetBeforeRequest),
            Phase::Awaiting if self.filled == 0 => Progress::Failed(Failure::EndedWithoutAnswer),
            Phase::Awaiting => Progress::Failed(Failure::CutShort),
        }
    }

    fn reset(&self) -> Progress {
        Progress::Failed(match self.phase {
            Phase::Ending => Failure::ResetAfterAnswer,
            Phase::Idle | Phase::Connecting => Failure::ResetBeforeRequest,
            Phase::Awaiting if self.filled == 0 => Failure::ResetAfterRequest,
            Phase::Awaiting => Failure::CutShort,
        })
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

pub(super) type Room = Box<[u8; ROOM]>;

fn connect_failure(errno: Errno) -> Failure {
    match errno {
        Errno::CONNREFUSED => Failure::Refused,
        Errno::CONNRESET | Errno::PIPE => Failure::ResetBeforeRequest,
        _ => Failure::Generator,
    }
}
