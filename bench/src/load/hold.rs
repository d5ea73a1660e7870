//! Connections that are opened, asked one thing, and then kept at rest.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use super::answer::{self, Answer};
use super::connection::SOURCES;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Holds more connections to a server until there are `count`.
///
/// # Errors
/// The server refuses one, or answers no proper answer.
pub(crate) fn hold(held: &mut Vec<TcpStream>, target: SocketAddrV4, count: usize) -> io::Result<()> {
    while held.len() < count {
        let connection = open(target, held.len() as u32)
            .map_err(|error| io::Error::new(error.kind(), format!("connection {}: {error}", held.len())))?;
        held.push(connection);
    }
    Ok(())
}

fn open(target: SocketAddrV4, turn: u32) -> io::Result<TcpStream> {
    let socket: OwnedFd = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let source = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + 1 + turn % SOURCES);
    bind(&socket, &SocketAddrV4::new(source, 0))?;
    connect(&socket, &target)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let (mut buffer, mut filled) = ([0u8; 2048], 0);
    loop {
        match stream.read(&mut buffer[filled..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
        match answer::read(&buffer[..filled]) {
            Answer::Complete { .. } => return Ok(stream),
            Answer::Bad => return Err(io::ErrorKind::InvalidData.into()),
            Answer::Incomplete => {}
        }
    }
}
