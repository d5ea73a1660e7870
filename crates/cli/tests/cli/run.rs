//! `run` as a supervisor: failures, output, signals, ends.

use std::io::Read;
use std::process::Stdio;

use rustix::process::Signal;

use crate::harness::{BINARY, Running, everycore, everyone, get};
use crate::sockets::PROGRAM;

#[test]
fn a_program_that_always_fails_ends_the_run_with_its_last_lines() {
    let args = [
        "run",
        "-w",
        "2",
        "--give-up",
        "2/1m",
        "--output",
        "prefix",
        "--",
        "sh",
        "-c",
        "echo oops >&2; exit 3",
    ];
    let (code, text) = Running::start(&args).end();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("is given up after 2 failures; the last one: worker "), "{text}");
    assert!(text.contains("everycore | its last lines:\neverycore |   oops\n"), "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("error: every place of sh is given up; the last failure: worker "), "{text}");
    assert!(last.ends_with("exited with code 3"), "{text}");
}

#[test]
fn a_program_that_is_not_restarted_may_simply_end() {
    let (code, text) = Running::start(&["run", "-w", "2", "--restart", "never", "true"]).end();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.ends_with("everycore: all workers are done"), "{text}");
}

#[test]
fn output_is_unchanged_off_a_terminal_and_prefixed_when_asked() {
    let script = "printf 'plain\\n'; printf 'no newline'";
    let output = everycore(&["run", "-w", "1", "--restart", "never", "sh", "-c", script]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "plain\nno newline");
    let args =
        ["run", "-w", "1", "-n", "web", "--restart", "never", "--output", "prefix", "sh", "-c", script];
    let output = everycore(&args).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "web.0     | plain\nweb.0     | no newline\n");
}

#[test]
fn events_can_be_read_by_programs() {
    let args = ["run", "-w", "1", "-n", "job", "--restart", "never", "--json", "sh", "-c", "echo data"];
    let output = everycore(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"data\n", "standard output is the program's");
    let text = String::from_utf8(output.stderr).unwrap();
    let events: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names.first(), Some(&"started"), "{text}");
    assert_eq!(names.last(), Some(&"ended"), "{text}");
    let exit = events.iter().find(|event| event["event"] == "worker_exit").unwrap();
    assert_eq!((&exit["app"], &exit["code"], &exit["slot"]), (&"job".into(), &0.into(), &0.into()));
}

#[test]
fn a_failure_too_is_told_to_programs_in_json() {
    let holds = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holds.local_addr().unwrap().to_string();
    for (options, code, part) in [
        // At the end of a run, before there is one, and before it is known what to run.
        (&["-w", "1"][..], 1, "is given up"),
        (&["-w", "1", "-b", &taken], 1, "already in use"),
        (&["-b", "nonsense"], 2, "port is missing"),
    ] {
        let mut args = vec!["run", "--json"];
        args.extend_from_slice(options);
        args.extend(["--give-up", "2/1m", "sh", "-c", "exit 3"]);
        let output = everycore(&args).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        let lines: Result<Vec<serde_json::Value>, _> = text.lines().map(serde_json::from_str).collect();
        let last = lines.unwrap_or_else(|error| panic!("{error}: {text}")).pop().unwrap();
        assert_eq!(last["event"], "error", "{text}");
        assert!(last["error"].as_str().unwrap().contains(part), "{text}");
    }
}

#[test]
fn workers_are_told_who_they_are() {
    let script = "echo \"$EVERYCORE_NAME $EVERYCORE_WORKER $EVERYCORE_SLOT $EVERYCORE_GENERATION {index} {id} {generation} $PORT $X\"";
    let args = [
        "run",
        "-w",
        "1",
        "-n",
        "web",
        "--restart",
        "never",
        "--env",
        "X=y=z",
        "-b",
        "127.0.0.1:0",
        "sh",
        "-c",
        script,
    ];
    let mut run = Running::start(&args);
    let port = run.address().port();
    let (code, text) = run.end();
    assert_eq!(code, Some(0));
    assert!(text.contains(&format!("web 1 0 1 0 1 1 {port} y=z\n")), "{text}");
}

#[test]
fn one_more_and_one_fewer() {
    let mut run = Running::start(&["run", "-w", "1", "-b", "127.0.0.1:0", "--", "python3", "-c", PROGRAM]);
    let address = run.address();
    run.ready(1);
    run.signal(Signal::TTIN);
    run.line("2 workers from now on");
    run.ready(1);
    everyone(address, 2);
    run.signal(Signal::TTOU);
    run.line("1 worker from now on");
    run.line("has left (scale)");
    assert_eq!(get(address, "/").unwrap().status, 200);
    run.stop();
}

#[test]
fn a_second_signal_stops_at_once() {
    let stubborn = r#"
import os, signal
signal.signal(signal.SIGTERM, lambda *_: os.write(1, b"not yet\n"))
os.write(1, b"up\n") # not print, which a signal in the middle of would break
while True:
    signal.pause()
"#;
    let args =
        ["run", "-w", "1", "--graceful-timeout", "1h", "--ready", "delay:0", "--", "python3", "-c", stubborn];
    let mut run = Running::start(&args);
    run.line("up");
    run.signal(Signal::INT);
    run.line("not yet");
    run.signal(Signal::INT);
    run.line("stopping now: TERM, then KILL in 2 s");
    let (code, text) = run.end();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("killed by SIGKILL (stop)"), "{text}");
    assert!(!text.contains("stopping now: KILL"), "{text}");
}

#[test]
fn a_worker_that_does_not_finish_in_time_is_told_of_and_a_third_signal_kills() {
    let stubborn = "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.write(1, b'up\\n')\nwhile True: signal.pause()\n";
    let args = |timeout| {
        [
            "run",
            "-w",
            "1",
            "--graceful-timeout",
            timeout,
            "--ready",
            "delay:0",
            "--",
            "python3",
            "-c",
            stubborn,
        ]
    };
    let mut run = Running::start(&args("200ms"));
    run.line("up");
    run.signal(Signal::TERM);
    run.line("has not finished within 200 ms: it is told TERM, and KILL in 2 s");
    run.line("killed by SIGKILL (stop)");
    assert_eq!(run.end().0, Some(0));

    let mut run = Running::start(&args("1h"));
    run.line("up");
    for said in [
        "a second signal: TERM now, and KILL 2 s later",
        "stopping now: TERM, then KILL in 2 s",
        "stopping now: KILL",
    ] {
        run.signal(Signal::INT);
        run.line(said);
    }
    let (code, text) = run.end();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("killed by SIGKILL (stop)"), "{text}");
}

#[test]
fn a_worker_does_not_wait_for_who_reads_its_output() {
    // Far more than pipes and queues hold, and nobody reads it until the answer has come.
    let chatty = format!(
        "import sys\nsys.stdout.write('x' * 79 + '\\n')\nfor _ in range(400000): print('y' * 79)\nsys.stdout.flush()\n{PROGRAM}"
    );
    let mut command = everycore(&[
        "run",
        "-w",
        "1",
        "--output",
        "prefix",
        "-b",
        "127.0.0.1:0",
        "python3",
        "-c",
        &chatty,
        "{fd}",
    ]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 200];
    let length = child.stderr.as_mut().unwrap().read(&mut first).unwrap();
    let line = String::from_utf8_lossy(&first[..length]).into_owned();
    let address = line.split(" on ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert_eq!(get(address, "/").unwrap().status, 200);
    let output = drain(&mut child);
    assert!(output.contains("dropped here]"), "{} bytes without a word about the rest", output.len());
}

/// Stops a process and reads its standard output to the end.
fn drain(child: &mut std::process::Child) -> String {
    crate::harness::send(child.id(), Signal::TERM);
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    child.wait().unwrap();
    output
}

#[test]
fn nobody_reading_the_events_changes_nothing() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = everycore(&["run", "-w", "1", "-b", "127.0.0.1:0", "--", "python3", "-c", PROGRAM]);
    let mut child = command.stderr(writer).stdout(Stdio::null()).spawn().unwrap();
    drop(command);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(reader));
    let first = lines.next().unwrap().unwrap();
    drop(lines);
    let address = first.split(" on ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    everyone(address, 1);
    crate::harness::send(child.id(), Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_primary_can_itself_be_a_worker() {
    let inner = format!(
        "exec {BINARY} run -w 2 --kind socket --ready listen -b 127.0.0.1:0 -- python3 -c \"$PROGRAM\""
    );
    let mut command = everycore(&["run", "-w", "1", "-n", "outer", "--", "sh", "-c", &inner]);
    command.env("PROGRAM", PROGRAM);
    let mut run = Running::spawn(command);
    let address = run.address();
    everyone(address, 2);
    run.stop();
}
