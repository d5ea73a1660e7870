//! A real Node process as our parent: this program starts Node with a scene, and Node forks this program for it. A
//! mistake in the handle protocol would end the parent. Skipped aloud where there is no Node.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "tests")]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use everycore_ipc::blocking::Channel;
use everycore_ipc::{Connection, Handle, Limits, Message, OpenSocket, Received, Stdio, fork, inherited};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

const ROLE: &str = "EVERYCORE_TEST_ROLE";
const DEADLINE: Duration = Duration::from_secs(30);

fn main() {
    match std::env::var(ROLE).as_deref() {
        Ok("echo") => be_echo(),
        Ok("sockets" | "kept") => be_greeter(),
        Ok("refused") => be_starved(),
        Ok("counted") => be_holder(),
        Ok("crossing") => be_crossing(),
        Ok("server") => be_server(),
        Ok(role) => panic!("no such role: {role}"),
        Err(_) => parents(),
    }
}

fn parents() {
    if everycore_peers::node().is_none() {
        return;
    }
    support::run(&[
        ("messages_come_back", || play("echo", &[json!(["echoed", 5])])),
        ("sockets_move_here_and_end_for_their_clients", || play("sockets", &[json!(["answers", 50])])),
        ("a_socket_that_node_keeps_open_is_both_sides_to_write", || {
            play("kept", &[json!("number 0, and the parent")]);
        }),
        ("a_handle_refused_for_want_of_room_comes_again_and_is_taken_once", || {
            let took = |i: u64| json!({"took": i, "right": true});
            play("refused", &[took(0), took(1), took(2), json!({"last": true, "lost": 2})]);
        }),
        ("a_parents_server_counts_the_sockets_that_are_here", || {
            if !everycore_peers::node().is_some_and(|node| node.is_node(0)) {
                return everycore_peers::pass_over("Bun and Deno send sockets under no key as Node knows it");
            }
            play("counted", &[json!(["connections", 4]), json!(["closed"])].map(single));
        }),
        ("handles_may_cross", || play("crossing", &[json!(["theirs", 60, "wrong", 0, "ours", 40])])),
        ("a_server_goes_on_here", || play("server", &[json!(["heard", "from the child"])])),
    ]);
}

/// `["x"]` is printed as `"x"`.
fn single(value: Value) -> Value {
    match value.as_array().map(Vec::as_slice) {
        Some([one]) => one.clone(),
        _ => value,
    }
}

/// Has Node play a scene with this program as its child, and compares what it prints.
fn play(scene: &str, expected: &[Value]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/channel_parent.js");
    let node = everycore_peers::node().expect("looked for before");
    for mode in node.serializations() {
        let exe = std::env::current_exe().unwrap();
        let command = fork(&script)
            .exec_path(&node.program)
            .exec_args(&node.args)
            .arg(exe)
            .arg(scene)
            .arg(mode)
            .without_channel();
        let mut parent = command.stdout(Stdio::Pipe).spawn_parts().unwrap();
        let mut printed = String::new();
        parent.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        let status = parent.pidfd.wait().unwrap();
        let seen: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut expected = expected.to_vec();
        expected.push(json!(["exit", 0, null]));
        assert_eq!(seen, expected, "{scene} in {mode}");
        assert!(status.success(), "the parent {status} in {mode}");
    }
}

/// The channel to Node.
fn channel(limits: Limits) -> Channel {
    let inherited = inherited().unwrap().expect("Node has forked us");
    Channel::new(inherited.connection(limits).unwrap())
}

fn next(channel: &Channel) -> Option<Message> {
    channel.recv_deadline(Instant::now() + DEADLINE).unwrap()
}

fn stream(message: &mut Message) -> Option<TcpStream> {
    match message.take_handle()? {
        Handle::TcpStream(stream) => Some(stream),
        other => panic!("expected a stream, got {other:?}"),
    }
}

fn be_echo() {
    let channel = channel(Limits::default());
    while let Some(message) = next(&channel) {
        let value: Value = message.parse().unwrap();
        channel.send(&value).unwrap();
    }
}

fn be_greeter() {
    let channel = channel(Limits::default());
    while let Some(mut message) = next(&channel) {
        let value: Value = message.parse().unwrap();
        let mut stream = stream(&mut message).unwrap();
        assert_eq!(value["port"], stream.peer_addr().unwrap().port());
        stream.write_all(format!("number {}", value["i"]).as_bytes()).unwrap();
    }
}

fn be_starved() {
    let channel = channel(Limits::default());
    channel.send("ready").unwrap();
    let lost = |connection: &mut Connection| connection.faults().lost_handles;
    // The first handle finds no room twice: once as it was, once as Node sends it again.
    let old = getrlimit(Resource::Nofile);
    let closed = Rlimit { current: Some(3), maximum: old.maximum };
    setrlimit(Resource::Nofile, closed).unwrap();
    let mut streams = Vec::new();
    let deadline = Instant::now() + DEADLINE;
    // One step at a time: Node sends it again as soon as it hears of the refusal, and only so often.
    while channel.with_connection(lost) < 2 {
        assert!(Instant::now() < deadline, "no handle came");
        let received = channel.with_connection(Connection::receive).unwrap();
        assert!(matches!(received, Received::Blocked), "{received:?}");
        if channel.with_connection(lost) < 2 {
            channel.with_connection(Connection::flush).unwrap();
        }
        std::thread::yield_now();
    }
    setrlimit(Resource::Nofile, old).unwrap();
    while let Some(mut message) = next(&channel) {
        let value: Value = message.parse().unwrap();
        if value["last"] == true {
            channel.send(&json!({"last": true, "lost": channel.with_connection(lost)})).unwrap();
            continue;
        }
        let stream = stream(&mut message).unwrap();
        let right = value["port"] == stream.peer_addr().unwrap().port();
        channel.send(&json!({"took": value["i"], "right": right})).unwrap();
        streams.push(stream);
    }
}

fn be_holder() {
    let channel = channel(Limits::default());
    let mut held: Vec<(TcpStream, OpenSocket)> = Vec::new();
    while let Some(mut message) = next(&channel) {
        match stream(&mut message) {
            Some(stream) => held.push((stream, message.take_open_socket().expect("Node counts it"))),
            None if message.parse::<String>().unwrap() == "let go" => {
                // Dropping the last one tells the parent, without a call on the channel.
                let last = held.pop();
                held.clear();
                std::thread::spawn(move || drop(last)).join().unwrap();
            }
            None => channel.send(&json!({"held": held.len()})).unwrap(),
        }
    }
}

fn be_crossing() {
    let channel = channel(Limits { unanswered: 16, ..Limits::default() });
    let deno = everycore_peers::node().is_some_and(|node| node.kind == everycore_peers::Kind::Deno);
    channel.with_connection(|connection| connection.send_handles_alone(deno));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut clients = Vec::new();
    for i in 0..60 {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap().0;
        let value =
            json!({"i": i, "port": accepted.peer_addr().unwrap().port(), "pad": "x".repeat(i * 1000)});
        let message = Message::json(&value).unwrap().with_handle(accepted);
        channel.with_connection(|connection| {
            connection.queue(message).unwrap();
            connection.flush().unwrap();
        });
        clients.push(client);
    }
    let mut ours = 0;
    while let Some(mut message) = next(&channel) {
        let value: Value = message.parse().unwrap();
        if value["last"] == true {
            channel.send(&json!({"report": ours})).unwrap();
            continue;
        }
        let stream = stream(&mut message).unwrap();
        assert_eq!((&value["i"], &value["port"]), (&json!(ours), &json!(stream.peer_addr().unwrap().port())));
        ours += 1;
    }
}

fn be_server() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let channel = everycore_ipc::parent().unwrap().expect("Node has forked us");
    runtime.block_on(async {
        let mut message = channel.recv().await.unwrap().unwrap();
        let Some(Handle::TcpListener(listener)) = message.take_handle() else {
            panic!("no listener: {message:?}")
        };
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        channel.send("serving").await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        stream.writable().await.unwrap();
        stream.try_write(b"from the child").unwrap();
        assert!(channel.recv().await.unwrap().is_none());
    });
}
