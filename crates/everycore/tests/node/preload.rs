//! The script that Node workers load first: what it reports, what it spares clients, and that programs see none of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use everycore::{Event, ExitStatus, Policy};
use everycore_peers::Kind;
use everycore_sys::signals::number::CONT;
use serde_json::{Value, json};

use crate::support::{
    Directory, Nodes, Runtime, Seen, Starts, connect, need_node, policies, read_line, until,
};

/// Says its number to whoever connects, and echoes until the client ends.
const ECHO: &str = "report(net.createServer((s) => { s.on('error', () => {}); s.write(`${cluster.worker.id}\\n`); s.pipe(s) }), 0, '127.0.0.1')";

/// Two workers under `least`.
fn two(node: &Runtime, program: &str) -> Nodes {
    Nodes::start(node.cluster(program).workers(2).policy(Policy::Least))
}

/// Connections each worker holds, as the primary knows.
fn live(nodes: &Nodes) -> BTreeMap<u32, u64> {
    let workers = nodes.primary().snapshot().unwrap().workers;
    workers.iter().map(|worker| (worker.worker.get(), worker.live)).collect()
}

/// Waits until each worker holds so many, from the first on.
fn until_live(nodes: &Nodes, expected: &[u64]) {
    let expected: BTreeMap<u32, u64> = (1..).zip(expected.iter().copied()).collect();
    until(&format!("{expected:?} live"), || live(nodes) == expected);
}

#[test]
fn least_knows_how_many_connections_are_open() {
    let node = need_node!(served);
    let nodes = two(node, ECHO);
    let at = nodes.all_listen(2);
    let mut held: BTreeMap<String, Vec<TcpStream>> = BTreeMap::new();
    for _ in 0..8 {
        let mut client = connect(at);
        held.entry(read_line(&mut client).unwrap()).or_default().push(client);
    }
    assert_eq!((held["1"].len(), held["2"].len()), (4, 4), "evenly");
    until_live(&nodes, &[4, 4]);
    held.remove("1");
    until_live(&nodes, &[0, 4]);
    // In turn, half of them would go to the second worker.
    for _ in 0..4 {
        let mut client = connect(at);
        assert_eq!(read_line(&mut client).unwrap(), "1");
        held.entry("1".into()).or_default().push(client);
    }
}

#[test]
fn every_server_of_a_worker_is_counted_also_once_it_is_closed() {
    let node = need_node!(served);
    let program = "
        const echo = () => net.createServer((s) => { s.on('error', () => {}); s.write('hello\\n'); s.resume() });
        const [one, two] = [echo(), echo()];
        process.on('message', () => one.close());
        one.on('listening', () => report(two, 0, '127.0.0.1'));
        report(one, 0, '127.0.0.1');";
    let nodes = Nodes::start(node.cluster(program).policy(Policy::Least));
    let held = [nodes.address(), nodes.address()].map(|at| {
        let mut client = connect(at);
        read_line(&mut client).unwrap();
        client
    });
    until_live(&nodes, &[2]);
    nodes.send(1, &json!("close the first"));
    let [first, second] = held;
    drop(second);
    until_live(&nodes, &[1]);
    drop(first);
    until_live(&nodes, &[0]);
}

/// A worker under load spends time on whatever hangs at each of its sockets.
#[test]
fn nothing_hangs_at_a_connection() {
    let node = need_node!();
    if node.kind != Kind::Node {
        return;
    }
    let program = "report(http.createServer((q, r) => {
        const { socket } = q;
        r.end('x', () => process.send(socket.eventNames().map((name) => [String(name), socket.listenerCount(name)])));
      }), 0, '127.0.0.1')";
    let hang = |policy, loads| {
        let nodes = Nodes::start(node.cluster(program).policy(policy).preload(loads));
        let mut kept = Kept::new(nodes.address());
        kept.ask("/");
        nodes.said()
    };
    for policy in [Policy::RoundRobin, Policy::Shared] {
        assert_eq!(hang(policy, true), hang(policy, false), "{policy}");
    }
}

#[test]
fn without_it_a_connection_counts_until_it_is_taken() {
    let node = need_node!(served);
    let nodes = Nodes::start(node.cluster(ECHO).policy(Policy::Least).preload(false));
    let mut client = connect(nodes.address());
    read_line(&mut client).unwrap();
    until_live(&nodes, &[0]);
}

#[test]
fn a_program_sees_nothing_of_it() {
    let node = need_node!(Node);
    let program = "
        process.on('message', (m) => process.send({ got: m }));
        report(net.createServer((s) => s.end()), 0, '127.0.0.1').on('connection', () => {
          const child = child_process.spawnSync(process.execPath, ['-p', 'JSON.stringify(process.env)'], { encoding: 'utf8' });
          const both = [process.env, JSON.parse(child.stdout)];
          process.send({
            argv: process.execArgv,
            options: both.map((env) => env.NODE_OPTIONS ?? null),
            settings: both.map((env) => env.EVERYCORE_PRELOAD ?? null),
          });
        })";
    let nodes = Nodes::start(node.cluster(program).env("NODE_OPTIONS", "--no-warnings"));
    drop(connect(nodes.address()));
    let expected =
        json!({"argv": [], "options": ["--no-warnings", "--no-warnings"], "settings": [null, null]});
    assert_eq!(nodes.said(), expected);
    nodes.send(1, &json!("echo"));
    assert_eq!(nodes.said(), json!({"got": "echo"}), "and no report is among its messages");
}

#[test]
fn a_program_in_either_module_system_is_counted() {
    let node = need_node!(served);
    let directory = Directory::new("preload-modules");
    let body =
        "net.createServer((s) => s.resume().on('error', () => {}).write('hello\\n')).listen(0, '127.0.0.1');";
    for (name, import) in
        [("app.cjs", "const net = require('node:net');"), ("app.mjs", "import net from 'node:net';")]
    {
        let file = directory.0.join(name);
        std::fs::write(&file, format!("{import} {body}")).unwrap();
        let mut args: Vec<_> = node.args.iter().map(Into::into).collect();
        args.push(file.into_os_string());
        let nodes = Nodes::start(node.cluster("").args(args).policy(Policy::Least));
        let mut client = connect(nodes.address());
        read_line(&mut client).unwrap();
        until_live(&nodes, &[1]);
        drop(client);
        until_live(&nodes, &[0]);
    }
}

#[test]
fn a_loop_that_stood_still_is_told() {
    let node = need_node!(served);
    let program = "report(net.createServer((s) => {
        s.end(String(cluster.worker.id));
        for (const end = Date.now() + 1500; Date.now() < end;);
      }), 0, '127.0.0.1')";
    let nodes = node.start(program);
    drop(connect(nodes.address()));
    let duration = nodes.find(|seen| match seen {
        Seen::Other(Event::Blocked { worker, duration }) if worker.id == 1 => Some(duration),
        _ => None,
    });
    assert!(duration.as_millis() >= 1000, "{duration:?}");
}

#[test]
fn a_place_that_becomes_free_is_filled_at_once() {
    let node = need_node!(served);
    let nodes = node.start(
        &ECHO
            .replace("report(", "const s = ")
            .replace(", 0, '127.0.0.1')", "; s.maxConnections = 1; report(s, 0, '127.0.0.1')"),
    );
    let at = nodes.address();
    let mut first = connect(at);
    read_line(&mut first).unwrap();
    for _ in 0..5 {
        let mut next = connect(at);
        drop(first);
        assert_eq!(read_line(&mut next).unwrap(), "1");
        first = next;
    }
}

/// A kept HTTP connection.
struct Kept(BufReader<TcpStream>);

impl Kept {
    fn new(at: SocketAddr) -> Self {
        Self(BufReader::new(connect(at)))
    }

    fn ask(&mut self, path: &str) {
        self.0.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
    }

    /// The head of the next answer, and its body.
    fn answer(&mut self) -> Option<(String, String)> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        std::io::Read::read_exact(&mut self.0, &mut body).ok()?;
        Some((head, String::from_utf8(body).unwrap()))
    }

    /// Whether the server has ended it, as far as can be seen.
    fn has_ended(&self) -> bool {
        let stream = self.0.get_ref();
        stream.set_nonblocking(true).unwrap();
        let seen = stream.peek(&mut [0]);
        stream.set_nonblocking(false).unwrap();
        !matches!(seen, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

/// Answers at once, but for `/slow`, which waits for a message; and says when it was told to leave.
const HTTP: &str = "
    const slow = [];
    process.on('message', () => slow.splice(0).forEach((r) => r.end('slow')));
    process.on('internalMessage', (m) => { if (m.act === 'disconnect') process.send('leaving') });
    const paths = {
      '/slow': (r) => { slow.push(r); process.send('slow') },
      '/large': (r) => { r.end(Buffer.alloc(16 << 20, 'x')); process.send('large') },
      '/early': (r) => { r.end('early'); process.send('early') },
      '/kept': (r) => r.setHeader('Connection', 'keep-alive').end('kept'),
      '/raw': (r) => r.writeHead(200, ['Content-Length', '3', 'connection', 'Keep-Alive']).end('raw'),
      '/bare': (r) => { r.removeHeader('Connection'); r.end('bare') },
    };
    report(http.createServer((q, r) => {
      const answer = paths[q.url] ?? ((r) => r.end(String(cluster.worker.id)));
      answer(r);
    }).on('connection', () => process.send('connection')), 0, '127.0.0.1')";

fn said(nodes: &Nodes, what: &str) {
    nodes.find(|seen| match seen {
        Seen::Message(_, m) if m.parse::<Value>().is_ok_and(|m| m == what) => Some(()),
        _ => None,
    });
}

#[test]
fn clients_of_a_leaving_worker_hear_that_their_connection_ends() {
    let node = need_node!(served);
    for policy in policies(node) {
        let nodes = Nodes::start(node.cluster(HTTP).policy(policy));
        let at = nodes.address();
        let (mut idle, mut busy, mut silent) = (Kept::new(at), Kept::new(at), Kept::new(at));
        for kept in [&mut idle, &mut busy, &mut silent] {
            kept.ask("/");
            let (head, _) = kept.answer().unwrap();
            assert!(head.contains("connection: keep-alive"), "{head}");
        }
        busy.ask("/slow");
        said(&nodes, "slow");
        nodes.primary().disconnect(1).unwrap();
        said(&nodes, "leaving");
        idle.ask("/");
        let (head, body) = idle.answer().expect("a request on a kept connection is answered");
        assert!(head.contains("connection: close") && body == "1", "{head}");
        nodes.send(1, &json!("go on"));
        let (head, body) = busy.answer().expect("so is one that was under way");
        assert!(head.contains("connection: close") && body == "slow", "{head}");
        assert!(silent.answer().is_none(), "who asks nothing more is let go");
        let (_, status, agreed) = nodes.exit();
        assert_eq!((status, agreed), (ExitStatus::Code(0), true));
    }
}

/// A worker that is told to leave, and a connection to it that was served once.
fn leaving(node: &Runtime, policy: Policy) -> (Nodes, Kept) {
    let nodes = Nodes::start(node.cluster(HTTP).policy(policy));
    let mut kept = Kept::new(nodes.address());
    kept.ask("/");
    kept.answer().unwrap();
    nodes.primary().disconnect(1).unwrap();
    said(&nodes, "leaving");
    (nodes, kept)
}

/// Asks, and is answered for the last time on this connection.
fn answered_last(kept: &mut Kept) {
    kept.ask("/");
    let (head, body) = kept.answer().expect("an answer");
    assert!(head.contains("connection: close") && body == "1", "{head}");
    assert!(kept.answer().is_none());
}

/// Waits until a leaving worker has let an idle connection go.
fn let_go(mut idle: Kept) {
    assert!(idle.answer().is_none());
}

#[test]
fn requests_sent_one_behind_the_other_are_all_answered() {
    let node = need_node!(Node);
    // The first few are there before the worker is told to leave, the others come afterwards.
    for (before, after) in [(2, 0), (1, 1), (2, 2)] {
        let nodes = node.start(HTTP);
        let mut kept = Kept::new(nodes.address());
        let mut ask = |count| {
            for _ in 0..count {
                kept.ask("/slow");
                said(&nodes, "slow");
            }
        };
        ask(before);
        nodes.primary().disconnect(1).unwrap();
        said(&nodes, "leaving");
        ask(after);
        nodes.send(1, &json!("go on"));
        for left in (0..before + after).rev() {
            let (head, body) = kept.answer().expect("an answer to each");
            assert_eq!((body.as_str(), head.contains("connection: close")), ("slow", left == 0), "{head}");
        }
    }
}

/// Node 26 closes such connections with the server, where earlier ones wait for their request.
#[test]
fn a_connection_whose_first_request_has_not_come_is_served_by_a_worker_that_leaves() {
    let node = need_node!(Node);
    for policy in policies(node) {
        let nodes = Nodes::start(node.cluster(HTTP).policy(policy));
        let mut fresh = Kept::new(nodes.address());
        said(&nodes, "connection");
        nodes.primary().disconnect(1).unwrap();
        said(&nodes, "leaving");
        answered_last(&mut fresh);
        assert!(nodes.exit().2);
    }
}

#[test]
fn nor_is_it_let_go_with_idle_connections() {
    let node = need_node!(Node);
    let nodes = node.start(HTTP);
    let at = nodes.address();
    let (mut idle, mut fresh) = (Kept::new(at), Kept::new(at));
    idle.ask("/");
    idle.answer().unwrap();
    for _ in 0..2 {
        said(&nodes, "connection");
    }
    nodes.primary().disconnect(1).unwrap();
    let_go(idle);
    answered_last(&mut fresh);
}

/// In its channel lie the connection and, behind it, the order to leave; the others wait for its successor.
#[test]
fn what_was_handed_over_ahead_of_the_order_to_leave_is_served() {
    let node = need_node!(Node);
    let nodes = node.start(HTTP);
    let at = nodes.address();
    nodes.halt(1);
    let mut clients = [(); 3].map(|()| Kept::new(at));
    clients.iter_mut().for_each(|client| client.ask("/"));
    until("one is handed over", || live(&nodes)[&1] > 0);
    nodes.primary().reload().unwrap();
    nodes.find(|seen| matches!(seen, Seen::Listening(2, _)).then_some(()));
    nodes.primary().kill(1, CONT).unwrap();
    for client in &mut clients {
        assert_eq!(client.answer().expect("an answer").0.lines().next(), Some("http/1.1 200 ok"));
    }
    let (worker, status, agreed) = nodes.exit();
    assert_eq!((worker, status, agreed), (1, ExitStatus::Code(0), true));
}

/// Timers run ahead of what came while the loop stood still: a connection that looked idle has a request waiting.
#[test]
fn a_request_that_came_while_the_loop_stood_still_is_answered() {
    let node = need_node!(Node);
    let directory = Directory::new("preload-late");
    let sent = directory.0.join("sent");
    let program = format!(
        "process.on('internalMessage', (m) => {{
           if (m.act === 'disconnect') setImmediate(() => {{
             process.send('standing still');
             const [since, nothing] = [Date.now(), new Int32Array(new SharedArrayBuffer(4))];
             // Longer than an idle connection is left open.
             while (Date.now() < since + 1200 || !fs.existsSync({sent:?})) Atomics.wait(nothing, 0, 0, 10);
           }});
         }});
         {HTTP}"
    );
    for policy in policies(node) {
        let nodes = Nodes::start(node.cluster(&program).policy(policy));
        let mut kept = Kept::new(nodes.address());
        kept.ask("/");
        kept.answer().unwrap();
        nodes.primary().disconnect(1).unwrap();
        said(&nodes, "standing still");
        kept.ask("/");
        std::fs::write(&sent, "").unwrap();
        let (head, body) = kept.answer().expect("an answer");
        assert!(head.contains("connection: close") && body == "1", "{head}");
        std::fs::remove_file(&sent).unwrap();
    }
}

#[test]
fn an_answer_on_its_way_to_a_slow_client_is_not_cut_off() {
    let node = need_node!(Node);
    let nodes = node.start(HTTP);
    let at = nodes.address();
    let (mut idle, mut slow) = (Kept::new(at), Kept::new(at));
    idle.ask("/");
    idle.answer().unwrap();
    slow.ask("/large");
    said(&nodes, "large");
    nodes.primary().disconnect(1).unwrap();
    let_go(idle);
    let (head, body) = slow.answer().expect("an answer");
    assert!(head.contains("connection: keep-alive") && body.len() == 16 << 20, "{head}");
    assert!(slow.answer().is_none());
    let (_, status, agreed) = nodes.exit();
    assert_eq!((status, agreed), (ExitStatus::Code(0), true));
}

#[test]
fn an_answer_ahead_of_the_requests_end_is_not_reset_by_the_rest() {
    let node = need_node!(Node);
    let (nodes, mut kept) = leaving(node, Policy::RoundRobin);
    let body = vec![b'x'; 16 << 20];
    let head = format!("POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    kept.0.get_mut().write_all(head.as_bytes()).unwrap();
    said(&nodes, "early");
    kept.0.get_mut().write_all(&body).unwrap();
    let (head, body) = kept.answer().expect("an answer");
    assert!(head.contains("connection: close") && body == "early", "{head}");
    assert!(kept.answer().is_none());
    let (_, status, agreed) = nodes.exit();
    assert_eq!((status, agreed), (ExitStatus::Code(0), true));
}

#[test]
fn clients_hear_that_their_connection_ends_whatever_the_program_says_of_it() {
    let node = need_node!(Node);
    for path in ["kept", "raw", "bare"] {
        let (_nodes, mut kept) = leaving(node, Policy::Shared);
        kept.ask(&format!("/{path}"));
        let (head, body) = kept.answer().expect("an answer");
        assert!(body == path && head.matches("connection:").count() == 1, "{head}");
        assert!(head.contains("connection: close\r\n"), "{head}");
        assert!(kept.answer().is_none());
    }
}

#[test]
fn a_reload_loses_no_request_on_kept_connections() {
    let node = need_node!(served);
    for policy in policies(node) {
        let nodes = Nodes::start(node.cluster(HTTP).workers(2).policy(policy));
        let at = nodes.all_listen(2);
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
                std::thread::spawn(move || keep_asking(at, &stop, &served))
            })
            .collect();
        for _ in 0..3 {
            let from = served.load(Ordering::SeqCst);
            nodes.primary().reload().unwrap();
            nodes.find(|seen| matches!(seen, Seen::Other(Event::ReloadDone { .. })).then_some(()));
            until("requests are answered", || served.load(Ordering::SeqCst) > from + 50);
        }
        stop.store(true, Ordering::SeqCst);
        let lost: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
        println!("{policy}: {} requests answered over 3 reloads, {lost} lost", served.load(Ordering::SeqCst));
        assert_eq!(lost, 0, "{policy}");
    }
}

/// Asks on one connection for as long as the server keeps it, then on the next; how many requests had no answer.
fn keep_asking(at: SocketAddr, stop: &AtomicBool, served: &AtomicUsize) -> usize {
    let (mut kept, mut lost) = (None, 0);
    while !stop.load(Ordering::SeqCst) {
        // What the client can see before it asks is no loss.
        let mut connection =
            kept.take().filter(|kept: &Kept| !kept.has_ended()).unwrap_or_else(|| Kept::new(at));
        connection.ask("/");
        match connection.answer() {
            Some((head, _)) => {
                served.fetch_add(1, Ordering::SeqCst);
                kept = (!head.contains("connection: close")).then_some(connection);
            }
            None => lost += 1,
        }
    }
    lost
}

#[test]
fn a_false_report_costs_only_the_liar_its_share() {
    let node = need_node!(Node);
    let program = format!(
        "if (cluster.worker.id === 1) {{
           const lie = (live) => process.send({{ cmd: 'NODE_CLUSTER', act: 'everycore:report', live, late: -1 }});
           for (const live of [1e308, -1, 'x', null, 18446744073709551615, 0.5, [], {{}}]) lie(live);
           for (let i = 0; i < 1000; i++) lie(i);
         }}
         {ECHO}"
    );
    let nodes = two(node, &program);
    let at = nodes.all_listen(2);
    for _ in 0..20 {
        assert!(["1", "2"].contains(&&*read_line(&mut connect(at)).unwrap()));
    }
    assert!(live(&nodes)[&1] <= 20);
}

#[test]
fn deno_is_given_no_listening_socket() {
    let node = need_node!(served);
    if node.kind != Kind::Deno {
        return everycore_peers::pass_over("Deno alone is given no listening socket");
    }
    let nodes = Nodes::start(node.cluster(ECHO).policy(Policy::Shared));
    nodes.find(|seen| match seen {
        Seen::Other(Event::Error { reason, .. }) if reason.contains("Deno takes no socket") => Some(()),
        _ => None,
    });
}
