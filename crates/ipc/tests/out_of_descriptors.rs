//! A receiver that may open no more descriptors. The only test of its process, whose limit it lowers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::UdpSocket;

use everycore_ipc::{Codec, Connection, Limits, Message, Received};
use everycore_sys::socket_pair::stream_pair;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn pair(codec: Codec) -> (Connection, Connection) {
    let (here, there) = stream_pair().unwrap();
    let here = Connection::new(here, codec, Limits::default()).unwrap();
    (here, Connection::new(there, codec, Limits::default()).unwrap())
}

/// Does something while not one descriptor more can be opened.
fn starved<T>(work: impl FnOnce() -> T) -> T {
    let old = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), maximum: old.maximum }).unwrap();
    let result = work();
    setrlimit(Resource::Nofile, old).unwrap();
    result
}

fn message(text: &str) -> Message {
    Message::json(text).unwrap().with_handle(UdpSocket::bind("127.0.0.1:0").unwrap())
}

/// What has come, as text, with how many handles came and were lost.
fn texts(connection: &mut Connection) -> Vec<(String, usize, usize)> {
    let mut texts = Vec::new();
    while let Received::Message(incoming) = connection.receive().unwrap() {
        let message = incoming.into_message();
        texts.push((message.parse().unwrap(), message.handles().len(), message.lost_handles()));
    }
    connection.flush().unwrap();
    texts
}

fn nothing() -> Vec<(String, usize, usize)> {
    Vec::new()
}

#[test]
fn handles_that_do_not_arrive_are_sent_again_or_reported() {
    for codec in [Codec::Json, Codec::Advanced] {
        let (mut here, mut there) = pair(codec);
        here.queue(message("a")).unwrap();
        here.queue(Message::json("b").unwrap()).unwrap();
        here.flush().unwrap();
        assert_eq!(starved(|| texts(&mut there)), nothing());
        assert_eq!(texts(&mut here), nothing());
        let expected = [("a".to_owned(), 1, 0)];
        assert_eq!(texts(&mut there), expected, "sent again, and nothing behind it goes before its answer");
        assert_eq!(texts(&mut here), nothing());
        assert_eq!(texts(&mut there), [("b".to_owned(), 0, 0)]);
        assert_eq!(there.faults().lost_handles, 1);

        here.queue(message("c")).unwrap();
        here.queue(message("d")).unwrap();
        here.flush().unwrap();
        for _ in 0..4 {
            assert!(here.take_undelivered().is_empty());
            assert_eq!(starved(|| texts(&mut there)), nothing());
            assert_eq!(texts(&mut here), nothing());
        }
        let back = here.take_undelivered();
        assert_eq!(back.len(), 1, "after three repetitions it comes back");
        assert_eq!(back[0].message.parse::<String>().unwrap(), "c");
        assert_eq!(back[0].message.handles().len(), 1);
        assert_eq!(texts(&mut there), [("d".to_owned(), 1, 0)], "and what was behind it goes on");
    }

    let (mut here, mut there) = pair(Codec::Native);
    for text in ["a", "b"] {
        here.queue(message(text)).unwrap();
    }
    here.flush().unwrap();
    let Ok(Received::Message(incoming)) = starved(|| there.receive()) else { panic!() };
    assert_eq!(incoming.message().lost_handles(), 1);
    assert_eq!(texts(&mut there), [("b".to_owned(), 1, 0)], "the loss does not shift the next pair");
}
