//! A socket for every slot: nobody is left in one that no worker accepts from.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use everycore_sys::signals::number::{CONT, HUP, KILL, STOP, TERM, TTIN, TTOU, WINCH};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use support::{Example, PATIENCE, example, number_after, signal_pid, until};

/// A server with its address and the pids of its workers by slot.
fn serve(args: &[&str]) -> (Example, SocketAddr, BTreeMap<u32, u32>) {
    // A session of its own has no terminal, also where the tests have one.
    let program = example("reuseport").into_os_string().into_string().unwrap();
    let server = Example::start_program("setsid", &[&[program.as_str()], args].concat(), &[]);
    let workers: u32 = args[1].parse().unwrap();
    let lines: Vec<String> = (0..workers).map(|_| server.line_with("listens on")).collect();
    let address = lines[0].rsplit(['/', ' ']).next().unwrap().parse().unwrap();
    // The first workers are numbered in the order of their slots.
    let pid = |line: &String| (number_after(line, "worker") - 1, number_after(line, "(pid"));
    (server, address, lines.iter().map(pid).collect())
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn slot(stream: &mut TcpStream) -> u32 {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.trim().parse().unwrap()
}

/// The slots that answer so many connections.
fn slots(address: SocketAddr, count: usize) -> BTreeSet<u32> {
    let mut clients: Vec<TcpStream> = (0..count).map(|_| connect(address)).collect();
    clients.iter_mut().map(slot).collect()
}

fn stop(mut server: Example) {
    server.signal(TERM);
    server.rest();
    assert!(server.wait().success());
}

#[test]
fn others_adopt_the_socket_of_a_slot_that_nobody_fills() {
    let (server, address, pids) = serve(&["127.0.0.1:0", "3", "once"]);
    // Whoever adopted a socket while its own worker was starting may have yet to hear that it is there.
    until("each slot serves", || slots(address, 200) == BTreeSet::from([0, 1, 2]));
    // The slot that has the socket which was bound first is none that matters more.
    for (victim, left) in [(0, BTreeSet::from([1, 2])), (2, BTreeSet::from([1]))] {
        signal_pid(pids[&victim], KILL);
        server.line_with("killed");
        assert_eq!(slots(address, 200), left, "every one is answered");
    }
    stop(server);
}

#[test]
fn an_adopter_that_dies_is_followed_by_another_one() {
    let (server, address, pids) = serve(&["127.0.0.1:0", "4", "once"]);
    for victim in 0..3 {
        // They come in while the victim is stopped: some lie in its own socket, some in one that it has adopted.
        signal_pid(pids[&victim], STOP);
        let mut waiting: Vec<TcpStream> = (0..200).map(|_| connect(address)).collect();
        signal_pid(pids[&victim], KILL);
        server.line_with("killed");
        let answered = waiting.iter_mut().map(slot).collect::<BTreeSet<u32>>();
        assert!(answered.contains(&3) && !answered.contains(&victim), "{answered:?}");
    }
    stop(server);
}

#[test]
fn a_slot_that_is_filled_again_has_its_socket_back() {
    let (server, address, pids) = serve(&["127.0.0.1:0", "2"]);
    signal_pid(pids[&1], KILL);
    server.line_with("listens on");
    until("both slots serve again", || slots(address, 50) == BTreeSet::from([0, 1]));
    server.signal(HUP);
    // The old one may go after the next new one has come.
    let (mut began, mut ended) = (0, 0);
    while began < 2 || ended < 2 {
        let line = server.line();
        began += usize::from(line.contains("listens on"));
        ended += usize::from(line.contains("exited"));
    }
    until("both slots serve after a reload", || slots(address, 50) == BTreeSet::from([0, 1]));
    stop(server);
}

#[test]
fn whoever_waits_for_a_slot_that_is_scaled_away_is_served_by_another_one() {
    let (server, address, pids) = serve(&["127.0.0.1:0", "3"]);
    signal_pid(pids[&2], STOP);
    let mut waiting: Vec<TcpStream> = (0..200).map(|_| connect(address)).collect();
    server.signal(TTOU);
    server.line_with("killed");
    assert_eq!(waiting.iter_mut().map(slot).collect::<BTreeSet<u32>>(), BTreeSet::from([0, 1]));
    assert_eq!(slots(address, 100), BTreeSet::from([0, 1]));
    server.signal(TTIN);
    server.line_with("listens on");
    until("the new worker serves", || slots(address, 50) == BTreeSet::from([0, 1, 2]));
    stop(server);
}

#[test]
fn a_socket_of_a_slot_that_was_scaled_away_stays_open_while_there_is_nobody_to_adopt_it() {
    let (server, address, pids) = serve(&["127.0.0.1:0", "2"]);
    server.signal(TTOU);
    server.line_with("exited");
    // Some come to lie in the socket of the slot that is gone, and the only one who could adopt it dies.
    signal_pid(pids[&0], STOP);
    let mut waiting: Vec<TcpStream> = (0..100).map(|_| connect(address)).collect();
    signal_pid(pids[&0], KILL);
    server.line_with("killed");
    assert_eq!(waiting.iter_mut().map(slot).collect::<BTreeSet<u32>>(), BTreeSet::from([0]));
    stop(server);
}

#[test]
fn whoever_comes_while_all_workers_are_let_go_is_served_by_those_who_come_back() {
    let (server, address, pids) = serve(&["127.0.0.1:0", "2"]);
    // Some lie in the sockets already when their workers are told to go, the others find none.
    pids.values().for_each(|pid| signal_pid(*pid, STOP));
    let mut waiting: Vec<TcpStream> = (0..100).map(|_| connect(address)).collect();
    server.signal(WINCH);
    pids.values().for_each(|pid| signal_pid(*pid, CONT));
    server.line_with("exited");
    server.line_with("exited");
    waiting.extend((0..100).map(|_| connect(address)));
    server.signal(HUP);
    waiting.iter_mut().map(slot).for_each(|slot| assert!(slot < 2, "{slot}"));
    until("both slots serve", || slots(address, 50) == BTreeSet::from([0, 1]));
    stop(server);
}

/// Sets how many descriptors a server may have; how many it might before.
fn limit(server: &Example, limit: Rlimit) -> Rlimit {
    let pid = Pid::from_raw(server.pid().try_into().unwrap());
    prlimit(pid, Resource::Nofile, limit).unwrap()
}

/// Whether a process sleeps.
fn is_asleep(server: &Example) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('S')
}

#[test]
fn a_socket_that_no_descriptor_was_left_for_is_adopted_later() {
    let (server, address, pids) = serve(&["127.0.0.1:0", "2", "once"]);
    let before = rustix::process::getrlimit(Resource::Nofile);
    let before = limit(&server, Rlimit { current: Some(3), maximum: before.maximum });
    signal_pid(pids[&0], KILL);
    server.line_with("killed");
    until("the primary has tried", || is_asleep(&server));
    limit(&server, before);
    assert_eq!(slots(address, 100), BTreeSet::from([1]));
    stop(server);
}

/// Asks from many ports until each was answered; the slots that did.
fn datagrams(address: SocketAddr) -> BTreeSet<u32> {
    let ask = |_| {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut answer = [0; 16];
        for _ in 0..PATIENCE.as_millis() / 500 {
            client.send(b"?").unwrap();
            if let Ok(length) = client.recv(&mut answer) {
                return std::str::from_utf8(&answer[..length]).unwrap().trim().parse().unwrap();
            }
        }
        panic!("a client is never answered");
    };
    (0..60).map(ask).collect()
}

#[test]
fn every_slot_has_a_udp_socket_and_a_lost_one_is_closed() {
    let (server, address, pids) = serve(&["udp://127.0.0.1:0", "3", "once"]);
    assert_eq!(datagrams(address), BTreeSet::from([0, 1, 2]));
    for (victim, left) in [(0, BTreeSet::from([1, 2])), (2, BTreeSet::from([1]))] {
        signal_pid(pids[&victim], KILL);
        server.line_with("killed");
        assert_eq!(datagrams(address), left);
    }
    stop(server);
}

#[test]
fn a_replaced_worker_reads_its_slots_udp_socket_again() {
    let (server, address, pids) = serve(&["udp://127.0.0.1:0", "2"]);
    signal_pid(pids[&0], KILL);
    server.line_with("listens on");
    until("both slots answer", || datagrams(address) == BTreeSet::from([0, 1]));
    stop(server);
}
