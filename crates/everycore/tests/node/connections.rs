//! A connection handed to a Node worker is taken, refused, lost in transit or left behind by a death; its client is
//! served all the same.

use std::io::Write;
use std::time::{Duration, Instant};

use everycore::{ExitReason, ExitStatus};
use everycore_peers::Kind;
use everycore_sys::signals::number::{CONT, KILL, TERM};
use serde_json::json;

use crate::support::{
    Nodes, PATIENCE, Runtime, Seen, Starts, ask, connect, need_node, policies, read_all, read_line,
};

/// Says its number to whoever connects, and echoes lines until the client ends.
const ECHO: &str =
    "net.createServer((s) => { s.on('error', () => {}); s.write(`${cluster.worker.id}\\n`); s.pipe(s) })";

fn two(node: &Runtime, program: &str) -> Nodes {
    Nodes::start(node.cluster(program).workers(2))
}

#[test]
fn a_worker_with_enough_connections_leaves_the_next_to_others() {
    let node = need_node!(served);
    let nodes = two(
        node,
        &format!(
            "const s = {ECHO}; if (cluster.worker.id === 1) s.maxConnections = 1; report(s, 0, '127.0.0.1')"
        ),
    );
    let at = nodes.all_listen(2);
    let mut clients: Vec<_> = (0..9).map(|_| connect(at)).collect();
    let of: Vec<String> = clients.iter_mut().map(|client| read_line(client).unwrap()).collect();
    assert_eq!(of.iter().filter(|worker| *worker == "1").count(), 1, "{of:?}");
}

#[test]
fn when_all_have_enough_the_next_waits_quietly_and_is_served_when_one_leaves() {
    let node = need_node!(served);
    if node.kind != Kind::Node {
        return everycore_peers::pass_over("maxConnections makes Node alone refuse a connection");
    }
    // Every offer is told, so that they can be counted.
    let nodes = two(
        node,
        &format!(
            "process.on('internalMessage', (m) => {{ if (m.act === 'newconn') process.send('offered') }});
             const s = {ECHO}; s.maxConnections = 1; report(s, 0, '127.0.0.1')"
        ),
    );
    let at = nodes.all_listen(2);
    let mut clients = [connect(at), connect(at)];
    for client in &mut clients {
        read_line(client).unwrap();
    }
    let mut waiting = connect(at);
    let from = Instant::now();
    for _ in 0..2 + 2 + 8 {
        nodes.find(|seen| {
            matches!(&seen, Seen::Message(_, m) if m.parse::<String>().is_ok_and(|m| m == "offered"))
                .then_some(())
        });
    }
    // Two workers, asked again after 10, 20, 40 ms.
    assert!(from.elapsed() >= Duration::from_millis(60), "{:?}", from.elapsed());
    let [first, second] = clients;
    drop(first);
    assert!(["1", "2"].contains(&&*read_line(&mut waiting).unwrap()));
    drop(second);
}

#[test]
fn what_a_killed_worker_had_not_taken_goes_to_another() {
    let node = need_node!(served);
    let nodes = two(node, &format!("report({ECHO}, 0, '127.0.0.1')"));
    let at = nodes.all_listen(2);
    nodes.halt(1);
    let mut clients: Vec<_> = (0..8).map(|_| connect(at)).collect();
    for client in &mut clients {
        client.write_all(b"hello\n").unwrap();
    }
    // One of them hangs with the stopped worker, as no other can know.
    let mut last = connect(at);
    assert_eq!(read_line(&mut last).unwrap(), "2");
    nodes.primary().kill(1, KILL).unwrap();
    for client in &mut clients {
        assert_eq!(read_line(client).unwrap(), "2");
        assert_eq!(read_line(client).unwrap(), "hello", "not a byte of it was read before");
    }
    let (worker, status, agreed) = nodes.exit();
    assert_eq!((worker, status, agreed), (1, ExitStatus::Signal(KILL), false));
}

#[test]
fn a_stopped_worker_ends_as_soon_as_it_has_been_silent_for_too_long() {
    let node = need_node!(served);
    let cluster = node.cluster(&format!("report({ECHO}, 0, '127.0.0.1')")).workers(2);
    // Nobody would wait for `KILL`.
    let nodes = Nodes::start(cluster.hung_timeout(Duration::from_secs(2)).term_timeout(PATIENCE * 10));
    let at = nodes.all_listen(2);
    nodes.halt(1);
    let mut clients: Vec<_> = (0..3).map(|_| connect(at)).collect();
    for client in &mut clients {
        assert_eq!(read_line(client).unwrap(), "2");
    }
    let exit = nodes.find(|seen| match seen {
        Seen::Exit { worker, status, reason, .. } => Some((worker, status, reason)),
        _ => None,
    });
    assert_eq!(exit, (1, ExitStatus::Signal(TERM), ExitReason::Hung));
}

#[test]
fn connections_wait_for_a_stopped_worker_that_is_alone_and_it_serves_them_when_it_goes_on() {
    let node = need_node!(served);
    let nodes = node.start(&format!("report({ECHO}, 0, '127.0.0.1')"));
    let at = nodes.address();
    nodes.halt(1);
    let mut clients: Vec<_> = (0..20).map(|_| connect(at)).collect();
    nodes.find(|seen| matches!(seen, Seen::Other(everycore::Event::Hung { .. })).then_some(()));
    nodes.primary().kill(1, CONT).unwrap();
    for client in &mut clients {
        assert_eq!(read_line(client).unwrap(), "1");
    }
}

#[test]
fn a_worker_without_descriptors_refuses_and_others_serve() {
    let node = need_node!(served);
    if node.kind != Kind::Node {
        return everycore_peers::pass_over(
            "the test starts Node through a shell that limits its descriptors",
        );
    }
    let program = format!(
        "const open = [];
         process.on('message', (what) => {{
           if (what === 'fill') {{
             try {{ for (;;) open.push(fs.openSync('/dev/null')) }} catch {{}}
             process.send('full');
           }} else {{
             open.splice(0).forEach((fd) => fs.closeSync(fd));
             process.send('empty');
           }}
         }});
         report({ECHO}, 0, '127.0.0.1')"
    );
    for workers in [1, 2] {
        let nodes = Nodes::start(
            node.cluster("")
                .exec("/bin/sh")
                .args([
                    "-c".into(),
                    "ulimit -n 128; exec \"$0\" \"$@\"".into(),
                    node.program.clone().into_os_string(),
                    crate::support::fixture("run.js").into_os_string(),
                    program.clone().into(),
                ])
                .workers(workers),
        );
        let at = nodes.all_listen(workers);
        nodes.send(1, &json!("fill"));
        nodes.find(|seen| {
            matches!(&seen, Seen::Message(1, m) if m.parse::<String>().is_ok_and(|m| m == "full"))
                .then_some(())
        });
        let mut clients: Vec<_> = (0..4).map(|_| connect(at)).collect();
        if workers == 2 {
            for client in &mut clients {
                assert_eq!(read_line(client).unwrap(), "2");
            }
        }
        nodes.send(1, &json!("empty"));
        if workers == 1 {
            for client in &mut clients {
                assert_eq!(read_line(client).unwrap(), "1");
            }
        }
    }
}

#[test]
fn a_client_that_has_gone_and_one_that_only_listens() {
    let node = need_node!(served);
    let nodes = node.start(&format!("report({ECHO}, 0, '127.0.0.1')"));
    let at = nodes.address();
    for _ in 0..20 {
        drop(connect(at));
    }
    let gone = connect(at);
    socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
    drop(gone);
    let mut silent = connect(at);
    assert_eq!(read_line(&mut silent).unwrap(), "1");
}

#[test]
fn a_worker_that_closes_its_server_leaves_what_was_on_the_way_to_others() {
    let node = need_node!(served);
    // Stopped while connections are handed to it; told to close before it finds them.
    let nodes = two(
        node,
        &format!(
            "const s = report({ECHO}, 0, '127.0.0.1');
             if (cluster.worker.id === 1) process.on('message', () => s.close())"
        ),
    );
    let at = nodes.all_listen(2);
    nodes.halt(1);
    nodes.send(1, &json!("close"));
    let mut clients: Vec<_> = (0..6).map(|_| connect(at)).collect();
    nodes.primary().kill(1, CONT).unwrap();
    for client in &mut clients {
        let worker = read_line(client).unwrap();
        assert!(["1", "2"].contains(&&*worker), "served by {worker:?}");
    }
}

#[test]
fn a_busy_worker_gets_nothing_more() {
    let node = need_node!(served);
    let nodes = two(
        node,
        "report(net.createServer((s) => {
           s.on('error', () => {});
           s.once('data', (text) => {
             if (String(text).startsWith('work')) { process.send('busy'); for (const end = Date.now() + 1000; Date.now() < end;); }
             s.end(String(cluster.worker.id));
           });
         }), 0, '127.0.0.1')",
    );
    let at = nodes.all_listen(2);
    let mut busy = connect(at);
    busy.write_all(b"work").unwrap();
    let (worker, _) = nodes.find(|seen| match seen {
        Seen::Message(worker, message) if message.parse::<String>().is_ok() => Some((worker, ())),
        _ => None,
    });
    // One connection is handed to it before that shows, and waits. The others do not.
    let mut quick: Vec<_> = (0..10).map(|_| connect(at)).collect();
    quick.iter_mut().for_each(|client| client.write_all(b"hi").unwrap());
    let answers: Vec<String> = quick.into_iter().map(|client| read_all(client).unwrap()).collect();
    let others = answers.iter().filter(|answer| **answer != worker.to_string()).count();
    assert!(others >= 9, "{answers:?}");
    assert_eq!(read_all(busy).unwrap(), worker.to_string());
}

#[test]
fn many_short_connections_are_all_served() {
    let node = need_node!(served);
    for policy in policies(node) {
        let program = "report(http.createServer((q, r) => r.end(String(cluster.worker.id))), 0, '127.0.0.1')";
        let nodes = Nodes::start(node.cluster(program).workers(2).policy(policy));
        let at = nodes.all_listen(2);
        let clients: Vec<_> = (0..8)
            .map(|_| {
                std::thread::spawn(move || {
                    (0..50)
                        .map(|_| ask(at, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap())
                        .filter(|answer| answer.starts_with("HTTP/1.1 200"))
                        .count()
                })
            })
            .collect();
        let served: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
        assert_eq!(served, 400, "{policy}");
    }
}

#[test]
fn who_connects_right_after_a_kill_is_served() {
    let node = need_node!(served);
    for policy in policies(node) {
        let program = "report(http.createServer((q, r) => r.end('served')), 0, '127.0.0.1')";
        let nodes = Nodes::start(
            node.cluster(program).workers(2).policy(policy).restart(everycore::RestartSettings::default()),
        );
        let at = nodes.all_listen(2);
        for _ in 0..8 {
            let workers = nodes.primary().snapshot().unwrap().workers;
            let victim = workers.iter().find_map(|worker| worker.pid).unwrap();
            let victim = rustix::process::Pid::from_raw(i32::try_from(victim).unwrap()).unwrap();
            rustix::process::kill_process(victim, rustix::process::Signal::KILL).unwrap();
            let mut clients: Vec<_> = (0..8).map(|_| connect(at)).collect();
            for client in &mut clients {
                client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
            }
            for client in clients {
                assert!(read_all(client).unwrap().ends_with("served"), "{policy}");
            }
            nodes.listening();
        }
    }
}
