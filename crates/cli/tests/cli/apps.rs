//! Node applications as people have them: frameworks, TLS, WebSockets, UDP, a primary half of their own, package
//! managers, request counts, habits from other process managers.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Output;

use everycore_peers::Kind;
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{DEADLINE, Directory, Running, Runtime, everycore, everyone, get, send};

/// A directory with these files.
fn application(test: &str, files: &[(&str, &str)]) -> Directory {
    let directory = Directory::new(test);
    for (name, text) in files {
        let path = PathBuf::from(directory.path(name));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    directory
}

/// The same, with the packages of applications beside them; `None` after having said that there are none.
fn with_packages(test: &str, files: &[(&str, &str)]) -> Option<Directory> {
    let packages = everycore_peers::packages()?;
    let directory = application(test, files);
    std::os::unix::fs::symlink(packages, directory.path("node_modules")).unwrap();
    Some(directory)
}

/// An application that answers with its worker's pid, on every worker, through a kill.
fn serves(mut run: Running) -> String {
    let address = run.address();
    let ready = run.ready(2);
    assert_eq!(everyone(address, 2), ready.iter().copied().collect());
    send(ready[0], Signal::KILL);
    run.line("killed by SIGKILL");
    assert_eq!(get(address, "/").unwrap().status, 200);
    run.line("is ready in place of");
    run.stop()
}

#[test]
fn express() {
    let Some(node) = Runtime::find() else { return };
    let app = with_packages(
        "express",
        &[(
            "app.cjs",
            "const app = require('express')();
             app.get('/', (request, response) => response.send(`pid ${process.pid}`));
             app.listen(Number(process.env.APP_PORT), '127.0.0.1');",
        )],
    );
    let Some(app) = app else { return };
    for policy in node.policies() {
        serves(node.run(&[&["-w", "2"], *policy].concat(), &app.path("app.cjs")));
    }
}

#[test]
fn fastify() {
    let Some(node) = Runtime::find() else { return };
    let app = with_packages(
        "fastify",
        &[(
            "app.mjs",
            "import { createRequire } from 'node:module';
             import process from 'node:process';
             const app = createRequire(import.meta.url)('fastify')();
             app.get('/', async () => `pid ${process.pid}`);
             await app.listen({ port: Number(process.env.APP_PORT), host: '127.0.0.1' });",
        )],
    );
    let Some(app) = app else { return };
    for policy in node.policies() {
        serves(node.run(&[&["-w", "2"], *policy].concat(), &app.path("app.mjs")));
    }
}

/// Runs a client in Node, whatever the workers are; what it printed.
fn client(app: &Directory, script: &str, args: &[&str]) -> Option<String> {
    let of_the_test = everycore_peers::node().filter(|node| node.kind == Kind::Node).cloned();
    let node = of_the_test
        .or_else(|| everycore_peers::Runtime::at("node"))
        .or_else(|| everycore_peers::Runtime::named(everycore_peers::DEFAULT));
    let Some(node) = node else {
        everycore_peers::skip("there is no node for the client");
        return None;
    };
    let mut command = node.command();
    command.args(["-e", script]).args(args).current_dir(&app.0);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{stdout}{stderr}");
    Some(stdout)
}

#[test]
fn websockets() {
    let Some(node) = Runtime::find() else { return };
    let app = with_packages(
        "websockets",
        &[(
            "app.cjs",
            "const server = require('http').createServer((q, r) => r.end(`pid ${process.pid}`));
             new (require('ws').WebSocketServer)({ server })
               .on('connection', (socket) => socket.on('message', (text) => socket.send(`${process.pid} heard ${text}`)));
             server.listen(Number(process.env.APP_PORT), '127.0.0.1');",
        )],
    );
    let Some(app) = app else { return };
    const CLIENT: &str = "
        const socket = new (require('ws'))(process.argv[1]);
        socket.on('open', () => socket.send('hello')).on('message', (text) => { console.log(String(text)); socket.close(); });
        socket.on('error', (error) => { throw error });";
    for policy in node.policies() {
        let mut run = node.run(&[&["-w", "2"], *policy].concat(), &app.path("app.cjs"));
        let address = run.address();
        let ready = run.ready(2);
        for _ in 0..4 {
            let Some(heard) = client(&app, CLIENT, &[&format!("ws://{address}/")]) else { return };
            let (pid, said) = heard.trim().split_once(' ').unwrap();
            assert!(ready.contains(&pid.parse().unwrap()) && said == "heard hello", "{heard}");
        }
        run.stop();
    }
}

#[test]
fn tls_sessions_resume_with_any_worker() {
    let why = "Bun's workers accept on sockets of their own: nobody chooses among them";
    let Some(node) = Runtime::among(&[Kind::Node, Kind::Deno], why) else { return };
    let app = application(
        "tls",
        &[
            ("cert.pem", include_str!("../fixtures/tls/cert.pem")),
            ("key.pem", include_str!("../fixtures/tls/key.pem")),
            (
                "app.cjs",
                "const { readFileSync } = require('fs');
                 const [cert, key] = ['cert.pem', 'key.pem'].map((name) => readFileSync(`${__dirname}/${name}`));
                 require('https').createServer({ cert, key }, (q, r) => r.end(`${process.pid} ${q.socket.isSessionReused()}`))
                   .listen(0, '127.0.0.1');",
            ),
        ],
    );
    // Asks again and again, each time with the session of before.
    const CLIENT: &str = "
        const [port, file] = process.argv.slice(1), ca = require('fs').readFileSync(file);
        let session;
        (async () => {
          for (let i = 0; i < 8; i++) {
            console.log(await new Promise((done, fail) => {
              const options = { port, host: '127.0.0.1', servername: 'localhost', ca, session, agent: false };
              const request = require('https').get(options, (response) => {
                let body = '';
                response.on('data', (text) => body += text).on('end', () => done(body));
              }).on('error', fail);
              request.on('socket', (socket) => socket.on('session', (next) => session = next));
            }));
          }
        })();";
    let mut run = node.run(&["-w", "2", "--policy", "rr"], &app.path("app.cjs"));
    let address = run.address();
    run.ready(2);
    let answers = client(&app, CLIENT, &[&address.port().to_string(), &app.path("cert.pem")]);
    let Some(answers) = answers else { return };
    let answers: Vec<(&str, &str)> = answers.lines().map(|line| line.split_once(' ').unwrap()).collect();
    assert_eq!(answers.len(), 8);
    assert!(answers.iter().any(|(pid, _)| *pid != answers[0].0), "both workers serve: {answers:?}");
    assert!(answers[1..].iter().all(|(_, reused)| *reused == "true"), "{answers:?}");
    run.stop();
}

#[test]
fn udp() {
    let why = "its workers do not ask their primary for UDP sockets";
    let Some(node) = Runtime::among(&[Kind::Node], why) else { return };
    let app = application(
        "udp",
        &[(
            "app.js",
            "const socket = require('dgram').createSocket('udp4');
             socket.on('message', (text, from) => socket.send(`${process.pid} heard ${text}`, from.port, from.address));
             socket.bind(0, '127.0.0.1');",
        )],
    );
    let mut run = node.run(&["-w", "2"], &app.path("app.js"));
    let address = run.address();
    let ready = run.ready(2);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.send_to(b"hello", address).unwrap();
    let mut answer = [0; 64];
    let length = client.recv(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    let (pid, said) = answer.split_once(' ').unwrap();
    assert!(ready.contains(&pid.parse().unwrap()) && said == "heard hello", "{answer}");
    run.stop();
}

const BOTH_HALVES: &str = "
    const cluster = require('cluster');
    if (cluster.isPrimary) {
      console.log('a primary of its own');
      for (let i = 0; i < 4; i++) cluster.fork();
    } else {
      require('http').createServer((q, r) => r.end(`pid ${process.pid}`)).listen(Number(process.env.APP_PORT), '127.0.0.1');
    }";

#[test]
fn of_a_program_with_both_halves_the_workers_runs_and_that_is_said_once() {
    let Some(node) = Runtime::find() else { return };
    let app = application("halves", &[("app.cjs", BOTH_HALVES)]);
    let text = serves(node.run(&["-w", "2"], &app.path("app.cjs")));
    let note = format!(
        "{} has a half for cluster's primary, which does not run: everycore is the primary, and keeps the workers",
        app.path("app.cjs")
    );
    assert_eq!(text.matches(&note).count(), 1, "{text}");
    assert!(!text.contains("a primary of its own"), "{text}");
    let mut run = node.run(&["-w", "2", "--json"], &app.path("app.cjs"));
    let told: Value = serde_json::from_str(&run.line(r#""event":"note""#)).unwrap();
    assert_eq!(told["text"], note.as_str());
    run.stop();
}

const SERVER: &str = "
    require('http').createServer((q, r) => {
      if (process.send) process.send({ cmd: 'notifyRequest' });
      r.end(`pid ${process.pid} ${process.env.npm_lifecycle_event} ${process.argv.slice(2)}`);
    }).listen(Number(process.env.APP_PORT ?? 0), '127.0.0.1');";

const PACKAGE: &str = r##"{"name": "@shop/web", "scripts": {"start": "node server.js --from-script", "chain": "tsc && node server.js"}}"##;

#[test]
fn npm_start_runs_the_program_itself() {
    let Some(_) = Runtime::among(&[Kind::Node], "the package's scripts start node") else { return };
    let app = application("npm", &[("package.json", PACKAGE), ("server.js", SERVER)]);
    for words in
        [&["npm", "start", "--", "-x"][..], &["npm", "run", "start", "--", "-x"], &["yarn", "start", "-x"]]
    {
        let mut command = everycore(&[&["run", "-w", "2", "--"], words].concat());
        command.current_dir(&app.0);
        let mut run = Running::spawn(command);
        run.line("running web with 2 workers");
        run.line(&format!("{} is: node server.js --from-script -x", words.join(" ")));
        let address = run.address();
        let ready = run.ready(2);
        let body = get(address, "/").unwrap().body;
        assert!(body.ends_with(" start --from-script,-x"), "{body}");
        assert_eq!(everyone(address, 2), ready.into_iter().collect());
        run.stop();
    }
}

#[test]
fn a_program_of_a_package_runs_as_what_it_is() {
    let Some(_) = Runtime::among(&[Kind::Node], "the package's scripts start node") else { return };
    let bin = format!("#!/usr/bin/env node\n{SERVER}");
    let app = application(
        "npx",
        &[("package.json", r#"{"name": "web"}"#), ("node_modules/.bin/serve-it", &bin), ("bin.js", &bin)],
    );
    for file in ["node_modules/.bin/serve-it", "bin.js"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(app.path(file), mode).unwrap();
    }
    for words in [&["npx", "serve-it", "-x"][..], &["./bin.js", "-x"]] {
        let mut command = everycore(&[&["run", "-w", "2", "--"], words].concat());
        command.current_dir(&app.0);
        let mut run = Running::spawn(command);
        let address = run.address();
        let ready = run.ready(2);
        assert_eq!(everyone(address, 2), ready.into_iter().collect());
        assert!(get(address, "/").unwrap().body.ends_with(" -x"));
        run.stop();
    }
}

#[test]
fn what_a_package_manager_would_do_in_a_shell_is_refused_with_what_to_type() {
    let app = application("refused", &[("package.json", PACKAGE)]);
    let refusal = |words: &[&str]| {
        let output = everycore(&[&["run", "--"], words].concat()).current_dir(&app.0).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let file = std::fs::canonicalize(&app.0).unwrap().join("package.json");
    assert_eq!(
        refusal(&["npm", "run", "chain"]),
        format!(
            "error: script 'chain' of {} does several things (tsc && node server.js); do the others first, then type: everycore run -- node server.js\n",
            file.display()
        )
    );
    assert_eq!(
        refusal(&["npx", "vite"]),
        "error: npx would fetch 'vite', which is not among the packages installed here; install it first: npm install vite\n"
    );
}

#[test]
fn reported_requests_are_counted() {
    let Some(node) = Runtime::find() else { return };
    let app = application("requests", &[("server.cjs", SERVER)]);
    let served = |mut run: Running, ready: &str| {
        let address: SocketAddr = run.address();
        run.line(ready);
        for _ in 0..12 {
            get(address, "/").unwrap();
        }
        run
    };
    let text = served(node.run(&["-w", "2"], &app.path("server.cjs")), "is ready").stop();
    assert!(text.contains("12 requests reported by workers"), "{text}");
    let text = served(node.run(&["-w", "2", "--json"], &app.path("server.cjs")), "worker_ready").stop();
    let told =
        text.lines().find(|line| line.contains(r#""event":"requests""#)).unwrap_or_else(|| panic!("{text}"));
    assert_eq!(serde_json::from_str::<Value>(told).unwrap()["total"], 12);
}

#[test]
fn output_keeps_its_order_and_has_its_prefix() {
    let Some(node) = Runtime::find() else { return };
    let app = application(
        "output",
        &[(
            "app.cjs",
            "for (let i = 0; i < 500; i++) console.log(`line ${i} of ${process.env.NODE_APP_INSTANCE}`);
             require('http').createServer().listen(Number(process.env.APP_PORT), '127.0.0.1');",
        )],
    );
    let mut run = node.run(&["-w", "2", "-n", "web", "--output", "prefix"], &app.path("app.cjs"));
    run.ready(2);
    let text = run.stop();
    for slot in 0..2 {
        let prefix = format!("web.{slot}     | ");
        let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
        let expected: Vec<String> = (0..500).map(|i| format!("line {i} of {slot}")).collect();
        assert_eq!(lines, expected);
    }
}

#[test]
fn habits_of_another_process_manager() {
    let Some(node) = Runtime::find() else { return };
    let app = application(
        "habits",
        &[(
            "app.cjs",
            "const server = require('http').createServer((q, r) => r.end(`pid ${process.pid}`));
             server.listen(Number(process.env.APP_PORT), '127.0.0.1', () => setTimeout(() => {
               console.log('about to be ready');
               process.send('ready');
             }, 50));",
        )],
    );
    let mut run = node.run(&["-i", "max", "--ready", "message"], &app.path("app.cjs"));
    // They come over different pipes.
    run.lines(&["about to be ready", "is ready"]);
    run.stop();
}
