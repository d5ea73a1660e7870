//! Who gets a connection, policy by policy, with real processes and clients from many addresses.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use everycore::{Cluster, Dialect, Policy, Serialization};
use everycore_sys::signals::number::{CONT, HUP, KILL, STOP, TTIN, TTOU};
use socket2::{Domain, Socket, Type};
use support::{Example, PATIENCE, cpu_ticks, number_after, signal_pid, until};

/// A server whose workers answer with their slot, its address and the workers' pids in the order of their ids.
fn serve(workers: usize, most: u64, policy: &str) -> (Example, SocketAddr, Vec<u32>) {
    serve_with(workers, &[&most.to_string(), policy])
}

fn serve_with(workers: usize, more: &[&str]) -> (Example, SocketAddr, Vec<u32>) {
    let server = Example::start("limits", &[&["127.0.0.1:0", &workers.to_string()], more].concat());
    let lines: Vec<String> = (0..workers).map(|_| server.line_with("listens on")).collect();
    let address = lines[0].rsplit(' ').next().unwrap().parse().unwrap();
    let mut pids: Vec<(u32, u32)> =
        lines.iter().map(|line| (number_after(line, "worker"), number_after(line, "(pid"))).collect();
    pids.sort_unstable();
    (server, address, pids.into_iter().map(|(_, pid)| pid).collect())
}

/// Connects from 127.0.0.`host`.
fn connect(address: SocketAddr, host: u8) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The slot that answers.
fn slot(stream: &mut TcpStream) -> u32 {
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).unwrap();
    std::str::from_utf8(&answer).unwrap().trim().parse().unwrap()
}

const HOSTS: std::ops::RangeInclusive<u8> = 1..=100;

/// Which slot serves which address; each is asked twice, and again while the first is open.
fn mapping(address: SocketAddr) -> BTreeMap<u8, u32> {
    let ask = |host| {
        let (mut first, mut second) = (connect(address, host), connect(address, host));
        let slots = (slot(&mut first), slot(&mut second));
        assert_eq!(slots.0, slots.1, "127.0.0.{host} is served by two workers");
        (host, slots.0)
    };
    HOSTS.map(ask).collect()
}

#[test]
fn sticky_keeps_each_address_at_its_slot_whatever_becomes_of_the_workers() {
    let (server, address, pids) = serve(4, 0, "sticky");
    let before = mapping(address);
    for slot in 0..4 {
        let share = before.values().filter(|&&at| at == slot).count();
        assert!((8..=48).contains(&share), "{share} of 100 addresses in slot {slot}");
    }

    signal_pid(pids[2], KILL);
    server.line_with("killed");
    server.line_with("listens on");
    assert_eq!(mapping(address), before, "after a restart");

    server.signal(HUP);
    let (mut began, mut ended) = (0, 0);
    while began < 4 || ended < 4 {
        let line = server.line();
        began += usize::from(line.contains("listens on"));
        ended += usize::from(line.contains("exited"));
    }
    assert_eq!(mapping(address), before, "after a reload");

    server.signal(TTIN);
    server.line_with("listens on");
    let after = mapping(address);
    let moved: Vec<u8> = HOSTS.filter(|host| before[host] != after[host]).collect();
    assert!(moved.iter().all(|host| after[host] == 4), "whoever moved went to the new slot");
    assert!((5..=40).contains(&moved.len()), "{} of 100 moved, 20 would be fair", moved.len());
    println!("moved by a fifth worker: {} of 100, at least 20 have to", moved.len());
}

#[test]
fn sticky_waits_for_the_right_worker_and_holds_up_nobody_else() {
    let (_server, address, pids) = serve(2, 0, "sticky");
    let homes = mapping(address);
    let (mine, others) = (*homes.iter().find(|(_, slot)| **slot == 0).unwrap().0, 1);
    signal_pid(pids[0], STOP);
    // More than its credit: some lie in its channel, the others in the primary.
    let mut waiting: Vec<TcpStream> = (0..40).map(|_| connect(address, mine)).collect();
    for (host, _) in homes.iter().filter(|(_, slot)| **slot == others) {
        assert_eq!(slot(&mut connect(address, *host)), others);
    }
    signal_pid(pids[0], CONT);
    for stream in &mut waiting {
        slot(stream);
    }
}

#[test]
fn sticky_spills_to_the_next_worker_when_too_many_wait() {
    everycore_sys::limits::raise_nofile_limit().unwrap();
    let (server, address, pids) = serve(2, 1, "sticky");
    let mut first = connect(address, 1);
    let home = slot(&mut first);
    // 1,024 wait for their worker, one in the backlog for whoever is free: the other one.
    let mut others: Vec<TcpStream> = (0..1_025).map(|_| connect(address, 1)).collect();
    assert_eq!(slot(&mut others[1_024]), 1 - home);
    // The one that is closed makes room for the one that has waited longest.
    drop(first);
    assert_eq!(slot(&mut others[0]), home);
    signal_pid(pids[home as usize], KILL);
    assert_eq!(number_after(&server.line_with("killed"), "; "), 1, "one has spilled");
}

#[test]
fn a_full_cluster_leaves_connections_in_the_backlog_until_one_is_closed() {
    for policy in ["least", "rr"] {
        let (server, address, _) = serve(2, 2, policy);
        let mut open: Vec<TcpStream> = (0..4).map(|_| connect(address, 1)).collect();
        let mut slots: Vec<u32> = open.iter_mut().map(slot).collect();
        slots.sort_unstable();
        assert_eq!(slots, [0, 0, 1, 1], "{policy}");

        let mut late: Vec<TcpStream> = (0..3).map(|_| connect(address, 1)).collect();
        late[0].set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let before = cpu_ticks(server.pid());
        assert!(late[0].read(&mut [0]).is_err(), "{policy}: a full worker was given a connection");
        let used = cpu_ticks(server.pid()) - before;
        assert!(used < 10, "{policy}: the primary used {used} ticks of 10 ms while it waited");
        late[0].set_read_timeout(Some(PATIENCE)).unwrap();

        for stream in &mut late {
            let mut closing = open.remove(0);
            closing.write_all(b"x").unwrap();
            drop(closing);
            slot(stream);
        }
    }
}

#[test]
fn a_full_listener_leaves_connections_in_the_backlog_until_one_is_closed() {
    let (server, address, _) = serve_with(2, &["0", "least", "3"]);
    // A worker that has not come to rest since it started is passed over for one that has.
    let mut open: Vec<TcpStream> = Vec::new();
    until("both workers hold some", || {
        open.clear();
        open.extend((0..3).map(|_| connect(address, 1)));
        let slots: Vec<u32> = open.iter_mut().map(slot).collect();
        slots.contains(&0) && slots.contains(&1)
    });
    let mut late = connect(address, 1);
    late.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let before = cpu_ticks(server.pid());
    assert!(late.read(&mut [0]).is_err(), "the listener was full");
    let used = cpu_ticks(server.pid()) - before;
    assert!(used < 10, "the primary used {used} ticks of 10 ms while it waited");
    late.set_read_timeout(Some(PATIENCE)).unwrap();
    drop(open.pop());
    slot(&mut late);
}

#[test]
fn a_policy_of_ones_own_decides() {
    let server = Example::start("custom_policy", &["127.0.0.1:0", "3"]);
    let lines = [server.line_with("listens on"), server.line_with("listens on")];
    let address = lines[0].rsplit(' ').next().unwrap().parse().unwrap();
    let mut open: Vec<TcpStream> = Vec::new();
    let mut workers = Vec::new();
    for _ in 0..6 {
        let mut stream = connect(address, 1);
        workers.push(slot(&mut stream));
        open.push(stream);
    }
    assert_eq!(workers, [1, 1, 1, 2, 2, 2], "the first worker is filled first");
}

#[test]
fn under_reuseport_a_replacement_serves_who_waited_for_its_predecessor() {
    // With nobody else there, none of them can be adopted.
    let (server, address, pids) = serve(1, 0, "reuseport");
    signal_pid(pids[0], STOP);
    let mut clients: Vec<TcpStream> = (0..100).map(|_| connect(address, 1)).collect();
    signal_pid(pids[0], KILL);
    server.line_with("killed");
    assert!(clients.iter_mut().all(|client| slot(client) == 0));
}

#[test]
fn a_reuseport_slot_that_is_scaled_away_gets_nothing_more() {
    let (server, address, _) = serve(3, 0, "reuseport");
    server.signal(TTOU);
    server.line_with("exited");
    for _ in 0..60 {
        assert!(slot(&mut connect(address, 1)) < 2);
    }
}

#[test]
fn rules_send_source_networks_to_their_class() {
    let server = Example::start("route", &["127.0.0.1:0"]);
    let lines = [(); 3].map(|()| server.line_with("listens on"));
    let address = lines[0].rsplit(' ').next().unwrap().parse().unwrap();
    let answer = |host| {
        let mut answer = String::new();
        connect(address, host).read_to_string(&mut answer).unwrap();
        answer
    };
    for _ in 0..20 {
        assert_eq!(answer(2), "2 special --special\n");
        for host in [1, 3] {
            let normal = answer(host);
            assert!(normal.ends_with(" normal --normal\n") && !normal.starts_with('2'), "{normal}");
        }
    }
}

#[test]
fn what_cannot_work_is_refused_and_names_what_can() {
    let refused = |cluster: Cluster| cluster.run().unwrap_err().to_string();
    let shared = refused(Cluster::builder().policy(Policy::Shared).max_connections(1));
    assert!(shared.contains("choose round-robin, least, sticky or route"), "{shared}");
    let node = Dialect::Node(Serialization::Json);
    let silent = Cluster::builder().dialect(node).preload(false).policy(Policy::Least);
    let node = refused(silent.max_connections(1));
    assert!(node.contains("server.maxConnections"), "{node}");
    let zero = refused(Cluster::builder().policy(Policy::Least).max_connections(0));
    assert!(zero.contains("limits.per_worker: must be at least 1"), "{zero}");
}
