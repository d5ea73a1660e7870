//! Any bytes, any split, any order of events: nothing panics, nothing is lost, order holds.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use everycore_ipc::{Codec, Connection, Format, Incoming, Limits, Message, Outgoing, Received, fuzz};
use everycore_sys::socket_pair::stream_pair;
use proptest::collection::vec;
use proptest::prelude::*;

/// Lines that are nearly messages of Node's libraries, which random bytes never are.
fn nearly_node() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("{".to_owned()),
        Just("}".to_owned()),
        Just("\"cmd\":".to_owned()),
        Just("\"NODE_HANDLE\"".to_owned()),
        Just("\"NODE_HANDLE_ACK\"".to_owned()),
        Just("\"NODE_CLUSTER\"".to_owned()),
        Just("\"NODE_SOCKET_GET_COUNT\"".to_owned()),
        Just("\"\\u004eODE_HANDLE\"".to_owned()),
        Just("\"msg\":".to_owned()),
        Just("\"key\":".to_owned()),
        Just("\"type\":\"net.Socket\"".to_owned()),
        Just(",".to_owned()),
        Just("\n".to_owned()),
        Just("\"\\ud800\"".to_owned()),
        Just("\"\\ud83d\\ude00\"".to_owned()),
        Just("{\"cmd\":\"NODE_HANDLE\",\"msg\":{\"cmd\":\"NODE_HANDLE\",\"msg\":1}}\n".to_owned()),
        "[ -~é]{0,6}",
    ];
    vec(piece, 0..30).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #[test]
    fn json_lines_are_read_or_refused(bytes in prop_oneof![vec(any::<u8>(), 0..300), nearly_node()]) {
        fuzz::json(&bytes);
    }

    #[test]
    fn native_frames_are_read_or_refused(mut bytes in vec(any::<u8>(), 0..300), length in 0u32..40, small: bool) {
        if small && bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&length.to_le_bytes());
        }
        fuzz::native(&bytes);
    }

    #[test]
    fn advanced_frames_are_read_or_refused(mut bytes in vec(any::<u8>(), 0..300), length in 0u32..40, small: bool) {
        if small && bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&length.to_be_bytes());
        }
        fuzz::advanced(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, ..ProptestConfig::default() })]

    #[test]
    fn handles_survive_a_wire_that_loses_some(steps in vec(any::<u8>(), 0..400)) {
        fuzz::handoff(&steps);
    }
}

/// What a message is sent as, and whether it carries a handle.
#[derive(Clone, Debug)]
struct Sent {
    payload: Vec<u8>,
    kind: u8,
    handle: bool,
}

fn sent() -> impl Strategy<Value = Sent> {
    let length = prop_oneof![0usize..200, 3000usize..9000, 30_000usize..70_000];
    (length, any::<u8>(), any::<u8>(), proptest::bool::weighted(0.2))
        .prop_map(|(length, fill, kind, handle)| Sent { payload: vec![fill; length], kind, handle })
}

impl Sent {
    /// The message in a codec: raw bytes where it has them, else text.
    fn outgoing(&self, codec: Codec) -> Outgoing {
        let mut message = match codec {
            Codec::Json => Message::json(&self.text()).unwrap(),
            _ => Message::raw(self.payload.clone()),
        };
        if self.handle {
            message = message.with_handle(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        }
        match (codec, self.kind % 4) {
            (Codec::Native, 1) => Outgoing::internal(message),
            (Codec::Native, 2) => Outgoing::request(self.kind.into(), message),
            (Codec::Native, 3) => Outgoing::reply(self.kind.into(), message),
            _ => Outgoing::user(message),
        }
    }

    fn text(&self) -> String {
        self.payload.iter().map(|byte| char::from(*byte)).collect()
    }

    fn assert_is(&self, codec: Codec, incoming: Incoming) {
        match (codec, self.kind % 4, &incoming) {
            (Codec::Native, 1, Incoming::Internal(_)) => {}
            (Codec::Native, 2, Incoming::Request { id, .. }) => assert_eq!(*id, u64::from(self.kind)),
            (Codec::Native, 3, Incoming::Reply { id, .. }) => assert_eq!(*id, u64::from(self.kind)),
            (Codec::Native, 0, Incoming::User(_)) | (Codec::Json | Codec::Advanced, _, Incoming::User(_)) => {
            }
            _ => panic!("{self:?} arrived as {incoming:?}"),
        }
        let message = incoming.into_message();
        assert_eq!(message.handles().len(), usize::from(self.handle));
        match codec {
            Codec::Json => assert_eq!(message.parse::<String>().unwrap(), self.text()),
            Codec::Advanced => {
                let everycore_ipc::v8::Buffer(bytes) = message.parse().unwrap();
                assert_eq!(bytes, self.payload);
            }
            Codec::Native => {
                assert_eq!(message.format(), Format::Raw);
                assert_eq!(message.bytes(), &Bytes::from(self.payload.clone()));
            }
        }
    }
}

/// Sends everything over a socket, reading and writing in the order the steps say, and compares what arrives.
fn round_trip(codec: Codec, messages: &[Sent], steps: &[bool], window: usize) {
    let limits = Limits { unanswered: window, ..Limits::default() };
    let (here, there) = stream_pair().unwrap();
    let mut here = Connection::new(here, codec, limits).unwrap();
    let mut there = Connection::new(there, codec, limits).unwrap();
    let mut steps = steps.iter().cycle();
    let mut waiting = messages.iter();
    let mut expected = messages.iter();
    let mut left = messages.len();
    while left > 0 {
        if *steps.next().unwrap_or(&true) {
            if let Some(message) = waiting.next() {
                here.queue(message.outgoing(codec)).unwrap();
            }
            here.flush().unwrap();
        } else {
            while let Received::Message(incoming) = there.receive().unwrap() {
                expected.next().unwrap().assert_is(codec, incoming);
                left -= 1;
            }
            there.flush().unwrap();
            // Answers to handles.
            assert!(matches!(here.receive().unwrap(), Received::Blocked));
            here.flush().unwrap();
        }
    }
    assert_eq!((here.faults(), there.faults()), Default::default());
    drop(here);
    assert!(matches!(there.receive(), Ok(Received::Closed)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn messages_survive_the_native_codec(messages in vec(sent(), 0..20), mut steps in vec(any::<bool>(), 1..9)) {
        steps.extend([true, false]);
        round_trip(Codec::Native, &messages, &steps, 1);
    }

    #[test]
    fn messages_survive_the_json_codec(
        messages in vec(sent(), 0..20),
        mut steps in vec(any::<bool>(), 1..9),
        window in 1usize..9,
    ) {
        steps.extend([true, false]);
        round_trip(Codec::Json, &messages, &steps, window);
    }

    #[test]
    fn messages_survive_the_advanced_codec(
        messages in vec(sent(), 0..20),
        mut steps in vec(any::<bool>(), 1..9),
        window in 1usize..9,
    ) {
        steps.extend([true, false]);
        round_trip(Codec::Advanced, &messages, &steps, window);
    }

    #[test]
    fn bytes_may_come_in_any_pieces(
        messages in vec(sent().prop_map(|sent| Sent { handle: false, ..sent }), 0..12),
        cuts in vec(1usize..20_000, 1..20),
        codec in prop_oneof![Just(Codec::Json), Just(Codec::Advanced), Just(Codec::Native)],
    ) {
        let limits = Limits::default();
        // What is to be received, as it is on the wire.
        let (here, tap) = stream_pair().unwrap();
        let mut here = Connection::new(here, codec, limits).unwrap();
        let mut wire = Vec::new();
        for message in &messages {
            here.queue(message.outgoing(codec)).unwrap();
            while here.flush().unwrap() != everycore_ipc::Flush::Done {
                read_all(&tap, &mut wire);
            }
        }
        read_all(&tap, &mut wire);
        // The same bytes again, in pieces.
        let (feed, there) = stream_pair().unwrap();
        let mut there = Connection::new(there, codec, limits).unwrap();
        let (mut cuts, mut rest, mut expected) = (cuts.iter().cycle(), &wire[..], messages.iter());
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            assert_eq!(everycore_sys::scm_rights::send(&feed, piece, &[]).unwrap(), piece.len());
            rest = behind;
            while let Received::Message(incoming) = there.receive().unwrap() {
                expected.next().unwrap().assert_is(codec, incoming);
            }
        }
        assert!(expected.next().is_none());
    }
}

/// One end of a conversation: what it still has to send, and what it has to hear.
struct End<'a> {
    connection: Connection,
    to_send: std::slice::Iter<'a, Sent>,
    to_hear: std::slice::Iter<'a, Sent>,
}

impl End<'_> {
    fn send(&mut self, codec: Codec) {
        if let Some(message) = self.to_send.next() {
            self.connection.queue(message.outgoing(codec)).unwrap();
        }
    }

    fn hear(&mut self, codec: Codec) {
        if let Received::Message(incoming) = self.connection.receive().unwrap() {
            self.to_hear.next().unwrap().assert_is(codec, incoming);
        }
    }

    fn is_done(&self) -> bool {
        self.to_send.len() == 0 && self.to_hear.len() == 0 && self.connection.unanswered() == 0
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn both_ends_may_talk_at_once(
        ours in vec(sent(), 0..15),
        theirs in vec(sent(), 0..15),
        steps in vec(any::<u8>(), 4..60),
        windows in (1usize..5, 1usize..5),
        codec in prop_oneof![Just(Codec::Json), Just(Codec::Advanced), Just(Codec::Native)],
    ) {
        let (here, there) = stream_pair().unwrap();
        let connection = |socket, unanswered| {
            // Little room, so that messages are cut in many pieces and answers find others half written.
            rustix::net::sockopt::set_socket_send_buffer_size(&socket, 4096).unwrap();
            Connection::new(socket, codec, Limits { unanswered, ..Limits::default() }).unwrap()
        };
        let mut ends = [
            End { connection: connection(here, windows.0), to_send: ours.iter(), to_hear: theirs.iter() },
            End { connection: connection(there, windows.1), to_send: theirs.iter(), to_hear: ours.iter() },
        ];
        let all = [0u8, 1, 2, 3, 4, 5];
        let mut count = 0;
        for step in steps.iter().chain(all.iter().cycle()) {
            let end = &mut ends[usize::from(step & 1)];
            match step >> 1 & 3 {
                0 => end.send(codec),
                1 => _ = end.connection.flush().unwrap(),
                _ => end.hear(codec),
            }
            if ends.iter().all(End::is_done) {
                break;
            }
            count += 1;
            prop_assert!(count < 100_000, "nothing moves any more");
        }
        for end in &ends {
            prop_assert_eq!(end.connection.faults(), Default::default());
        }
    }
}

fn read_all(socket: &std::os::fd::OwnedFd, into: &mut Vec<u8>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(received) = everycore_sys::scm_rights::receive(socket, &mut buffer, &mut Vec::new()) {
        into.extend_from_slice(&buffer[..received.bytes]);
    }
}
