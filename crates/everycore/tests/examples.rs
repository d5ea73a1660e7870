//! Each example of this package does what its header says. The S numbers are those of the model.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use everycore_sys::signals::number::{KILL, TERM};
use support::{Example, PATIENCE, ask, number_after, signal_pid, until};

#[cfg(feature = "axum")]
#[test]
fn s7_http_on_one_port_with_workers_replaced() {
    let mut example = Example::start("s07_http", &["0"]);
    let workers = everycore::auto();
    assert_eq!(example.line(), format!("primary {} starts {workers} workers", example.pid()));
    let lines: Vec<String> = (0..workers).map(|_| example.line_with("http://")).collect();
    let address = address_in(&lines[0]);
    assert!(lines.iter().all(|line| address_in(line) == address), "one port for all: {lines:?}");
    let pids: HashSet<u32> = lines.iter().map(|line| number_after(line, "(pid")).collect();
    let answer = support::get(address, "/").unwrap();
    let pid = number_after(&answer, "hello from");
    assert!(pids.contains(&pid), "{answer}");

    signal_pid(pid, KILL);
    assert!(example.line().ends_with("killed by SIGKILL"));
    let replacement = example.line_with("http://");
    assert_eq!(address_in(&replacement), address);
    assert!(!pids.contains(&number_after(&replacement, "(pid")));
    until("the replacement serves", || {
        support::get(address, "/").unwrap() == format!("hello from {}", number_after(&replacement, "(pid"))
    });
    example.signal(TERM);
    example.rest();
    assert!(example.wait().success());
    assert!(TcpStream::connect(address).is_err(), "the port is free");
}

#[cfg(feature = "axum")]
#[test]
fn s7_exits_are_only_logged_when_asked() {
    let example = Example::start("s07_http", &["0", "--log-only"]);
    let lines: Vec<String> = (0..everycore::auto()).map(|_| example.line_with("http://")).collect();
    let address = address_in(&lines[0]);
    for line in &lines[1..] {
        signal_pid(number_after(line, "(pid"), KILL);
        assert!(example.line().ends_with("killed by SIGKILL"));
    }
    let survivor = format!("hello from {}", number_after(&lines[0], "(pid"));
    assert_eq!(support::get(address, "/").unwrap(), survivor);
}

#[test]
fn s8_tcp_with_exits_logged_by_code_and_signal() {
    let mut example = Example::start("s08_tcp", &["127.0.0.1:0", "2"]);
    let address = example.address();
    example.address();
    let first: u32 = ask(address, "").unwrap().trim().parse().unwrap();
    signal_pid(first, KILL);
    let line = example.line();
    assert!(line.contains(&format!("(pid {first}) killed by SIGKILL; a new one follows")), "{line}");
    let online = example.line();
    assert!(online.ends_with("is online"), "{online}");
    example.line_with("listens on");
    let seen: HashSet<String> = (0..8).map(|_| ask(address, "").unwrap()).collect();
    assert!(!seen.contains(&format!("{first}\n")));
    assert_eq!(seen.len(), 2);
    example.signal(TERM);
    assert!(example.wait().success());
}

#[test]
fn s9_one_bind_per_address_for_all_workers() {
    for policy in ["rr", "none"] {
        one_bind_per_address(policy);
    }
}

fn one_bind_per_address(policy: &str) {
    let env = [("NODE_CLUSTER_SCHED_POLICY", policy)];
    let example = Example::start_with("s09_listen", &["127.0.0.1:0"], &env);
    let mut ports: HashMap<u32, Vec<SocketAddr>> = HashMap::new();
    let mut refusals = 0;
    while ports.values().map(Vec::len).sum::<usize>() < 6 || refusals < 2 {
        let line = example.line();
        if line.contains("again: ") {
            assert!(line.contains("this worker listens there already"), "{line}");
            refusals += 1;
        } else {
            ports.entry(number_after(&line, "worker")).or_default().push(address_in(&line));
        }
    }
    assert_eq!(ports[&1], ports[&2], "both share each of the three");
    let distinct: HashSet<&SocketAddr> = ports[&1].iter().collect();
    assert_eq!(distinct.len(), 3, "three listeners on port 0 in one worker have three ports");
    for address in &ports[&1] {
        assert!(ask(*address, "").unwrap().trim().ends_with(&address.to_string()));
    }
}

#[test]
fn s10_policies_from_argument_environment_and_default() {
    const VARIABLE: &str = "NODE_CLUSTER_SCHED_POLICY";
    let cases = [
        (Some("rr"), None, Spread::InTurn),
        (None, Some("rr"), Spread::InTurn),
        (None, None, Spread::Even),
        (None, Some("none"), Spread::Whoever),
    ];
    for (argument, variable, expected) in cases {
        let args: Vec<&str> = ["127.0.0.1:0"].into_iter().chain(argument).collect();
        let env: Vec<(&str, &str)> = variable.map(|policy| (VARIABLE, policy)).into_iter().collect();
        let example = Example::start_with("s10_policies", &args, &env);
        let address = example.address();
        example.address();
        let mut of: HashMap<u32, usize> = HashMap::new();
        let mut held = Vec::new();
        // A worker that the machine keeps from running is passed over; what counts is where it ends up.
        until("connections are spread", || {
            let mut client = BufReader::new(TcpStream::connect(address).unwrap());
            let mut answer = String::new();
            client.read_line(&mut answer).unwrap();
            *of.entry(answer.trim().parse().unwrap()).or_default() += 1;
            held.push(client);
            let (one, two) = (of.get(&1).copied().unwrap_or(0), of.get(&2).copied().unwrap_or(0));
            held.len() >= 40
                && match expected {
                    Spread::Even => one.abs_diff(two) <= 1,
                    Spread::InTurn => one.min(two) >= held.len() / 4,
                    Spread::Whoever => true,
                }
        });
    }
}

enum Spread {
    Even,
    InTurn,
    Whoever,
}

#[test]
fn s11_events_come_in_order_and_messages_both_ways() {
    let mut example = Example::start("s11_events", &[]);
    let lines = example.rest();
    assert!(example.wait().success());
    let about = |id: u32| -> Vec<String> {
        let name = format!("worker {id} (");
        lines.iter().filter(|line| line.contains(&name)).map(|line| line.replace(": ", " ")).collect()
    };
    for (id, end) in
        [(1, "exited with code 0, after disconnect true"), (2, "killed by SIGKILL, after disconnect false")]
    {
        let lines = about(id);
        let words: Vec<&str> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(words, ["fork", "online", "message", "disconnect", "exit"], "{lines:#?}");
        assert!(lines[2].ends_with("says hi there"), "{lines:#?}");
        assert!(lines[4].ends_with(end), "{lines:#?}");
    }
    assert_eq!(lines.last().unwrap(), "all workers have gone");
}

#[test]
fn s12_the_primary_counts_what_the_workers_serve() {
    let example = Example::start("s12_count", &["127.0.0.1:0", "2"]);
    let address = example.address();
    for _ in 0..50 {
        assert_eq!(support::get(address, "/").unwrap(), "ok");
    }
    example.line_with("requests: 50");
}

#[test]
fn s13_work_is_spread_collected_and_ended() {
    let mut example = Example::start("s13_cpu_work", &["20", "21", "22", "23"]);
    let lines = example.rest();
    assert!(example.wait().success());
    let workers = everycore::auto().min(4);
    assert_eq!(lines.iter().filter(|line| line.contains("tasks over")).count(), 1, "the banner prints once");
    assert_eq!(lines[0], format!("4 tasks over {workers} workers"));
    for result in ["fibo(20) = 6765", "fibo(21) = 10946", "fibo(22) = 17711", "fibo(23) = 28657"] {
        assert!(lines.iter().any(|line| line.ends_with(result)), "{lines:#?}");
    }
    assert!(lines[lines.len() - 2].starts_with("total time: "), "{lines:#?}");
    assert_eq!(lines.last().unwrap(), "done");
}

#[test]
fn s14_workers_finish_what_they_have_and_leave() {
    let mut example = Example::start("s14_disconnect", &["127.0.0.1:0", "200"]);
    let address = example.address();
    example.address();
    let mut waiting: Vec<TcpStream> = (0..6).map(|_| TcpStream::connect(address).unwrap()).collect();
    for stream in &mut waiting {
        stream.write_all(b"hello\n").unwrap();
    }
    let last = ask(address, "stop\n").unwrap();
    assert!(last.starts_with("bye from"), "{last}");
    for mut stream in waiting {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("bye from"), "{answer}");
    }
    let lines = example.rest();
    let exits: Vec<&String> = lines.iter().filter(|line| line.contains("exited")).collect();
    assert_eq!(exits.len(), 2, "{lines:#?}");
    assert!(
        exits.iter().all(|line| line.ends_with("exited with code 0, after disconnect: true")),
        "{lines:#?}"
    );
    assert!(example.wait().success());
}

#[test]
fn s14_the_deadline_ends_a_worker_that_is_not_done() {
    let mut example = Example::start("s14_disconnect", &["127.0.0.1:0", "600000", "300"]);
    let address = example.address();
    example.address();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"stop\n").unwrap();
    let lines = example.rest();
    assert!(lines.iter().any(|line| line.contains("killed by SIGTERM")), "{lines:#?}");
    assert!(example.wait().success());
}

#[test]
fn messages_to_all_with_answers_deadlines_and_sockets() {
    let mut example = Example::start("messages", &[]);
    let mut online = [example.line(), example.line()];
    online.sort();
    assert_eq!(online, ["worker 1 is online", "worker 2 is online"]);
    for line in [
        "broadcast reaches 2 workers",
        "[\"worker 1: heard hello all\", \"worker 2: heard hello all\"]",
        "worker 1 adds up to 6",
        "worker 2 did not answer within 50ms",
        "there is no worker 9",
        "worker 2 greets \"the client\"",
        "",
        "worker 1 asked for the time: {\"time\":null} true",
        "done",
    ] {
        assert_eq!(example.line(), line);
    }
    assert!(example.wait().success());
}

fn address_in(line: &str) -> SocketAddr {
    let at = line.find("127.0.0.1:").unwrap_or_else(|| panic!("no address in '{line}'"));
    line[at..].trim_end_matches('/').parse().unwrap()
}
