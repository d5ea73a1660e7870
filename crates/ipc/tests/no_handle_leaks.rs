//! Whatever way a channel takes, no descriptor stays open. The only test of its process, which counts its descriptors.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::UdpSocket;
use std::os::fd::AsFd;

use everycore_ipc::{Channel, Codec, Connection, Handle, Limits, Message, Received, blocking};
use everycore_sys::scm_rights::send;
use everycore_sys::socket_pair::stream_pair;

fn open() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn pair(codec: Codec, limits: Limits) -> (Connection, Connection) {
    let (here, there) = stream_pair().unwrap();
    let here = Connection::new(here, codec, limits).unwrap();
    (here, Connection::new(there, codec, limits).unwrap())
}

fn message() -> Message {
    Message::json("m").unwrap().with_handle(UdpSocket::bind("127.0.0.1:0").unwrap())
}

fn delivered_and_dropped(codec: Codec) {
    let (mut here, mut there) = pair(codec, Limits { unanswered: 100, ..Limits::default() });
    for _ in 0..20 {
        here.queue(message()).unwrap();
    }
    here.flush().unwrap();
    let mut count = 0;
    while let Ok(Received::Message(incoming)) = there.receive() {
        count += incoming.message().handles().len();
    }
    assert_eq!(count, 20);
    // Answered, so that the sender closes its copies.
    there.flush().unwrap();
    assert!(matches!(here.receive().unwrap(), Received::Blocked));
}

fn queued_and_never_sent(codec: Codec) {
    let (mut here, _there) = pair(codec, Limits::default());
    for _ in 0..20 {
        here.queue(message()).unwrap();
    }
}

fn sent_and_never_read(codec: Codec) {
    let (mut here, there) = pair(codec, Limits { unanswered: 100, ..Limits::default() });
    for _ in 0..20 {
        here.queue(message()).unwrap();
    }
    here.flush().unwrap();
    drop(there);
    assert!(here.receive().is_ok());
}

fn sent_to_a_peer_that_is_gone(codec: Codec) {
    let (mut here, there) = pair(codec, Limits::default());
    drop(there);
    for _ in 0..20 {
        here.queue(message()).unwrap();
    }
    assert!(here.flush().is_err());
    assert_eq!(here.queue(message()).unwrap_err().into_outgoing().unwrap().message.handles().len(), 1);
    let back = here.take_undelivered();
    assert_eq!(back.len(), if codec == Codec::Native { 0 } else { 20 });
}

fn read_and_not_taken_out(codec: Codec) {
    let (mut here, mut there) = pair(codec, Limits { unanswered: 100, ..Limits::default() });
    for _ in 0..20 {
        here.queue(message()).unwrap();
    }
    here.flush().unwrap();
    assert!(matches!(there.receive().unwrap(), Received::Message(_)));
}

fn unasked_for(codec: Codec) {
    let (peer, ours) = stream_pair().unwrap();
    let mut connection = Connection::new(ours, codec, Limits::default()).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let whole: &[u8] = match codec {
        Codec::Json => b"1\n",
        Codec::Advanced => b"\0\0\0\x03\xff\x0f0",
        Codec::Native => b"\x01\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\x001",
    };
    for length in [whole.len(), 1] {
        send(&peer, &whole[..length], &[socket.as_fd(); 100]).unwrap();
        while let Ok(Received::Message(_)) = connection.receive() {}
    }
    send(&peer, b"junk\n", &[socket.as_fd(); 100]).unwrap();
    while let Ok(Received::Message(_)) = connection.receive() {}
}

fn through_channels(codec: Codec) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (here, there) = pair(codec, Limits::default());
        let (here, there) = (Channel::new(here), Channel::new(there));
        for _ in 0..20 {
            here.send_with("m", UdpSocket::bind("127.0.0.1:0").unwrap()).await.unwrap();
        }
        for _ in 0..10 {
            assert!(matches!(there.recv().await.unwrap().unwrap().take_handle(), Some(Handle::UdpSocket(_))));
        }
    });
    let (here, there) = pair(codec, Limits::default());
    let (here, there) = (blocking::Channel::new(here), blocking::Channel::new(there));
    std::thread::scope(|scope| {
        scope.spawn(|| (0..10).for_each(|_| here.send_message(message()).unwrap()));
        for _ in 0..10 {
            there.recv().unwrap().unwrap();
        }
    });
}

#[test]
fn descriptors_are_closed_whatever_happens() {
    let ways = [
        delivered_and_dropped,
        queued_and_never_sent,
        sent_and_never_read,
        sent_to_a_peer_that_is_gone,
        read_and_not_taken_out,
        unasked_for,
        through_channels,
    ];
    for codec in [Codec::Json, Codec::Advanced, Codec::Native] {
        for (index, way) in ways.iter().enumerate() {
            way(codec);
            let before = open();
            for _ in 0..3 {
                way(codec);
            }
            assert_eq!(open(), before, "way {index} leaks under {codec}");
        }
    }
}
