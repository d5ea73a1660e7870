//! Rolling reloads: nothing is lost, and a bad release leaves the good one serving.

use rustix::process::Signal;

use crate::harness::{BINARY, Directory, Load, Running, everycore, everyone, get};

#[test]
fn a_reload_under_load_loses_nothing() {
    let mut run = Running::start(&["run", "-w", "2", "-b", "127.0.0.1:0", "--", BINARY, "demo"]);
    let address = run.address();
    let old = run.ready(2);
    let load = [Load::start(address), Load::keeping(address), Load::keeping(address)];
    for generation in 2..=4 {
        run.signal(Signal::HUP);
        run.line(&format!("reload done: generation {generation} serves"));
    }
    let answered: usize = load.into_iter().map(Load::stop).sum();
    assert!(answered > 0);
    let new = everyone(address, 2);
    assert!(old.iter().all(|pid| !new.contains(pid)), "{old:?} {new:?}");
    run.stop();
}

#[test]
fn a_reload_works_with_a_single_worker() {
    let mut run = Running::start(&["run", "-w", "1", "-b", "127.0.0.1:0", "--", BINARY, "demo"]);
    let address = run.address();
    run.ready(1);
    let load = Load::start(address);
    run.signal(Signal::HUP);
    run.line("reload done");
    run.line("has left (reload)");
    load.stop();
    run.stop();
}

#[test]
fn a_bad_release_leaves_the_old_one_serving() {
    let directory = Directory::new("bad-release");
    let broken = directory.path("broken");
    let script = format!(
        "if [ -e {broken} ]; then echo 'cannot find my database' >&2; exit 7; fi; exec {BINARY} demo"
    );
    let args = ["run", "-w", "2", "--output", "prefix", "-b", "127.0.0.1:0", "--", "sh", "-c", &script];
    let mut run = Running::start(&args);
    let address = run.address();
    let old = run.ready(2);
    let load = Load::start(address);
    std::fs::write(&broken, "").unwrap();
    run.signal(Signal::HUP);
    let line = run.line("reload failed, the old workers serve on: ");
    assert!(line.contains("exited with code 7"), "{line}");
    run.line("its last lines:");
    run.line("  cannot find my database");
    load.stop();
    assert_eq!(everyone(address, 2), old.into_iter().collect());

    // And once the release is mended the next reload goes through.
    std::fs::remove_file(&broken).unwrap();
    run.signal(Signal::HUP);
    run.line("reload done");
    assert_eq!(get(address, "/").unwrap().status, 200);
    run.stop();
}

#[test]
fn a_replacement_that_is_late_leaves_the_old_one_serving() {
    let script = format!("if [ {{generation}} != 1 ]; then exec sleep 600; fi; exec {BINARY} demo");
    let mut command =
        everycore(&["run", "-w", "1", "--kind", "library", "--start-timeout", "2s", "-b", "127.0.0.1:0"]);
    command.args(["--", "sh", "-c", &script]);
    let mut run = Running::spawn(command);
    let address = run.address();
    let old = run.ready(1);
    run.signal(Signal::HUP);
    run.line("reload failed, the old workers serve on: ");
    assert_eq!(everyone(address, 1), old.into_iter().collect());
    run.stop();
}

/// Serves the inherited socket; a bad release finds out late that it cannot.
const LATE: &str = r#"
import asyncio, os, socket, sys, time
if os.path.exists(sys.argv[1]):
    time.sleep(2)
    sys.exit(5)
async def answer(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    body = str(os.getpid()).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
    writer.close()
async def main():
    server = await asyncio.start_server(answer, sock=socket.socket(fileno=3))
    await server.serve_forever()
asyncio.run(main())
"#;

#[test]
fn a_bad_release_that_shows_late_leaves_the_old_one_serving() {
    let directory = Directory::new("late-release");
    for (place, more) in [vec!["{fd}"], vec![]].into_iter().enumerate() {
        let broken = directory.path(&format!("broken-{place}"));
        let mut args = vec!["run", "-w", "1", "-b", "127.0.0.1:0", "--", "python3", "-c", LATE, &broken];
        args.extend(more);
        let mut run = Running::start(&args);
        let address = run.address();
        run.ready(1);
        // On a busy machine it may have been up for a second before it served.
        assert_eq!(get(address, "/").unwrap().status, 200);
        std::fs::write(&broken, "").unwrap();
        run.signal(Signal::HUP);
        let line = run.line("reload failed, the old workers serve on: ");
        assert!(line.contains("exited with code 5"), "{line}");
        assert_eq!(get(address, "/").unwrap().status, 200);
        run.stop();
    }
}
