//! Listeners in the hands of a primary that the test plays.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::Mutex;
use std::task::Waker;

use super::*;
use crate::error::Error;
use crate::protocol::{FromWorker, ListenFailure, Mode, ToWorker, Wanted};
use crate::worker::Worker;
use crate::worker::testing::{FakeHandOff, FakePrimary, in_own_process, run};

const ADDRESS: &str = "127.0.0.1:8000";

/// A worker that listens, with its primary.
fn listening() -> (FakePrimary, Worker, FakeHandOff, Listener) {
    let (mut primary, worker) = FakePrimary::with_worker();
    let (listener, hand_off) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| worker.listen_blocking(ADDRESS).unwrap());
        let hand_off = primary.grant_hand_off(4, ADDRESS);
        (asking.join().unwrap(), hand_off)
    });
    assert_eq!(primary.hear(), FromWorker::Listening { key: 4 });
    (primary, worker, hand_off, listener)
}

fn port(peer: &BoundAddress) -> u16 {
    peer.tcp().unwrap().port()
}

fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_connection_is_counted_before_the_program_sees_it_and_until_it_is_dropped() {
    let (mut primary, worker, hand_off, mut listener) = listening();
    let _client = hand_off.hand(9000);
    run(async {
        let (stream, peer) = listener.accept().await.unwrap();
        assert_eq!(port(&peer), 9000);
        assert_eq!(stream.peer_addr(), &peer);
        let counters = primary.counters();
        assert_eq!((counters.taken, counters.ready, counters.closed), (1, 0, 0));
        assert_eq!(worker.connections(), 1);
        drop(stream);
    });
    let counters = primary.counters();
    assert_eq!((counters.taken, counters.ready, counters.closed), (1, 1, 1));
    assert_eq!(worker.connections(), 0);
}

#[test]
fn a_worker_that_is_told_how_many_were_sent_overlooks_none() {
    const COUNT: u16 = 2000;
    let (primary, _worker, hand_off, mut listener) = listening();
    let sent = &primary.page;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for port in 1..=COUNT {
                sent.set_sent(port.into());
                let connection = everycore_sys::socket_pair::stream_pair().unwrap().1;
                hand_off.send_when_there_is_room(port, connection);
                if port % 3 == 0 {
                    // Now and then the worker is quick enough to have taken all before the next.
                    std::thread::yield_now();
                }
            }
        });
        run(async {
            for port in 1..=COUNT {
                assert_eq!(self::port(&listener.accept().await.unwrap().1), port);
            }
        });
    });
}

#[test]
fn every_connection_is_at_exactly_one_side_however_often_accept_is_cancelled() {
    const COUNT: u16 = 500;
    let (_primary, _worker, hand_off, mut listener) = listening();
    let taken = Mutex::new(BTreeSet::new());
    let back = Mutex::new(BTreeSet::new());
    let all = || taken.lock().unwrap().len() + back.lock().unwrap().len() == usize::from(COUNT);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for port in 1..=COUNT {
                let connection = everycore_sys::socket_pair::stream_pair().unwrap().1;
                hand_off.send_when_there_is_room(port, connection);
            }
        });
        scope.spawn(|| {
            while !all() {
                match hand_off.read_back() {
                    Some(port) => assert!(back.lock().unwrap().insert(port), "{port} came back twice"),
                    None => std::thread::yield_now(),
                }
            }
        });
        run(async {
            while !all() {
                // Cancelled at once unless a connection is there; tokio has to turn for its events.
                if let Poll::Ready(accepted) = poll_once(listener.accept()) {
                    let (_, peer) = accepted.unwrap();
                    assert!(taken.lock().unwrap().insert(port(&peer)), "{peer} was taken twice");
                }
                tokio::task::yield_now().await;
            }
        });
    });
    assert!(taken.into_inner().unwrap().is_disjoint(&back.into_inner().unwrap()));
}

#[test]
fn a_draining_worker_serves_what_it_holds_and_then_the_listener_ends() {
    let (mut primary, worker, hand_off, mut listener) = listening();
    let _clients = [hand_off.hand(1), hand_off.hand(2)];
    primary.tell(&ToWorker::Disconnect { stopping: false }, vec![]);
    run(async {
        worker.draining().await;
        assert!(worker.is_draining() && worker.exited_after_disconnect());
        for expected in [1, 2] {
            assert_eq!(port(&listener.accept().await.unwrap().1), expected);
        }
        assert!(!listener.is_ended());
        let error = listener.accept().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        assert!(listener.is_ended());
    });
    assert_eq!(primary.hear(), FromWorker::Closed { key: 4 });
    assert!(hand_off.closed_by_the_worker());
}

#[test]
fn waiting_accepts_and_streams_end_when_the_drain_begins() {
    let (mut primary, _worker, _hand_off, listener) = listening();
    let mut incoming = listener.into_stream();
    run(async {
        let mut next = pin!(incoming.next());
        assert!(poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx).is_pending())).await);
        primary.tell(&ToWorker::Disconnect { stopping: false }, vec![]);
        assert!(next.await.is_none());
    });
    assert_eq!(primary.hear(), FromWorker::Closed { key: 4 });
}

#[test]
fn after_the_primarys_death_what_was_handed_over_is_served_before_the_worker_drains() {
    let (primary, worker, hand_off, mut listener) = listening();
    let _client = hand_off.hand(1);
    drop((primary, hand_off));
    run(async {
        let mut draining = pin!(worker.draining());
        assert!(poll_fn(|cx| Poll::Ready(draining.as_mut().poll(cx).is_pending())).await);
        assert_eq!(port(&listener.accept().await.unwrap().1), 1);
        assert!(listener.accept().await.is_err());
        draining.await;
        assert!(!worker.is_connected() && !worker.exited_after_disconnect());
    });
}

#[test]
fn threads_share_a_listener_and_all_hear_the_order_to_leave() {
    let (mut primary, worker, hand_off, listener) = listening();
    let served = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Ok((_, peer)) = listener.accept_blocking() {
                    served.lock().unwrap().push(port(&peer));
                }
            });
        }
        let clients: Vec<OwnedFd> = (1..=20).map(|port| hand_off.hand(port)).collect();
        // Closed by whoever served it: all have been.
        for client in clients {
            wait(&[client.as_fd()], Some(crate::worker::testing::PATIENCE)).unwrap();
        }
        primary.tell(&ToWorker::Disconnect { stopping: false }, vec![]);
    });
    let mut served = served.into_inner().unwrap();
    served.sort_unstable();
    assert_eq!(served, (1..=20).collect::<Vec<_>>());
    worker.finish_blocking();
    drop(listener);
    assert!(primary.receive().is_none(), "the channel is closed in order");
}

#[test]
fn a_thread_sees_the_end_of_the_channel_though_it_has_taken_all_that_was_sent() {
    let (primary, _worker, hand_off, listener) = listening();
    primary.page.set_sent(1);
    let _client = hand_off.hand(1);
    assert_eq!(port(&listener.accept_blocking().unwrap().1), 1);
    // The channel of words stays.
    drop(hand_off);
    assert_eq!(listener.accept_blocking().unwrap_err().kind(), io::ErrorKind::NotConnected);
}

#[test]
fn a_shared_backlog_is_left_to_the_others() {
    let (mut primary, worker) = FakePrimary::with_worker();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let mut listener = std::thread::scope(|scope| {
        let asking = scope.spawn(|| worker.listen_blocking(address).unwrap());
        primary.grant(5, Mode::Shared, &address.to_string(), socket.try_clone().unwrap().into());
        asking.join().unwrap()
    });
    assert_eq!(primary.hear(), FromWorker::Listening { key: 5 });
    let first = std::net::TcpStream::connect(address).unwrap();
    run(async {
        let (stream, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, BoundAddress::Tcp(first.local_addr().unwrap()));
        assert_eq!(stream.local_addr().unwrap(), BoundAddress::Tcp(address));
        let second = std::net::TcpStream::connect(address).unwrap();
        primary.tell(&ToWorker::Disconnect { stopping: false }, vec![]);
        worker.draining().await;
        assert!(listener.accept().await.is_err());
        assert_eq!(socket.accept().unwrap().1, second.local_addr().unwrap());
    });
}

#[test]
fn a_shared_backlog_is_served_when_the_primary_has_died() {
    let (mut primary, worker) = FakePrimary::with_worker();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let mut listener = std::thread::scope(|scope| {
        let asking = scope.spawn(|| worker.listen_blocking(address).unwrap());
        primary.grant(5, Mode::Shared, &address.to_string(), socket.into());
        asking.join().unwrap()
    });
    let _client = std::net::TcpStream::connect(address).unwrap();
    drop(primary);
    run(async {
        worker.draining().await;
        assert!(listener.accept().await.is_ok());
        assert!(listener.accept().await.is_err());
    });
    assert!(std::net::TcpStream::connect(address).is_err(), "the port is free");
}

#[test]
fn threads_share_a_shared_listener_too_and_all_hear_the_order_to_leave() {
    let (mut primary, worker) = FakePrimary::with_worker();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| worker.listen_blocking(address).unwrap());
        primary.grant(5, Mode::Shared, &address.to_string(), socket.into());
        let listener = asking.join().unwrap();
        let (listener, served) = (&listener, &AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(move || {
                    while listener.accept_blocking().is_ok() {
                        served.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            let clients: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
            // Closed by whoever served it: all have been.
            for client in clients {
                wait(&[client.as_fd()], Some(crate::worker::testing::PATIENCE)).unwrap();
            }
            primary.tell(&ToWorker::Disconnect { stopping: false }, vec![]);
        });
        assert_eq!(served.load(Ordering::SeqCst), 20);
    });
}

#[test]
fn refusals_say_what_the_primary_says() {
    let (mut primary, worker) = FakePrimary::with_worker();
    let message = format!("bind {ADDRESS}: address already in use (by nginx, pid 812)");
    run(async {
        let mut listen = pin!(worker.listen(ADDRESS));
        assert!(poll_fn(|cx| Poll::Ready(listen.as_mut().poll(cx).is_pending())).await);
        primary.refuse(ListenFailure { errno: 98, message: message.clone() });
        match listen.await.unwrap_err() {
            error @ Error::Bind { .. } => assert_eq!(error.to_string(), message),
            other => panic!("{other}"),
        }
        let mut named = pin!(worker.listener("http"));
        assert!(poll_fn(|cx| Poll::Ready(named.as_mut().poll(cx).is_pending())).await);
        primary.refuse(ListenFailure { errno: 2, message: "nothing is named so".into() });
        assert!(matches!(named.await.unwrap_err(), Error::NoSuchListener { name } if name == "http"));
        let mut named = pin!(worker.listener("http"));
        assert!(poll_fn(|cx| Poll::Ready(named.as_mut().poll(cx).is_pending())).await);
        primary.refuse(ListenFailure { errno: 24, message: "no descriptor left".into() });
        let error = named.await.unwrap_err();
        assert_eq!(error.to_string(), "listener 'http': no descriptor left");
        assert!(matches!(error, Error::Listener { source, .. } if source.raw_os_error() == Some(24)));
    });
    assert!(matches!(worker.listen_blocking("nowhere").unwrap_err(), Error::Address(_)));
}

#[test]
fn a_listener_nobody_waits_for_any_more_is_given_back() {
    let (mut primary, worker) = FakePrimary::with_worker();
    run(async {
        let mut listen = Box::pin(worker.listen(ADDRESS));
        assert!(poll_fn(|cx| Poll::Ready(listen.as_mut().poll(cx).is_pending())).await);
        drop(listen);
        // The question is still out: the next is for another listener.
        let mut other = Box::pin(worker.listen(ADDRESS));
        assert!(poll_fn(|cx| Poll::Ready(other.as_mut().poll(cx).is_pending())).await);
        drop(other);
        // On another thread, since the worker's loop has to turn meanwhile.
        let (mut primary, hand_off) = tokio::task::spawn_blocking(move || {
            let hand_off = primary.grant_hand_off(9, ADDRESS);
            let FromWorker::Listen { request, what: Wanted::Bound { index: 1, .. } } = primary.hear() else {
                panic!("not for another listener")
            };
            primary.tell(
                &ToWorker::Refused { request, failure: ListenFailure { errno: 98, message: String::new() } },
                vec![],
            );
            assert_eq!(primary.hear(), FromWorker::Closed { key: 9 });
            (primary, hand_off)
        })
        .await
        .unwrap();
        assert!(hand_off.closed_by_the_worker());
        let mut again = pin!(worker.listen(ADDRESS));
        assert!(poll_fn(|cx| Poll::Ready(again.as_mut().poll(cx).is_pending())).await);
        let question = primary.hear();
        let index_is_free =
            matches!(question, FromWorker::Listen { what: Wanted::Bound { index: 0, .. }, .. });
        assert!(index_is_free, "{question:?}");
    });
}

#[test]
fn without_descriptors_nothing_is_lost_and_it_is_said_once() {
    in_own_process("worker::listener::tests::child_without_descriptors");
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn child_without_descriptors() {
    crate::worker::testing::limit_descriptors(256);
    let (_primary, worker, hand_off, mut listener) = listening();
    let told = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&told);
    worker.on_trouble(move |trouble| hears.lock().unwrap().push(trouble.clone()));
    let clients: Vec<OwnedFd> = (1..=3).map(|port| hand_off.hand(port)).collect();
    let mut filling = Vec::new();
    run(async {
        // The next descriptor is close to the limit: from the first connection on they count as scarce.
        while filling.len() < 200 {
            filling.push(clients[0].try_clone().unwrap());
        }
        let (first, _) = listener.accept().await.unwrap();
        while let Ok(fd) = clients[0].try_clone() {
            filling.push(fd);
        }
        // The reserve serves one more.
        let (second, peer) = listener.accept().await.unwrap();
        assert_eq!(port(&peer), 2);
        let mut third = pin!(listener.accept());
        assert!(poll_fn(|cx| Poll::Ready(third.as_mut().poll(cx).is_pending())).await);
        assert_eq!(told.lock().unwrap().len(), 1, "{told:?}");
        drop(first);
        assert_eq!(port(&third.await.unwrap().1), 3);
        drop(second);
    });
    assert_eq!(worker.troubles(), 1);
    assert!(matches!(told.lock().unwrap()[..], [Trouble::OutOfDescriptors { .. }]));
}

#[test]
fn a_shared_listener_pauses_without_descriptors() {
    in_own_process("worker::listener::tests::child_shared_without_descriptors");
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn child_shared_without_descriptors() {
    let (mut primary, worker) = FakePrimary::with_worker();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let mut listener = std::thread::scope(|scope| {
        let asking = scope.spawn(|| worker.listen_blocking(address).unwrap());
        primary.grant(5, Mode::Shared, &address.to_string(), socket.into());
        asking.join().unwrap()
    });
    let clients: Vec<_> = (0..2).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    crate::worker::testing::limit_descriptors(128);
    run(async {
        let (first, _) = listener.accept().await.unwrap();
        let mut filling = Vec::new();
        while let Ok(fd) = clients[0].try_clone() {
            filling.push(fd);
        }
        let mut second = pin!(listener.accept());
        assert!(poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx).is_pending())).await);
        assert_eq!(worker.troubles(), 1);
        drop(first);
        assert!(second.await.is_ok());
    });
    assert_eq!(worker.troubles(), 1);
}
