//! `demo`: what a new user meets first.

use std::io::Write;
use std::net::TcpListener;

use rustix::process::Signal;

use crate::harness::{Load, Running, answer, ask, connect, everyone, get, pid_in, send};

fn demo(workers: &str) -> Running {
    Running::start(&["demo", "-w", workers, "-b", "127.0.0.1:0"])
}

#[test]
fn every_worker_answers_and_says_who_it_is() {
    for policy in ["rr", "least", "shared"] {
        let mut demo = Running::start(&["demo", "-w", "2", "-b", "127.0.0.1:0", "--policy", policy]);
        let address = demo.address();
        let ready = demo.ready(2);
        let answer = get(address, "/").unwrap();
        assert!(answer.body.starts_with("hello from worker ") && answer.body.ends_with(")\n"), "{answer:?}");
        assert_eq!(everyone(address, 2), ready.into_iter().collect(), "{policy}");
        let text = demo.stop();
        assert!(text.ends_with("everycore: stopped"), "{text}");
    }
}

#[test]
fn a_killed_worker_is_replaced_and_no_other_request_suffers() {
    let mut demo = demo("3");
    let address = demo.address();
    let pids = demo.ready(3);
    for victim in pids {
        // Requests on other workers go on while one is killed; what the victim holds is its own loss.
        let mut slow = connect(address).unwrap();
        ask(&mut slow, "/slow?ms=300").unwrap();
        send(victim, Signal::KILL);
        demo.line(&format!("(pid {victim}) killed by SIGKILL"));
        let held = answer(&mut slow);
        assert!(held.is_ok_and(|a| a.body.contains("took 300 ms")) || get(address, "/").is_ok());
        demo.line("is ready in place of");
    }
    everyone(address, 3);
    demo.stop();
}

#[test]
fn a_crash_costs_its_own_request_only() {
    let mut demo = demo("2");
    let address = demo.address();
    demo.ready(2);
    assert!(get(address, "/crash").is_err());
    demo.line("killed by SIGABRT");
    assert_eq!(get(address, "/").unwrap().status, 200, "the other one answers");
    demo.line("is ready in place of");
    everyone(address, 2);
    demo.stop();
}

#[test]
fn a_stop_finishes_what_is_being_served() {
    let mut demo = demo("2");
    let address = demo.address();
    demo.ready(2);
    let mut slow = connect(address).unwrap();
    slow.write_all(b"GET /slow?ms=1000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    // Answered after the slow one was taken: connections are handed over in the order they come.
    everyone(address, 2);
    demo.signal(Signal::INT);
    demo.line("stopping");
    let answer = answer(&mut slow).unwrap();
    assert!(answer.body.ends_with("took 1000 ms\n"), "{answer:?}");
    assert!(answer.head.to_ascii_lowercase().contains("connection: close"), "{answer:?}");
    let (code, text) = demo.end();
    assert_eq!(code, Some(0), "{text}");
    assert!(connect(address).is_err(), "the port is free");
}

#[test]
fn a_blocked_worker_gets_nothing_more() {
    let mut demo = demo("2");
    let address = demo.address();
    demo.ready(2);
    let mut blocked = connect(address).unwrap();
    ask(&mut blocked, "/block?ms=2000").unwrap();
    let load = Load::start(address);
    let said = answer(&mut blocked).unwrap();
    assert!(said.body.contains("was blocked for 2000 ms"), "{said:?}");
    assert!(load.stop() > 20, "others were answered meanwhile");
    demo.stop();
}

#[test]
fn a_taken_port_means_the_next_one() {
    // Whoever has it, it is taken.
    let _taken = TcpListener::bind("127.0.0.1:8000");
    let mut demo = Running::start(&["demo", "-w", "1"]);
    demo.line("127.0.0.1:8000 is taken, so this is the next free port");
    let address = demo.address();
    assert!((8001..8100).contains(&address.port()), "{address}");
    demo.ready(1);
    demo.stop();
}

#[test]
fn unknown_paths_are_answered_with_the_known_ones() {
    let mut demo = demo("1");
    let address = demo.address();
    demo.ready(1);
    let answer = get(address, "/nothing").unwrap();
    assert_eq!(answer.status, 404);
    assert_eq!(answer.body, "there is no /nothing; there are / /crash /block?ms=500 /slow?ms=500\n");
    let answer = get(address, "/slow?ms=999999999").unwrap();
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (400, "ms is a number of milliseconds, at most 30000\n")
    );
    demo.stop();
}

#[test]
fn a_reload_under_load_loses_nothing() {
    let mut demo = demo("2");
    let address = demo.address();
    let old = demo.ready(2);
    let load = [Load::start(address), Load::keeping(address), Load::keeping(address)];
    demo.signal(Signal::HUP);
    demo.line("reload done");
    assert!(load.into_iter().all(|load| load.stop() > 0));
    let pid = pid_in(&get(address, "/").unwrap().body);
    assert!(!old.contains(&pid));
    demo.stop();
}

#[test]
fn on_a_unix_socket_it_says_how_curl_gets_there() {
    let directory = crate::harness::Directory::new("demo-unix");
    let path = directory.path("demo.sock");
    let mut demo = Running::start(&["demo", "-w", "1", "-b", &format!("unix:{path}")]);
    let line = demo.line("try: curl ");
    assert!(line.contains(&format!("try: curl --unix-socket {path} http://localhost/ ")), "{line}");
    demo.ready(1);
    demo.stop();
}
