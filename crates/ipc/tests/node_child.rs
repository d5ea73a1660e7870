//! A real Node process as our child: what its channel promises, as seen from the parent. Skipped aloud where there is
//! no Node; `everycore_peers` says which one it is.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and is skipped aloud"
)]

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use everycore_ipc::blocking::Channel;
use everycore_ipc::{
    Codec, Connection, Fork, Handle, HandleKind, Incoming, Limits, Message, Outgoing, PidFd, WaitStatus, fork,
};
use everycore_sys::signals::number::{CONT, STOP};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(30);

/// A Node process and our end of its channel.
struct Node {
    channel: Channel,
    process: PidFd,
}

impl Node {
    fn start(codec: Codec, limits: Limits) -> Option<Self> {
        let node = everycore_peers::node()?;
        Some(Self::run(fork(script()).exec_path(&node.program).exec_args(&node.args), codec, limits))
    }

    fn run(command: Fork, codec: Codec, limits: Limits) -> Self {
        let parts = command.codec(codec).limits(limits).spawn_parts().unwrap();
        Self { channel: Channel::new(parts.connection.unwrap()), process: parts.pidfd }
    }

    fn say(&self, value: Value) {
        self.channel.send_message(Message::json(&value).unwrap()).unwrap();
    }

    fn incoming(&self) -> Option<Incoming> {
        self.channel.recv_any(Instant::now() + DEADLINE).unwrap()
    }

    fn message(&self) -> Message {
        match self.incoming() {
            Some(Incoming::User(message)) => message,
            other => panic!("expected a message, got {other:?}"),
        }
    }

    fn hear(&self) -> Value {
        self.message().parse().unwrap()
    }

    fn connection<T>(&self, look: impl FnOnce(&mut Connection) -> T) -> T {
        self.channel.with_connection(look)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.signal(9);
        let _ = self.process.wait();
    }
}

fn script() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/channel_child.js").to_str().unwrap().into()
}

/// Connections to ourselves: the client's end, and the accepted one, which is told by the client's port.
struct Connections {
    listener: TcpListener,
}

impl Connections {
    fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    fn next(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        (client, self.listener.accept().unwrap().0)
    }
}

fn port(client: &TcpStream) -> u16 {
    client.local_addr().unwrap().port()
}

/// The serializations that the runtime shares with the rest of the world.
fn codecs() -> Vec<Codec> {
    let advanced = everycore_peers::node().is_none_or(everycore_peers::Runtime::writes_as_node);
    if advanced { vec![Codec::Json, Codec::Advanced] } else { vec![Codec::Json] }
}

#[test]
fn values_survive_both_ways() {
    for codec in codecs() {
        let Some(node) = Node::start(codec, Limits::default()) else { return };
        let values = [
            json!({"do": "echo", "text": "übers Wetter 🦀 \n \u{0} \u{2028}", "list": [1, -2.5, null, true, {"a": []}]}),
            json!({"do": "echo", "big": "é🦀x".repeat(300_000)}),
            json!({"do": "echo", "numbers": (0..50_000).collect::<Vec<_>>()}),
        ];
        for value in values {
            node.say(value.clone());
            assert_eq!(node.hear(), value);
        }
        for i in 0..5_000 {
            node.say(json!({"do": "echo", "i": i}));
        }
        for i in 0..5_000 {
            assert_eq!(node.hear()["i"], i);
        }
    }
}

#[test]
fn what_only_begins_as_the_librarys_messages_do_is_the_programs() {
    for codec in codecs() {
        let Some(node) = Node::start(codec, Limits::default()) else { return };
        for value in [json!({"do": "echo", "cmd": "NODE_"}), json!({"do": "echo", "cmd": "behind it"})] {
            node.say(value.clone());
            assert_eq!(node.hear(), value);
        }
    }
}

#[test]
fn text_split_anywhere_arrives_whole() {
    let Some(node) = Node::start(Codec::Json, Limits::default()) else { return };
    let line = "{\"do\":\"echo\",\"text\":\"äß🦀\"}\n";
    for byte in line.as_bytes() {
        assert_eq!(everycore_sys::scm_rights::send(&node.channel, &[*byte], &[]).unwrap(), 1);
        std::thread::yield_now();
    }
    assert_eq!(node.hear()["text"], "äß🦀");
}

#[test]
fn many_handles_on_their_way_stay_with_their_messages() {
    for codec in codecs() {
        for window in [1, 4, 64] {
            let limits = Limits { unanswered: window, ..Limits::default() };
            let Some(node) = Node::start(codec, limits) else { return };
            let connections = Connections::new();
            let mut clients = Vec::new();
            for i in 0..200 {
                let (client, accepted) = connections.next();
                let message = Message::json(&json!({"do": "took", "i": i})).unwrap().with_handle(accepted);
                // Without waiting for answers, so that the window fills.
                node.connection(|connection| {
                    connection.queue(message).unwrap();
                    connection.flush().unwrap();
                });
                if i % 5 == 0 {
                    node.connection(|connection| connection.queue(echo(i)).unwrap());
                }
                clients.push(client);
            }
            for (i, client) in clients.iter().enumerate() {
                let report = node.hear();
                assert_eq!(
                    (&report["i"], &report["port"]),
                    (&json!(i), &json!(port(client))),
                    "window {window}"
                );
                assert_eq!(report["kind"], "Socket");
                if i % 5 == 0 {
                    assert_eq!(node.hear(), json!({"do": "echo", "i": i}), "order holds");
                }
            }
            assert_eq!(node.connection(|connection| connection.faults()), Default::default());
        }
    }
}

fn echo(i: usize) -> Message {
    Message::json(&json!({"do": "echo", "i": i})).unwrap()
}

#[test]
fn large_messages_keep_their_handles() {
    for codec in codecs() {
        let Some(node) = Node::start(codec, Limits { unanswered: 32, ..Limits::default() }) else { return };
        let connections = Connections::new();
        let mut clients = Vec::new();
        let sizes = [10, 32_000, 36_400, 36_544, 36_600, 40_000, 70_000, 300_000];
        for (i, size) in sizes.iter().cycle().take(80).enumerate() {
            let (client, accepted) = connections.next();
            let value = json!({"do": "took", "i": i, "pad": "x".repeat(*size)});
            let message = Message::json(&value).unwrap().with_handle(accepted);
            node.connection(|connection| {
                connection.queue(message).unwrap();
                connection.flush().unwrap();
            });
            clients.push(client);
        }
        for (i, client) in clients.iter().enumerate() {
            let report = node.hear();
            assert_eq!((&report["i"], &report["port"]), (&json!(i), &json!(port(client))));
        }
    }
}

/// Node reads 64 KiB at a time. A read that ends within a message that has a descriptor must not cost it its own.
#[test]
fn handles_stay_with_their_messages_wherever_a_read_ends() {
    for codec in codecs() {
        let Some(node) = Node::start(codec, Limits { unanswered: 32, ..Limits::default() }) else { return };
        let connections = Connections::new();
        for before in (64_000..65_536).step_by(97).chain([30_000, 100_000, 131_000]) {
            // Everything is there before Node reads the first of it.
            node.say(json!({"do": "echo"}));
            node.hear();
            node.process.signal(STOP).unwrap();
            let mut clients = Vec::new();
            node.connection(|connection| {
                connection
                    .queue(Message::json(&json!({"do": "echo", "pad": "x".repeat(before)})).unwrap())
                    .unwrap();
                for i in 0..16 {
                    let (client, accepted) = connections.next();
                    let value =
                        json!({"do": "took", "i": i, "pad": "x".repeat([10, 10, 900, 40_000][i % 4])});
                    connection.queue(Message::json(&value).unwrap().with_handle(accepted)).unwrap();
                    clients.push(client);
                }
                connection.flush().unwrap();
            });
            node.process.signal(CONT).unwrap();
            assert_eq!(node.hear()["do"], "echo");
            for (i, client) in clients.iter().enumerate() {
                let report = node.hear();
                assert_eq!(
                    (&report["i"], &report["port"]),
                    (&json!(i), &json!(port(client))),
                    "after {before} bytes"
                );
            }
            node.say(json!({"do": "release"}));
            assert_eq!(node.hear(), json!({"released": true}));
        }
        assert_eq!(node.connection(|connection| connection.faults()), Default::default());
    }
}

/// In the advanced mode Node 18 never recovers from a read that ends within a message's length: no read of ours does.
#[test]
fn a_read_may_end_anywhere_in_a_flood() {
    for codec in codecs() {
        let Some(node) = Node::start(codec, Limits::default()) else { return };
        let queue = |connection: &mut Connection, length: usize| {
            let value = json!({"do": "echo", "pad": "x".repeat(length)});
            connection.queue(Message::json(&value).unwrap()).unwrap();
        };
        for before in (65_420..65_540).chain([30_000, 100_000, 131_000]) {
            node.say(json!({"do": "echo"}));
            node.hear();
            // Everything is there before Node reads the first of it.
            node.process.signal(STOP).unwrap();
            node.connection(|connection| {
                queue(connection, before);
                (0..20).for_each(|length| queue(connection, length));
                connection.flush().unwrap();
            });
            node.process.signal(CONT).unwrap();
            for length in [before].into_iter().chain(0..20) {
                assert_eq!(node.hear()["pad"].as_str().unwrap().len(), length, "{codec}, after {before}");
            }
        }
        // And as it comes, with as much on its way as there is room for.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0..20_000 {
                    node.say(json!({"do": "echo", "i": i, "pad": "x".repeat(i % 257)}));
                }
            });
            for i in 0..20_000 {
                assert_eq!(node.hear()["i"], i);
            }
        });
    }
}

#[test]
fn every_kind_of_handle_becomes_what_it_is() {
    for codec in codecs() {
        let Some(node) = Node::start(codec, Limits::default()) else { return };
        let (mut client, accepted) = Connections::new().next();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp4 = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let udp6 = std::net::UdpSocket::bind("[::1]:0");
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut handles = vec![
            (Handle::from(accepted), "Socket", Some(port(&client))),
            (Handle::duplicate(&listener).unwrap(), "Server", Some(listener.local_addr().unwrap().port())),
            (Handle::duplicate(&udp4).unwrap(), "Socket", Some(udp4.local_addr().unwrap().port())),
            (Handle::from(unix), "Socket", None),
        ];
        if let Ok(udp6) = udp6 {
            let port = udp6.local_addr().unwrap().port();
            handles.push((Handle::from(udp6), "Socket", Some(port)));
        }
        for (handle, kind, port) in handles {
            let says =
                if handle.kind() == HandleKind::TcpStream { json!("hello from node") } else { json!(null) };
            let value = json!({"do": "took", "i": 0, "say": says});
            node.channel.send_with(&value, handle).unwrap();
            let report = node.hear();
            assert_eq!(report["kind"], kind);
            assert_eq!(report["port"], port.map_or(json!(null), |port| json!(port)));
        }
        node.say(json!({"do": "release"}));
        assert_eq!(node.hear(), json!({"released": true}));
        let mut heard = String::new();
        client.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "hello from node", "our copy of the stream was closed when Node had it");
        // What could block would freeze the process that gets it; the flag is one for all who have the socket.
        let flags = rustix::fs::fcntl_getfl(&listener).unwrap();
        assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));
    }
}

#[test]
fn handles_come_from_node() {
    for codec in codecs() {
        for pad in [0, 40_000] {
            let Some(node) = Node::start(codec, Limits::default()) else { return };
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let count = 100;
            node.say(json!({"do": "connect", "count": count, "pad": pad, "port": listener.local_addr().unwrap().port()}));
            for i in 0..count {
                let mut message = node.message();
                let value: Value = message.parse().unwrap();
                let Some(Handle::TcpStream(stream)) = message.take_handle() else {
                    panic!("no stream with {i}")
                };
                assert_eq!(
                    (&value["i"], &value["port"]),
                    (&json!(i), &json!(stream.local_addr().unwrap().port()))
                );
            }
            assert_eq!(node.connection(|connection| connection.faults()), Default::default());
        }
    }
}

#[test]
fn both_sides_may_send_handles_at_once() {
    for codec in codecs() {
        for window in [1, 16] {
            let Some(node) = Node::start(codec, Limits { unanswered: window, ..Limits::default() }) else {
                return;
            };
            let connections = Connections::new();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let count = 100;
            node.say(json!({"do": "connect", "count": count, "port": listener.local_addr().unwrap().port()}));
            let mut clients = Vec::new();
            for i in 0..count {
                let (client, accepted) = connections.next();
                let message = Message::json(&json!({"do": "took", "i": i})).unwrap().with_handle(accepted);
                node.connection(|connection| {
                    connection.queue(message).unwrap();
                    connection.flush().unwrap();
                });
                clients.push(client);
            }
            let (mut theirs, mut ours) = (0, 0);
            while theirs < count || ours < count {
                let mut message = node.message();
                let value: Value = message.parse().unwrap();
                if let Some(Handle::TcpStream(stream)) = message.take_handle() {
                    let seen = (&value["i"], &value["port"]);
                    assert_eq!(seen, (&json!(theirs), &json!(stream.local_addr().unwrap().port())));
                    theirs += 1;
                } else {
                    assert_eq!((&value["i"], &value["port"]), (&json!(ours), &json!(port(&clients[ours]))));
                    ours += 1;
                }
            }
        }
    }
}

#[test]
fn a_node_process_out_of_descriptors_refuses_and_lives() {
    for codec in codecs() {
        let Some(runtime) = everycore_peers::node() else { return };
        let node = [runtime.program.to_str().unwrap(), &runtime.args.join(" ")].join(" ");
        let limited = format!("ulimit -n 40; exec {node} {} ready", script());
        let command = fork("/bin/sh").args(["-c", &limited]);
        let node = Node::run(command, codec, Limits { unanswered: 16, ..Limits::default() });
        assert_eq!(node.hear(), "ready");
        let connections = Connections::new();
        let mut clients = Vec::new();
        for i in 0..60 {
            let (client, accepted) = connections.next();
            let message = Message::json(&json!({"do": "took", "i": i})).unwrap().with_handle(accepted);
            node.connection(|connection| {
                connection.queue(message).unwrap();
                connection.flush().unwrap();
            });
            clients.push(client);
        }
        node.say(json!({"do": "echo", "end": true}));
        let (mut delivered, mut ended) = (0, false);
        // Repetitions may still be on their way when the last message has come back.
        while !ended || node.connection(|connection| connection.unanswered()) > 0 {
            let report = node.hear();
            if report["do"] == "echo" {
                ended = true;
                node.say(json!({"do": "echo"}));
                continue;
            }
            let i = report["i"].as_u64().unwrap() as usize;
            assert_eq!(report["port"], port(&clients[i]), "every pair that arrives is right");
            delivered += 1;
        }
        while node.hear()["do"] != "echo" {
            delivered += 1;
        }
        let back = node.connection(|connection| connection.take_undelivered());
        assert!(delivered >= 10 && !back.is_empty(), "{delivered} of 60 delivered, {} came back", back.len());
        assert_eq!(delivered + back.len(), 60, "each either arrived or came back");

        node.say(json!({"do": "release"}));
        assert_eq!(node.hear(), json!({"released": true}));
        for outgoing in back.into_iter().take(10) {
            let i = outgoing.message.parse::<Value>().unwrap()["i"].as_u64().unwrap() as usize;
            node.channel.send_message(outgoing).unwrap();
            let report = node.hear();
            assert_eq!(
                (&report["i"], &report["port"]),
                (&json!(i), &json!(port(&clients[i]))),
                "and can be sent again"
            );
        }
    }
}

#[test]
fn node_counts_the_sockets_we_sent_it() {
    if everycore_peers::node().is_some_and(|node| !node.is_node(0)) {
        return everycore_peers::pass_over(
            "asked for the sockets under a key, Bun is silent and Deno says 0",
        );
    }
    for codec in codecs() {
        let Some(node) = Node::start(codec, Limits::default()) else { return };
        let connections = Connections::new();
        let key = "4:127.0.0.1:1338";
        let mut clients = Vec::new();
        for i in 0..3 {
            let (client, accepted) = connections.next();
            let message = Message::json(&json!({"do": "took", "i": i})).unwrap();
            node.channel.send_message(message.with_handle(accepted).with_key(key)).unwrap();
            assert_eq!(node.hear()["port"], port(&client));
            clients.push(client);
        }
        let ask = |command: &str| {
            let question = Message::json(&json!({"cmd": command, "key": key})).unwrap();
            node.channel.send_message(Outgoing::internal(question)).unwrap();
        };
        let answer = || match node.incoming() {
            Some(Incoming::Internal(message)) => message.parse::<Value>().unwrap(),
            other => panic!("{other:?}"),
        };
        ask("NODE_SOCKET_GET_COUNT");
        assert_eq!(answer(), json!({"cmd": "NODE_SOCKET_COUNT", "key": key, "count": 3}));
        ask("NODE_SOCKET_NOTIFY_CLOSE");
        drop(clients);
        node.say(json!({"do": "release"}));
        let (mut closed, mut released) = (false, false);
        while !(closed && released) {
            match node.incoming() {
                Some(Incoming::Internal(message)) => {
                    let value: Value = message.parse().unwrap();
                    assert_eq!(value, json!({"cmd": "NODE_SOCKET_ALL_CLOSED", "key": key}));
                    closed = true;
                }
                Some(Incoming::User(_)) => released = true,
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn either_side_may_end_the_channel() {
    for codec in codecs() {
        let Some(node) = Node::start(codec, Limits::default()) else { return };
        for i in 0..100 {
            node.say(json!({"do": "echo", "i": i}));
        }
        node.say(json!({"do": "leave"}));
        for i in 0..100 {
            assert_eq!(node.hear()["i"], i);
        }
        assert!(node.incoming().is_none());
        assert_eq!(node.process.wait().unwrap(), WaitStatus::Code(0));

        let Some(node) = Node::start(codec, Limits::default()) else { return };
        let (mut client, accepted) = Connections::new().next();
        node.say(json!({"do": "echo"}));
        node.hear();
        node.connection(|connection| {
            let message = Message::json(&json!({"do": "took", "i": 1, "say": "bye"})).unwrap();
            connection.queue(message.with_handle(accepted)).unwrap();
            connection.queue(Message::json(&json!({"do": "release"})).unwrap()).unwrap();
        });
        node.channel.disconnect_deadline(Instant::now() + DEADLINE).unwrap();
        let mut heard = String::new();
        client.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "bye", "what was sent before the end is acted on");
        assert_eq!(node.process.wait().unwrap(), WaitStatus::Code(0));
    }
}
