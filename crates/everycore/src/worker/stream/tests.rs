//! Streams, polled by hand where it matters when something happens.

use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use everycore_sys::counters::{self, Counters, WorkerPage};
use everycore_sys::eventfd::EventFd;
use everycore_sys::socket_pair::stream_pair;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::worker::load::Load;
use crate::worker::testing::run;

struct Fixture {
    load: Arc<Load>,
    client: UnixStream,
    stream: Stream,
}

impl Fixture {
    fn new() -> Self {
        let (memfd, _) = counters::create().unwrap();
        let load = Load::new(WorkerPage::open(memfd).unwrap(), EventFd::new().unwrap());
        let (client, server) = stream_pair().unwrap();
        let stream = Stream::new(server, None, load.take());
        Self { load, client: client.into(), stream }
    }

    fn counters(&self) -> Counters {
        self.load.counters()
    }

    /// One poll with a waker that counts.
    fn poll_read(&mut self, wakes: &Arc<Wakes>, room: usize) -> Poll<io::Result<Vec<u8>>> {
        let mut bytes = vec![0; room];
        let mut buffer = ReadBuf::new(&mut bytes);
        let waker = Waker::from(Arc::clone(wakes));
        let polled = Pin::new(&mut self.stream).poll_read(&mut Context::from_waker(&waker), &mut buffer);
        polled.map_ok(|()| buffer.filled().to_vec())
    }
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn read(polled: Poll<io::Result<Vec<u8>>>) -> Vec<u8> {
    match polled {
        Poll::Ready(result) => result.unwrap(),
        Poll::Pending => panic!("nothing to read"),
    }
}

#[test]
fn a_short_connection_never_meets_the_reactor() {
    // No runtime here at all: registering would fail.
    let mut fixture = Fixture::new();
    let wakes = Arc::default();
    fixture.client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(read(fixture.poll_read(&wakes, 8192)), b"GET / HTTP/1.1\r\n\r\n");
    // The early look of an HTTP server: put off by one turn.
    assert!(fixture.poll_read(&wakes, 8192).is_pending());
    assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
    let mut cx = Context::from_waker(Waker::noop());
    let parts = [IoSlice::new(b"HTTP/1.1 200 OK\r\n"), IoSlice::new(b"\r\nhello")];
    assert!(matches!(
        Pin::new(&mut fixture.stream).poll_write_vectored(&mut cx, &parts),
        Poll::Ready(Ok(24))
    ));
    assert!(matches!(Pin::new(&mut fixture.stream).poll_shutdown(&mut cx), Poll::Ready(Ok(()))));
    assert!(fixture.stream.socket.is_direct());
    let mut answer = String::new();
    fixture.client.set_nonblocking(false).unwrap();
    fixture.client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "HTTP/1.1 200 OK\r\n\r\nhello");
}

#[test]
fn a_look_is_put_off_once_and_then_waits_in_the_reactor() {
    let mut fixture = Fixture::new();
    let wakes = Arc::<Wakes>::default();
    fixture.client.write_all(b"one").unwrap();
    run(async {
        assert_eq!(read(fixture.poll_read(&wakes, 100)), b"one");
        assert!(fixture.poll_read(&wakes, 100).is_pending());
        assert!(fixture.stream.socket.is_direct());
        assert!(fixture.poll_read(&wakes, 100).is_pending());
        assert!(!fixture.stream.socket.is_direct());
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1, "the second look wakes nobody by itself");
        fixture.client.write_all(b"two").unwrap();
        let mut bytes = [0; 3];
        fixture.stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"two");
    });
}

#[test]
fn the_first_turn_is_over_when_there_is_nothing_to_do_or_an_answer() {
    let mut silent = Fixture::new();
    run(async {
        assert!(silent.poll_read(&Arc::default(), 10).is_pending());
        assert_eq!(silent.counters().ready, 1);
    });

    let mut asked = Fixture::new();
    asked.client.write_all(b"question").unwrap();
    assert_eq!(read(asked.poll_read(&Arc::default(), 100)), b"question");
    assert!(asked.poll_read(&Arc::default(), 100).is_pending());
    assert_eq!(asked.counters().ready, 0, "it may be computing the answer");
    run(asked.stream.write_all(b"answer")).unwrap();
    assert_eq!(asked.counters().ready, 1);
    run(asked.stream.write_all(b"more")).unwrap();
    let load = Arc::clone(&asked.load);
    drop(asked);
    let counters = load.counters();
    assert_eq!((counters.taken, counters.ready, counters.closed), (1, 1, 1));
}

#[test]
fn a_program_that_waits_for_something_else_has_ended_the_first_turn() {
    let mut fixture = Fixture::new();
    let wakes = Arc::default();
    fixture.client.write_all(b"question").unwrap();
    run(async {
        assert_eq!(read(fixture.poll_read(&wakes, 100)), b"question");
        assert!(fixture.poll_read(&wakes, 100).is_pending());
        assert_eq!(fixture.counters().ready, 0);
        assert!(fixture.poll_read(&wakes, 100).is_pending());
        assert_eq!(fixture.counters().ready, 1);
    });
}

#[test]
fn a_small_look_is_served_out_of_a_large_read() {
    let mut fixture = Fixture::new();
    let wakes = Arc::<Wakes>::default();
    fixture.client.write_all(&[7; 100]).unwrap();
    assert_eq!(read(fixture.poll_read(&wakes, 24)), [7; 24]);
    assert!(fixture.stream.is_plain_tcp().is_err());
    assert_eq!(read(fixture.poll_read(&wakes, 60)), [7; 60]);
    let parts = fixture.stream.into_parts().unwrap();
    assert_eq!(&parts.ahead[..], [7; 16]);
    drop(parts.lease);
    assert_eq!(fixture.load.live(), 0);
}

#[test]
fn a_connection_that_is_always_ready_meets_the_reactor_all_the_same() {
    let mut fixture = Fixture::new();
    run(async {
        for _ in 0..=DIRECT {
            fixture.stream.write_all(b"x").await.unwrap();
        }
        assert!(!fixture.stream.socket.is_direct());
    });
}

#[test]
fn the_end_of_file_is_found_again() {
    let mut fixture = Fixture::new();
    fixture.client.write_all(b"last").unwrap();
    drop(fixture.client.shutdown(Shutdown::Both));
    run(async {
        let mut all = Vec::new();
        fixture.stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"last");
        assert_eq!(fixture.stream.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(fixture.stream.read(&mut [0; 8]).await.unwrap(), 0);
        let error = fixture.stream.write_all(b"too late").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    });
}

/// Whether the client has seen the end, without waiting for it.
fn has_ended(client: &mut UnixStream) -> bool {
    match client.read(&mut [0]) {
        Ok(0) => true,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        other => panic!("{other:?} instead of an end"),
    }
}

#[test]
fn within_the_loop_a_shutdown_goes_out_with_the_turn_or_the_next_read() {
    run(async {
        tokio::spawn(crate::worker::fin::carry_out());
        tokio::task::yield_now().await;

        let mut kept = Fixture::new();
        kept.stream.shutdown().await.unwrap();
        assert!(!has_ended(&mut kept.client), "put off");
        tokio::task::yield_now().await;
        assert!(has_ended(&mut kept.client));

        let mut dropped = Fixture::new();
        dropped.stream.shutdown().await.unwrap();
        drop(dropped.stream);
        assert!(has_ended(&mut dropped.client));

        let mut read = Fixture::new();
        read.stream.shutdown().await.unwrap();
        assert!(read.poll_read(&Arc::default(), 10).is_pending());
        assert!(has_ended(&mut read.client));
    });
    let mut outside = Fixture::new();
    run(outside.stream.shutdown()).unwrap();
    assert!(has_ended(&mut outside.client), "there is no loop to wait for");
}

#[test]
fn large_amounts_go_both_ways_at_once() {
    const LEN: usize = 3 << 20;
    let mut fixture = Fixture::new();
    let sent: Vec<u8> = (0..LEN).map(|i| (i % 251) as u8).collect();
    fixture.client.set_nonblocking(false).unwrap();
    let (mut from, mut to) = (fixture.client.try_clone().unwrap(), fixture.client.try_clone().unwrap());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| to.write_all(&sent));
        let reader = scope.spawn(|| {
            let mut bytes = vec![0; LEN];
            from.read_exact(&mut bytes).map(|()| bytes)
        });
        run(async {
            let (mut reading, mut writing) = tokio::io::split(&mut fixture.stream);
            let mut bytes = vec![0; LEN];
            let mut read = std::pin::pin!(reading.read_exact(&mut bytes));
            let mut write = std::pin::pin!(writing.write_all(&sent));
            let (mut has_read, mut has_written) = (false, false);
            poll_fn(|cx| {
                has_read |= !has_read && read.as_mut().poll(cx)?.is_ready();
                has_written |= !has_written && write.as_mut().poll(cx)?.is_ready();
                if has_read && has_written { Poll::Ready(io::Result::Ok(())) } else { Poll::Pending }
            })
            .await
            .unwrap();
            assert!(bytes == sent);
        });
        writer.join().unwrap().unwrap();
        assert!(reader.join().unwrap().unwrap() == sent);
    });
}

#[test]
fn a_tcp_stream_becomes_one_of_std_or_tokio() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (memfd, _) = counters::create().unwrap();
    let load = Load::new(WorkerPage::open(memfd).unwrap(), EventFd::new().unwrap());
    let accept = || {
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = everycore_sys::accept::accept(&listener).unwrap().unwrap();
        (client, Stream::new(accepted.socket, accepted.peer, load.take()))
    };
    let (mut client, stream) = accept();
    stream.set_nodelay(true).unwrap();
    assert!(socket2::SockRef::from(&stream.fd().unwrap()).tcp_nodelay().unwrap());
    assert_eq!(stream.peer_addr(), &BoundAddress::Tcp(client.local_addr().unwrap()));
    assert_eq!(stream.local_addr().unwrap(), BoundAddress::Tcp(client.peer_addr().unwrap()));
    let mut plain = stream.into_std().unwrap();
    let mode = rustix::fs::fcntl_getfl(plain.as_fd()).unwrap();
    assert!(!mode.contains(rustix::fs::OFlags::NONBLOCK));
    client.write_all(b"x").unwrap();
    plain.read_exact(&mut [0]).unwrap();

    let (mut client, stream) = accept();
    run(async {
        let mut stream = stream.into_tokio().unwrap();
        client.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
    });
    assert_eq!(load.live(), 0, "the primary was told that both are closed");
}
