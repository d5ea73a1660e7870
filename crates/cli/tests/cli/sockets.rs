//! Programs that know nothing of the library: they take an inherited socket, as from systemd.

use rustix::process::Signal;

use crate::harness::{Running, everycore, everyone, get, pid_in, send};

/// Serves on descriptor `argv[1]`, or on the first of `LISTEN_FDS`, one connection at a time, until `TERM`.
pub(crate) const PROGRAM: &str = r#"
import os, signal, socket, sys

if len(sys.argv) > 1:
    number = int(sys.argv[1])
else:
    assert os.environ["LISTEN_PID"] == str(os.getpid()), (os.environ["LISTEN_PID"], os.getpid())
    assert os.environ["LISTEN_FDS"] == "1", os.environ["LISTEN_FDS"]
    assert os.environ["LISTEN_FDNAMES"] == "http", os.environ["LISTEN_FDNAMES"]
    number = 3
listener = socket.socket(fileno=number)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True:
    connection, _ = listener.accept()
    connection.recv(65536)
    body = b"slot %s (pid %d)\n" % (os.environ["EVERYCORE_SLOT"].encode(), os.getpid())
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    connection.sendall(head + body)
    connection.close()
"#;

#[test]
fn a_socket_arrives_by_its_number() {
    let mut run =
        Running::start(&["run", "-w", "2", "-b", "127.0.0.1:0", "--", "python3", "-c", PROGRAM, "{fd}"]);
    let address = run.address();
    let ready = run.ready(2);
    let answered = everyone(address, 2);
    assert_eq!(answered, ready.into_iter().collect());
    let text = run.stop();
    assert!(text.ends_with("everycore: stopped"), "{text}");
}

#[test]
fn a_socket_arrives_as_from_systemd() {
    let mut run = Running::start(&["run", "-w", "2", "-b", "127.0.0.1:0", "--", "python3", "-c", PROGRAM]);
    let address = run.address();
    run.ready(2);
    everyone(address, 2);
    run.stop();
}

#[test]
fn who_is_told_the_number_is_not_told_by_variables_too() {
    let script = "echo told {fd} ${LISTEN_FDS-no} ${LISTEN_PID-no} ${LISTEN_FDNAMES-no}";
    let args = ["run", "-w", "1", "--restart", "never", "-b", "127.0.0.1:0", "--", "sh", "-c", script];
    Running::start(&args).line("told 3 no no no");
}

#[test]
fn a_killed_worker_is_replaced_and_the_others_serve_on() {
    let mut run = Running::start(&["run", "-w", "2", "-b", "127.0.0.1:0", "--", "python3", "-c", PROGRAM]);
    let address = run.address();
    let first = run.ready(2)[0];
    everyone(address, 2);
    send(first, Signal::KILL);
    run.line(&format!("(pid {first}) killed by SIGKILL"));
    assert_eq!(get(address, "/").unwrap().status, 200, "the other one answers");
    let line = run.line("is ready in place of worker");
    let answered = everyone(address, 2);
    assert!(answered.contains(&pid_in(&line)) && !answered.contains(&first));
    run.stop();
}

#[test]
fn the_port_may_come_from_the_environment() {
    let free = everycore_peers::own_port().to_string();
    let mut command = everycore(&["run", "-w", "1", "--", "python3", "-c", PROGRAM, "{fd}"]);
    command.env("PORT", &free);
    let mut run = Running::spawn(command);
    assert!(run.line("running python3").contains(&format!(":{free} ")));
    run.ready(1);
    assert_eq!(get(format!("127.0.0.1:{free}").parse().unwrap(), "/").unwrap().status, 200);
    run.stop();
}

#[test]
fn a_worker_may_say_itself_that_it_is_ready() {
    let notifies = r#"
import os, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
name = os.environ["NOTIFY_SOCKET"]
sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sender.connect("\0" + name[1:] if name.startswith("@") else name)
print("about to tell", file=sys.stderr, flush=True) # one pipe with everycore's own lines keeps the order
sender.send(b"STATUS=up\nREADY=1\n")
signal.pause()
"#;
    let mut run = Running::start(&["run", "-w", "1", "--ready", "notify", "--", "python3", "-c", notifies]);
    run.line("about to tell");
    run.ready(1);
    run.stop();
}
