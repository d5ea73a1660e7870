//! Each example of this package does what its header says. The S numbers are those of the model.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use everycore_ipc::{PidFd, WaitStatus};
use support::{Example, PATIENCE, ask, converse, last_number, until};

#[test]
fn s1_one_child_per_cpu_echoes_what_was_sent_before_it_started() {
    let example = Example::start("s01_fork_echo", &[]);
    let lines = example.rest();
    assert_eq!(example.wait(), WaitStatus::Code(0));
    let cpus = everycore_sys::cpu::available_cpus();
    for number in 1..=cpus {
        let got = lines.iter().find(|line| line.ends_with(&format!(": got: hello child {number}"))).unwrap();
        let pid = last_number(got.split(':').next().unwrap());
        assert!(lines.contains(&format!("parent: child {pid} says: hello child {number}")), "{lines:?}");
        assert!(lines.contains(&format!("parent: child {pid} exited with code 0")), "{lines:?}");
    }
    assert_eq!(lines.len(), 3 * cpus, "{lines:?}");
}

#[test]
fn s2_parent_and_child_accept_on_one_port() {
    let example = Example::start("s02_shared_server", &["127.0.0.1:0"]);
    let address = example.address();
    let mut seen = HashSet::new();
    until("both answer", || {
        // Some at once, so that one alone cannot take them all before the other has woken.
        let mut streams: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
        seen.extend(streams.iter_mut().map(|stream| converse(stream, "").unwrap()));
        seen.len() == 2
    });
    assert_eq!(seen, HashSet::from(["handled by parent\n".to_owned(), "handled by child\n".to_owned()]));
    example.kill();
    until("the child leaves with its parent", || TcpStream::connect(address).is_err());
}

#[test]
fn s3_only_the_children_serve() {
    let example = Example::start("s03_server_moves", &["127.0.0.1:0"]);
    let children = [example.line_with("serving"), example.line_with("serving")].map(|line| pid_in(&line));
    let _children = Orphans(children.to_vec());
    let address = example.address();
    assert_eq!(who_serves(address, 2), HashSet::from(children));
    for pid in children {
        PidFd::open(pid).unwrap().signal(9).unwrap();
        assert!(example.line().contains("SIGKILL"));
    }
    assert_eq!(example.wait(), WaitStatus::Code(0));
    assert!(TcpStream::connect(address).is_err(), "the parent held no copy");
}

#[test]
fn s3_the_children_serve_on_when_the_parent_has_left() {
    let example = Example::start("s03_server_moves", &["127.0.0.1:0", "--leave"]);
    let children = [example.line_with("serving"), example.line_with("serving")].map(|line| pid_in(&line));
    let _children = Orphans(children.to_vec());
    let address = example.address();
    assert_eq!(example.wait(), WaitStatus::Code(0));
    assert_eq!(who_serves(address, 2), HashSet::from(children));
}

#[test]
fn s4_sockets_are_spread_in_turn_and_answered_after_a_while() {
    let example = Example::start("s04_spread_sockets", &["127.0.0.1:0", "3"]);
    let address = example.address();
    let start = Instant::now();
    let mut streams: Vec<_> = (0..12).map(|_| TcpStream::connect(address).unwrap()).collect();
    let pids: Vec<u32> =
        streams.iter_mut().map(|stream| last_number(&converse(stream, "").unwrap())).collect();
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(100), "{elapsed:?}");
    assert_eq!(HashSet::<_>::from_iter(&pids).len(), 3, "{pids:?}");
    assert!(pids.chunks(3).all(|turn| turn == &pids[..3]), "in turn: {pids:?}");
    example.kill();
    until("nobody listens", || TcpStream::connect(address).is_err());
}

#[test]
fn s5_routed_by_address_without_reading_a_byte() {
    let example = Example::start("s05_route_by_address", &["127.0.0.1:0", "127.0.0.3", "127.0.0.4"]);
    let address = example.address();
    for (last, role) in [(1, "normal"), (2, "normal"), (3, "special"), (4, "special"), (1, "normal")] {
        let mut stream = connect_from(Ipv4Addr::new(127, 0, 0, last), address);
        let answer = converse(&mut stream, &format!("from {last}, whole\n")).unwrap();
        assert_eq!(answer, format!("request handled with {role} priority: from {last}, whole\n"));
    }
}

#[test]
fn s6_no_handle_and_a_client_that_is_gone() {
    let example = Example::start("s06_lost_in_transit", &["127.0.0.1:0", "1"]);
    let address = example.address();
    example.line_with("a message about a socket came without it");
    // One that is gone by the time its socket is looked at, then the next is served.
    drop(TcpStream::connect(address).unwrap());
    assert_eq!(ask(address, "hello\n").unwrap(), "you said: hello\n");
    example.line_with("a connection was closed: the client was gone");
}

#[test]
fn s6_the_limit_counts_sockets_that_were_handed_off() {
    let example = Example::start("s06_lost_in_transit", &["127.0.0.1:0", "2"]);
    let address = example.address();
    let mut clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    clients[2].write_all(b"third\n").unwrap();
    assert_eq!(converse(&mut clients[1], "second\n").unwrap(), "you said: second\n");
    // Only now is there room for the third.
    let mut answer = String::new();
    clients[2].set_read_timeout(Some(PATIENCE)).unwrap();
    clients[2].read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "you said: third\n");
    assert_eq!(converse(&mut clients[0], "first\n").unwrap(), "you said: first\n");
}

#[test]
fn s6_a_receiver_out_of_descriptors_says_so_and_goes_on() {
    let example = Example::start("s06_lost_in_transit", &["127.0.0.1:0", "9"]);
    let address = example.address();
    example.line_with("without it");
    let child = only_child(example.pid());
    let limit = |soft| {
        let limit = rustix::process::Rlimit { current: Some(soft), maximum: Some(1024) };
        let pid = rustix::process::Pid::from_raw(child.cast_signed());
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).unwrap();
    };
    limit(0);
    let mut lost = TcpStream::connect(address).unwrap();
    assert!(converse(&mut lost, "").is_ok_and(|answer| answer.is_empty()), "the kernel has closed it");
    limit(1024);
    assert_eq!(ask(address, "again\n").unwrap(), "you said: again\n");
}

#[test]
fn s16_a_balancer_spreads_evenly_and_survives_its_children() {
    let example = Example::start("s16_load_balancer", &["127.0.0.1:0", "3"]);
    let line = example.line_with("http://");
    let address: SocketAddr = line.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
    let get = || ask(address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut served: HashMap<u32, u32> = HashMap::new();
    for _ in 0..60 {
        let answer = get().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        *served.entry(last_number(&answer)).or_default() += 1;
    }
    assert_eq!(served.len(), 3);
    assert!(served.values().all(|count| (15..=25).contains(count)), "{served:?}");

    let victim = *served.keys().next().unwrap();
    PidFd::open(victim).unwrap().signal(9).unwrap();
    example.line_with(&format!("child {victim} killed by SIGKILL, forking another"));
    let mut after = HashSet::new();
    until("the replacement serves", || {
        after.extend(get().ok().map(|answer| last_number(&answer)));
        after.len() == 3
    });
    assert!(!after.contains(&victim));
}

/// Processes that live on without their parent; ended when the test is over, however it ends.
struct Orphans(Vec<u32>);

impl Drop for Orphans {
    fn drop(&mut self) {
        for pid in &self.0 {
            if let Ok(process) = PidFd::open(*pid) {
                let _ = process.signal(9);
            }
        }
    }
}

/// `child 4711 is serving`
fn pid_in(line: &str) -> u32 {
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

fn who_serves(address: SocketAddr, count: usize) -> HashSet<u32> {
    let mut pids = HashSet::new();
    until("all children serve", || {
        let mut streams: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
        pids.extend(streams.iter_mut().map(|stream| {
            let answer = converse(stream, "GET / HTTP/1.1\r\n\r\n").unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            last_number(&answer)
        }));
        pids.len() >= count
    });
    pids
}

fn connect_from(source: Ipv4Addr, target: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket: OwnedFd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from((source, 0))).unwrap();
    connect(&socket, &target).unwrap();
    socket.into()
}

fn only_child(parent: u32) -> u32 {
    let text = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    text.trim().parse().unwrap()
}
