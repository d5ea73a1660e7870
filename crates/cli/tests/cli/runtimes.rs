//! Bun and Deno as workers, in TypeScript: what each can serve, and what the other half is answered with.

use everycore_peers::Runtime;
use rustix::process::Signal;

use crate::harness::{Directory, Load, Running, everycore, everyone, get, send};

/// One of the runtimes, with a directory for its program; `None` after having said that the test is skipped.
fn with(runtime: &str, test: &str, program: &str) -> Option<(Directory, Vec<String>)> {
    let Some(found) = Runtime::named(runtime) else {
        everycore_peers::skip(&format!("{runtime} is not installed"));
        return None;
    };
    let directory = Directory::new(test);
    std::fs::write(directory.path("app.ts"), program).unwrap();
    let mut words = vec![found.program.to_str().unwrap().to_owned()];
    words.extend(found.args);
    words.push(directory.path("app.ts"));
    Some((directory, words))
}

fn start(options: &[&str], words: &[String]) -> Running {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Running::start(&[&["run", "-w", "2"], options, &["--"], &words].concat())
}

const HTTP: &str = "
    import http from 'node:http';
    import process from 'node:process';
    const port: number = Number(process.env.APP_PORT ?? 0);
    http.createServer((request, response) => response.end(`pid ${process.pid}`)).listen(port, '127.0.0.1');";

/// Both workers answer; one that dies is replaced; a reload replaces both.
fn serves(mut run: Running) -> String {
    let address = run.address();
    let ready = run.ready(2);
    assert_eq!(everyone(address, 2), ready.iter().copied().collect());
    send(ready[0], Signal::KILL);
    run.line("is ready in place of");
    assert_eq!(get(address, "/").unwrap().status, 200);
    run.signal(Signal::HUP);
    // A worker with a socket of its own serves until it has heard that it is to leave.
    for _ in 0..2 {
        run.line("has left (reload)");
    }
    let after = everyone(address, 2);
    assert!(ready.iter().all(|old| !after.contains(old)), "{ready:?} {after:?}");
    run.stop()
}

#[test]
fn deno_serves_what_it_is_handed() {
    let Some((_directory, words)) = with("deno", "deno", HTTP) else { return };
    for policy in [&[][..], &["--policy", "rr"], &["--no-preload"]] {
        let text = serves(start(policy, &words));
        let policy = if policy.contains(&"rr") { "policy round-robin" } else { "policy least" };
        assert!(text.contains(policy), "{text}");
    }
}

#[test]
fn a_reload_of_deno_loses_nothing() {
    let Some((_directory, words)) = with("deno", "deno-reload", HTTP) else { return };
    let mut run = start(&[], &words);
    let address = run.address();
    run.ready(2);
    let loads = [Load::start(address), Load::keeping(address)];
    run.signal(Signal::HUP);
    run.line("reload done");
    assert!(loads.into_iter().all(|load| load.stop() > 0));
    run.stop();
}

#[test]
fn deno_takes_no_listening_socket_and_deno_serve_no_second_worker() {
    let Some((_directory, words)) = with(
        "deno",
        "deno-serve",
        "Deno.serve({ port: Number(Deno.env.get('APP_PORT')), hostname: '127.0.0.1' }, () => new Response('hello'));",
    ) else {
        return;
    };
    let output = everycore(&["run", "--policy", "shared", "--", &words[0], "run", "x.ts"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: --policy shared cannot serve Deno, whose workers do not accept on a socket they are given; choose least, rr or sticky\n"
    );
    let port = format!("APP_PORT={}", everycore_peers::own_port());
    let mut run = start(&["--env", &port, "--give-up", "1/1m", "--output", "prefix"], &words);
    run.line("every worker but the first finds its port taken; serve with node:http");
}

#[test]
fn bun_serves_on_sockets_of_its_own() {
    let Some((directory, words)) = with("bun", "bun", HTTP) else { return };
    let port = format!("APP_PORT={}", everycore_peers::own_port());
    let text = serves(start(&["--env", &port], &words));
    assert!(text.contains("policy reuseport"), "{text}");
    assert!(!text.contains("warning: cannot"), "{text}");
    std::fs::write(
        directory.path("app.ts"),
        "Bun.serve({ port: process.env.APP_PORT, hostname: '127.0.0.1', fetch: () => new Response(`pid ${process.pid}`) });",
    )
    .unwrap();
    let port = format!("APP_PORT={}", everycore_peers::own_port());
    serves(start(&["--env", &port], &words));
}

#[test]
fn bun_takes_no_socket_and_says_so() {
    let Some((_directory, words)) =
        with("bun", "bun-net", "import net from 'node:net'; net.createServer().listen(0, '127.0.0.1');")
    else {
        return;
    };
    let mut run = start(&["--give-up", "1/1m"], &words);
    run.line("was refused a listener: Bun takes no socket from its primary");
    let output = everycore(&["run", "--policy", "rr", "--", &words[0], "x.ts"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("leave --policy out, or run the program with node")
    );
}
