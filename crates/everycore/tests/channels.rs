//! Which of the two channels a process takes for its own: a cluster's, by `role()`, and a plain fork's, by `parent()`.
//!
//! Without a harness: children are this very program, and both have to be asked before any thread runs.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says which one ran"
)]

use std::io::Read;
use std::sync::mpsc::channel;
use std::time::Duration;

use everycore::{Cluster, Error, Event, Readiness, Role, Urgency};
use everycore_ipc::{Codec, Fork, Limits, Stdio, WaitStatus, blocking, fork};

/// How long anything may take that should take no time at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which part a child plays; it is never set for the test itself.
const PART: &str = "EVERYCORE_TEST_PART";

const CASES: [(&str, fn()); 5] = [
    ("a_worker_that_asks_for_a_parent_first_is_a_worker_still", worker_asks_for_a_parent_first),
    ("a_plain_child_that_asks_for_its_role_first_keeps_its_channel", child_asks_for_its_role_first),
    ("a_node_worker_whose_channel_is_taken_is_no_primary", node_worker_whose_channel_is_taken),
    ("a_variable_of_another_form_is_nobodys_channel", variable_of_another_form),
    ("what_was_meant_for_a_worker_reaches_no_program_it_forks", helper_of_a_worker),
];

fn main() {
    match std::env::var(PART).as_deref() {
        Ok("parent first") => parent_first(),
        Ok("role first") => role_first(),
        Ok("node parent first") => node_parent_first(),
        Ok("alone") => alone(),
        Ok("forks env") => forks_env(),
        Ok(part) => panic!("no such part: {part}"),
        Err(_) => {
            let wanted: Vec<String> = std::env::args().skip(1).collect();
            let mut filters = wanted.iter().filter(|word| !word.starts_with('-')).peekable();
            let all = filters.peek().is_none();
            let filters: Vec<_> = filters.collect();
            for (name, holds) in CASES {
                if all || filters.iter().any(|word| name.contains(word.as_str())) {
                    holds();
                    println!("test {name} ... ok");
                }
            }
        }
    }
}

// --- the test ---

fn worker_asks_for_a_parent_first() {
    assert_eq!(heard_from_worker("parent first"), "a worker");
}

fn child_asks_for_its_role_first() {
    for fork in [child("role first"), child("role first").env("NODE_UNIQUE_ID", "1")] {
        let parts = fork.spawn_parts().unwrap();
        let channel = blocking::Channel::new(parts.connection.unwrap());
        channel.send("hi").unwrap();
        assert_eq!(channel.recv().unwrap().unwrap().parse::<String>().unwrap(), "hi");
        channel.disconnect().unwrap();
        assert_eq!(parts.pidfd.wait().unwrap(), WaitStatus::Code(0));
    }
}

fn node_worker_whose_channel_is_taken() {
    succeeds(child("node parent first").codec(Codec::Json).env("NODE_UNIQUE_ID", "1"));
}

fn variable_of_another_form() {
    for value in ["", "7", "3,", ",", "x,1:2", "1:2"] {
        succeeds(child("alone").without_channel().env("EVERYCORE_CHANNEL", value));
    }
}

fn helper_of_a_worker() {
    let variables = heard_from_worker("forks env");
    // What this program was started with, EVERYCORE_REQUIRE_PEERS for one, no cluster gave to anybody.
    let given = |line: &str| {
        !line.starts_with(PART) && !std::env::vars().any(|(name, value)| line == format!("{name}={value}"))
    };
    for name in ["NOTIFY_SOCKET", "EVERYCORE_", "LISTEN_", "NODE_CHANNEL", "NODE_UNIQUE_ID"] {
        let found = variables.lines().find(|line| line.starts_with(name) && given(line));
        assert_eq!(found, None, "{variables}");
    }
    assert!(variables.contains("OF_THE_PROGRAM=1"), "{variables}");
}

/// The first message of a cluster's only worker.
fn heard_from_worker(part: &str) -> String {
    let (tell, told) = channel();
    let running = Cluster::builder()
        .workers(1)
        .signals(false)
        .readiness(Readiness::Notify)
        .env(PART, part)
        .env("OF_THE_PROGRAM", "1")
        .on_event(move |_, event| match event {
            Event::Message { message, .. } => drop(tell.send(message.parse::<String>().unwrap())),
            Event::Exit { status, .. } => drop(tell.send(format!("the worker {status}"))),
            _ => {}
        })
        .start()
        .unwrap();
    let heard = told.recv_timeout(PATIENCE).expect("the worker says something, or ends");
    running.primary().stop(Urgency::Fast).unwrap();
    running.wait().unwrap();
    heard
}

fn child(part: &str) -> Fork {
    fork(std::env::current_exe().unwrap()).codec(Codec::Native).env(PART, part)
}

fn succeeds(fork: Fork) {
    assert_eq!(fork.spawn_parts().unwrap().pidfd.wait().unwrap(), WaitStatus::Code(0));
}

// --- the children ---

/// What takes itself for a primary here ends at once: it must not start workers of its own.
fn parent_first() {
    assert!(everycore_ipc::parent().unwrap().is_none(), "a cluster's channel is no plain fork's");
    let Role::Worker(worker) = everycore::role().unwrap() else { panic!("a worker, not a primary") };
    worker.send_blocking("a worker").unwrap();
    while let Ok(Some(_)) = worker.recv_blocking() {}
}

fn role_first() {
    assert!(matches!(everycore::role().unwrap(), Role::Primary(_)));
    let inherited = everycore_ipc::inherited().unwrap().expect("the channel is left to parent()");
    let channel = blocking::Channel::new(inherited.connection(Limits::default()).unwrap());
    while let Some(message) = channel.recv().unwrap() {
        channel.send_message(message).unwrap();
    }
}

fn node_parent_first() {
    assert!(everycore_ipc::parent().unwrap().is_some());
    let error = everycore::role().unwrap_err();
    assert!(matches!(error, Error::Setting(_)) && error.to_string().contains("role()"), "{error}");
}

fn alone() {
    assert!(matches!(everycore::role().unwrap(), Role::Primary(_)));
    assert!(everycore_ipc::parent().unwrap().is_none());
}

fn forks_env() {
    // As a program may that sets up its workers before anything else.
    let Role::Worker(worker) = everycore::role().unwrap() else { panic!("a worker, not a primary") };
    assert!(std::env::var_os("NOTIFY_SOCKET").is_some(), "it is told where to say READY");
    let mut parts = fork("env").stdout(Stdio::Pipe).without_channel().spawn_parts().unwrap();
    let mut variables = String::new();
    parts.stdout.take().unwrap().read_to_string(&mut variables).unwrap();
    parts.pidfd.wait().unwrap();
    worker.send_blocking(&variables).unwrap();
    while let Ok(Some(_)) = worker.recv_blocking() {}
}
