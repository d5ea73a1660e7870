//! Starts that cannot work: how soon they end, with which code, and what is said.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use rustix::process::getuid;

use everycore_peers::Kind;

use crate::harness::{BINARY, Directory, Running, Runtime, everycore};

/// Somebody who is not root, and has no account.
const NOBODY: u32 = 4711;

/// Runs to the end: its code and all it said.
fn end_of(args: &[&str]) -> (Option<i32>, String) {
    Running::start(args).end()
}

fn executable(directory: &Directory, name: &str, content: &[u8]) -> String {
    let path = directory.path(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Whether this test can be somebody else; says so where it cannot.
#[expect(clippy::print_stdout, reason = "who reads the test's output should know what was not tested")]
fn root() -> bool {
    if !getuid().is_root() {
        println!("SKIPPED: only root can be somebody else");
    }
    getuid().is_root()
}

#[test]
fn what_cannot_be_executed_ends_at_once_with_the_shells_code() {
    let directory = Directory::new("unstartable");
    let head = fs::read(BINARY).unwrap()[..100].to_vec();
    for (name, content, code, reason) in [
        ("plain", &b"echo hello\n"[..], 126, "a script needs a #! line"),
        ("lost", b"#!/no/such/interpreter\n", 126, "the interpreter it names is not"),
        ("short", &head, 126, "short"),
    ] {
        let path = executable(&directory, name, content);
        let (ended, text) = end_of(&["run", "-w", "2", "--", &path]);
        assert_eq!(ended, Some(code), "{text}");
        let last = text.lines().last().unwrap();
        assert!(last.starts_with("error: no worker can be started: ") && last.contains(reason), "{text}");
        assert!(!text.contains("is filled again"), "{text}");
        assert_eq!(text.matches(&path).count(), 2, "said once, and as the last word:\n{text}");
    }
}

/// A directory that anybody may enter, with our binary in it and a directory that only root may.
fn closed(test: &str) -> (Directory, String, String) {
    let directory = Directory::new(test);
    fs::set_permissions(&directory.0, fs::Permissions::from_mode(0o755)).unwrap();
    let (copy, closed) = (directory.path("everycore"), directory.path("closed"));
    fs::copy(BINARY, &copy).unwrap();
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    (directory, copy, closed)
}

/// What somebody who is not root is told: exit code and standard error.
fn told_to_nobody(program: &str, args: &[&str]) -> (Option<i32>, String) {
    let output = std::process::Command::new(program).args(args).uid(NOBODY).gid(NOBODY).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_directory_that_may_not_be_entered_ends_at_once() {
    if !root() {
        return;
    }
    let (_directory, everycore, closed) = closed("closed");
    let (code, text) = told_to_nobody(&everycore, &["run", "-w", "2", "--cwd", &closed, "--", "true"]);
    assert_eq!(code, Some(77), "{text}");
    assert!(text.lines().last().unwrap().contains(&format!("cannot start in directory {closed}")), "{text}");
}

#[test]
fn a_program_that_never_gets_ready_is_not_tried_for_long() {
    let (code, text) = end_of(&["run", "-w", "2", "--", "sh", "-c", "exit 3"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.lines().last().unwrap().ends_with("exited with code 3"), "{text}");
}

#[test]
fn what_was_typed_about_giving_up_counts_from_the_start() {
    let args = ["run", "-w", "1", "--restart", "always", "--give-up", "7/5m", "--", "false"];
    let (code, text) = end_of(&args);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("is given up after 7 failures"), "{text}");
}

#[test]
fn an_end_without_a_failure_is_told_as_what_it_was() {
    let (code, text) = end_of(&["run", "-w", "1", "--give-up", "2/1m", "--", "true"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("is given up after 2 failures; the last one: worker 2 "), "{text}");
    assert!(text.lines().last().unwrap().ends_with("exited with code 0 before it was ready"), "{text}");
}

#[test]
fn a_late_worker_is_told_of_before_what_follows_from_it() {
    let late = ["run", "-w", "1", "--give-up", "2/1m", "--start-timeout", "200ms"];
    for (ready, awaited) in [
        ("message", "no 'ready' message"),
        ("notify", "no READY=1"),
        ("online", "it has not joined its channel"),
    ] {
        let args = [&late[..], &["--ready", ready, "--", "sleep", "600"]].concat();
        let (code, text) = end_of(&args);
        assert_eq!(code, Some(1), "{text}");
        let line = |part: &str| {
            text.lines()
                .position(|line| line.contains(part))
                .unwrap_or_else(|| panic!("no '{part}':\n{text}"))
        };
        let told = line(&format!("was not ready within 200 ms: {awaited}"));
        assert!(told < line("the place of worker 1, which failed once, is filled again"), "{text}");
    }
}

#[test]
fn a_closed_directory_is_told_apart_from_a_file_that_is_not_executable() {
    if !root() {
        return;
    }
    let (_directory, everycore, closed) = closed("hidden");
    let program = format!("{closed}/x");
    fs::write(&program, "").unwrap();
    let error =
        format!("error: cannot run '{program}': a directory above it may not be entered by this user\n");
    assert_eq!(told_to_nobody(&everycore, &["run", "--", &program]), (Some(126), error));
}

#[test]
fn a_file_that_is_here_and_not_in_path_is_answered_with_how_to_run_it() {
    let directory = Directory::new("here");
    fs::write(directory.path("app.js"), "").unwrap();
    executable(&directory, "tool", b"#!/bin/sh\n");
    for (name, instead) in [("app.js", "node app.js"), ("tool", "./tool")] {
        let output = everycore(&["run", name]).current_dir(&directory.0).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        let expected = format!(
            "error: cannot run '{name}': it is not found in any directory of PATH; the file here is run by: {instead}\n"
        );
        assert_eq!((output.status.code(), text), (Some(127), expected));
    }
}

#[test]
fn workers_of_the_same_user_may_bind_for_themselves() {
    if !root() {
        return;
    }
    for account in [&["--user", "0"][..], &["--group", "4712"]] {
        let args = [&["run", "-w", "1", "--kind", "library"], account, &["--", BINARY, "demo"]].concat();
        let mut run = Running::start(&args);
        let address = run.address();
        run.ready(1);
        assert_eq!(crate::harness::get(address, "/").unwrap().status, 200);
        run.stop();
    }
}

#[test]
fn who_binds_what_we_hold_is_told_once_how_to_take_it() {
    let bind = r#"
import os, socket, sys
socket.create_server(("127.0.0.1", int(sys.argv[1])))
"#;
    let args =
        ["run", "-w", "1", "-b", "127.0.0.1:0", "--give-up", "4/1m", "--", "python3", "-c", bind, "{port}"];
    let mut run = Running::start(&args);
    let address = run.address();
    let line = run.line("everycore holds ");
    assert!(
        line.contains(&address.to_string()) && line.contains("{fd}") && line.contains("LISTEN_FDS"),
        "{line}"
    );
    let (code, text) = run.end();
    assert_eq!(code, Some(1), "{text}");
    assert_eq!(text.matches("everycore holds ").count(), 1, "{text}");
}

#[test]
fn code_on_nodes_command_line_is_served_too() {
    let Some(_node) = Runtime::among(&[Kind::Node], "it is Node that is told apart") else { return };
    let code =
        r#"require("http").createServer((_, response) => response.end("hello")).listen(0, "127.0.0.1")"#;
    for flag in ["-e", "-p"] {
        let mut run = Running::start(&["run", "-w", "2", "--", "node", flag, code]);
        let address = run.address();
        run.ready(2);
        assert_eq!(crate::harness::get(address, "/").unwrap().body, "hello");
        run.stop();
    }
    let output = everycore(&["run", "node"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().ends_with("type: everycore run -- node server.js\n"));
}

#[test]
fn node_behind_env_is_node() {
    let Some(_node) = Runtime::among(&[Kind::Node], "it is Node that is told apart") else { return };
    let directory = Directory::new("env-node");
    let server = directory.path("server.js");
    let text = r#"require("http").createServer((_, response) => response.end(process.env.A)).listen(0, "127.0.0.1")"#;
    fs::write(&server, text).unwrap();
    let mut run =
        Running::start(&["run", "-w", "2", "--env", "A=typed", "--", "env", "A=one", "node", &server]);
    let address = run.address();
    run.ready(2);
    assert_eq!(crate::harness::get(address, "/").unwrap().body, "one");
    run.stop();
}

#[test]
fn a_guess_of_readiness_that_was_false_neither_hides_the_hint_nor_keeps_it_trying() {
    // As an interpreter that starts slowly: it has the socket, does not wait on it, and then fails.
    let slow = "sleep 1.4; exit 2";
    let mut run = Running::start(&["run", "-w", "1", "-b", "127.0.0.1:0", "--", "sh", "-c", slow]);
    run.line("is ready");
    run.line("was taken for ready because it stayed up, and was not; --ready notify makes sure");
    run.line("is ready");
    run.line("everycore holds ");
    let (code, text) = run.end();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("is given up after 6 failures"), "{text}");
}

#[test]
fn what_is_typed_wrong_is_answered_with_what_is_meant() {
    let name = format!("unix:/tmp/{}", "s".repeat(120));
    for (flags, code, part) in [
        (&["-b", "127.0.0.1:0?foo=1"][..], 2, "foo"),
        (&["-b", "8200?foo=1"], 2, "foo"),
        (&["--max-rss", "10"], 2, "did you mean 10M?"),
        (&["-b", &name], 1, "has 120 bytes, and at most "),
    ] {
        let (ended, text) = end_of(&[&["run", "-w", "1"], flags, &["--", "true"]].concat());
        assert_eq!(ended, Some(code), "{text}");
        assert!(text.contains(part) && !text.contains("a name consists"), "{text}");
    }
}
