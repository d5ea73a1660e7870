//! Deno loses a handle that it reads together with an earlier message, and never answers it: ours come alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use everycore_ipc::{Channel, Codec, Connection, Flush, Handle, Limits, Message};
use everycore_sys::scm_rights::receive;
use everycore_sys::socket_pair::stream_pair;

fn pair() -> (OwnedFd, Connection) {
    let (peer, ours) = stream_pair().unwrap();
    let limits = Limits { unanswered: 8, ..Limits::default() };
    let mut connection = Connection::new(ours, Codec::Json, limits).unwrap();
    connection.send_handles_alone(true);
    (peer, connection)
}

fn with_handle(text: &str) -> Message {
    Message::json(text).unwrap().with_handle(Handle::from(UdpSocket::bind("127.0.0.1:0").unwrap()))
}

/// What one read brings.
fn read(peer: &OwnedFd) -> (String, usize) {
    let (mut buffer, mut fds) = ([0; 65_536], Vec::new());
    let got = receive(peer, &mut buffer, &mut fds).unwrap();
    (String::from_utf8(buffer[..got.bytes].to_vec()).unwrap(), fds.len())
}

fn flush_to_the_end(connection: &mut Connection) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while connection.flush().unwrap() != Flush::Done {
        assert!(Instant::now() < deadline, "it does not come to an end");
    }
}

#[test]
fn a_handle_waits_until_what_is_before_it_was_read() {
    let (peer, mut connection) = pair();
    connection.queue(Message::json("plain").unwrap()).unwrap();
    connection.queue(with_handle("first")).unwrap();
    for _ in 0..3 {
        assert_eq!(connection.flush().unwrap(), Flush::Throttled);
        assert!(connection.is_throttled() && !connection.wants_write(), "waiting for writability would spin");
    }
    assert_eq!(read(&peer), ("\"plain\"\n".into(), 0));
    flush_to_the_end(&mut connection);
    let (text, handles) = read(&peer);
    assert!(text.starts_with("{\"cmd\":\"NODE_HANDLE\"") && text.ends_with('\n'), "{text}");
    assert_eq!(handles, 1);
}

#[test]
fn handles_that_follow_one_another_wait_for_nothing() {
    let (peer, mut connection) = pair();
    for _ in 0..3 {
        connection.queue(with_handle("one of three")).unwrap();
    }
    connection.queue(Message::json("plain").unwrap()).unwrap();
    assert_eq!(connection.flush().unwrap(), Flush::Done);
    for _ in 0..3 {
        let (text, handles) = read(&peer);
        assert_eq!((text.matches('\n').count(), handles), (1, 1), "{text}");
    }
    assert_eq!(read(&peer).0, "\"plain\"\n");
}

#[test]
fn what_was_seen_read_is_looked_at_again_a_while_later() {
    let (peer, mut connection) = pair();
    connection.queue(Message::json("plain").unwrap()).unwrap();
    connection.queue(with_handle("first")).unwrap();
    assert_eq!(connection.flush().unwrap(), Flush::Throttled);
    read(&peer);
    let begin = Instant::now();
    flush_to_the_end(&mut connection);
    assert!(begin.elapsed() >= Duration::from_millis(1), "{:?}", begin.elapsed());
}

#[test]
fn a_runtime_without_timers_waits_as_well() {
    let (peer, connection) = pair();
    let mut peer = UnixStream::from(peer);
    peer.set_nonblocking(false).unwrap();
    let (done, ended) = mpsc::channel();
    let (wait, waits) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let channel = Channel::new(connection);
        let told = runtime.block_on(async {
            channel.send("plain").await.unwrap();
            channel.send_message(with_handle("first")).await.unwrap();
            tokio::spawn(async move {
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                wait.send(()).unwrap();
            });
            channel.flush().await
        });
        done.send(told.is_ok()).unwrap();
    });
    waits.recv_timeout(Duration::from_secs(30)).unwrap();
    let mut seen = Vec::new();
    while !seen.windows(7).any(|part| part == b"\"first\"") {
        let mut part = [0; 1000];
        peer.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let count = peer.read(&mut part).unwrap();
        assert!(count > 0, "it ended");
        seen.extend_from_slice(&part[..count]);
    }
    assert!(ended.recv_timeout(Duration::from_secs(30)).unwrap());
}
