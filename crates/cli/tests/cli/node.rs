//! Unmodified Node programs: `cluster` finds its primary in us.

use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::harness::{Directory, Load, Running, everyone, get, pid_in, send};

const SERVER: &str = r#"
require("http")
    .createServer((request, response) => response.end(`worker ${process.env.NODE_APP_INSTANCE} (pid ${process.pid})\n`))
    .listen(0, "127.0.0.1");
"#;

/// A directory with the program: what `node -e` runs is no cluster worker.
fn server(test: &str) -> (Directory, String) {
    let directory = Directory::new(test);
    let path = directory.path("server.js");
    std::fs::write(&path, SERVER).unwrap();
    (directory, path)
}

/// Whether there is a Node to test with; where there has to be one, its absence fails.
#[expect(clippy::print_stderr, reason = "who reads the test's output should know what was not tested")]
fn node() -> bool {
    let found =
        Command::new("node").arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success());
    assert!(found || std::env::var_os("EVERYCORE_REQUIRE_PEERS").is_none(), "node is not installed");
    if !found {
        eprintln!("skipped: node is not installed");
    }
    found
}

#[test]
fn a_node_server_runs_on_every_core() {
    if !node() {
        return;
    }
    let (_directory, server) = server("node-server");
    for policy in ["rr", "least", "shared", "reuseport"] {
        let mut run = Running::start(&["run", "-w", "2", "--policy", policy, "--", "node", &server]);
        let address = run.address();
        let ready = run.ready(2);
        assert_eq!(everyone(address, 2), ready.iter().copied().collect(), "{policy}");
        send(ready[0], Signal::KILL);
        run.line("killed by SIGKILL");
        assert_eq!(get(address, "/").unwrap().status, 200, "the other one answers");
        run.line("is ready in place of");
        let text = run.stop();
        assert!(text.contains("has left (stop)"), "{text}");
    }
}

#[test]
fn a_reload_rolls_through_node_workers() {
    if !node() {
        return;
    }
    let (_directory, server) = server("node-reload");
    let mut run = Running::start(&["run", "-w", "2", "--", "node", &server]);
    let address = run.address();
    let old = run.ready(2);
    let loads = [Load::start(address), Load::keeping(address), Load::keeping(address)];
    for _ in 0..2 {
        run.signal(Signal::HUP);
        run.line("reload done");
    }
    assert!(loads.into_iter().all(|load| load.stop() > 0));
    assert!(!old.contains(&pid_in(&get(address, "/").unwrap().body)));
    run.stop();
}

#[test]
fn classes_of_node_workers_have_their_arguments_and_their_connections() {
    if !node() {
        return;
    }
    let directory = Directory::new("node-classes");
    let path = directory.path("server.js");
    let told = "`${process.env.EVERYCORE_CLASS} ${process.argv.slice(2).join(' ')} (pid ${process.pid})\\n`";
    let server = format!(
        "require('http').createServer((request, response) => response.end({told})).listen(0, '127.0.0.1');"
    );
    std::fs::write(&path, server).unwrap();
    let classes = ["--class", "web=1", "--class", "vip=2,policy=rr", "--class-arg", "vip=--fast"];
    let route = ["--route", "192.0.2.0/24=web", "--route", "127.0.0.0/8=vip"];
    let command = ["--", "node", &path, "{class}"];
    let mut run = Running::start(&[&["run"], &classes[..], &route, &command].concat());
    let address = run.address();
    let ready = run.ready(3);
    let answered = everyone(address, 2);
    assert!(answered.is_subset(&ready.into_iter().collect()), "{answered:?}");
    let body = get(address, "/").unwrap().body;
    assert!(body.starts_with("vip vip --fast (pid "), "{body}");
    run.stop();
}
