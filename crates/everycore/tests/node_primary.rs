//! A real Node `cluster` as the primary of Rust workers: this program starts Node with a scene, and Node forks this
//! program for it. A word out of place would end the primary. Without a harness: the role has to be asked for before
//! any thread runs. Skipped aloud where there is no Node.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use everycore::{Error, Handle, Role, Worker};
use everycore_peers::{Kind, Runtime};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

/// How long a scene may take that should take a second.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    match everycore::role().unwrap() {
        Role::Worker(worker) => be(&worker),
        Role::Primary(_) => play_all(),
    }
}

// --- the workers ---

fn be(worker: &Worker) {
    let args: Vec<String> = std::env::args().collect();
    let address = args.get(2).map_or("", String::as_str).to_owned();
    if args[1] == "blocking" {
        return be_blocking(worker, &address);
    }
    if args[1] == "starved" {
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(40), maximum }).unwrap();
    }
    let ended = worker.block_on(async |worker| match args[1].as_str() {
        "serve" => serve(&worker, &address).await,
        "busy" => be_busy(&worker, &address).await,
        "hold" | "starved" => be_holder(&worker, &address).await,
        "leave" => be_leaver(&worker, &address).await,
        "reopen" => be_reopener(&worker, &address).await,
        "report" => be_reporter(&worker, &address).await,
        "ports" => be_on_two_ports(&worker).await,
        "udp" => be_udp(&worker, &address).await,
        "echo" => be_echo(&worker).await,
        "http" => be_http(&worker, &address).await,
        "work" => be_at_work(&worker).await,
        "inheritance" => be_heir(&worker).await,
        role => panic!("no such role: {role}"),
    });
    ended.unwrap();
    if std::env::var_os("EVERYCORE_TEST_SAY_END").is_some() {
        println!("{}", json!(["worker", worker.id(), "ends", worker.is_connected()]));
    }
}

async fn serve(worker: &Worker, address: &str) -> everycore::Result<()> {
    let mut listener = worker.listen(address).await?;
    while let Ok((mut stream, _)) = listener.accept().await {
        use tokio::io::AsyncWriteExt;
        let _ = stream.write_all(format!("worker {}", worker.id()).as_bytes()).await;
    }
    Ok(())
}

fn be_blocking(worker: &Worker, address: &str) {
    let listener = worker.listen_blocking(address).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Ok((mut stream, _)) = listener.accept_blocking() {
                    let _ = stream.write_all(format!("worker {}", worker.id()).as_bytes());
                }
            });
        }
    });
    drop(listener);
    worker.finish_blocking();
}

/// Accepts nothing until it is told to.
async fn be_busy(worker: &Worker, address: &str) -> everycore::Result<()> {
    let mut listener = worker.listen(address).await?;
    worker.recv().await?;
    while let Ok((mut stream, _)) = listener.accept().await {
        use tokio::io::AsyncWriteExt;
        let _ = stream.write_all(format!("worker {}", worker.id()).as_bytes()).await;
    }
    Ok(())
}

/// Greets each client, and echoes until it has gone; says when it is told to leave.
async fn be_holder(worker: &Worker, address: &str) -> everycore::Result<()> {
    let mut listener = worker.listen(address).await?;
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut buffer = [0; 100];
            let _ = stream.write_all(b"hello").await;
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                let _ = stream.write_all(&buffer[..length]).await;
            }
        });
    }
    drop(listener);
    worker.send("draining").await
}

async fn be_leaver(worker: &Worker, address: &str) -> everycore::Result<()> {
    let (serving, other) = (worker.clone(), address.to_owned());
    let serving = tokio::spawn(async move { serve(&serving, &other).await });
    worker.recv().await?;
    worker.disconnect().await?;
    serving.await.unwrap()
}

async fn be_reopener(worker: &Worker, address: &str) -> everycore::Result<()> {
    loop {
        let mut listener = worker.listen(address).await?;
        let accept = async {
            while let Ok((mut stream, _)) = listener.accept().await {
                use tokio::io::AsyncWriteExt;
                let _ = stream.write_all(format!("worker {}", worker.id()).as_bytes()).await;
            }
        };
        tokio::select! {
            () = accept => return Ok(()),
            message = worker.recv() => if message?.is_none() { return Ok(()) },
        }
    }
}

/// Says what became of `listen`, tries again when it is told to, and serves.
async fn be_reporter(worker: &Worker, address: &str) -> everycore::Result<()> {
    loop {
        let error = match serve_once_open(worker, address).await {
            Ok(()) => return Ok(()),
            Err(Error::Bind { source, .. }) => format!("{:?}", source.kind()),
            Err(error) => error.to_string(),
        };
        worker.send(&json!({ "error": error })).await?;
        if worker.recv().await?.is_none() {
            return Ok(());
        }
    }
}

async fn serve_once_open(worker: &Worker, address: &str) -> everycore::Result<()> {
    let mut listener = worker.listen(address).await?;
    let port = listener.local_addr().tcp().unwrap().port();
    worker.send(&json!({ "listens": port > 0 })).await?;
    while let Ok((mut stream, _)) = listener.accept().await {
        use tokio::io::AsyncWriteExt;
        let _ = stream.write_all(format!("worker {}", worker.id()).as_bytes()).await;
    }
    Ok(())
}

async fn be_on_two_ports(worker: &Worker) -> everycore::Result<()> {
    let first = worker.listen("127.0.0.1:0").await?;
    let second = worker.listen("127.0.0.1:0").await?;
    let ports = [&first, &second].map(|listener| listener.local_addr().tcp().unwrap().port());
    worker.send(&ports).await?;
    let each = [first, second].map(|mut listener| {
        let worker = worker.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                use tokio::io::AsyncWriteExt;
                let _ = stream.write_all(format!("worker {}", worker.id()).as_bytes()).await;
            }
        })
    });
    for task in each {
        task.await.unwrap();
    }
    Ok(())
}

async fn be_udp(worker: &Worker, address: &str) -> everycore::Result<()> {
    let socket = worker.udp_on(format!("udp://{address}").as_str()).await?;
    let mut buffer = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let _ = socket.send_to(format!("{text} from {}", worker.id()).as_bytes(), from).await;
    }
    Ok(())
}

async fn be_echo(worker: &Worker) -> everycore::Result<()> {
    while let Some(mut received) = worker.recv().await? {
        let value: Value = received.parse().unwrap();
        if value["take"] == "socket" {
            let open = received.take_open_socket();
            let Some(Handle::TcpStream(mut stream)) = received.take_handle() else { panic!("no stream") };
            stream.write_all(b"by rust").unwrap();
            drop((stream, open));
            worker.send("thanks").await?;
        } else if value["give"] == "server" {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            worker.send_with(&json!({ "port": port }), listener).await?;
        } else if value["cmd"] == "refuse" {
            let reserved = worker.send(&json!({"cmd": "NODE_HANDLE_ACK"})).await.unwrap_err();
            let request = worker.request("anybody?", PATIENCE).await.unwrap_err();
            let named = worker.listener("http").await.unwrap_err();
            let refused = |error: Error| matches!(error, Error::Message(_) | Error::Setting(_));
            worker.send(&[reserved, request, named].map(refused)).await?;
        } else {
            worker.send(&value).await?;
        }
    }
    Ok(())
}

/// As much of HTTP as it takes; tells the primary about each request.
async fn be_http(worker: &Worker, address: &str) -> everycore::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut listener = worker.listen(address).await?;
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut request = Vec::new();
        let mut buffer = [0; 1000];
        while !request.ends_with(b"\r\n\r\n") {
            let Ok(length @ 1..) = stream.read(&mut buffer).await else { break };
            request.extend_from_slice(&buffer[..length]);
        }
        if request.starts_with(b"GET /die") {
            std::process::exit(3);
        }
        worker.send(&json!({"cmd": "notifyRequest"})).await?;
        let body = format!("worker {}", worker.id());
        let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        let _ = stream.write_all((head + &body).as_bytes()).await;
    }
    Ok(())
}

async fn be_at_work(worker: &Worker) -> everycore::Result<()> {
    fn fibo(n: u64) -> u64 {
        if n < 2 { n } else { fibo(n - 1) + fibo(n - 2) }
    }
    worker.send(&json!({"ready": true})).await?;
    while let Some(task) = worker.recv().await? {
        let task: u64 = task.parse().unwrap();
        worker.send(&json!({"task": task, "result": fibo(task)})).await?;
    }
    Ok(())
}

/// Looks at what a grandchild finds.
async fn be_heir(worker: &Worker) -> everycore::Result<()> {
    let script = "env | grep -cE '^NODE_(CHANNEL|UNIQUE)'; ls -l /proc/self/fd | grep -c socket";
    let found = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).output().unwrap();
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    worker
        .send(&json!({
            "id": worker.id(), "connected": worker.is_connected(),
            "grandchild": found.split_whitespace().collect::<Vec<_>>(),
        }))
        .await?;
    worker.draining().await;
    Ok(())
}

// --- the tests ---

fn play_all() {
    let Some(node) = everycore_peers::node() else { return };
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.iter().any(|word| word == "--list") {
        return TESTS.iter().for_each(|test| println!("{}: test", test.name));
    }
    if node.kind != Kind::Node {
        return everycore_peers::pass_over(&format!("the cluster of {node} starts nothing but itself"));
    }
    let chosen = |name: &str| {
        let mut filters = wanted.iter().filter(|word| !word.starts_with('-')).peekable();
        filters.peek().is_none() || filters.any(|word| name.contains(word.as_str()))
    };
    for test in TESTS.iter().filter(|test| chosen(test.name)) {
        for policy in test.policies {
            for mode in ["json", "advanced"] {
                play(node, test, policy, mode);
            }
        }
        println!("test {} ... ok", test.name);
    }
}

/// A scene of `fixtures/node/primary.js`, and what it has to print.
struct Test {
    name: &'static str,
    scene: &'static str,
    policies: &'static [&'static str],
    expected: fn(&str) -> Vec<Value>,
}

const BOTH: &[&str] = &["rr", "none"];
const RR: &[&str] = &["rr"];

/// An agreed end.
fn agreed() -> Value {
    json!([0, null, true])
}

const TESTS: &[Test] = &[
    Test {
        name: "two_workers_serve_one_port_and_all_events_come_in_order",
        scene: "serve",
        policies: BOTH,
        expected: |policy| {
            let answered = if policy == "rr" { json!({"worker 1": 5, "worker 2": 5}) } else { json!(10) };
            vec![
                json!(["one port", true, "127.0.0.1", 4]),
                json!(["answered", answered]),
                json!(["ended", agreed(), agreed()]),
                json!(["events", "fork", "online", "listening", "disconnect", "exit"]),
            ]
        },
    },
    Test {
        name: "a_crowd_is_served_to_the_last",
        scene: "crowd",
        policies: BOTH,
        expected: |_| vec![json!(["answered", 200]), json!(["ended", agreed(), agreed()])],
    },
    Test {
        name: "s7_s12_http_is_counted_and_a_worker_that_exits_is_replaced",
        scene: "http",
        policies: BOTH,
        expected: |_| {
            vec![
                json!(["answered", true, "counted", 10]),
                json!(["dies", "cut", 3]),
                json!(["in its place", 3, true]),
                json!(["ended", agreed(), agreed()]),
            ]
        },
    },
    Test {
        name: "s13_work_is_spread_collected_and_ended",
        scene: "work",
        policies: RR,
        expected: |_| {
            vec![json!(["results", 17711, 17711, 28657, 46368]), json!(["ended", agreed(), agreed()])]
        },
    },
    Test {
        name: "threads_without_a_runtime_serve",
        scene: "blocking",
        policies: BOTH,
        expected: |_| vec![json!(["answered", {"worker 1": 20}]), json!(["ended", agreed()])],
    },
    Test {
        name: "a_unix_path",
        scene: "unix",
        policies: BOTH,
        expected: |_| {
            vec![json!(["at", true, -1, -1]), json!(["answered", 10]), json!(["ended", agreed(), agreed()])]
        },
    },
    Test {
        name: "udp_is_shared",
        scene: "udp",
        policies: BOTH,
        expected: |_| vec![json!(["heard", "udp4", "hello from 1"]), json!(["ended", agreed()])],
    },
    Test {
        name: "two_servers_on_any_port_are_two_and_shared",
        scene: "ports",
        policies: BOTH,
        expected: |_| {
            vec![
                json!(["different", true, "shared", true]),
                json!(["answered", true]),
                json!(["answered", true]),
            ]
        },
    },
    Test {
        name: "an_address_in_use_is_a_typed_error_and_may_be_tried_again",
        scene: "taken",
        policies: BOTH,
        expected: |_| {
            vec![
                json!(["worker says", {"error": "AddrInUse"}]),
                json!(["worker says", {"listens": true}]),
                json!(["answered", "worker 1"]),
                json!(["ended", agreed()]),
            ]
        },
    },
    Test {
        name: "addresses_of_all_families_and_one_that_is_not_ours",
        scene: "addresses",
        policies: BOTH,
        expected: |_| {
            vec![
                json!([":0", "127.0.0.1", "worker 1"]),
                json!([":0", "::1", "worker 1"]),
                json!(["[::1]:0", "::1", "worker 2"]),
                json!(["192.0.2.1:0", "AddrNotAvailable"]),
            ]
        },
    },
    Test {
        name: "a_worker_told_to_leave_finishes_what_it_has",
        scene: "drain",
        policies: BOTH,
        expected: |_| {
            vec![
                json!(["flag", true]),
                json!(["worker says", "draining"]),
                json!(["new", "ECONNREFUSED"]),
                json!(["old", "go on"]),
                json!(["ended", agreed()]),
            ]
        },
    },
    Test {
        name: "a_worker_that_leaves_by_its_own_wish_loses_no_connection",
        scene: "leave",
        policies: RR,
        expected: |_| vec![json!(["answered", 100]), json!(["left", agreed()]), json!(["ended", agreed()])],
    },
    Test {
        name: "a_server_closed_and_opened_again_refuses_and_loses_none",
        scene: "reopen",
        policies: RR,
        expected: |_| vec![json!(["answered", 200]), json!(["ended", agreed(), agreed()])],
    },
    Test {
        name: "a_busy_worker_gets_no_more_than_one_and_serves_it_later",
        scene: "busy",
        policies: RR,
        expected: |_| {
            vec![json!(["while it was busy", 19]), json!(["answered", {"worker 1": 1, "worker 2": 19}])]
        },
    },
    Test {
        name: "without_descriptors_connections_wait_and_none_is_lost",
        scene: "starved",
        policies: RR,
        expected: |_| vec![json!(["greeted", 60]), json!(["ended", agreed()])],
    },
    Test {
        name: "messages_and_handles_go_both_ways_and_what_node_has_not_is_refused",
        scene: "messages",
        policies: RR,
        expected: |_| {
            vec![
                json!(["socket", "thanks", "by rust"]),
                json!(["open", 0]),
                json!(["server", "by node"]),
                json!(["refused", [true, true, true]]),
                json!(["ended", agreed()]),
            ]
        },
    },
    Test {
        name: "a_node_worker_and_ours_share_a_port",
        scene: "mixed",
        policies: BOTH,
        expected: |_| vec![json!(["both", true]), json!(["ended", agreed(), agreed()])],
    },
    Test {
        name: "killed_workers_are_seen_for_what_they_are",
        scene: "killed",
        policies: BOTH,
        expected: |_| {
            vec![
                json!(["SIGKILL", [null, "SIGKILL", false]]),
                json!(["kill()", [null, "SIGTERM", false]]),
                json!(["answered", "worker 3"]),
                json!(["ended", agreed()]),
            ]
        },
    },
    Test {
        name: "grandchildren_find_neither_the_channel_nor_its_variables",
        scene: "inheritance",
        policies: RR,
        expected: |_| {
            vec![
                json!(["worker says", {"id": 1, "connected": true, "grandchild": ["0", "0"]}]),
                json!(["ended", agreed()]),
            ]
        },
    },
    Test {
        name: "a_worker_whose_primary_died_ends_by_itself",
        scene: "orphan",
        policies: BOTH,
        expected: |_| vec![json!(["worker", 1, "ends", false])],
    },
];

/// Has Node play a scene, and compares what is printed until all who print have ended.
fn play(node: &Runtime, test: &Test, policy: &str, mode: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/node/primary.js");
    let directory = std::env::temp_dir().join(format!("everycore-primary-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join(format!("{}-{policy}-{mode}.sock", test.scene));
    let place = if test.scene == "unix" {
        path.to_str().unwrap().to_owned()
    } else {
        // The scenes have the host written in.
        format!("127.0.0.1:{}", everycore_peers::own_port())
    };
    let mut command = node.command();
    command.arg(script).arg(std::env::current_exe().unwrap()).args([test.scene, policy, mode, &place]);
    command.env_remove("NODE_CLUSTER_SCHED_POLICY").stdin(Stdio::null()).stdout(Stdio::piped());
    if test.scene == "orphan" {
        command.env("EVERYCORE_TEST_SAY_END", "1");
    }
    let mut parent = command.spawn().unwrap();
    let mut output = parent.stdout.take().unwrap();
    let (sender, printed) = channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = output.read_to_string(&mut text);
        let _ = sender.send(text);
    });
    let printed = printed.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        let _ = parent.kill();
        panic!("{} ({policy}, {mode}) hangs under {node}", test.name)
    });
    let status = parent.wait().unwrap();
    let _ = std::fs::remove_dir_all(&directory);
    let seen: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(seen, (test.expected)(policy), "{} ({policy}, {mode}) under {node}", test.name);
    assert!(status.success() || test.scene == "orphan", "{} ({policy}, {mode}): Node {status}", test.name);
}
