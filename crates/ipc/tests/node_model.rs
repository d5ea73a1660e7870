//! The rows of the model that need no cluster, with Node as the child of a Rust parent and as the parent of Rust
//! children. Without a harness: a child has to look for its parent before any thread runs. Skipped aloud where there is
//! no Node.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use everycore_ipc::{Channel, Child, Codec, Fork, Handle, PidFd, Stdio, WaitStatus, fork, parent};
use rustix::net::{AddressFamily, SocketType};
use serde_json::{Value, json};
use support::{PATIENCE, ask, block_on};

const ROLE: &str = "EVERYCORE_TEST_ROLE";
const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

fn main() {
    match std::env::var(ROLE).as_deref() {
        Ok("leaver") => leave(),
        Ok(role) => be(role),
        Err(_) if everycore_peers::node().is_some() => support::run(TESTS),
        Err(_) => {}
    }
}

const TESTS: &[(&str, fn())] = &[
    ("s1_node_children_echo_what_was_sent_before_they_started", s1),
    ("s2_a_rust_parent_and_a_node_child_accept_on_one_port", s2),
    ("s3_only_the_node_children_serve_also_when_the_parent_has_left", s3),
    ("s4_sockets_go_to_node_children_in_turn", s4),
    ("s5_routed_to_node_children_by_address_without_reading_a_byte", s5),
    ("s6_a_node_child_gets_the_socket_of_a_client_that_is_gone", s6),
    ("s16_a_balancer_of_node_children_survives_one", s16),
    ("s1_rust_children_of_node_echo_what_was_sent_before_they_started", || {
        play("s1", &[json!(["echoed", true]), json!(["ended", [0, null], [0, null]])]);
    }),
    ("s1_a_rust_child_finds_its_channel_at_any_number", || {
        play("s1_spawn", &vec![json!(["echoed", true]); 3])
    }),
    ("s2_a_node_parent_and_a_rust_child_accept_on_one_port", || {
        play("s2", &[json!(["served by", "parent", "rust N"]), json!(["ended", [null, "SIGTERM"]])]);
    }),
    ("s3_only_the_rust_children_serve_also_when_node_has_left", s3_under_node),
    ("s4_node_gives_sockets_to_rust_children_in_turn", || {
        play("s4", &[json!(["in turn", true]), json!(["ended", [0, null], [0, null]])]);
    }),
    ("s5_node_routes_to_rust_children_by_address_without_reading_a_byte", || {
        play("s5", &[json!(["normal: whole", "special: whole"]), json!(["ended", [0, null], [0, null]])]);
    }),
    ("s6_a_rust_child_gets_the_socket_of_a_client_that_is_gone", || {
        play("s6", &[json!(["child says", {"failed": true}]), json!(["ended", [0, null]])]);
    }),
    ("s16_a_balancer_of_rust_children_under_node_survives_one", || {
        play(
            "s16",
            &[
                json!(["spread", 4, 4, 4]),
                json!(["killed", [null, "SIGKILL"]]),
                json!(["served", 6]),
                json!(["ended", [0, null], [0, null]]),
            ],
        );
    }),
];

// --- Node children of ours ---

/// The serializations that the runtime shares with the rest of the world.
fn codecs() -> Vec<Codec> {
    let advanced = everycore_peers::node().is_none_or(everycore_peers::Runtime::writes_as_node);
    if advanced { vec![Codec::Json, Codec::Advanced] } else { vec![Codec::Json] }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn child(codec: Codec, args: &[&str]) -> Child {
    let node = everycore_peers::node().expect("looked for before");
    let command = fork(fixture("model_child.js")).exec_path(&node.program).exec_args(&node.args).args(args);
    command.codec(codec).spawn().unwrap()
}

async fn hear(child: &Child) -> Value {
    child.recv().await.unwrap().expect("a message").parse().unwrap()
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// The process that an answer names.
fn served_by(answer: &str) -> u32 {
    let body = answer.rsplit("\r\n\r\n").next().unwrap();
    body.trim().rsplit(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{answer}"))
}

fn s1() {
    for codec in codecs() {
        block_on(async {
            let children = [child(codec, &["echo"]), child(codec, &["echo"])];
            for child in &children {
                child.send(&json!({"to": child.pid()})).await.unwrap();
            }
            for child in &children {
                let answer = hear(child).await;
                assert_eq!(answer, json!({"echo": {"to": child.pid()}, "pid": child.pid()}), "{codec}");
            }
        });
    }
}

fn s2() {
    for codec in codecs() {
        block_on(async {
            let (listener, address) = listener();
            let child = child(codec, &["server"]);
            let _ended = orphans([child.pid()]);
            child.send_with("server", Handle::duplicate(&listener).unwrap()).await.unwrap();
            assert_eq!(hear(&child).await, "serving");
            // Stopped, it leaves a connection to us; and then we to it.
            child.kill(19).unwrap();
            let client = TcpStream::connect(address).unwrap();
            let (mut accepted, peer) = listener.accept().unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
            accepted.write_all(b"ours").unwrap();
            child.kill(18).unwrap();
            assert_eq!(served_by(&ask(address, GET).unwrap()), child.pid());
        });
    }
}

/// The children serve until both have been seen.
fn both_serve(address: SocketAddr, request: &str, children: &BTreeSet<u32>) {
    let mut seen = BTreeSet::new();
    let deadline = Instant::now() + PATIENCE;
    while seen != *children {
        assert!(Instant::now() < deadline, "only {seen:?} of {children:?}");
        seen.insert(served_by(&ask(address, request).unwrap()));
        assert!(seen.is_subset(children));
    }
}

fn s3() {
    for codec in codecs() {
        block_on(async {
            let (listener, address) = listener();
            let children = [child(codec, &["server"]), child(codec, &["server"])];
            let _ended = orphans(children.iter().map(Child::pid));
            for child in &children {
                child.send_with("server", Handle::duplicate(&listener).unwrap()).await.unwrap();
                assert_eq!(hear(child).await, "serving");
            }
            drop(listener);
            both_serve(address, GET, &children.iter().map(Child::pid).collect());
        });
    }
    let exe = std::env::current_exe().unwrap();
    let mut parent =
        fork(exe).env(ROLE, "leaver").without_channel().stdout(Stdio::Pipe).spawn_parts().unwrap();
    // The children have its output, so there is no end of it to wait for.
    let line = support_line(&mut parent.stdout.take().unwrap());
    assert!(parent.pidfd.wait().unwrap().success());
    let left: Value = serde_json::from_str(&line).unwrap();
    outlive(&left, GET);
}

/// Processes that nobody else would end.
struct Orphans(Vec<PidFd>);

fn orphans(pids: impl IntoIterator<Item = u32>) -> Orphans {
    Orphans(pids.into_iter().map(|pid| PidFd::open(pid).unwrap()).collect())
}

impl Drop for Orphans {
    fn drop(&mut self) {
        for orphan in &self.0 {
            let _ = orphan.signal(9);
        }
    }
}

/// The children of a parent that has gone serve, and are ended.
fn outlive(left: &Value, request: &str) {
    let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(left[1].as_u64().unwrap()).unwrap()));
    let children: BTreeSet<u32> =
        [&left[2], &left[3]].map(|pid| u32::try_from(pid.as_u64().unwrap()).unwrap()).into();
    let orphans = orphans(children.iter().copied());
    both_serve(address, request, &children);
    drop(orphans);
    let deadline = Instant::now() + PATIENCE;
    // The last one closes the port.
    while TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
}

/// A parent that gives its listener to two children and leaves them.
fn leave() {
    block_on(async {
        let (listener, address) = listener();
        let children = [child(Codec::Json, &["server"]), child(Codec::Json, &["server"])];
        for child in &children {
            child.send_with("server", Handle::duplicate(&listener).unwrap()).await.unwrap();
            assert_eq!(hear(child).await, "serving");
        }
        println!("{}", json!(["left", address.port(), children[0].pid(), children[1].pid()]));
        std::process::exit(0);
    });
}

fn support_line(output: &mut impl Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while output.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

fn s4() {
    for codec in codecs() {
        block_on(async {
            let (listener, address) = listener();
            let children = [child(codec, &["late"]), child(codec, &["late"])];
            for turn in 0..6 {
                let mut client = TcpStream::connect(address).unwrap();
                let child = &children[turn % 2];
                child.send_with("socket", listener.accept().unwrap().0).await.unwrap();
                // The answer cannot come before the handle is acknowledged, which needs our loop to turn.
                let answer = read_while_turning(&mut client).await;
                assert_eq!(served_by(&answer), child.pid());
            }
        });
    }
}

/// Reads to the end, while the channels are served.
async fn read_while_turning(client: &mut TcpStream) -> String {
    client.set_nonblocking(true).unwrap();
    let (mut answer, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    loop {
        match client.read_to_end(&mut answer) {
            Ok(_) => return String::from_utf8(answer).unwrap(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(Instant::now() < deadline, "no answer");
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    socket.into()
}

fn s5() {
    for codec in codecs() {
        block_on(async {
            let (listener, address) = listener();
            let (normal, special) = (child(codec, &["route", "normal"]), child(codec, &["route", "special"]));
            for (last, name) in [(1, "normal"), (2, "special"), (1, "normal")] {
                let mut client = connect_from(last, address);
                client.write_all(b"whole").unwrap();
                let (accepted, peer) = listener.accept().unwrap();
                let child = if peer.ip().to_string() == "127.0.0.2" { &special } else { &normal };
                child.send_with("socket", accepted).await.unwrap();
                assert_eq!(read_while_turning(&mut client).await, format!("{name}: whole"));
            }
        });
    }
}

fn s6() {
    for codec in codecs() {
        block_on(async {
            let (listener, address) = listener();
            let child = child(codec, &["gone"]);
            let client = TcpStream::connect(address).unwrap();
            let accepted = listener.accept().unwrap().0;
            // A reset, not an orderly end.
            rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
            drop(client);
            child.send_with("socket", accepted).await.unwrap();
            loop {
                let told = hear(&child).await;
                if told["closed"] == true {
                    break;
                }
                assert!(["ECONNRESET", "EPIPE"].contains(&told["error"].as_str().unwrap()), "{told}");
            }
        });
    }
}

fn s16() {
    for codec in codecs() {
        block_on(async {
            let (listener, address) = listener();
            let mut children: Vec<Child> = (0..3).map(|_| child(codec, &["web"])).collect();
            let mut counts = BTreeMap::new();
            for turn in 0..12 {
                let answer = pass(&listener, address, &children[turn % 3]).await;
                *counts.entry(served_by(&answer)).or_insert(0) += 1;
            }
            assert_eq!(counts.into_values().collect::<Vec<_>>(), [4, 4, 4]);
            let victim = children.remove(0);
            victim.kill(9).unwrap();
            assert!(matches!(victim.wait().await.unwrap(), WaitStatus::Signal { signal: 9, .. }));
            for turn in 0..6 {
                let child = &children[turn % 2];
                assert_eq!(served_by(&pass(&listener, address, child).await), child.pid());
            }
        });
    }
}

async fn pass(listener: &TcpListener, address: SocketAddr, child: &Child) -> String {
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(GET.as_bytes()).unwrap();
    child.send_with("socket", listener.accept().unwrap().0).await.unwrap();
    read_while_turning(&mut client).await
}

// --- Rust children of Node ---

/// Has Node play a row with this program as its children, and compares what it prints.
fn play(row: &str, expected: &[Value]) {
    for mode in everycore_peers::node().expect("looked for before").serializations() {
        let mut parent = node_parent(row, mode).stdout(Stdio::Pipe).spawn_parts().unwrap();
        let mut printed = String::new();
        parent.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        let seen: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(seen, expected, "{row} in {mode}");
        assert!(parent.pidfd.wait().unwrap().success(), "{row} in {mode}");
    }
}

fn node_parent(row: &str, mode: &str) -> Fork {
    let node = everycore_peers::node().expect("looked for before");
    let command = fork(fixture("model_parent.js")).exec_path(&node.program).exec_args(&node.args);
    command.arg(std::env::current_exe().unwrap()).arg(row).arg(mode).without_channel()
}

fn s3_under_node() {
    for mode in everycore_peers::node().expect("looked for before").serializations() {
        let mut parent = node_parent("s3", mode).stdout(Stdio::Pipe).spawn_parts().unwrap();
        let mut output = parent.stdout.take().unwrap();
        assert_eq!(support_line(&mut output), json!(["served by both", true]).to_string());
        let left: Value = serde_json::from_str(&support_line(&mut output)).unwrap();
        assert!(parent.pidfd.wait().unwrap().success());
        outlive(&left, "");
    }
}

fn be(role: &str) {
    let channel = parent().unwrap().expect("Node has forked us");
    block_on(async {
        match role {
            "echo" => {
                while let Some(message) = channel.recv().await.unwrap() {
                    channel.send_message(message).await.unwrap();
                }
            }
            "server" => serve(channel).await,
            "late" | "route" | "gone" | "web" => answer_sockets(role, channel).await,
            role => panic!("no such role: {role}"),
        }
    });
}

/// Serves on the listener it is given; the parent may leave.
async fn serve(channel: Channel) {
    let mut message = channel.recv().await.unwrap().unwrap();
    let Some(Handle::TcpListener(listener)) = message.take_handle() else {
        panic!("no listener: {message:?}")
    };
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    channel.send("serving").await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.writable().await.unwrap();
        stream.try_write(format!("rust {}", std::process::id()).as_bytes()).unwrap();
    }
}

async fn answer_sockets(role: &str, channel: Channel) {
    // The fork's own arguments: what Node calls the script, then ours.
    let name = std::env::args().nth(2).unwrap_or_default();
    let mut threads = Vec::new();
    while let Some(mut message) = channel.recv().await.unwrap() {
        let open = message.take_open_socket();
        let Some(Handle::TcpStream(mut stream)) = message.take_handle() else { panic!("no socket") };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 1000];
        match role {
            // Others get their turn meanwhile.
            "late" => threads.push(std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(100));
                let _ = stream.write_all(format!("rust {}", std::process::id()).as_bytes());
                drop(open);
            })),
            "route" => {
                let length = stream.read(&mut buffer).unwrap();
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                stream.write_all(format!("{name}: {text}").as_bytes()).unwrap();
            }
            "gone" => {
                let failed = stream.read(&mut buffer).is_err() || stream.write_all(b"too late").is_err();
                channel.send(&json!({ "failed": failed })).await.unwrap();
            }
            _ => {
                let request = converse_head(&mut stream);
                assert!(request.starts_with("GET / "), "{request}");
                let body = format!("rust {}", std::process::id());
                let head =
                    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).unwrap();
            }
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

fn converse_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut buffer = [0; 1000];
    while !head.ends_with(b"\r\n\r\n") {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "a request without an end");
        head.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8(head).unwrap()
}
