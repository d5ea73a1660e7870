//! The rows of the model with Node workers under our primary; the other way round is `node_primary`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use everycore::{ExitStatus, RestartSettings};
use serde_json::{Value, json};

use crate::support::{Nodes, Seen, Starts, ask, need_node};

const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// The body of an answer, which says whose it is.
fn worker(answer: &str) -> u32 {
    let body = answer.rsplit("\r\n\r\n").next().unwrap();
    body.trim().parse().unwrap_or_else(|_| panic!("{answer}"))
}

#[test]
fn s7_http_on_one_port_with_workers_replaced() {
    let node = need_node!(served);
    let program = "report(http.createServer((q, r) => {
        if (q.url === '/die') process.exit(3);
        r.end(String(cluster.worker.id));
    }), Number(process.env.PORT), '127.0.0.1')";
    let nodes =
        Nodes::start(node.cluster(program).env("PORT", "0").workers(2).restart(RestartSettings::default()));
    let at = nodes.all_listen(2);
    let served: BTreeSet<u32> = (0..4).map(|_| worker(&ask(at, GET).unwrap())).collect();
    assert_eq!(served, BTreeSet::from([1, 2]));
    // A worker that exits in the middle of a request takes that request with it, and nothing else.
    let _ = ask(at, &GET.replace("GET /", "GET /die"));
    let (died, status, _) = nodes.exit();
    assert_eq!(status, ExitStatus::Code(3));
    let (new, _) = nodes.listening();
    assert_eq!(new, 3);
    let served: BTreeSet<u32> = (0..4).map(|_| worker(&ask(at, GET).unwrap())).collect();
    assert_eq!(served, BTreeSet::from([3, 3 - died]), "the other one and the new one");
}

#[test]
fn s8_any_tcp_server_answers_with_its_pid_after_a_while() {
    let node = need_node!(served);
    let program =
        "report(net.createServer((s) => setTimeout(() => s.end(String(process.pid)), 10)), 0, '127.0.0.1')";
    let nodes = Nodes::start(node.cluster(program).workers(2));
    let mut pids = BTreeMap::new();
    while pids.len() < 2 {
        if let Seen::Fork(worker) = nodes.next() {
            pids.insert(worker.pid.unwrap(), worker.id);
        }
    }
    let at = nodes.all_listen(2);
    let answers: BTreeSet<u32> = (0..4).map(|_| ask(at, "").unwrap().parse().unwrap()).collect();
    assert_eq!(answers, pids.keys().copied().collect());
    nodes.primary().kill(1, 9).unwrap();
    let (died, status, agreed) = nodes.exit();
    assert!(matches!(status, ExitStatus::Signal(9)), "{status}");
    assert_eq!((died, agreed), (1, false));
}

#[test]
fn s11_what_is_sent_comes_back_and_events_have_their_order() {
    let node = need_node!(served);
    let nodes = node.start("process.on('message', (m) => process.send(m)); report(net.createServer(), 0)");
    let (mut order, mut echoed) = (Vec::new(), false);
    loop {
        match nodes.next() {
            Seen::Fork(_) => order.push("fork"),
            Seen::Online(1) => {
                order.push("online");
                nodes.send(1, &json!("hi there"));
            }
            Seen::Listening(1, _) => order.push("listening"),
            Seen::Message(1, message) => {
                echoed |= message.parse::<Value>().unwrap() == "hi there";
            }
            Seen::Disconnect(1) => order.push("disconnect"),
            Seen::Exit { .. } => {
                order.push("exit");
                break;
            }
            _ => {}
        }
        if echoed && order.len() == 3 {
            echoed = false;
            nodes.primary().disconnect(1).unwrap();
            order.push("asked");
        }
    }
    assert_eq!(order, ["fork", "online", "listening", "asked", "disconnect", "exit"]);
}

#[test]
fn s12_the_primary_counts_requests() {
    let node = need_node!(served);
    let program = "report(http.createServer((q, r) => {
        process.send({ cmd: 'notifyRequest' });
        r.end(String(cluster.worker.id));
    }), 0, '127.0.0.1')";
    let nodes = Nodes::start(node.cluster(program).workers(2));
    let at = nodes.all_listen(2);
    for _ in 0..20 {
        worker(&ask(at, GET).unwrap());
    }
    let mut counts = BTreeMap::new();
    while counts.values().sum::<u32>() < 20 {
        let (worker, message) = nodes.message();
        if message["cmd"] == "notifyRequest" {
            *counts.entry(worker).or_default() += 1;
        }
    }
    assert_eq!(counts, BTreeMap::from([(1, 10), (2, 10)]));
}

#[test]
fn s13_work_is_spread_collected_and_ended() {
    let node = need_node!();
    let program = "const fibo = (n) => n < 2 ? n : fibo(n - 1) + fibo(n - 2);
        process.on('message', ({ task }) => process.send({ task, result: fibo(task) }));
        process.send({ ready: true });";
    let nodes = Nodes::start(node.cluster(program).workers(2).readiness(everycore::Readiness::Online));
    let mut tasks = VecDeque::from([24, 22, 22, 23]);
    let mut results = Vec::new();
    let ready = [nodes.message().0, nodes.message().0];
    for worker in ready {
        nodes.send(worker, &json!({ "task": tasks.pop_front() }));
    }
    while results.len() < 4 {
        let (worker, message) = nodes.message();
        results.push((message["task"].as_u64().unwrap(), message["result"].as_u64().unwrap()));
        // A worker takes the next when it is done.
        if let Some(task) = tasks.pop_front() {
            nodes.send(worker, &json!({ "task": task }));
        }
    }
    results.sort_unstable();
    assert_eq!(results, [(22, 17711), (22, 17711), (23, 28657), (24, 46368)]);
    nodes.primary().disconnect_all().unwrap();
    for _ in 0..2 {
        let (_, status, agreed) = nodes.exit();
        assert_eq!((status, agreed), (ExitStatus::Code(0), true));
    }
}
