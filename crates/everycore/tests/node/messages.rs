//! Messages and handles between the primary and its Node workers, in both modes of Node's channel.

use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;

use everycore::{Dialect, Event, Handle, Message, Policy, Serialization};
use serde_json::{Value, json};

use crate::support::{Nodes, PATIENCE, Runtime, Seen, Starts, ask, connect, need_node, read_all, read_line};

/// The serializations that the runtime shares with us.
fn modes(node: &Runtime) -> Vec<Serialization> {
    if node.writes_as_node() {
        vec![Serialization::Json, Serialization::Advanced]
    } else {
        vec![Serialization::Json]
    }
}

fn start(node: &Runtime, mode: Serialization, program: &str) -> Nodes {
    let nodes = Nodes::start(node.cluster(program).dialect(Dialect::Node(mode)));
    nodes.find(|seen| matches!(seen, Seen::Online(_)).then_some(()));
    nodes
}

/// The next message, handles and all.
fn received(nodes: &Nodes) -> Message {
    nodes.find(|seen| match seen {
        Seen::Message(_, message) => Some(message),
        _ => None,
    })
}

#[test]
fn any_value_is_echoed() {
    let node = need_node!();
    for mode in modes(node) {
        let nodes = start(node, mode, "process.on('message', (m) => process.send(m))");
        let deep = (0..100).fold(json!("end"), |inner, _| json!([inner]));
        for value in [
            json!(null),
            json!(true),
            json!("übers Wetter \u{1F326}\u{2028} \u{0} \"\\"),
            json!([1, -1, 0.5, 4294967296_i64, 1e300]),
            json!({"a": {"b": [{}, [], ""]}, "1": "first", "cmd": "notifyRequest"}),
            deep,
            json!("x".repeat(3_000_000)),
        ] {
            nodes.send(1, &value);
            assert_eq!(nodes.said(), value, "{mode}");
        }
    }
}

#[test]
fn what_only_begins_as_the_librarys_messages_do_is_the_programs() {
    let node = need_node!();
    for mode in modes(node) {
        let nodes = start(node, mode, "process.on('message', (m) => process.send(m))");
        nodes.send(1, &json!({"cmd": "NODE_"}));
        nodes.send(1, &json!("behind it"));
        assert_eq!(nodes.said(), json!({"cmd": "NODE_"}));
        assert_eq!(nodes.said(), "behind it");
    }
}

#[test]
fn the_advanced_mode_keeps_what_json_cannot_say() {
    let node = need_node!();
    if !node.writes_as_node() {
        return everycore_peers::pass_over(
            "the `advanced` of Bun is its own format, that of Deno a later version which Node refuses, too",
        );
    }
    let nodes = start(
        node,
        Serialization::Advanced,
        "process.on('message', (m) => {
           const what = Object.prototype.toString.call(m);
           process.send(Buffer.isBuffer(m) ? ['Buffer', m.toString()] : [what]);
         });
         process.send(Buffer.from('from node'))",
    );
    let bytes: everycore_ipc::v8::Buffer = received(&nodes).parse().unwrap();
    assert_eq!(bytes.0, b"from node");
    nodes.primary().send_message(1, Message::raw(&b"from us"[..])).unwrap();
    assert_eq!(nodes.said(), json!(["Buffer", "from us"]));
}

#[test]
fn a_message_sent_at_once_is_there_when_the_program_listens() {
    let node = need_node!();
    for mode in modes(node) {
        let nodes = Nodes::start(
            node.cluster("process.on('message', (m) => process.send(m))").dialect(Dialect::Node(mode)),
        );
        nodes.find(|seen| matches!(seen, Seen::Fork(_)).then_some(()));
        nodes.send(1, &json!("early"));
        assert_eq!(nodes.said(), "early");
    }
}

#[test]
fn many_messages_keep_their_order() {
    let node = need_node!();
    for mode in modes(node) {
        let nodes = start(node, mode, "process.on('message', (m) => process.send(m))");
        let numbers: Vec<u64> = (0..3000).collect();
        for number in &numbers {
            nodes.send(1, &json!(number));
        }
        let back: Vec<u64> = numbers.iter().map(|_| nodes.said().as_u64().unwrap()).collect();
        assert_eq!(back, numbers);
    }
}

#[test]
fn a_listener_and_a_connection_go_to_a_worker() {
    let node = need_node!();
    for mode in modes(node) {
        let nodes = start(
            node,
            mode,
            "process.on('message', (what, handle) => {
               if (what === 'server') handle.on('connection', (s) => s.end('by the server'));
               else handle.end('by the socket');
               process.send(what);
             })",
        );
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        // Blocking, as std makes them: the worker would freeze if they stayed so.
        let client = connect(at);
        let (accepted, _) = listener.accept().unwrap();
        nodes.send_with(1, &json!("socket"), accepted);
        assert_eq!(nodes.said(), "socket");
        assert_eq!(read_all(client).unwrap(), "by the socket");
        // A cluster worker of Node 18, or of Deno, takes a listening socket it is sent for a question to the primary.
        if node.is_node(20) || !node.takes_connections() {
            nodes.send_with(1, &json!("server"), listener);
            assert_eq!(nodes.said(), "server");
            assert_eq!(ask(at, "").unwrap(), "by the server");
        }
    }
}

#[test]
fn unix_and_udp_sockets_go_to_a_worker() {
    let node = need_node!();
    for mode in modes(node) {
        let nodes = start(
            node,
            mode,
            "process.on('message', (what, handle) => {
               if (what === 'unix') handle.end('unix');
               else handle.on('message', (text, from) => handle.send(`udp ${text}`, from.port, from.address));
               process.send(what);
             })",
        );
        // Not a listening one: a cluster worker of Node takes its descriptor's number for one of the primary's.
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        nodes.send_with(1, &json!("unix"), theirs);
        assert_eq!(nodes.said(), "unix");
        assert_eq!(read_all(ours).unwrap(), "unix");

        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = udp.local_addr().unwrap();
        nodes.send_with(1, &json!("udp"), udp);
        assert_eq!(nodes.said(), "udp");
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send_to(b"hello", at).unwrap();
        let mut answer = [0; 64];
        let length = client.recv(&mut answer).unwrap();
        assert_eq!(&answer[..length], b"udp hello");
    }
}

#[test]
fn a_worker_sends_its_server_and_its_connections() {
    let node = need_node!(served);
    if !node.takes_listeners() {
        return everycore_peers::pass_over("Node alone takes a socket from its primary");
    }
    for mode in modes(node) {
        // Under `shared` a worker has a socket that it can send.
        let nodes = Nodes::start(
            node.cluster(
                "const server = net.createServer((s) => process.send('connection', s));
                 server.listen(0, '127.0.0.1', () => process.send(server.address().port));
                 process.on('message', () => { process.send('server', server); process.send('not stuck behind it') })",
            )
            .policy(Policy::Shared)
            .dialect(Dialect::Node(mode)),
        );
        let port: u16 = received(&nodes).parse().unwrap();
        let client = connect(([127, 0, 0, 1], port).into());
        let mut message = received(&nodes);
        assert_eq!(message.parse::<String>().unwrap(), "connection");
        let Some(Handle::TcpStream(mut stream)) = message.take_handle() else { panic!("{message:?}") };
        stream.write_all(b"from the primary").unwrap();
        drop((stream, message));
        assert_eq!(read_all(client).unwrap(), "from the primary");

        nodes.send(1, &json!("the server"));
        let mut message = received(&nodes);
        assert_eq!(message.parse::<String>().unwrap(), "server");
        let Some(Handle::TcpListener(listener)) = message.take_handle() else { panic!("{message:?}") };
        assert_eq!(listener.local_addr().unwrap().port(), port);
        assert_eq!(nodes.said(), "not stuck behind it");
    }
}

#[test]
fn each_of_many_sockets_arrives_with_its_message() {
    let node = need_node!();
    for mode in modes(node) {
        let nodes =
            start(node, mode, "process.on('message', (m, s) => s.end(`${m.number} ${m.ballast.length}`))");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let clients: Vec<TcpStream> = (0..200)
            .map(|number| {
                let client = connect(at);
                // Some are longer than what the kernel sends together with a socket.
                let ballast = "x".repeat(if number % 20 == 0 { 100_000 } else { number });
                let (accepted, _) = listener.accept().unwrap();
                nodes.send_with(1, &json!({ "number": number, "ballast": ballast }), accepted);
                client
            })
            .collect();
        for (number, client) in clients.into_iter().enumerate() {
            let ballast = if number % 20 == 0 { 100_000 } else { number };
            assert_eq!(read_all(client).unwrap(), format!("{number} {ballast}"), "{mode}");
        }
    }
}

#[test]
fn what_would_harm_a_worker_is_refused_before_it_is_sent() {
    let node = need_node!();
    for mode in modes(node) {
        let nodes = start(node, mode, "process.on('message', (m) => process.send(m))");
        let file = std::fs::File::open("/dev/null").unwrap();
        nodes.send_with(1, &json!("a file"), Handle::Other(file.into()));
        nodes.send(1, &json!({ "cmd": "NODE_CLUSTER", "act": "disconnect" }));
        let reasons: Vec<String> = (0..2)
            .map(|_| {
                nodes.find(|seen| match seen {
                    Seen::Other(Event::Error { reason, .. }) => Some(reason),
                    _ => None,
                })
            })
            .collect();
        assert!(reasons[0].contains("only take TCP, UDP and Unix stream sockets"), "{reasons:?}");
        assert!(reasons[1].contains("NODE_"), "{reasons:?}");
        nodes.send(1, &json!("it lives"));
        assert_eq!(nodes.said(), "it lives");
    }
}

#[test]
fn a_request_cannot_be_put_to_a_node_worker_and_says_so_at_once() {
    let node = need_node!();
    let nodes = start(node, Serialization::Json, "process.on('message', () => {})");
    let reply = nodes.primary().request(1, &json!("?"), PATIENCE).unwrap();
    let error = reply.wait().unwrap_err().to_string();
    assert!(error.contains("send"), "{error}");
}

#[test]
fn messages_and_connections_share_the_channel() {
    let node = need_node!(served);
    for mode in modes(node) {
        let nodes = Nodes::start(
            node.cluster(
                "process.on('message', (m) => process.send(m));
                 report(net.createServer((s) => s.end('hello\\n')), 0, '127.0.0.1')",
            )
            .dialect(Dialect::Node(mode)),
        );
        let at = nodes.address();
        let visitor = std::thread::spawn(move || {
            (0..200).filter(|_| read_line(&mut connect(at)).unwrap() == "hello").count()
        });
        for number in 0..1000 {
            nodes.send(1, &json!(number));
        }
        let back: Vec<Value> = (0..1000).map(|_| nodes.said()).collect();
        assert_eq!(back, (0..1000).map(Value::from).collect::<Vec<_>>());
        assert_eq!(visitor.join().unwrap(), 200);
    }
}
