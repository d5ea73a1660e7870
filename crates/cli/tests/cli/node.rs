//! Unmodified Node programs: `cluster` finds its primary in us.

use everycore_peers::Kind;
use rustix::process::Signal;

use crate::harness::{Directory, Load, Running, Runtime, everyone, get, pid_in, send};

const SERVER: &str = r#"
require("http")
    .createServer((request, response) => response.end(`worker ${process.env.NODE_APP_INSTANCE} (pid ${process.pid})\n`))
    .listen(Number(process.env.APP_PORT), "127.0.0.1");
"#;

/// A directory with the program: what `node -e` runs is no cluster worker.
fn server(test: &str) -> (Directory, String) {
    let directory = Directory::new(test);
    let path = directory.path("server.cjs");
    std::fs::write(&path, SERVER).unwrap();
    (directory, path)
}

#[test]
fn a_node_server_runs_on_every_core() {
    let Some(node) = Runtime::find() else { return };
    let (_directory, server) = server("node-server");
    for policy in node.policies() {
        let mut run = node.run(&[&["-w", "2"], *policy].concat(), &server);
        let address = run.address();
        let ready = run.ready(2);
        assert_eq!(everyone(address, 2), ready.iter().copied().collect(), "{policy:?}");
        send(ready[0], Signal::KILL);
        run.line("killed by SIGKILL");
        assert_eq!(get(address, "/").unwrap().status, 200, "the other one answers");
        run.line("is ready in place of");
        let text = run.stop();
        assert!(text.contains("has left (stop)"), "{text}");
    }
}

/// Why Bun is not among those whose workers are chosen.
const ALONE: &str = "Bun's workers accept on sockets of their own: nobody chooses among them";

#[test]
fn a_reload_rolls_through_node_workers() {
    let why = "what waits on a socket of a Bun worker's own is lost when it leaves";
    let Some(node) = Runtime::among(&[Kind::Node, Kind::Deno], why) else { return };
    let (_directory, server) = server("node-reload");
    for policy in node.policies() {
        let mut run = node.run(&[&["-w", "2"], *policy].concat(), &server);
        let address = run.address();
        let old = run.ready(2);
        let loads = [Load::start(address), Load::keeping(address), Load::keeping(address)];
        for _ in 0..2 {
            run.signal(Signal::HUP);
            run.line("reload done");
        }
        assert!(loads.into_iter().all(|load| load.stop() > 0), "{policy:?}");
        assert!(!old.contains(&pid_in(&get(address, "/").unwrap().body)), "{policy:?}");
        run.stop();
    }
}

#[test]
fn the_script_that_a_killed_primary_left_is_removed_by_the_next() {
    let why = "the test looks for the script, which others may not load";
    let Some(node) = Runtime::among(&[Kind::Node], why) else { return };
    let (directory, server) = server("node-script");
    let place = directory.path("runtime");
    std::fs::create_dir(&place).unwrap();
    let scripts = || -> Vec<String> {
        let names = std::fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    };
    let start = || {
        let mut command = node.command(&["-w", "1"], &[&server]);
        command.env("XDG_RUNTIME_DIR", &place);
        let mut run = Running::spawn(command);
        run.ready(1);
        (format!("everycore-{}-0.cjs", run.pid()), run)
    };
    let (left, killed) = start();
    killed.signal(Signal::KILL);
    killed.end();
    assert_eq!(scripts(), [left]);
    let (used, run) = start();
    assert_eq!(scripts(), [used]);
    run.stop();
    assert!(scripts().is_empty());
}

#[test]
fn classes_of_node_workers_have_their_arguments_and_their_connections() {
    let Some(node) = Runtime::among(&[Kind::Node, Kind::Deno], ALONE) else { return };
    let directory = Directory::new("node-classes");
    let path = directory.path("server.cjs");
    let told = "`${process.env.EVERYCORE_CLASS} ${process.argv.slice(2).join(' ')} (pid ${process.pid})\\n`";
    let server = format!(
        "require('http').createServer((request, response) => response.end({told})).listen(0, '127.0.0.1');"
    );
    std::fs::write(&path, server).unwrap();
    let classes = ["--class", "web=1", "--class", "vip=2,policy=rr", "--class-arg", "vip=--fast"];
    let route = ["--route", "192.0.2.0/24=web", "--route", "127.0.0.0/8=vip"];
    let mut run = node.run_with(&[&classes[..], &route].concat(), &[&path, "{class}"]);
    let address = run.address();
    let ready = run.ready(3);
    let answered = everyone(address, 2);
    assert!(answered.is_subset(&ready.into_iter().collect()), "{answered:?}");
    let body = get(address, "/").unwrap().body;
    assert!(body.starts_with("vip vip --fast (pid "), "{body}");
    run.stop();
}
