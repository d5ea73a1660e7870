//! Bun marks its libraries' messages with a byte in front, and reads ours by it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use everycore_ipc::{Codec, Connection, Incoming, Limits, Message, Outgoing, Received};
use everycore_sys::scm_rights::{receive, send};
use everycore_sys::socket_pair::stream_pair;

const ONLINE: &str = r#"{"cmd":"NODE_CLUSTER","act":"online","seq":0}"#;
const LEAVE: &str = r#"{"act":"disconnect","cmd":"NODE_CLUSTER","seq":1}"#;

/// What the peer gets to read, after it has said this, of one message of the library and one of the program.
fn told(said: &str) -> (Vec<Incoming>, String, bool) {
    let (peer, ours) = stream_pair().unwrap();
    let mut connection = Connection::new(ours, Codec::Json, Limits::default()).unwrap();
    send(&peer, said.as_bytes(), &[]).unwrap();
    let mut incoming = Vec::new();
    while let Received::Message(message) = connection.receive().unwrap() {
        incoming.push(message);
    }
    let leave: serde_json::Value = serde_json::from_str(LEAVE).unwrap();
    connection.queue(Outgoing::internal(Message::json(&leave).unwrap())).unwrap();
    connection.queue(Message::json("hello").unwrap()).unwrap();
    connection.flush().unwrap();
    let mut buffer = [0; 4096];
    let got = receive(&peer, &mut buffer, &mut Vec::new()).unwrap();
    (incoming, String::from_utf8(buffer[..got.bytes].to_vec()).unwrap(), connection.is_bun())
}

#[test]
fn a_peer_that_marks_its_librarys_messages_gets_them_marked() {
    let (incoming, told, is_bun) = told(&format!("\x02{ONLINE}\n{{\"hello\":1}}\n"));
    let [Incoming::Internal(online), Incoming::User(hello)] = &incoming[..] else { panic!("{incoming:?}") };
    assert_eq!((&online.bytes()[..], &hello.bytes()[..]), (ONLINE.as_bytes(), &b"{\"hello\":1}"[..]));
    assert_eq!(told, format!("\x02{LEAVE}\n\"hello\"\n"));
    assert!(is_bun);
}

#[test]
fn one_that_does_not_gets_them_plain() {
    let (incoming, told, is_bun) = told(&format!("{ONLINE}\n"));
    assert!(matches!(&incoming[..], [Incoming::Internal(_)]));
    assert_eq!(told, format!("{LEAVE}\n\"hello\"\n"));
    assert!(!is_bun);
}

#[test]
fn a_mark_in_front_of_nothing_is_no_message() {
    let (peer, ours) = stream_pair().unwrap();
    let mut connection = Connection::new(ours, Codec::Json, Limits::default()).unwrap();
    send(&peer, b"\x02\n", &[]).unwrap();
    assert!(connection.receive().is_err());
}
