//! Channels for blocking code: threads at both ends, deadlines, orderly ends.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use everycore_ipc::blocking::Channel;
use everycore_ipc::{ChannelError, Codec, Connection, Flush, Handle, Limits, Message, Received, SendError};
use everycore_sys::socket_pair::{Mode, set_mode, stream_pair};

const DEADLINE: Duration = Duration::from_secs(30);

fn pair(limits: Limits) -> (Channel, Channel) {
    let (here, there) = stream_pair().unwrap();
    let here = Channel::new(Connection::new(here, Codec::Native, limits).unwrap());
    (here, Channel::new(Connection::new(there, Codec::Native, limits).unwrap()))
}

fn number(channel: &Channel) -> Option<u32> {
    let message = channel.recv_deadline(Instant::now() + DEADLINE).unwrap();
    message.map(|message| message.parse().unwrap())
}

#[test]
fn threads_send_and_receive_at_once_on_one_channel() {
    let (here, there) = pair(Limits { queue_bytes: 4096, ..Limits::default() });
    const COUNT: u32 = 20_000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while let Some(message) = there.recv_deadline(Instant::now() + DEADLINE).unwrap() {
                there.send_message(message).unwrap();
            }
            there.disconnect().unwrap();
        });
        scope.spawn(|| {
            for value in 0..COUNT {
                here.send(&value).unwrap();
            }
            here.disconnect().unwrap();
        });
        for value in 0..COUNT {
            assert_eq!(number(&here), Some(value));
        }
        assert_eq!(number(&here), None);
    });
}

/// A Node peer that dies without an answer to a handle leaves nobody waiting for it.
#[test]
fn a_peer_that_ends_before_it_has_answered_fails_what_waits_for_the_answer() {
    for half in [false, true] {
        let (peer, ours) = stream_pair().unwrap();
        let channel = Channel::new(Connection::new(ours, Codec::Json, Limits::default()).unwrap());
        let handle = Handle::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        channel.with_connection(|connection| {
            connection.queue(Message::json("with a handle").unwrap().with_handle(handle)).unwrap();
            assert_eq!(connection.flush().unwrap(), Flush::Done);
        });
        let (done, waits) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(channel.send("behind it")).unwrap());
        if half {
            rustix::net::shutdown(&peer, rustix::net::Shutdown::Write).unwrap();
        } else {
            drop(peer);
        }
        let sent = waits.recv_timeout(DEADLINE).expect("it does not wait for ever");
        assert!(matches!(sent, Err(SendError::Failed(ChannelError::PeerGone))), "{sent:?}");
    }
}

#[test]
fn many_messages_at_a_time_go_through_a_small_queue_in_order() {
    let (here, there) = pair(Limits { queue_bytes: 4096, frame: 2000, ..Limits::default() });
    const COUNT: u32 = 5000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut batch: VecDeque<_> = (0..COUNT).map(|value| here.message(&value).unwrap()).collect();
            batch.insert(100, Message::raw(vec![0; 2001]));
            assert!(matches!(here.send_many(&mut batch), Err(SendError::TooLarge { .. })));
            assert_eq!(batch.len(), COUNT as usize - 100);
            here.send_many(&mut batch).unwrap();
            here.disconnect().unwrap();
        });
        let mut messages = Vec::new();
        assert_eq!(there.recv_many(&mut messages, 0).unwrap(), 0);
        // Those before the one that was too large did not wait for another call.
        while messages.len() < 100 {
            there.recv_many(&mut messages, 1).unwrap();
        }
        while there.recv_many(&mut messages, 1000).unwrap() > 0 {}
        let values: Vec<u32> = messages.iter().map(|message| message.parse().unwrap()).collect();
        assert!(values.into_iter().eq(0..COUNT));
    });
}

#[test]
fn two_ends_that_both_send_before_they_read_do_not_block_each_other() {
    let (here, there) = pair(Limits::default());
    let both = |channel: &Channel| {
        for _ in 0..10 {
            channel.send_message(Message::raw(vec![1; 500_000])).unwrap();
        }
        for _ in 0..10 {
            let message = channel.recv_deadline(Instant::now() + DEADLINE).unwrap().unwrap();
            assert_eq!(message.bytes().len(), 500_000);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| both(&there));
        both(&here);
    });
}

/// Without a deadline a receiver waits within the read itself.
#[test]
fn threads_that_wait_for_ever_are_in_nobodys_way() {
    const EACH: usize = 200;
    let (here, there) = pair(Limits { queue_bytes: 50_000, ..Limits::default() });
    let (done, waits) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let received: [AtomicUsize; 2] = Default::default();
        let both = |channel: &Channel, received: &AtomicUsize| {
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        while let Some(message) = channel.recv().unwrap() {
                            assert!([20, 20_000].contains(&message.bytes().len()));
                            received.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                let send = |bytes: usize| {
                    (0..EACH).for_each(|_| channel.send_message(Message::raw(vec![1; bytes])).unwrap());
                };
                let other = scope.spawn(move || send(20_000));
                send(20);
                other.join().unwrap();
                // One thread waits for input meanwhile, the other to be told.
                channel.disconnect().unwrap();
            });
        };
        std::thread::scope(|scope| {
            scope.spawn(|| both(&there, &received[0]));
            both(&here, &received[1]);
        });
        done.send(received.map(AtomicUsize::into_inner)).unwrap();
    });
    assert_eq!(waits.recv_timeout(DEADLINE), Ok([2 * EACH; 2]));
}

#[test]
fn a_receiver_waits_whoever_changes_the_mode_of_the_socket() {
    for mode in [Mode::Blocking, Mode::NonBlocking] {
        let (here, there) = pair(Limits::default());
        set_mode(&there, mode).unwrap();
        let (done, waits) = std::sync::mpsc::channel();
        let echo = std::thread::spawn(move || {
            for _ in 0..2 {
                let message = there.recv().unwrap().unwrap();
                // Nothing more is there before the answer, and looking does not wait for it.
                for _ in 0..2 {
                    let looked = there.with_connection(|connection| connection.receive()).unwrap();
                    assert!(matches!(looked, Received::Blocked), "{looked:?}");
                }
                there.send_message(message).unwrap();
            }
            done.send(there.recv().unwrap().is_none()).unwrap();
        });
        for value in 0..2 {
            here.send(&value).unwrap();
            assert_eq!(number(&here), Some(value));
        }
        here.disconnect().unwrap();
        assert_eq!(waits.recv_timeout(DEADLINE), Ok(true));
        echo.join().unwrap();
    }
}

#[test]
fn deadlines_end_waiting_and_leave_the_channel_whole() {
    let (here, there) = pair(Limits { queue_bytes: 1000, ..Limits::default() });
    let soon = || Instant::now() + Duration::from_millis(5);
    assert!(matches!(here.recv_deadline(soon()), Err(ChannelError::TimedOut)));
    let mut sent = 0;
    let back = loop {
        match here.send_deadline(Message::json(&sent).unwrap(), soon()) {
            Ok(()) => sent += 1,
            Err(SendError::Full(back)) => break back,
            Err(error) => panic!("{error}"),
        }
        if sent % 100 == 0 {
            here.send_deadline(Message::raw(vec![0; 20_000]), soon()).ok();
        }
    };
    assert_eq!(back.message.parse::<u32>().unwrap(), sent);
    assert!(matches!(here.flush(soon()), Err(ChannelError::TimedOut)));
    std::thread::scope(|scope| {
        scope.spawn(|| here.disconnect().unwrap());
        let mut expected = 0;
        while let Some(message) = there.recv_deadline(Instant::now() + DEADLINE).unwrap() {
            if let Ok(value) = message.parse::<u32>() {
                assert_eq!(value, expected);
                expected += 1;
            }
        }
        assert_eq!(expected, sent);
    });
}

#[test]
fn a_deadline_holds_though_there_is_always_more_to_read() {
    let (here, there) = stream_pair().unwrap();
    let here = Channel::new(Connection::new(here, Codec::Native, Limits::default()).unwrap());
    let mut there = Connection::new(there, Codec::Native, Limits::default()).unwrap();
    // Where the kernel may hold it whole, no read ever finds the socket empty.
    there.queue(Message::raw(vec![1; 1 << 20])).unwrap();
    let mut write = || while there.flush().unwrap() == Flush::More {};
    write();
    let passed = Instant::now();
    assert!(matches!(here.recv_deadline(passed), Err(ChannelError::TimedOut)));
    let message = loop {
        match here.recv_deadline(passed) {
            Ok(message) => break message.unwrap(),
            Err(ChannelError::TimedOut) => write(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(message.bytes().len(), 1 << 20);
}
