//! Accepting, alone and in company.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use everycore_sys::accept::{FairAccept, accept, is_exhaustion};
use everycore_sys::eventfd::EventFd;
use rustix::fs::OFlags;
use rustix::io::FdFlags;

#[test]
fn everything_that_waits_is_accepted() {
    let listener = listener();
    assert!(accept(&listener).unwrap().is_none());
    let clients: Vec<_> = (0..5).map(|_| connect(&listener)).collect();
    let mut peers = Vec::new();
    while let Some(accepted) = accept(&listener).unwrap() {
        assert!(rustix::fs::fcntl_getfl(&accepted.socket).unwrap().contains(OFlags::NONBLOCK));
        assert!(rustix::io::fcntl_getfd(&accepted.socket).unwrap().contains(FdFlags::CLOEXEC));
        peers.push(accepted.peer.unwrap());
    }
    let expected: Vec<_> = clients.iter().map(|client| client.local_addr().unwrap()).collect();
    assert_eq!(peers, expected);
}

#[test]
fn unix_connections_have_no_address() {
    let path = std::env::temp_dir().join(format!("everycore-accept-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(accept(&listener).unwrap().unwrap().peer, None);
}

#[test]
fn what_is_no_listener_is_an_error_but_not_exhaustion() {
    let (left, _right) = everycore_sys::socket_pair::stream_pair().unwrap();
    assert!(!is_exhaustion(&accept(left).unwrap_err()));
    assert!(is_exhaustion(&std::io::Error::from_raw_os_error(libc::EMFILE)));
}

#[test]
fn a_fair_listener_accepts_past_its_readding() {
    let listener = listener();
    let fair = FairAccept::new(OwnedFd::from(listener.try_clone().unwrap())).unwrap();
    assert!(!fair.wait(Some(Duration::ZERO)).unwrap());
    for _ in 0..40 {
        let mut client = connect(&listener);
        assert!(fair.wait(Some(Duration::from_secs(30))).unwrap());
        let accepted = fair.accept().unwrap().unwrap();
        assert_eq!(accepted.peer, client.local_addr().ok());
        client.write_all(b"x").unwrap();
    }
    assert!(fair.accept().unwrap().is_none());
    assert!(!fair.wait(Some(Duration::ZERO)).unwrap());
}

#[test]
fn a_connection_in_hand_is_given_out_whatever_another_thread_does() {
    let listener = listener();
    let fair = FairAccept::new(OwnedFd::from(listener.try_clone().unwrap())).unwrap();
    // As a thread does that is about to join again.
    rustix::event::epoll::delete(&fair, fair.listener()).unwrap();
    for count in 1..=16 {
        let client = connect(&listener);
        let accepted = fair.accept().unwrap().unwrap();
        assert_eq!(accepted.peer, client.local_addr().ok(), "connection {count}");
    }
}

#[test]
fn threads_that_share_a_fair_listener_lose_nothing() {
    const THREADS: usize = 8;
    const CONNECTIONS: usize = 100;
    let listener = listener();
    let fair = FairAccept::new(OwnedFd::from(listener.try_clone().unwrap())).unwrap();
    for round in 0..50 {
        let _clients: Vec<_> = (0..CONNECTIONS).map(|_| connect(&listener)).collect();
        let begin = Barrier::new(THREADS);
        let take_all = || {
            begin.wait();
            std::iter::from_fn(|| fair.accept().unwrap()).count()
        };
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(take_all)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, CONNECTIONS, "round {round}");
    }
    let _client = connect(&listener);
    assert!(fair.wait(Some(Duration::from_secs(30))).unwrap(), "it is still watched");
}

#[test]
fn one_connection_wakes_one_thread_and_a_bell_wakes_them_all() {
    const SETS: usize = 6;
    const CONNECTIONS: usize = 50;
    let listener = listener();
    let bell = EventFd::new().unwrap();
    let (accepted, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let asleep = Barrier::new(2 * SETS + 1);
    let slept: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SETS)
            .flat_map(|_| {
                let fair = FairAccept::new(OwnedFd::from(listener.try_clone().unwrap())).unwrap();
                let fair = Arc::new(fair);
                [Arc::clone(&fair), fair]
            })
            .map(|fair| {
                let (accepted, over, asleep, bell) = (&accepted, &over, &asleep, &bell);
                scope.spawn(move || {
                    asleep.wait();
                    let before = times_slept();
                    while !over.load(Ordering::SeqCst) {
                        fair.wait_also(bell.as_fd()).unwrap();
                        while fair.accept().unwrap().is_some() {
                            accepted.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    times_slept() - before
                })
            })
            .collect();
        asleep.wait();
        for count in 1..=CONNECTIONS {
            let _client = connect(&listener);
            let deadline = Instant::now() + Duration::from_secs(30);
            while accepted.load(Ordering::SeqCst) < count {
                assert!(Instant::now() < deadline, "connection {count} is accepted");
                std::thread::yield_now();
            }
        }
        over.store(true, Ordering::SeqCst);
        bell.ring().unwrap();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    // Watched from outside, each connection wakes all twelve.
    assert!(slept < 4 * CONNECTIONS as u64, "{slept} sleeps for {CONNECTIONS} connections");
}

/// How often this thread went to sleep by itself.
fn times_slept() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

fn listener() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

fn connect(listener: &TcpListener) -> TcpStream {
    TcpStream::connect(listener.local_addr().unwrap()).unwrap()
}
