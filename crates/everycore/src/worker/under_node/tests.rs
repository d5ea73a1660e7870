//! Words in and out, without a process at the other end.

use std::net::{TcpListener, UdpSocket};

use everycore_ipc::{Connection, Handle, Incoming, Outgoing, Received};
use rustix::net::{AddressFamily, SocketType};

use super::*;
use crate::error::Error;
use crate::worker::testing::{FakePrimary, run};

fn said(message: Option<Message>) -> Value {
    message.expect("Node has a word for it").parse().unwrap()
}

fn told(value: Value) -> Message {
    Message::json(&value).unwrap()
}

/// Asks for an address; the question's number.
fn ask(node: &mut UnderNode, address: &str) -> i64 {
    let what = Wanted::Bound { address: address.parse().unwrap(), index: 0, backlog: None };
    said(node.say(FromWorker::Listen { request: 7, what }))["seq"].as_i64().unwrap()
}

fn granted(node: &mut UnderNode, address: &str, answer: Value) -> Heard {
    let ack = ask(node, address);
    let mut answer = answer;
    answer["ack"] = ack.into();
    node.hear(told(answer))
}

fn sockname(port: u16) -> Value {
    json!({"address": "127.0.0.1", "family": "IPv4", "port": port})
}

fn why(heard: Heard) -> (i32, bool) {
    match heard {
        Heard::Refused { request: 7, failure, close } => (failure.errno, close.is_some()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_path_that_is_no_text_is_refused_here() {
    use std::os::unix::ffi::OsStrExt;
    let (_primary, worker) = FakePrimary::of_node();
    let path = std::ffi::OsStr::from_bytes(b"/srv/\xff.sock");
    let error = run(worker.listen(Address::Unix(path.into()))).unwrap_err();
    assert!(error.to_string().contains("Unicode characters only"), "{error}");
}

#[test]
fn messages_are_those_of_nodes_own_workers() {
    let mut node = UnderNode::new();
    let hello = said(node.say(FromWorker::Hello { version: 1 }));
    assert_eq!(hello, json!({"cmd": "NODE_CLUSTER", "act": "online", "seq": 0}));
    for (address, expected) in [
        (":8000", json!({"address": null, "port": 8000, "addressType": 4, "backlog": 0})),
        ("127.0.0.1:80", json!({"address": "127.0.0.1", "port": 80, "addressType": 4, "backlog": 0})),
        ("[::1]:80", json!({"address": "::1", "port": 80, "addressType": 6, "flags": 1, "backlog": 0})),
        ("unix:/srv/x.sock", json!({"address": "/srv/x.sock", "port": -1, "addressType": -1, "backlog": 0})),
        (
            "udp://0.0.0.0:8557",
            json!({"address": "0.0.0.0", "port": 8557, "addressType": "udp4", "fd": -1, "flags": 0, "backlog": 0}),
        ),
    ] {
        let what = Wanted::Bound { address: address.parse().unwrap(), index: 3, backlog: None };
        let mut query = said(node.say(FromWorker::Listen { request: 1, what }));
        let fields = query.as_object_mut().unwrap();
        for (name, value) in [("cmd", json!("NODE_CLUSTER")), ("act", json!("queryServer"))] {
            assert_eq!(fields.remove(name), Some(value));
        }
        assert_eq!((fields.remove("index"), fields.remove("data")), (Some(3.into()), Some(Value::Null)));
        fields.remove("seq");
        assert_eq!(query, expected, "{address}");
    }
    let leaving = said(node.say(FromWorker::Leaving));
    assert_eq!(leaving, json!({"cmd": "NODE_CLUSTER", "act": "exitedAfterDisconnect", "seq": 6}));
    assert!(node.say(FromWorker::Ready).is_none());
    assert!(matches!(node.hear(told(json!({"cmd": "NODE_CLUSTER", "ack": 6}))), Heard::LeaveNoted));
    assert!(matches!(node.hear(told(json!({"cmd": "NODE_CLUSTER", "ack": 6}))), Heard::Other));
}

#[test]
fn success_is_said_in_three_ways_and_the_port_is_the_real_one() {
    for errno in [json!({"errno": null}), json!({"errno": 0}), json!({})] {
        let mut node = UnderNode::new();
        let mut answer = json!({"cmd": "NODE_CLUSTER", "key": "k", "sockname": sockname(4711)});
        answer.as_object_mut().unwrap().extend(errno.as_object().unwrap().clone());
        let Heard::Granted { request: 7, key, means: Means::Delivered(_), address } =
            granted(&mut node, "127.0.0.1:0", answer)
        else {
            panic!("not granted")
        };
        assert_eq!(address.tcp().unwrap().port(), 4711);
        let listening = said(node.say(FromWorker::Listening { key }));
        assert_eq!((&listening["act"], &listening["port"]), (&json!("listening"), &json!(4711)));
        assert_eq!(said(node.say(FromWorker::Closed { key }))["key"], "k");
        assert!(node.say(FromWorker::Closed { key }).is_none(), "once");
    }
}

#[test]
fn every_other_answer_is_an_error_and_what_was_granted_all_the_same_is_given_back() {
    let answer = |fields: Value| {
        let mut answer = json!({"cmd": "NODE_CLUSTER", "errno": null, "key": "k", "sockname": sockname(80)});
        answer.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        granted(&mut UnderNode::new(), "127.0.0.1:80", answer)
    };
    assert_eq!(why(answer(json!({"errno": -98}))), (98, false));
    assert_eq!(why(answer(json!({"errno": 13}))), (13, false));
    assert_eq!(why(answer(json!({"sockname": sockname(81)}))), (98, true));
    assert_eq!(why(answer(json!({"sockname": null}))), (0, true));
    assert_eq!(why(answer(json!({"key": null}))), (0, false));
    assert_eq!(why(granted(&mut UnderNode::new(), "udp://127.0.0.1:0", json!({"key": "k"}))), (24, true));
}

/// Hears a shared socket for an address.
fn shared(address: &str, handle: Handle) -> Heard {
    let mut node = UnderNode::new();
    let ack = ask(&mut node, address);
    node.hear(told(json!({"cmd": "NODE_CLUSTER", "errno": 0, "key": "k", "ack": ack})).with_handle(handle))
}

#[test]
fn a_shared_socket_is_listened_on_and_never_blocks() {
    let bound = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    rustix::net::bind(&bound, &any).unwrap();
    let heard = shared("127.0.0.1:0", Handle::from_fd(bound.try_clone().unwrap()));
    let Heard::Granted { means: Means::Shared(_), address, .. } = heard else { panic!("{heard:?}") };
    assert!(rustix::net::sockopt::socket_acceptconn(&bound).unwrap(), "{address}");
    let flags = rustix::fs::fcntl_getfl(&bound).unwrap();
    assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let heard = shared("udp://127.0.0.1:0", Handle::UdpSocket(udp.try_clone().unwrap()));
    let Heard::Granted { means: Means::Shared(_), address, .. } = heard else { panic!("{heard:?}") };
    assert_eq!(address, BoundAddress::Udp(udp.local_addr().unwrap()));
}

#[test]
fn a_shared_socket_that_is_not_what_was_asked_for_means_that_the_address_is_taken() {
    let unbound = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    assert_eq!(why(shared("127.0.0.1:80", Handle::from_fd(unbound))), (98, true));
    let unbound = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    assert_eq!(why(shared("127.0.0.1:0", Handle::from_fd(unbound))), (98, true));
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(why(shared("127.0.0.1:1", Handle::TcpListener(other))), (98, true));
}

#[test]
fn connections_go_where_their_key_says_and_others_are_unwanted() {
    let mut node = UnderNode::new();
    let answer = json!({"cmd": "NODE_CLUSTER", "key": "k", "sockname": sockname(4711)});
    let heard = granted(&mut node, "127.0.0.1:0", answer);
    let Heard::Granted { key, means: Means::Delivered(kept), .. } = heard else { panic!("{heard:?}") };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connection = |key: &str, seq: i64| {
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = listener.accept().unwrap().0;
        told(json!({"cmd": "NODE_CLUSTER", "act": "newconn", "key": key, "seq": seq})).with_handle(socket)
    };
    assert!(matches!(node.hear(connection("k", 4)), Heard::Connection { seq: 4, .. }));
    assert!(matches!(node.hear(connection("other", 5)), Heard::Unwanted { seq: 5 }));
    let without = json!({"cmd": "NODE_CLUSTER", "act": "newconn", "key": "k", "seq": 6});
    assert!(matches!(node.hear(told(without)), Heard::Other));
    drop(kept);
    assert!(matches!(node.hear(connection("k", 7)), Heard::Unwanted { seq: 7 }), "the listener is gone");
    assert!(node.say(FromWorker::Closed { key }).is_some());
    let refusal: Value = node.answer(7, false).parse().unwrap();
    assert_eq!((&refusal["ack"], &refusal["accepted"]), (&json!(7), &json!(false)));
}

#[test]
fn what_means_nothing_is_ignored() {
    let mut node = UnderNode::new();
    for nothing in [
        json!(null),
        json!([]),
        json!({"cmd": "NODE_CLUSTER"}),
        json!({"cmd": "NODE_CLUSTER", "act": "dance", "seq": 1}),
        json!({"cmd": "NODE_CLUSTER", "ack": 99}),
        json!({"cmd": "NODE_SOCKET_COUNT", "key": "k", "count": 1}),
    ] {
        assert!(matches!(node.hear(told(nothing)), Heard::Other));
    }
    assert!(matches!(node.hear(Message::raw(&b"\xff"[..])), Heard::Other));
    assert!(matches!(node.hear(told(json!({"act": "disconnect"}))), Heard::Disconnect));
}

#[test]
fn a_primary_that_wants_the_worker_to_leave_answers_no_question_and_nobody_waits_for_one() {
    let (mut primary, worker) = FakePrimary::of_node();
    let refused = |error: Error| {
        assert!(matches!(error, Error::Bind { .. }), "{error:?}");
        assert!(error.to_string().contains("leaves"), "{error}");
    };
    run(async {
        let (asking, other) = (worker.clone(), worker.clone());
        let asking = tokio::spawn(async move { asking.listen("127.0.0.1:80").await });
        let other = tokio::task::spawn_blocking(move || other.listen_blocking("127.0.0.1:81"));
        // Read by nobody, and answered by nobody.
        while worker.core.link.unanswered_listens() < 2 {
            tokio::task::yield_now().await;
        }
        let disconnect = json!({"cmd": "NODE_CLUSTER", "act": "disconnect", "seq": 0});
        primary.queue(Outgoing::internal(told(disconnect))).unwrap();
        primary.flush().unwrap();
        refused(asking.await.unwrap().unwrap_err());
        refused(other.await.unwrap().unwrap_err());
        refused(worker.listen("127.0.0.1:82").await.unwrap_err());
        assert!(worker.is_draining());
    });
}

#[test]
fn a_handle_the_primary_has_not_confirmed_is_waited_for_without_looking_for_room() {
    let (mut primary, worker) = FakePrimary::of_node();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    run(async {
        for number in 0..2 {
            worker.send_with(&number, Handle::duplicate(&listener).unwrap()).await.unwrap();
        }
        let wait = worker.core.link.wait(std::time::Instant::now());
        assert!(wait.to_read && !wait.to_write && wait.until.is_none(), "{wait:?}");
        assert!(!worker.core.link.lock().is_flushed(), "the second handle waits for the first");
        let mut next = 0;
        while next < 2 {
            match primary.receive().unwrap() {
                Received::Message(Incoming::User(message)) => {
                    assert_eq!(message.parse::<i32>().unwrap(), next);
                    assert_eq!(message.handles().len(), 1);
                    next += 1;
                }
                Received::Blocked | Received::More => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
            // The confirmation.
            primary.flush().unwrap();
        }
    });
}

#[test]
fn a_primary_that_counts_a_socket_hears_that_the_program_has_dropped_it() {
    let (mut primary, worker) = FakePrimary::of_node();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let ask = |command: &str| Outgoing::internal(told(json!({"cmd": command, "key": "k"})));
    run(async {
        primary.queue(told(json!("take it")).with_handle(stream).with_key("k")).unwrap();
        primary.flush().unwrap();
        let mut received = worker.recv().await.unwrap().unwrap();
        let open = received.take_open_socket();
        primary.queue(ask("NODE_SOCKET_NOTIFY_CLOSE")).unwrap();
        primary.queue(ask("NODE_SOCKET_GET_COUNT")).unwrap();
        assert_eq!(
            answer_about_socket(&mut primary).await,
            json!({"cmd": "NODE_SOCKET_COUNT", "key": "k", "count": 1})
        );
        drop(open);
        assert_eq!(
            answer_about_socket(&mut primary).await,
            json!({"cmd": "NODE_SOCKET_ALL_CLOSED", "key": "k"})
        );
    });
}

async fn answer_about_socket(primary: &mut Connection) -> Value {
    loop {
        primary.flush().unwrap();
        match primary.receive().unwrap() {
            Received::Message(Incoming::Internal(message)) => return message.parse().unwrap(),
            Received::Blocked | Received::More => tokio::task::yield_now().await,
            other => panic!("{other:?}"),
        }
    }
}
