//! Peers that break the rules: each breach has its own error, costs only that channel, and leaves nothing open.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use everycore_ipc::{
    ChannelError, Codec, Connection, Incoming, Limits, Message, Received, SendError, WireError,
};
use everycore_sys::scm_rights::{receive, send};
use everycore_sys::socket_pair::stream_pair;

/// A connection, and the end of a peer that writes what it likes.
fn against(codec: Codec, limits: Limits) -> (OwnedFd, Connection) {
    let (peer, ours) = stream_pair().unwrap();
    (peer, Connection::new(ours, codec, limits).unwrap())
}

fn say(peer: &OwnedFd, bytes: &[u8]) {
    assert_eq!(send(peer, bytes, &[]).unwrap(), bytes.len());
}

fn say_with(peer: &OwnedFd, bytes: &[u8], handles: usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let fds: Vec<BorrowedFd<'_>> = (0..handles).map(|_| socket.as_fd()).collect();
    assert_eq!(send(peer, bytes, &fds).unwrap(), bytes.len());
}

/// Everything that was written to the peer.
fn heard(peer: &OwnedFd) -> String {
    let (mut text, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    while let Ok(received) = receive(peer, &mut buffer, &mut Vec::new()) {
        if received.bytes == 0 {
            break;
        }
        text.extend_from_slice(&buffer[..received.bytes]);
    }
    String::from_utf8(text).unwrap()
}

fn messages(connection: &mut Connection) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Received::Message(incoming) = connection.receive().unwrap() {
        messages.push(incoming.into_message());
    }
    messages
}

fn wire_error(connection: &mut Connection) -> WireError {
    loop {
        match connection.receive() {
            Ok(Received::Message(_)) => {}
            Err(ChannelError::Wire(error)) => {
                assert!(matches!(connection.queue(Message::json(&1).unwrap()), Err(SendError::Closed(_))));
                return error;
            }
            other => panic!("{other:?}"),
        }
    }
}

const ACK: &str = "{\"cmd\":\"NODE_HANDLE_ACK\"}\n";
const NACK: &str = "{\"cmd\":\"NODE_HANDLE_NACK\"}\n";

#[test]
fn what_is_no_message_is_told_apart() {
    let small = Limits { frame: 1000, depth: 10, ..Limits::default() };
    let huge = [b'1'; 1001];
    let deep: Vec<u8> = [[b'['; 11], [b']'; 11]].concat();
    let frame = |kind: u8, flags: u8, payload: &[u8]| {
        let mut frame = vec![0; 16];
        frame[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        (frame[4], frame[5]) = (kind, flags);
        frame.extend_from_slice(payload);
        frame
    };
    let cases: [(Codec, Vec<u8>, WireError); 13] = [
        (Codec::Json, b"\n".to_vec(), WireError::Empty),
        (Codec::Json, b" \t\r\n".to_vec(), WireError::Empty),
        (Codec::Json, b"hello\n".to_vec(), WireError::NotJson { first: b'h' }),
        (Codec::Json, b"\xff\n".to_vec(), WireError::NotJson { first: 0xFF }),
        (Codec::Json, huge.to_vec(), WireError::TooLarge { bytes: 1001, limit: 1000 }),
        (Codec::Json, [&deep[..], b"\n"].concat(), WireError::TooDeep { limit: 10 }),
        (Codec::Json, ACK.into(), WireError::SurplusAnswer),
        (Codec::Json, NACK.into(), WireError::SurplusAnswer),
        (Codec::Advanced, vec![0; 4], WireError::Empty),
        (Codec::Advanced, b"\0\0\0\x01x".to_vec(), WireError::NotV8 { first: b'x' }),
        (Codec::Advanced, b"\x80\0\0\0".to_vec(), WireError::TooLarge { bytes: 1 << 31, limit: 1000 }),
        (Codec::Native, frame(9, 0, b""), WireError::UnknownFrame { kind: 9, flags: 0 }),
        (Codec::Native, frame(1, 0, &deep), WireError::TooDeep { limit: 10 }),
    ];
    for (codec, bytes, expected) in cases {
        let (peer, mut connection) = against(codec, small);
        say(&peer, &bytes);
        assert_eq!(wire_error(&mut connection), expected);
    }
}

#[test]
fn good_messages_before_a_bad_one_are_delivered() {
    let (peer, mut connection) = against(Codec::Json, Limits::default());
    say(&peer, b"1\n2\n\n3\n");
    for expected in [1, 2] {
        let Ok(Received::Message(incoming)) = connection.receive() else { panic!() };
        assert_eq!(incoming.message().parse::<u8>().unwrap(), expected);
    }
    assert_eq!(wire_error(&mut connection), WireError::Empty);
}

/// Writes it all, however little the socket holds, and gives what comes of it.
fn say_all(peer: &OwnedFd, mut bytes: &[u8], connection: &mut Connection) -> Vec<Incoming> {
    let mut came = Vec::new();
    loop {
        while !bytes.is_empty()
            && let Ok(written) = send(peer, bytes, &[])
        {
            bytes = &bytes[written..];
        }
        match connection.receive().unwrap() {
            Received::Message(incoming) => came.push(incoming),
            Received::Blocked if bytes.is_empty() => return came,
            _ => {}
        }
    }
}

#[test]
fn a_message_of_the_library_is_found_in_a_long_one_wherever_it_is_cut() {
    let pad = "x".repeat(5 << 19);
    let lines = [
        format!("{{\"pad\":\"{pad}\",\"cmd\":\"NODE_CLUSTER\"}}\n"),
        format!("{{\"pad\":[\"{pad}\"],\"cmd\":\"NODE_CLUSTER\"}}\n"),
        format!("{{\"pad\":[\"{pad}\"],\"cmd\":\"NOD\\u0045_CLUSTER\"}}\n"),
    ];
    let fields = std::collections::BTreeMap::from([("a", &*pad), ("cmd", "NODE_CLUSTER")]);
    let value = Message::v8(&fields).unwrap().into_bytes();
    let frame = [&(value.len() as u32).to_be_bytes(), &value[..]].concat();
    let frames =
        lines.iter().map(|line| (Codec::Json, line.as_bytes())).chain([(Codec::Advanced, &frame[..])]);
    for (codec, frame) in frames {
        // Something of the program's, as long, comes before and behind.
        let plain = String::from_utf8_lossy(frame).replace("cmd", "CMD").into_bytes();
        for back in (10..=28).step_by(6) {
            let (peer, mut connection) = against(codec, Limits::default());
            let (front, rest) = frame.split_at(frame.len() - back);
            let mut came =
                if codec == Codec::Json { say_all(&peer, &plain, &mut connection) } else { Vec::new() };
            came.extend(say_all(&peer, front, &mut connection));
            came.extend(say_all(&peer, rest, &mut connection));
            if codec == Codec::Json {
                came.extend(say_all(&peer, &plain, &mut connection));
            }
            let internal: Vec<bool> = came.iter().map(|one| matches!(one, Incoming::Internal(_))).collect();
            let expected: &[bool] = if codec == Codec::Json { &[false, true, false] } else { &[true] };
            assert_eq!(internal, expected, "{codec}, cut {back} bytes before the end");
        }
    }
}

#[test]
fn an_end_inside_a_message_is_told_from_an_end_between_two() {
    for (codec, whole, part) in [
        (Codec::Json, &b"1\n"[..], &b"{\"half"[..]),
        (Codec::Advanced, b"\0\0\0\x03\xff\x0f0", b"\0\0\0"),
        (Codec::Native, b"\x01\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\x001", b"\x09\0\0\0\x01"),
    ] {
        let (peer, mut connection) = against(codec, Limits::default());
        say(&peer, whole);
        drop(peer);
        assert_eq!(messages(&mut connection).len(), 1);
        assert!(matches!(connection.receive(), Ok(Received::Closed)));

        let (peer, mut connection) = against(codec, Limits::default());
        say(&peer, whole);
        say_with(&peer, part, 1);
        drop(peer);
        let Ok(Received::Message(_)) = connection.receive() else { panic!() };
        let error = connection.receive().unwrap_err();
        assert!(matches!(error, ChannelError::PartialFrame { bytes } if bytes == part.len()), "{error:?}");
        assert!(matches!(connection.receive(), Ok(Received::Closed)));
    }
}

#[test]
fn nesting_that_would_break_a_parser_is_an_error() {
    let (peer, mut connection) = against(Codec::Json, Limits::default());
    for around in ["{\"cmd\":\"NODE_X\",\"a\":", "{\"cmd\":\"NODE_HANDLE\",\"msg\":", "["] {
        let mut line = around.repeat(2_000).into_bytes();
        line.push(b'\n');
        say(&peer, &line);
    }
    for message in messages(&mut connection) {
        assert!(message.parse::<serde_json::Value>().is_err());
    }
}

#[test]
fn a_handle_message_without_its_handle_is_refused_and_not_delivered() {
    let (peer, mut connection) = against(Codec::Json, Limits::default());
    say(&peer, b"{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":1}\n2\n");
    let messages = messages(&mut connection);
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].parse::<u8>().unwrap(), 2);
    connection.flush().unwrap();
    assert_eq!(heard(&peer), NACK);
    assert_eq!(connection.faults().lost_handles, 1);
}

#[test]
fn a_message_sent_again_inside_another_is_delivered_once_and_answered_once() {
    let (peer, mut connection) = against(Codec::Json, Limits::default());
    let again = concat!(
        r#"{"cmd":"NODE_HANDLE","type":"net.Native","msg":"#,
        r#"{"cmd":"NODE_HANDLE","type":"net.Socket","msg":{"i":1},"key":"4:127.0.0.1:0"}}"#,
        "\n"
    );
    say_with(&peer, again.as_bytes(), 1);
    let mut messages = messages(&mut connection);
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].bytes(), r#"{"i":1}"#);
    assert!(messages[0].take_handle().is_some());
    connection.flush().unwrap();
    assert_eq!(heard(&peer), ACK);
}

#[test]
fn a_cluster_message_with_a_handle_comes_out_as_internal() {
    let (peer, mut connection) = against(Codec::Json, Limits::default());
    let newconn = r#"{"cmd":"NODE_CLUSTER","act":"newconn","key":"k","seq":2}"#;
    say_with(
        &peer,
        format!("{{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Native\",\"msg\":{newconn}}}\n").as_bytes(),
        1,
    );
    let Ok(Received::Message(Incoming::Internal(message))) = connection.receive() else { panic!() };
    assert_eq!(message.bytes(), newconn);
    assert_eq!(message.handles().len(), 1);
}

#[test]
fn handles_that_no_message_asked_for_are_closed_and_do_not_shift_the_others() {
    let (peer, mut connection) = against(Codec::Json, Limits::default());
    let line = b"{\"cmd\":\"NODE_HANDLE\",\"type\":\"dgram.Socket\",\"msg\":1}\n";
    say_with(&peer, b"0\n", 3);
    say_with(&peer, line, 2);
    say(&peer, line);
    say_with(&peer, line, 1);
    let messages = messages(&mut connection);
    let handles: Vec<usize> = messages.iter().map(|message| message.handles().len()).collect();
    assert_eq!(handles, [0, 1, 1], "the message without its own handle is not given another's");
    connection.flush().unwrap();
    assert_eq!(heard(&peer), [ACK, NACK, ACK].concat());
    assert_eq!(connection.faults().surplus_handles, 4);
}

#[test]
fn handles_on_the_first_piece_of_their_message_stay_with_it() {
    let (peer, mut connection) = against(Codec::Json, Limits::default());
    let line = b"{\"cmd\":\"NODE_HANDLE\",\"type\":\"dgram.Socket\",\"msg\":1}\n";
    let (front, back) = line.split_at(20);
    // Each piece but the first begins with the rest of the message before it, as it comes from small socket buffers.
    let mut handles = Vec::new();
    say_with(&peer, front, 1);
    for _ in 0..5 {
        handles.extend(messages(&mut connection).iter().map(|message| message.handles().len()));
        say_with(&peer, &[back, front].concat(), 1);
    }
    say(&peer, back);
    handles.extend(messages(&mut connection).iter().map(|message| message.handles().len()));
    assert_eq!(handles, [1; 6]);
    assert_eq!(connection.faults(), Default::default());
}

#[test]
fn native_messages_get_all_their_handles_or_none() {
    let (peer, mut connection) = against(Codec::Native, Limits::default());
    let frame = |handles: u8| [&[1, 0, 0, 0, 1, 0, handles][..], &[0; 9], b"1"].concat();
    for (claimed, sent) in [(2, 2), (2, 1), (0, 1), (1, 1), (1, 0), (1, 2), (3, 3)] {
        say_with(&peer, &frame(claimed), sent);
    }
    let messages = messages(&mut connection);
    let got: Vec<_> =
        messages.iter().map(|message| (message.handles().len(), message.lost_handles())).collect();
    assert_eq!(got, [(2, 0), (0, 2), (0, 0), (1, 0), (0, 1), (0, 1), (3, 0)]);
    assert_eq!(connection.faults().lost_handles, 4);
    assert_eq!(connection.faults().surplus_handles, 1 + 1 + 2);
}

#[test]
fn a_peer_cannot_fill_our_descriptor_table_inside_one_message() {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    for (codec, first) in
        [(Codec::Json, &b"\""[..]), (Codec::Native, &[0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0])]
    {
        let (peer, mut connection) = against(codec, Limits::default());
        say(&peer, first);
        let before = open();
        for _ in 0..20 {
            say_with(&peer, b"x", 253);
            assert!(matches!(connection.receive(), Ok(Received::Blocked)));
        }
        // Other tests run beside this one.
        assert!(open() < before + 1000, "{} descriptors are open", open());
    }
}

#[test]
fn a_peer_that_sends_handles_and_never_reads_the_answers_is_not_read_from_any_more() {
    let (peer, mut connection) = against(Codec::Json, Limits::default());
    let line = b"{\"cmd\":\"NODE_HANDLE\",\"type\":\"dgram.Socket\"}\n";
    let count = r#"{"cmd":"NODE_SOCKET_GET_COUNT","key":"some rather long key"}"#;
    let many = format!("{count}\n").repeat(500);
    let mut accepted = 0;
    for _ in 0..100 {
        match send(&peer, many.as_bytes(), &[]) {
            Ok(_) => accepted += 1,
            Err(_) => break,
        }
        let _ = connection.receive().unwrap();
    }
    assert!(accepted < 100, "everything was read although no answer was taken");
    assert!(connection.queued_bytes() < 200_000, "{} bytes of answers wait", connection.queued_bytes());
    assert!(send(&peer, line, &[]).is_err());
}

#[test]
fn questions_about_sockets_are_answered() {
    let (peer, mut connection) = against(Codec::Json, Limits::default());
    let (here, there) = stream_pair().unwrap();
    let line = br#"{"cmd":"NODE_HANDLE","type":"net.Socket","msg":"m","key":"4:127.0.0.1:1338"}"#;
    for _ in 0..2 {
        send(&peer, &[&line[..], b"\n"].concat(), &[here.as_fd()]).unwrap();
    }
    drop(there);
    let mut got = messages(&mut connection);
    connection.flush().unwrap();
    assert_eq!(heard(&peer), [ACK, ACK].concat());
    assert_eq!(got[0].key(), Some("4:127.0.0.1:1338"));
    let open = got[0].take_open_socket().unwrap();
    drop(got.remove(0));

    let ask = |command: &str, key: &str| {
        say(&peer, format!("{{\"cmd\":\"{command}\",\"key\":\"{key}\"}}\n").as_bytes())
    };
    ask("NODE_SOCKET_GET_COUNT", "4:127.0.0.1:1338");
    ask("NODE_SOCKET_GET_COUNT", "another");
    ask("NODE_SOCKET_NOTIFY_CLOSE", "another");
    ask("NODE_SOCKET_NOTIFY_CLOSE", "4:127.0.0.1:1338");
    assert!(messages(&mut connection).is_empty());
    connection.flush().unwrap();
    let said = heard(&peer);
    let said: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let answer = |cmd: &str, key: &str, count: Option<u64>| match count {
        Some(count) => serde_json::json!({"cmd": cmd, "key": key, "count": count}),
        None => serde_json::json!({"cmd": cmd, "key": key}),
    };
    assert_eq!(
        said,
        [
            answer("NODE_SOCKET_COUNT", "4:127.0.0.1:1338", Some(2)),
            answer("NODE_SOCKET_COUNT", "another", Some(0)),
            answer("NODE_SOCKET_ALL_CLOSED", "another", None),
        ]
    );

    drop(open);
    assert!(!connection.wants_write());
    drop(got);
    assert!(connection.wants_write());
    connection.flush().unwrap();
    assert_eq!(heard(&peer).trim(), r#"{"cmd":"NODE_SOCKET_ALL_CLOSED","key":"4:127.0.0.1:1338"}"#);
}

#[test]
fn what_would_hurt_a_node_peer_is_refused_at_the_sender() {
    let (peer, mut connection) = against(Codec::Json, Limits::default());
    let file = std::fs::File::open("/dev/null").unwrap();
    let (datagram, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
    for fd in [OwnedFd::from(file), datagram.into()] {
        let error = connection.queue(Message::json(&1).unwrap().with_handle(fd)).unwrap_err();
        assert!(matches!(error, SendError::Lethal(_)), "{error:?}");
        assert_eq!(error.into_outgoing().unwrap().message.handles().len(), 1);
    }
    let reserved = Message::json(&serde_json::json!({"cmd": "NODE_CLUSTERish"})).unwrap();
    assert!(matches!(connection.queue(reserved), Err(SendError::Reserved(_))));
    let fine = Message::json(&serde_json::json!({"cmd": "NODE_"})).unwrap();
    connection.queue(fine).unwrap();
    assert!(matches!(connection.queue(Message::raw("x")), Err(SendError::NotInCodec { .. })));
    let request = everycore_ipc::Outgoing::request(1, Message::json(&1).unwrap());
    assert!(matches!(connection.queue(request), Err(SendError::NotInCodec { .. })));
    connection.flush().unwrap();
    assert_eq!(heard(&peer), "{\"cmd\":\"NODE_\"}\n");
}

#[test]
fn a_message_from_elsewhere_cannot_break_the_lines() {
    let (peer, native) = against(Codec::Native, Limits::default());
    let mut native = native;
    for text in [&b"{\n  \"a\": 1\n}"[..], b"1\n2", b"{"] {
        let mut frame = vec![0; 16];
        (frame[0], frame[4]) = (text.len() as u8, 1);
        frame.extend_from_slice(text);
        say(&peer, &frame);
    }
    let (node, mut connection) = against(Codec::Json, Limits::default());
    let results: Vec<bool> =
        messages(&mut native).into_iter().map(|message| connection.queue(message).is_ok()).collect();
    assert_eq!(results, [true, false, false]);
    connection.flush().unwrap();
    assert_eq!(heard(&node), "{   \"a\": 1 }\n");
}

#[test]
fn text_that_rust_cannot_hold_is_mended() {
    let (peer, mut connection) = against(Codec::Json, Limits::default());
    say(&peer, b"\"\\ud800 \\ud83d\\ude00 \\udc00\"\n\"\xff \xe2\x82\"\n");
    let texts: Vec<String> =
        messages(&mut connection).iter().map(|message| message.parse().unwrap()).collect();
    assert_eq!(texts, ["\u{fffd} \u{1f600} \u{fffd}", "\u{fffd} \u{fffd}"]);
}
