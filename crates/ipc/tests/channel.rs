//! Channels under tokio: both ends at once, back-pressure, cancelled waits, orderly ends.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::VecDeque;
use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use everycore_ipc::{Channel, ChannelError, Codec, Connection, Handle, Limits, Message, Received, SendError};
use everycore_sys::socket_pair::stream_pair;

const DEADLINE: Duration = Duration::from_secs(30);

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime
        .block_on(async { tokio::time::timeout(DEADLINE, future).await.expect("nothing happened for 30 s") })
}

fn pair(limits: Limits) -> (Channel, Channel) {
    let (here, there) = stream_pair().unwrap();
    let here = Channel::new(Connection::new(here, Codec::Native, limits).unwrap());
    (here, Channel::new(Connection::new(there, Codec::Native, limits).unwrap()))
}

async fn number(channel: &Channel) -> Option<u32> {
    channel.recv().await.unwrap().map(|message| message.parse().unwrap())
}

/// Polls a future once; whether others should have their turn is not asked.
async fn once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(tokio::task::unconstrained(future));
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[test]
fn a_channel_made_outside_a_runtime_works_in_one() {
    let (here, there) = pair(Limits::default());
    run(async move {
        here.send(&1).await.unwrap();
        assert_eq!(number(&there).await, Some(1));
    });
}

#[test]
fn outside_a_runtime_the_error_says_so() {
    let (here, _there) = pair(Limits::default());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let sent = pin!(here.send(&1)).poll(&mut context);
    assert!(matches!(sent, Poll::Ready(Err(SendError::Failed(ChannelError::NoRuntime)))));
}

/// A Node peer that dies without an answer to a handle leaves nobody waiting for it.
#[test]
fn a_peer_that_ends_before_it_has_answered_fails_what_waits_for_the_answer() {
    for half in [false, true] {
        run(async {
            let (peer, ours) = stream_pair().unwrap();
            let here = Channel::new(Connection::new(ours, Codec::Json, Limits::default()).unwrap());
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            here.send_with("with a handle", socket).await.unwrap();
            here.send("behind it").await.unwrap();
            if half {
                rustix::net::shutdown(&peer, rustix::net::Shutdown::Write).unwrap();
            } else {
                drop(peer);
            }
            let told = here.flush().await;
            assert!(matches!(told, Err(ChannelError::PeerGone)), "{told:?}");
        });
    }
}

#[test]
fn many_messages_both_ways_at_once_keep_their_order() {
    let (here, there) = pair(Limits { queue_bytes: 4096, ..Limits::default() });
    const COUNT: u32 = 20_000;
    run(async move {
        let echo = tokio::spawn(async move {
            while let Some(message) = there.recv().await.unwrap() {
                there.send_message(message).await.unwrap();
            }
        });
        let sender = here.clone();
        let sending = tokio::spawn(async move {
            for value in 0..COUNT {
                sender.send(&value).await.unwrap();
            }
            sender.disconnect().await.unwrap();
        });
        for value in 0..COUNT {
            assert_eq!(number(&here).await, Some(value));
        }
        assert_eq!(number(&here).await, None);
        sending.await.unwrap();
        echo.await.unwrap();
    });
}

#[test]
fn a_sender_waits_for_a_peer_that_does_not_read_and_goes_on_when_it_does() {
    let (here, there) = pair(Limits { queue_bytes: 1000, ..Limits::default() });
    run(async move {
        let mut sent = 0;
        while once(here.send(&vec![sent; 50])).await.is_some() {
            sent += 1;
        }
        assert!(matches!(here.try_send(Message::raw(vec![0; 900])), Err(SendError::Full(_))));
        let waiting = {
            let here = here.clone();
            tokio::spawn(async move { here.send("at last").await })
        };
        for value in 0..sent {
            let message = there.recv().await.unwrap().unwrap();
            assert_eq!(message.parse::<Vec<u32>>().unwrap(), [value; 50]);
        }
        waiting.await.unwrap().unwrap();
        assert_eq!(there.recv().await.unwrap().unwrap().parse::<String>().unwrap(), "at last");
    });
}

#[test]
fn a_sender_keeps_pace_with_a_peer_and_fills_the_queue_when_that_pauses() {
    let (here, there) = pair(Limits::default());
    let queued = |channel: &Channel| channel.with_connection(|connection| connection.queued_bytes());
    let message = || Message::raw(vec![0; 64 << 10]);
    run(async move {
        let mut sent = 0;
        // The timer is not looked at before something is waited for.
        while once(here.send_message(message())).await.is_some() {
            sent += 1;
        }
        assert!((256 << 10..384 << 10).contains(&queued(&here)), "{} bytes wait", queued(&here));
        here.try_send(message()).unwrap();
        sent += 1;
        while queued(&here) < 15 << 20 {
            here.send_message(message()).await.unwrap();
            sent += 1;
        }
        while once(here.send_message(message())).await.is_some() {
            sent += 1;
        }
        assert!(queued(&here) + (64 << 10) > Limits::default().queue_bytes);
        for _ in 0..sent {
            there.recv().await.unwrap().unwrap();
        }
        here.flush().await.unwrap();
        // It reads again, so it is waited for again.
        while once(here.send_message(message())).await.is_some() {}
        assert!((256 << 10..384 << 10).contains(&queued(&here)), "{} bytes wait", queued(&here));
        // What waits for pace sees the end.
        let waiting = {
            let here = here.clone();
            tokio::spawn(async move { here.send_message(message()).await })
        };
        tokio::task::yield_now().await;
        drop(there);
        here.disconnect().await.unwrap();
        // It was queued in time, or came too late.
        let _ = waiting.await.unwrap();
        assert!(matches!(here.send_message(message()).await, Err(SendError::Closed(_))));
    });
}

#[test]
fn a_sender_outside_the_runtime_keeps_pace_as_well() {
    let (here, _there) = pair(Limits::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(here.send(&1)).unwrap();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut message =
        || pin!(here.send_message(Message::raw(vec![0; 64 << 10]))).poll(&mut context).map(Result::unwrap);
    while message().is_ready() {}
    let queued = here.with_connection(|connection| connection.queued_bytes());
    assert!((256 << 10..384 << 10).contains(&queued), "{queued} bytes wait");
}

#[test]
fn senders_in_numbers_keep_pace_and_all_come_through() {
    let (here, there) = pair(Limits::default());
    run(async move {
        let senders: Vec<_> = (0..20_u8)
            .map(|number| {
                let here = here.clone();
                tokio::spawn(async move {
                    for _ in 0..10 {
                        here.send_message(Message::raw(vec![number; 200 << 10])).await.unwrap();
                    }
                })
            })
            .collect();
        let mut counts = [0; 20];
        for _ in 0..200 {
            let message = there.recv().await.unwrap().unwrap();
            assert_eq!(message.bytes().len(), 200 << 10);
            counts[usize::from(message.bytes()[0])] += 1;
        }
        assert_eq!(counts, [10; 20]);
        for sender in senders {
            sender.await.unwrap();
        }
    });
}

#[test]
fn many_messages_at_a_time_keep_their_order_and_their_handles() {
    for codec in [Codec::Native, Codec::Json] {
        let (here, there) = stream_pair().unwrap();
        let here = Channel::new(Connection::new(here, codec, Limits::default()).unwrap());
        let there = Channel::new(Connection::new(there, codec, Limits::default()).unwrap());
        const COUNT: usize = 3000;
        let text =
            |number: usize| format!("{number:0$}", if number.is_multiple_of(500) { 60_000 } else { 4 });
        run(async move {
            let sending = tokio::spawn(async move {
                let mut batch = VecDeque::new();
                for number in 0..COUNT {
                    let mut message = here.message(&text(number)).unwrap();
                    if number % 700 == 1 {
                        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                        message = message.with_handle(Handle::from(listener));
                    }
                    batch.push_back(message);
                    if number % 100 == 99 {
                        here.send_many(&mut batch).await.unwrap();
                        assert!(batch.is_empty());
                    }
                }
                here.disconnect().await.unwrap();
            });
            let (mut messages, mut seen) = (vec![Message::raw(vec![7])], 0);
            assert_eq!(there.recv_many(&mut messages, 0).await.unwrap(), 0);
            loop {
                let count = there.recv_many(&mut messages, 50).await.unwrap();
                assert!(count <= 50 && messages.len() == count + 1, "the one that was there stays");
                if count == 0 {
                    break;
                }
                for message in messages.drain(1..) {
                    assert_eq!(message.parse::<String>().unwrap(), text(seen));
                    assert_eq!(message.handles().len(), usize::from(seen % 700 == 1), "message {seen}");
                    seen += 1;
                }
            }
            assert_eq!(seen, COUNT);
            sending.await.unwrap();
        });
    }
}

#[test]
fn of_many_messages_those_behind_one_that_cannot_be_sent_are_left() {
    let (here, there) = pair(Limits { frame: 1000, ..Limits::default() });
    run(async move {
        let mut batch = VecDeque::from([10, 20, 1001, 30, 40].map(|length| Message::raw(vec![1; length])));
        let refused = here.send_many(&mut batch).await.unwrap_err();
        assert!(
            matches!(&refused, SendError::TooLarge { outgoing, .. } if outgoing.message.bytes().len() == 1001)
        );
        assert_eq!(batch.len(), 2);
        here.send_many(&mut batch).await.unwrap();
        here.disconnect().await.unwrap();
        let mut messages = Vec::new();
        while there.recv_many(&mut messages, 10).await.unwrap() > 0 {}
        let lengths: Vec<_> = messages.iter().map(|message| message.bytes().len()).collect();
        assert_eq!(lengths, [10, 20, 30, 40]);
        let mut batch = VecDeque::from([Message::raw(vec![1])]);
        assert!(matches!(here.send_many(&mut batch).await, Err(SendError::Closed(_))));
    });
}

#[test]
fn what_came_before_a_broken_message_is_given_out_before_the_error() {
    let (here, there) = stream_pair().unwrap();
    let here = Channel::new(Connection::new(here, Codec::Json, Limits::default()).unwrap());
    UnixStream::from(there).write_all(b"1\n2\n!\n3\n").unwrap();
    run(async move {
        let mut messages = Vec::new();
        assert_eq!(here.recv_many(&mut messages, 10).await.unwrap(), 2);
        assert!(matches!(here.recv_many(&mut messages, 10).await, Err(ChannelError::Wire(_))));
        assert_eq!(messages.len(), 2);
    });
}

/// Where nobody can wait for the socket any more, what cannot be written at once is not kept for ever.
#[test]
fn a_channel_whose_runtime_is_gone_says_so_when_it_would_have_to_wait() {
    let (here, _there) = pair(Limits { queue_bytes: 1 << 20, ..Limits::default() });
    let first = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    first.block_on(here.flush()).unwrap();
    drop(first);
    run(async {
        let refused = loop {
            if let Err(refused) = here.send_message(Message::raw(vec![0; 64 << 10])).await {
                break refused;
            }
        };
        assert!(
            matches!(refused, SendError::Closed(_) | SendError::Failed(ChannelError::NoRuntime)),
            "{refused:?}"
        );
        assert!(matches!(here.flush().await, Err(ChannelError::NoRuntime)));
        assert!(here.disconnect().await.is_err(), "what was queued is not delivered");
        assert!(here.recv().await.is_err());
    });
}

#[test]
fn who_waits_while_the_runtime_that_writes_ends_is_told() {
    let (here, _there) = pair(Limits { queue_bytes: 1 << 20, ..Limits::default() });
    let first = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    first.block_on(here.flush()).unwrap();
    run(async {
        while here.try_send(Message::raw(vec![0; 64 << 10])).is_ok() {}
        let mut written = pin!(here.flush());
        assert!(once(written.as_mut()).await.is_none());
        first.shutdown_background();
        assert!(matches!(written.await, Err(ChannelError::NoRuntime)));
    });
}

/// The bound is on what waits: a queue that never runs empty takes more all the same.
#[test]
fn a_queue_that_never_runs_empty_takes_as_many_messages_as_are_written() {
    for codec in [Codec::Native, Codec::Json] {
        let (peer, ours) = stream_pair().unwrap();
        let limits = Limits { queue_messages: 200, ..Limits::default() };
        let mut here = Connection::new(ours, codec, limits).unwrap();
        let mut there = Connection::new(peer, codec, limits).unwrap();
        let message = || Message::json(&"x".repeat(9000)).unwrap();
        let fill = |here: &mut Connection| {
            let mut count = 0;
            while here.queue(message()).is_ok() {
                count += 1;
            }
            count
        };
        assert_eq!(fill(&mut here), 200);
        assert_eq!(here.flush().unwrap(), everycore_ipc::Flush::Blocked);
        let mut sent = 200 + fill(&mut here);
        let mut received = 0;
        for _ in 0..100 {
            for _ in 0..5 {
                assert!(matches!(there.receive().unwrap(), Received::Message(_)));
                received += 1;
            }
            here.flush().unwrap();
            assert!(here.queued_bytes() > 0);
            sent += fill(&mut here);
            assert!(sent >= received + 190, "{sent} were sent and {received} received");
        }
        assert!(sent > 500);
    }
}

/// What one read brings may ask for an answer behind a message for the program.
#[test]
fn answers_to_what_was_read_ahead_go_out_while_the_next_message_is_waited_for() {
    let (peer, ours) = stream_pair().unwrap();
    let here = Channel::new(Connection::new(ours, Codec::Json, Limits::default()).unwrap());
    let mut peer = UnixStream::from(peer);
    peer.write_all(b"\"a\"\n{\"cmd\":\"NODE_SOCKET_GET_COUNT\",\"key\":\"k\"}\n").unwrap();
    run(async {
        assert_eq!(here.recv().await.unwrap().unwrap().parse::<String>().unwrap(), "a");
        assert!(once(here.recv()).await.is_none());
    });
    let mut answer = [0; 1000];
    let length = peer.read(&mut answer).expect("the answer is written");
    let answer = std::str::from_utf8(&answer[..length]).unwrap();
    assert!(answer.contains("NODE_SOCKET_COUNT"), "{answer}");
}

#[test]
fn a_receive_that_is_given_up_loses_nothing() {
    let (here, there) = pair(Limits::default());
    run(async move {
        for value in 0..1000 {
            assert!(once(there.recv()).await.is_none());
            here.send(&value).await.unwrap();
            // Give up at every point on the way.
            let seen = loop {
                if let Some(seen) = once(number(&there)).await {
                    break seen;
                }
                tokio::task::yield_now().await;
            };
            assert_eq!(seen, Some(value));
        }
    });
}

#[test]
fn several_receivers_share_what_comes() {
    let (here, there) = pair(Limits::default());
    run(async move {
        let receivers: Vec<_> = (0..4)
            .map(|_| {
                let there = there.clone();
                tokio::spawn(async move {
                    let mut sum = 0;
                    while let Some(value) = number(&there).await {
                        sum += value;
                    }
                    sum
                })
            })
            .collect();
        for value in 1..=1000 {
            here.send(&value).await.unwrap();
            if value % 7 == 0 {
                tokio::task::yield_now().await;
            }
        }
        here.disconnect().await.unwrap();
        let mut sum = 0;
        for receiver in receivers {
            sum += receiver.await.unwrap();
        }
        assert_eq!(sum, 500_500);
    });
}

/// Two that receive at once get both messages that one read brings, whoever reads.
#[test]
fn receivers_on_two_threads_leave_nothing_to_one_that_sleeps() {
    const ROUNDS: usize = 20_000;
    let (here, there) = pair(Limits::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (begin, begins) = std::sync::mpsc::channel();
    let (done, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let (other, handle) = (there.clone(), runtime.handle().clone());
    std::thread::spawn(move || {
        while let Ok(()) = begins.recv() {
            let received = handle.block_on(other.recv()).unwrap().unwrap();
            done.send(received).unwrap();
        }
    });
    let rounds = async {
        for _ in 0..ROUNDS {
            begin.send(()).unwrap();
            here.with_connection(|connection| {
                connection.queue(Message::raw(vec![1])).unwrap();
                connection.queue(Message::raw(vec![2])).unwrap();
                connection.flush().unwrap();
            });
            there.recv().await.unwrap().unwrap();
            ends.recv().await.unwrap();
        }
    };
    runtime.block_on(async { tokio::time::timeout(DEADLINE, rounds).await }).expect("one sleeps");
}

#[test]
fn disconnect_delivers_what_was_sent_and_still_receives() {
    let (here, there) = pair(Limits::default());
    run(async move {
        for value in 0..100 {
            here.send_message(Message::raw(vec![value; 100_000])).await.unwrap();
        }
        let reading = tokio::spawn(async move {
            let mut count = 0;
            while let Some(message) = there.recv().await.unwrap() {
                assert_eq!(message.bytes().len(), 100_000);
                count += 1;
            }
            there.send(&count).await.unwrap();
        });
        here.disconnect().await.unwrap();
        assert!(matches!(here.send("late").await, Err(SendError::Closed(_))));
        assert_eq!(number(&here).await, Some(100));
        assert_eq!(number(&here).await, None);
        reading.await.unwrap();
    });
}

#[test]
fn dropping_a_channel_ends_it_after_what_was_sent() {
    let (here, there) = pair(Limits::default());
    run(async move {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for _ in 0..3 {
            here.send_with("listener", Handle::duplicate(&listener).unwrap()).await.unwrap();
        }
        drop(here);
        for _ in 0..3 {
            let mut message = there.recv().await.unwrap().unwrap();
            assert!(matches!(message.take_handle(), Some(Handle::TcpListener(_))));
        }
        assert!(there.recv().await.unwrap().is_none());
    });
}

#[test]
fn the_peer_sees_the_end_when_a_channel_with_a_full_queue_is_dropped() {
    let (here, there) = pair(Limits::default());
    run(async move {
        while here.with_connection(|connection| connection.queued_bytes()) == 0 {
            here.send_message(Message::raw(vec![0; 50_000])).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(here);
        let ended = loop {
            match there.recv().await {
                Ok(Some(_)) => {}
                ended => break ended,
            }
        };
        assert!(matches!(ended, Err(ChannelError::PartialFrame { .. })), "{ended:?}");
        assert!(there.recv().await.unwrap().is_none());
    });
}

#[test]
fn a_peer_that_is_gone_shows_to_the_sender() {
    let (here, there) = pair(Limits::default());
    run(async move {
        drop(there);
        let error = here.send("hello?").await.unwrap_err();
        assert!(matches!(error, SendError::Failed(ChannelError::PeerGone)), "{error:?}");
        assert!(matches!(here.send("hello?").await, Err(SendError::Closed(_))));
        assert!(here.recv().await.unwrap().is_none());
        here.disconnect().await.unwrap();
    });
}
