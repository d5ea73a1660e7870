//! On a terminal: the line that changes, prefixes, and a hang-up. Python's `pty` makes the terminal.

use std::process::Command;

use crate::harness::{BINARY, Running, everyone};

/// Runs `argv[1:]` on a terminal of its own and copies what it shows; ends the terminal when told to on stdin.
const ON_A_TERMINAL: &str = r#"
import os, pty, select, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
while True:
    ready, _, _ = select.select([terminal, 0], [], [])
    if 0 in ready:
        os.read(0, 1)
        os.close(terminal)
        break
    try:
        shown = os.read(terminal, 65536)
    except OSError:
        break
    # One line per drawing, so that a reader of lines sees each.
    sys.stdout.write(shown.decode().replace("\r", "\n"))
    sys.stdout.flush()
_, status = os.waitpid(pid, 0)
print("\nended with", os.waitstatus_to_exitcode(status), flush=True)
"#;

fn on_a_terminal(args: &[&str]) -> (Running, std::io::PipeWriter) {
    let (input, hang_up) = std::io::pipe().unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", ON_A_TERMINAL, BINARY]).args(args).stdin(input);
    for name in ["NO_COLOR", "PORT", "WEB_CONCURRENCY", "NODE_CLUSTER_SCHED_POLICY"] {
        command.env_remove(name);
    }
    command.env("TERM", "xterm");
    (Running::spawn(command), hang_up)
}

#[test]
fn the_demo_counts_live() {
    let (mut demo, hang_up) = on_a_terminal(&["demo", "-w", "2", "-b", "127.0.0.1:0"]);
    let address = demo.address();
    demo.ready(2);
    demo.line("2 workers | 0 connections | 0 requests/s | 0 requests");
    everyone(address, 2);
    // Workers report now and then, so that is when the line changes.
    let line = loop {
        let line = demo.line("requests/s");
        if !line.contains("| 0 requests/s") {
            break line;
        }
    };
    assert!(line.starts_with("2 workers | "), "{line}");
    drop(hang_up);
}

#[test]
fn a_terminal_that_hangs_up_stops_it() {
    let (mut demo, mut hang_up) = on_a_terminal(&["demo", "-w", "1", "-b", "127.0.0.1:0"]);
    demo.ready(1);
    std::io::Write::write_all(&mut hang_up, b"x").unwrap();
    demo.line("ended with 0");
}

#[test]
fn output_has_coloured_prefixes() {
    let args =
        ["run", "-w", "1", "-n", "web", "--restart", "never", "--", "sh", "-c", "echo hello; echo no >&2"];
    let (mut run, _hang_up) = on_a_terminal(&args);
    run.line("\x1b[36mweb.0     |\x1b[0m hello");
    run.line("ended with 0");
    let mut plain = args.to_vec();
    plain.insert(1, "--no-color");
    let (mut run, _hang_up) = on_a_terminal(&plain);
    run.line("web.0     | hello");
    run.line("ended with 0");
}

#[test]
fn requests_that_node_workers_report_are_counted_live() {
    if everycore_peers::node().is_none() {
        return;
    }
    let directory = crate::harness::Directory::new("terminal-requests");
    let program = "require('http').createServer((q, r) => { process.send({ cmd: 'notifyRequest' }); r.end(`pid ${process.pid}`); }).listen(0, '127.0.0.1')";
    std::fs::write(directory.path("app.js"), program).unwrap();
    let (mut run, hang_up) = on_a_terminal(&["run", "-w", "2", "--", "node", &directory.path("app.js")]);
    let address = run.address();
    run.ready(2);
    everyone(address, 2);
    let line = run.line(" requests (");
    assert!(line.ends_with("/s)\u{1b}[K"), "{line:?}");
    drop(hang_up);
}

#[test]
fn nothing_is_drawn_below_the_last_word() {
    let slow = "trap 'sleep 1.5; exit 0' TERM; echo up; while :; do sleep 0.1; done";
    let args = ["run", "-w", "1", "--ready", "delay:0", "--", "sh", "-c", slow];
    let (mut run, _hang_up) = on_a_terminal(&args);
    let everycore = crate::harness::pid_in(&run.line("running sh with "));
    run.line("up");
    crate::harness::send(everycore, rustix::process::Signal::TERM);
    run.line("stopping: 1 worker left");
    let (_, text) = run.end();
    let (_, after) = text.rsplit_once("stopped").unwrap();
    assert!(!after.contains("stopping:") && after.contains("ended with 0"), "{text:?}");
}
