//! Short connections from many addresses of the loopback network: one request each, read to its end.
//!
//! A thread per connection in flight, blocking: what counts is who answers, not how fast.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use super::Target;

/// Addresses that [`Visits::from_anywhere`] goes round in.
const ADDRESSES: usize = 1000;

const PATIENCE: Duration = Duration::from_secs(30);

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";

/// Where connections come from, in order.
pub(super) struct Visits(Vec<Ipv4Addr>);

/// Who answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visit {
    pub(super) from: Ipv4Addr,
    pub(super) pid: u32,
    /// Of our own servers.
    pub(super) slot: Option<u32>,
}

impl Visits {
    /// So many connections, from a thousand addresses in turn.
    pub(super) fn from_anywhere(count: usize) -> Self {
        Self((0..count).map(|number| address(number % ADDRESSES)).collect())
    }

    /// One connection from each of so many addresses.
    pub(super) fn one_from_each(count: usize) -> Self {
        Self((0..count).map(address).collect())
    }

    /// Makes them, so many at a time. All are answered, or it is an error.
    pub(super) fn run(&self, target: Target, flight: usize) -> io::Result<Vec<Visit>> {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Ok(Vec::with_capacity(self.0.len())));
        let go_on = || {
            while let Some(from) = self.0.get(next.fetch_add(1, Ordering::Relaxed)) {
                let visit = visit(target, *from);
                let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                match (visit, &mut *done) {
                    (Ok(visit), Ok(visits)) => visits.push(visit),
                    (Err(error), Ok(_)) => *done = Err(error),
                    (_, Err(_)) => return,
                }
            }
        };
        std::thread::scope(|scope| {
            (1..flight).for_each(|_| drop(scope.spawn(go_on)));
            go_on();
        });
        done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// 127.1.0.1 and on.
fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + number as u32)
}

fn visit(target: Target, from: Ipv4Addr) -> io::Result<Visit> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrV4::new(from, 0))?;
    connect(&socket, &target)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(REQUEST)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let mut numbers = body.split_ascii_whitespace().map(|word| word.parse().ok());
    match numbers.next().flatten() {
        Some(pid) => Ok(Visit { from, pid, slot: numbers.next().flatten() }),
        None => Err(io::Error::other(format!("an answer without a process id: {answer:?}"))),
    }
}
