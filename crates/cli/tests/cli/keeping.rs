//! What keeps workers in shape: recycling, time-outs, accounts, variables, signals to the command.

use std::process::Command;

use rustix::process::{Signal, getuid};

use crate::harness::{BINARY, Directory, Running, address_in, everycore, get, pid_in, send};
use crate::sockets::PROGRAM;

/// A server that uses the library, under `run` with these options.
fn library(options: &[&str]) -> Running {
    let mut args = vec!["run", "-b", "127.0.0.1:0", "--kind", "library"];
    args.extend(options);
    args.extend(["--", BINARY, "demo"]);
    Running::start(&args)
}

/// What a refused command says, and its exit code.
fn refusal(args: &[&str]) -> (Option<i32>, String) {
    let output = everycore(args).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_worker_is_replaced_after_so_many_connections() {
    let mut run = library(&["-w", "1", "--max-requests", "3"]);
    let address = run.address();
    let first = run.ready(1)[0];
    let line = loop {
        assert_eq!(get(address, "/").unwrap().status, 200);
        if let Some(line) = run.line_now("is ready") {
            break line;
        }
    };
    assert_ne!(pid_in(&line), first);
    run.line(&format!("(pid {first}) has left (it had served its number of requests)"));
    assert_eq!(get(address, "/").unwrap().status, 200);
    run.stop();
}

#[test]
fn a_worker_is_replaced_when_it_is_too_old() {
    let mut run = library(&["-w", "1", "--max-lifetime", "1s"]);
    let address = run.address();
    let first = run.ready(1)[0];
    run.line(&format!("(pid {first}) has left (it had lived its time)"));
    assert_eq!(get(address, "/").unwrap().status, 200);
    run.stop();
}

#[test]
fn a_worker_is_replaced_when_it_has_grown_too_large() {
    // It keeps a hundred megabytes once it has served for a while, and was weighed when it was small.
    let grows = "import threading\ndef grow():\n    global kept\n    kept = bytearray(b'x' * (100 << 20))\nthreading.Timer(3, grow).start()\n";
    let grows = format!("{grows}{PROGRAM}");
    let options = ["run", "-w", "1", "-b", "127.0.0.1:0", "--max-rss", "80M", "--"];
    let mut run = Running::start(&[&options[..], &["python3", "-c", &grows, "{fd}"]].concat());
    let address = run.address();
    let first = run.ready(1)[0];
    // It may be weighed while it grows, and its own limit is up to a tenth less than 80 MiB.
    let line = run.line(", limit 80 MiB: it is replaced");
    let told = format!("(pid {first}) uses ");
    let size = line
        .split_once(&told)
        .and_then(|(_, rest)| rest.split_once(" MiB"))
        .map(|(size, _)| size.parse::<u32>());
    assert!(matches!(size, Some(Ok(72..200))), "{line}");
    run.line(&format!("(pid {first}) has left (it used too much memory)"));
    assert_eq!(get(address, "/").unwrap().status, 200);
    run.stop();
}

#[test]
fn a_limit_that_no_worker_can_keep_is_told_and_replaces_nobody_at_once() {
    let mut run = library(&["-w", "1", "--max-rss", "1M"]);
    let first = run.ready(1)[0];
    let line = run.line("warning: ");
    let told = format!("(pid {first}) uses ");
    assert!(line.contains(&told) && line.contains(" MiB, limit 1 MiB, since it was ready"), "{line}");
    assert!(!run.stop().contains("it used too much memory"));
}

#[test]
fn a_worker_that_is_killed_for_its_silence_is_looked_at_first() {
    for policy in ["least", "shared"] {
        let mut run = library(&["-w", "1", "--timeout", "1s", "--policy", policy]);
        let address = run.address();
        let first = run.ready(1)[0];
        // Nobody else comes whose connection would show that this one stands still.
        let blocked = std::thread::spawn(move || get(address, "/block?ms=30000"));
        let line = run.line("was silent for 1 s and is killed; its threads: ");
        assert!(line.contains(&format!("(pid {first})")) && line.contains("everycore: sleeping"), "{line}");
        assert!(line.len() < 250, "{line}");
        run.line("(it was silent for too long)");
        assert!(blocked.join().unwrap().is_err());
        assert_eq!(get(address, "/").unwrap().status, 200);
        run.stop();
    }
}

#[test]
fn who_cannot_be_watched_is_not_timed() {
    for options in
        [&["-b", "127.0.0.1:0", "--", "true", "{fd}"][..], &["--policy", "none", "--", "node", "x.js"]]
    {
        let (code, error) = refusal(&[&["run", "--timeout", "5s"][..], options].concat());
        assert_eq!(code, Some(2));
        assert!(
            error.starts_with("error: --timeout: nobody sees whether such a worker is silent"),
            "{error}"
        );
    }
}

#[test]
fn a_stop_serves_on_for_the_drain_delay() {
    let mut run = library(&["-w", "1", "--drain-delay", "1h"]);
    let address = run.address();
    run.ready(1);
    run.signal(Signal::TERM);
    run.line("stopping: serving on for 60 min (--drain-delay), then workers finish");
    assert_eq!(get(address, "/").unwrap().status, 200);
    run.signal(Signal::INT);
    assert_eq!(run.end().0, Some(0));
}

#[test]
fn connections_cannot_be_counted_where_nobody_hands_them_over() {
    let (code, error) = refusal(&["run", "--max-requests", "5", "-b", "127.0.0.1:0", "--", "true", "{fd}"]);
    assert_eq!(code, Some(2));
    assert!(error.starts_with("error: --max-requests counts connections that are handed over"), "{error}");
}

#[test]
fn variables_come_from_files_too() {
    let directory = Directory::new("env-file");
    let name = &directory.path("settings.env");
    std::fs::write(name, "# settings\nA=one\nexport B='two words'\nC=file\n").unwrap();
    let options = ["run", "-w", "1", "--restart", "never", "--env-file", name, "--env", "C=typed", "--"];
    let output = everycore(&[&options[..], &["sh", "-c", "echo \"$A,$B,$C\""]].concat()).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "one,two words,typed\n");

    std::fs::write(name, "A=one\nnonsense\n").unwrap();
    let expected = (Some(78), format!("error: {name}:2: write NAME=VALUE\n"));
    assert_eq!(refusal(&["run", "--env-file", name, "true"]), expected);
    let (code, error) = refusal(&["run", "--env-file", "/no/such", "true"]);
    assert_eq!(code, Some(2));
    assert!(error.starts_with("error: --env-file /no/such: No such file"), "{error}");
}

#[test]
fn workers_may_run_as_somebody_else() {
    if !getuid().is_root() {
        return everycore_peers::pass_over("only root can run workers as somebody else");
    }
    let account = ["--user", "4711", "--group", "4712"];
    let script = ["sh", "-c", "id -u; id -g; id -G; grep NoNewPrivs /proc/self/status"];
    let args = [&["run", "-w", "1", "--restart", "never"][..], &account, &script].concat();
    let output = everycore(&args).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "4711\n4712\n4712\nNoNewPrivs:\t1\n");

    // Serving needs nothing but what was bound before.
    let directory = Directory::new("account");
    let copy = directory.path("everycore");
    std::fs::copy(BINARY, &copy).unwrap();
    let options =
        ["run", "-w", "1", "--kind", "library", "--user", "4711", "--group", "4712", "--give-up", "1/1m"];
    let bound = [&options[..], &["-b", "127.0.0.1:0", "--", &copy, "demo"]].concat();
    let mut served = Running::start(&bound);
    let address = served.address();
    let pid = served.ready(1)[0];
    assert_eq!(get(address, "/").unwrap().status, 200);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("\nUid:\t4711\t4711\t4711\t4711\n"), "{status}");
    served.stop();

    // What they could not bind, the primary does not bind for them.
    let mut refused = Running::start(&[&options[..], &["--", &copy, "demo"]].concat());
    refused.line("workers run as another user than the primary, which binds for them only what it was told to; add -b ");
    assert_eq!(refused.end().0, Some(1));
}

#[test]
fn an_unknown_account_is_refused() {
    for (option, kind) in [("--user", "user in /etc/passwd"), ("--group", "group in /etc/group")] {
        let expected = (Some(2), format!("error: {option} no-such-one: there is no such {kind}\n"));
        assert_eq!(refusal(&["run", option, "no-such-one", "true"]), expected);
    }
}

#[test]
fn a_file_where_a_socket_is_to_be_stays_and_is_named() {
    let directory = Directory::new("file");
    let name = &directory.path("precious");
    std::fs::write(name, "data").unwrap();
    let problem = "there is a file that is not a socket; choose another path, or remove it";
    let expected = (Some(1), format!("error: bind unix:{name}: {problem}\n"));
    assert_eq!(refusal(&["run", "-b", &format!("unix:{name}"), "--", "true"]), expected);
    assert_eq!(std::fs::read(name).unwrap(), b"data");
}

#[test]
fn workers_can_be_let_go_and_the_port_stays() {
    // A session of its own has no terminal, also where the tests have one.
    let mut command = Command::new("setsid");
    command.args(["-w", BINARY, "run", "-w", "2", "-b", "127.0.0.1:0", "--", "python3", "-c", PROGRAM]);
    let mut run = Running::spawn(command);
    let line = run.line("running python3");
    let (primary, address) = (pid_in(&line), address_in(&line));
    run.ready(2);
    send(primary, Signal::USR1);
    run.line("warning: USR1 and USR2 ");
    send(primary, Signal::WINCH);
    run.line("0 workers from now on");
    run.line("(scale)");
    run.line("(scale)");
    let waiting = std::thread::spawn(move || get(address, "/"));
    send(primary, Signal::HUP);
    run.line("2 workers from now on");
    run.ready(1);
    assert_eq!(waiting.join().unwrap().unwrap().status, 200);
    send(primary, Signal::TERM);
    assert_eq!(run.end().0, Some(0));
}

#[test]
fn as_a_containers_first_process_it_waits_for_orphans() {
    let alone = ["--pid", "--fork", "--mount-proc"];
    if !Command::new("unshare").args(alone).arg("true").status().is_ok_and(|status| status.success()) {
        return everycore_peers::pass_over("this machine does not let us make a namespace of processes");
    }
    // The grandchild outlives its parent, is given to us, and disappears only if somebody waits for it.
    let script = r#"
        orphan=$(sh -c 'sleep 0.1 > /dev/null & echo $!')
        while test -e /proc/$orphan; do sleep 0.01; done
        echo "reaped under $PPID"
        exec sleep 600
    "#;
    let mut command = Command::new("unshare");
    command.args(alone).args([BINARY, "run", "-w", "1", "--", "sh", "-c", script]);
    let mut run = Running::spawn(command);
    run.line("reaped under 1");
    let unshare = run.pid();
    let first = std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).unwrap();
    send(first.trim().parse().unwrap(), Signal::TERM);
    let (code, text) = run.end();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.ends_with("everycore: stopped"), "{text}");
}
