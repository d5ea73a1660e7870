//! The ways a Node worker ends, each with its events in their order and its flags.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use everycore::{Event, ExitReason, ExitStatus, Outcome, Urgency};
use everycore_sys::signals::number::{KILL, TERM};
use serde_json::json;

use crate::support::{Nodes, PATIENCE, Seen, Starts, connect, need_node, read_all, read_line, until};

/// Serves, does what it is told, and exits with 41 if the worker thinks that it was a disconnect, with 42 if not.
const SERVER: &str = "
    process.on('message', (what) => eval(what));
    process.on('exit', (code) => { process.exitCode = code || (cluster.worker.exitedAfterDisconnect ? 41 : 42) });
    report(net.createServer((s) => { s.on('error', () => {}); s.write('hello\\n'); s.pipe(s) }), 0, '127.0.0.1');";

/// The server among it.
const TCP: &str = "net.createServer((s) => { s.on('error', () => {}); s.write('hello\\n'); s.pipe(s) })";

/// The names of one worker's events, to its exit; and how it ended.
fn life(nodes: &Nodes, worker: u32) -> (Vec<&'static str>, ExitStatus, ExitReason, bool) {
    let mut names = Vec::new();
    loop {
        let (id, name) = match nodes.next() {
            Seen::Fork(info) => (info.id, "fork"),
            Seen::Online(id) => (id, "online"),
            Seen::Listening(id, _) => (id, "listening"),
            Seen::Message(id, _) => (id, "message"),
            Seen::Disconnect(id) => (id, "disconnect"),
            Seen::Exit { worker: id, status, reason, after_disconnect } if id == worker => {
                names.push("exit");
                return (names, status, reason, after_disconnect);
            }
            Seen::Other(Event::Error { worker, reason }) => panic!("{worker}: {reason}"),
            Seen::Exit { .. } | Seen::Other(_) => continue,
        };
        if id == worker {
            names.push(name);
        }
    }
}

/// A message sent from within `listen`'s callback comes before the word that it listens.
const WHOLE_LIFE: [&str; 6] = ["fork", "online", "message", "listening", "disconnect", "exit"];

/// Starts one worker, has something done to it once it serves, and tells of its end.
fn end_of(act: impl FnOnce(&Nodes)) -> Option<(ExitStatus, bool)> {
    let node = everycore_peers::node()?;
    // Bun lets its workers have no other servers.
    let server = if node.takes_connections() { SERVER } else { &SERVER.replace(TCP, "http.createServer()") };
    let nodes = node.start(server);
    // Asked for in order, so that the events can be looked at afterwards.
    let mut names = Vec::new();
    loop {
        match nodes.next() {
            Seen::Fork(_) => names.push("fork"),
            Seen::Online(_) => names.push("online"),
            Seen::Message(..) => names.push("message"),
            Seen::Listening(..) => {
                names.push("listening");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    act(&nodes);
    let (rest, status, _, agreed) = life(&nodes, 1);
    names.extend(rest);
    let mut expected = WHOLE_LIFE.to_vec();
    if !node.takes_connections() {
        // Bun tells its program when it likes.
        names.retain(|name| *name != "message");
        expected.retain(|name| *name != "message");
    }
    assert_eq!(names, expected);
    Some((status, agreed))
}

fn tell(what: &'static str) -> impl FnOnce(&Nodes) {
    move |nodes| nodes.send(1, &json!(what))
}

#[test]
fn the_primary_disconnects_a_worker() {
    let Some(end) = end_of(|nodes| nodes.primary().disconnect(1).unwrap()) else { return };
    assert_eq!(end, (ExitStatus::Code(41), true));
}

#[test]
fn a_worker_disconnects_itself() {
    let Some(end) = end_of(tell("cluster.worker.disconnect()")) else { return };
    assert_eq!(end, (ExitStatus::Code(41), true));
}

#[test]
fn a_worker_kills_itself() {
    let Some(end) = end_of(tell("cluster.worker.kill()")) else { return };
    assert_eq!(end, (ExitStatus::Code(41), true));
}

#[test]
fn the_primary_kills_a_worker() {
    let Some(end) = end_of(|nodes| nodes.primary().kill(1, TERM).unwrap()) else { return };
    assert_eq!(end, (ExitStatus::Signal(TERM), false));
    let Some(end) = end_of(|nodes| nodes.primary().kill(1, KILL).unwrap()) else { return };
    assert_eq!(end, (ExitStatus::Signal(KILL), false));
}

#[test]
fn a_worker_closes_its_channel() {
    let Some(end) = end_of(tell("process.disconnect()")) else { return };
    assert_eq!(end, (ExitStatus::Code(42), false));
}

#[test]
fn a_worker_exits_or_throws() {
    let Some(end) = end_of(tell("process.exit(7)")) else { return };
    assert_eq!(end, (ExitStatus::Code(7), false));
    let Some(end) = end_of(tell(
        "console.error = () => {}; process.on('uncaughtException', () => process.exit(1)); setImmediate(() => { throw 1 })",
    )) else {
        return;
    };
    assert_eq!(end, (ExitStatus::Code(1), false));
}

#[test]
fn all_are_disconnected_and_the_cluster_ends_after_the_last() {
    let node = need_node!(served);
    let nodes = Nodes::start(node.cluster(SERVER).workers(3));
    let at = nodes.all_listen(3);
    let mut client = connect(at);
    assert_eq!(read_line(&mut client).unwrap(), "hello");
    nodes.primary().disconnect_all().unwrap();
    for _ in 0..2 {
        assert_eq!(nodes.exit().1, ExitStatus::Code(41), "the two that are idle");
    }
    client.write_all(b"still here\n").unwrap();
    assert_eq!(read_line(&mut client).unwrap(), "still here", "one waits for its connection");
    drop(client);
    let (outcome, rest) = nodes.end();
    assert_eq!(outcome, Outcome::Stopped);
    let exits = rest.iter().filter(|seen| matches!(seen, Seen::Exit { after_disconnect: true, .. }));
    assert_eq!(exits.count(), 1);
}

#[test]
fn an_idle_connection_does_not_outlast_the_deadline() {
    let node = need_node!(served);
    let nodes = Nodes::start(node.cluster(SERVER).graceful_timeout(Duration::from_millis(100)));
    let at = nodes.all_listen(1);
    let mut client = connect(at);
    assert_eq!(read_line(&mut client).unwrap(), "hello");
    nodes.primary().disconnect(1).unwrap();
    let (_, status, agreed) = nodes.exit();
    assert_eq!((status, agreed), (ExitStatus::Signal(TERM), true));
    assert_eq!(read_all(client).unwrap(), "");
}

#[test]
fn sockets_of_a_workers_own_do_not_outlast_it_either() {
    let node = need_node!(served);
    let nodes = Nodes::start(
        node.cluster(
            "report(net.createServer(), 0); report(net.createServer(), { port: 0, exclusive: true })",
        )
        .graceful_timeout(Duration::from_millis(300)),
    );
    for _ in 0..2 {
        nodes.said();
    }
    nodes.primary().disconnect(1).unwrap();
    let (names, status, reason, agreed) = life(&nodes, 1);
    assert!(names.ends_with(&["disconnect", "exit"]), "{names:?}");
    assert_eq!((status, reason, agreed), (ExitStatus::Signal(TERM), ExitReason::Disconnect, true));
}

#[test]
fn a_worker_that_ignores_everything_is_killed() {
    let node = need_node!(served);
    let nodes = Nodes::start(
        node.cluster("report(net.createServer(), 0); process.on('SIGTERM', () => {}); process.on('message', () => { for (;;); })")
            .graceful_timeout(Duration::from_millis(100))
            .term_timeout(Duration::from_millis(100)),
    );
    nodes.address();
    nodes.send(1, &json!("hang"));
    nodes.primary().disconnect(1).unwrap();
    let (_, status, reason, agreed) = life(&nodes, 1);
    assert_eq!((status, reason, agreed), (ExitStatus::Signal(KILL), ExitReason::Disconnect, true));
}

#[test]
fn death_with_a_handle_unanswered_has_all_its_events() {
    let node = need_node!(served);
    let nodes = node.start("process.on('message', () => {}); report(net.createServer(), 0)");
    nodes.address();
    nodes.primary().kill(1, 19).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    nodes.send_with(1, &json!("a server"), listener);
    nodes.primary().kill(1, KILL).unwrap();
    let (names, status, ..) = life(&nodes, 1);
    assert!(names.ends_with(&["disconnect", "exit"]), "{names:?}");
    assert_eq!(status, ExitStatus::Signal(KILL));
}

#[test]
fn a_query_of_a_leaving_worker_is_not_answered_and_it_leaves_all_the_same() {
    let node = need_node!(served);
    let nodes = node.start(
        "process.once('message', () => report(net.createServer(), 0));
         report(net.createServer(), 0, '127.0.0.1');
         process.on('internalMessage', (m) => { if (m.act === 'disconnect') report(net.createServer(), 0, '127.0.0.2') })",
    );
    nodes.address();
    nodes.primary().disconnect(1).unwrap();
    let (_, status, agreed) = nodes.exit();
    assert_eq!((status, agreed), (ExitStatus::Code(0), true));
}

#[test]
fn stopping_fast_does_not_wait_for_connections() {
    let node = need_node!(served);
    let nodes = Nodes::start(node.cluster(SERVER).workers(2));
    let at = nodes.all_listen(2);
    let mut client = connect(at);
    assert_eq!(read_line(&mut client).unwrap(), "hello");
    nodes.primary().stop(Urgency::Fast).unwrap();
    let (outcome, rest) = nodes.end();
    assert_eq!(outcome, Outcome::Stopped);
    let exits =
        rest.iter().filter(|seen| matches!(seen, Seen::Exit { status: ExitStatus::Signal(TERM), .. }));
    assert_eq!(exits.count(), 2);
}

#[test]
fn workers_end_with_their_primary() {
    let _ = need_node!(served);
    let mut primary = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "shutdown::a_primary_process", "--include-ignored", "--nocapture"])
        .env("EVERYCORE_TEST_PRIMARY", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(primary.stdout.take().unwrap()).lines().map_while(Result::ok);
    let worker: u32 = lines.find_map(|line| line.strip_prefix("worker ")?.parse().ok()).unwrap();
    let worker = everycore_sys::PidFd::open(worker).unwrap();
    primary.kill().unwrap();
    primary.wait().unwrap();
    until("the worker has noticed", || {
        let gone = worker.signal(0);
        gone.is_err()
    });
}

/// What [`workers_end_with_their_primary`] starts and kills.
#[test]
#[ignore = "started by another test"]
fn a_primary_process() {
    if std::env::var_os("EVERYCORE_TEST_PRIMARY").is_none() {
        return;
    }
    let Some(node) = everycore_peers::node() else { return };
    let nodes = node.start(SERVER);
    let pid = nodes.find(|seen| match seen {
        Seen::Fork(worker) => worker.pid,
        _ => None,
    });
    nodes.address();
    println!("\nworker {pid}");
    std::thread::park_timeout(PATIENCE);
}
