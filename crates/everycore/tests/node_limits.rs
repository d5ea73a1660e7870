//! `max_connections` over Node workers: kept, waited for without spinning, and refused where nobody counts. A program of
//! its own, since it looks at its own processor time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "shared by several modules, each uses a part")]

#[path = "node/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Duration;

use everycore::{Event, Policy};
use support::{Nodes, PATIENCE, Seen, Starts, connect, need_node, read_line};

/// Says its number to whoever connects, and echoes until the client ends.
const ECHO: &str = "report(net.createServer((s) => { s.on('error', () => {}); s.write(`${cluster.worker.id}\\n`); s.pipe(s) }), 0, '127.0.0.1')";

/// Processor time of this process so far, and how often it went to sleep by itself.
fn used() -> (Duration, i64) {
    let (mut nanos, mut switches) = (0, 0);
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        // A thread may have ended meanwhile.
        let text = |name| std::fs::read_to_string(task.join(name)).unwrap_or_default();
        nanos += text("schedstat").split(' ').next().map_or(0, |time| time.parse().unwrap_or(0));
        let status = text("status");
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        switches += count.map_or(0, |count| count.trim().parse().unwrap_or(0));
    }
    (Duration::from_nanos(nanos), switches)
}

/// What is measured is the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn limits_of_node_workers_are_kept_and_nobody_spins() {
    let _alone = ALONE.lock();
    let node = need_node!(served);
    for policy in [Policy::RoundRobin, Policy::Least] {
        let nodes = Nodes::start(node.cluster(ECHO).workers(2).policy(policy).max_connections(2));
        let at = nodes.all_listen(2);
        let mut held: BTreeMap<String, Vec<TcpStream>> = BTreeMap::new();
        for _ in 0..4 {
            let mut client = connect(at);
            held.entry(read_line(&mut client).unwrap()).or_default().push(client);
        }
        assert_eq!((held["1"].len(), held["2"].len()), (2, 2), "{policy}");

        let mut waiting: Vec<TcpStream> = (0..3).map(|_| connect(at)).collect();
        let (time, switches) = used();
        waiting[0].set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        let unserved = read_line(&mut waiting[0]).unwrap_err();
        assert_eq!(unserved.kind(), ErrorKind::WouldBlock, "all are full, and it waits");
        let (time, switches) = (used().0 - time, used().1 - switches);
        assert!(
            time < Duration::from_millis(200) && switches < 200,
            "{time:?}, {switches} wake-ups while full"
        );

        // Whoever has room again gets the next, in the order they came.
        for (client, worker) in waiting.iter_mut().zip(["2", "1", "2"]) {
            drop(held.get_mut(worker).unwrap().pop());
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(read_line(client).unwrap(), worker, "{policy}");
        }
    }
}

#[test]
fn without_reports_a_limit_is_refused() {
    let _alone = ALONE.lock();
    let node = need_node!(Node);
    let error = node.cluster(ECHO).preload(false).max_connections(2).start().unwrap_err().to_string();
    assert!(error.contains("max_connections: without the script"), "{error}");
    if !node.is_node(20) {
        return;
    }
    // Permissions that would refuse the script.
    let mut args = vec!["--permission".into(), "--allow-fs-read=*".into()];
    if node.major < 24 {
        args[0] = "--experimental-permission".into();
    }
    args.extend([support::fixture("run.js").into_os_string(), ECHO.into()]);
    let nodes = Nodes::start(node.cluster("").args(args).max_connections(2));
    nodes.find(|seen| match seen {
        Seen::Other(Event::Error { reason, .. }) if reason.contains("max_connections cannot be kept") => {
            Some(())
        }
        _ => None,
    });
}
