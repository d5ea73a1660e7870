//! Connections between two Rust ends: messages arrive whole, in order, with their handles.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use everycore_ipc::{
    Codec, Connection, Flush, Handle, HandleKind, Incoming, Limits, Message, Outgoing, Received, SendError,
};
use everycore_sys::socket_pair::stream_pair;

fn pair(limits: Limits) -> (Connection, Connection) {
    let (here, there) = stream_pair().unwrap();
    let here = Connection::new(here, Codec::Native, limits).unwrap();
    (here, Connection::new(there, Codec::Native, limits).unwrap())
}

fn next(connection: &mut Connection) -> Option<Incoming> {
    match connection.receive().unwrap() {
        Received::Message(incoming) => Some(incoming),
        Received::More | Received::Blocked | Received::Closed => None,
    }
}

#[test]
fn every_kind_arrives_as_what_it_was_sent() {
    let (mut here, mut there) = pair(Limits::default());
    here.queue(Message::json("user").unwrap()).unwrap();
    here.queue(Outgoing::internal(Message::raw("internal"))).unwrap();
    here.queue(Outgoing::request(7, Message::json(&1).unwrap())).unwrap();
    here.queue(Outgoing::reply(u64::MAX, Message::json(&2).unwrap())).unwrap();
    assert_eq!(here.flush().unwrap(), Flush::Done);
    let Some(Incoming::User(message)) = next(&mut there) else { panic!() };
    assert_eq!(message.parse::<String>().unwrap(), "user");
    let Some(Incoming::Internal(message)) = next(&mut there) else { panic!() };
    assert_eq!(message.bytes(), "internal");
    assert!(message.parse::<String>().is_err());
    let Some(Incoming::Request { id: 7, .. }) = next(&mut there) else { panic!() };
    let Some(Incoming::Reply { id: u64::MAX, .. }) = next(&mut there) else { panic!() };
    assert!(next(&mut there).is_none());
    drop(here);
    assert!(matches!(there.receive(), Ok(Received::Closed)));
}

#[test]
fn handles_arrive_with_their_message_among_others() {
    let (mut here, mut there) = pair(Limits::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    here.queue(Message::json(&1).unwrap()).unwrap();
    here.queue(
        Message::json(&2).unwrap().with_handle(accepted).with_handle(Handle::duplicate(&listener).unwrap()),
    )
    .unwrap();
    here.queue(Message::raw(vec![3; 100_000]).with_handle(Handle::duplicate(&listener).unwrap())).unwrap();
    here.queue(Message::json(&4).unwrap()).unwrap();
    assert_eq!(here.flush().unwrap(), Flush::Done);
    drop(here);
    let mut messages = Vec::new();
    while let Some(incoming) = next(&mut there) {
        messages.push(incoming.into_message());
    }
    let counts: Vec<usize> = messages.iter().map(|message| message.handles().len()).collect();
    assert_eq!(counts, [0, 2, 1, 0]);
    assert_eq!(messages[1].handles()[1].kind(), HandleKind::TcpListener);
    let Some(Handle::TcpStream(mut stream)) = messages[1].take_handle() else { panic!() };
    stream.write_all(b"hello").unwrap();
    drop(stream);
    let mut heard = String::new();
    client.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "hello", "the stream moved: closing it at the receiver ends the connection");
    assert_eq!(there.faults(), Default::default());
}

#[test]
fn handles_arrive_with_payloads_of_every_size_around_one_piece() {
    let (mut here, mut there) = pair(Limits::default());
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for size in (32 * 1024 - 40)..(32 * 1024 + 40) {
        here.queue(Message::raw(vec![7; size]).with_handle(Handle::duplicate(&socket).unwrap())).unwrap();
        assert_eq!(here.flush().unwrap(), Flush::Done);
        let message = next(&mut there).unwrap().into_message();
        assert_eq!((message.bytes().len(), message.handles().len()), (size, 1));
    }
    assert_eq!(there.faults(), Default::default());
}

#[test]
fn the_most_handles_a_message_may_have_all_arrive_and_one_more_is_refused() {
    let (mut here, mut there) = pair(Limits::default());
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut message = Message::json("many").unwrap();
    for _ in 0..253 {
        message = message.with_handle(Handle::duplicate(&socket).unwrap());
    }
    here.queue(message).unwrap();
    here.flush().unwrap();
    let mut message = next(&mut there).unwrap().into_message();
    assert_eq!(message.handles().len(), 253);
    message = message.with_handle(Handle::duplicate(&socket).unwrap());
    let error = here.queue(message).unwrap_err();
    assert!(matches!(error, SendError::TooManyHandles { limit: 253, .. }));
    assert_eq!(error.into_outgoing().unwrap().message.handles().len(), 254);
}

#[test]
fn a_full_queue_gives_the_message_back_and_reading_frees_it() {
    let limits = Limits { queue_bytes: 100_000, ..Limits::default() };
    let (mut here, mut there) = pair(limits);
    let mut sent = 0;
    let refused = loop {
        match here.queue(Message::raw(vec![1; 10_000])) {
            Ok(()) => sent += 1,
            Err(SendError::Full(outgoing)) => break outgoing,
            Err(error) => panic!("{error}"),
        }
        here.flush().unwrap();
    };
    assert_eq!(refused.message.bytes().len(), 10_000);
    let mut seen = 0;
    while next(&mut there).is_some() {
        seen += 1;
        here.flush().unwrap();
    }
    assert_eq!((seen, here.queued_bytes()), (sent, 0));
    here.queue(*refused).unwrap();
}

/// Larger than any buffer of the kernel's.
const LARGE: usize = 16 << 20;

/// What one call may move at most: its share, and the read or write that goes beyond it.
const SHARE: usize = 512 << 10;

#[test]
fn a_peer_that_reads_as_fast_as_we_write_does_not_keep_us() {
    for (codec, message) in
        [(Codec::Native, Message::raw(vec![b'x'; LARGE])), (Codec::Json, Message::json(&text()).unwrap())]
    {
        let (here, there) = stream_pair().unwrap();
        let mut here = Connection::new(here, codec, Limits::default()).unwrap();
        let reader = std::thread::spawn(move || std::io::copy(&mut blocking(there), &mut std::io::sink()));
        here.queue(message).unwrap();
        let (mut flushes, mut left) = (0, here.queued_bytes());
        while here.flush().unwrap() != Flush::Done {
            assert!(left - here.queued_bytes() <= SHARE, "{codec}: {left} and {}", here.queued_bytes());
            left = here.queued_bytes();
            flushes += 1;
        }
        drop(here);
        assert!(flushes >= LARGE / SHARE, "{codec}: {flushes}");
        assert!(reader.join().unwrap().unwrap() >= LARGE as u64);
    }
}

#[test]
fn a_peer_that_writes_as_fast_as_we_read_does_not_keep_us() {
    let native = [&(LARGE as u32).to_le_bytes()[..], &[1, 1], &[0; 10], &[b'x'; LARGE]].concat();
    let json = [b"\"", text().as_bytes(), b"\"\n"].concat();
    for (codec, bytes) in [(Codec::Native, native), (Codec::Json, json)] {
        let (here, there) = stream_pair().unwrap();
        let mut here = Connection::new(here, codec, Limits::default()).unwrap();
        let writer = std::thread::spawn(move || blocking(there).write_all(&bytes));
        let mut calls = 0;
        let message = loop {
            match here.receive().unwrap() {
                Received::Message(incoming) => break incoming.into_message(),
                Received::More | Received::Blocked => calls += 1,
                Received::Closed => panic!("{codec}: it has not come"),
            }
        };
        assert!(message.bytes().len() >= LARGE);
        assert!(calls >= LARGE / SHARE, "{codec}: {calls}");
        writer.join().unwrap().unwrap();
    }
}

fn text() -> String {
    "x".repeat(LARGE)
}

fn blocking(socket: std::os::fd::OwnedFd) -> UnixStream {
    let socket = UnixStream::from(socket);
    socket.set_nonblocking(false).unwrap();
    socket
}
