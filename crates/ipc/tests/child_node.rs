//! Real Node at one end: a script as our child, and this program as a child of Node. Passed over where there is no Node.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, a role prints")]

mod support;

use std::io::Read;
use std::net::TcpListener;
use std::path::PathBuf;

use everycore_ipc::{Codec, Event, Fork, Handle, Stdio, WaitStatus, fork, parent};
use support::{ask, block_on};

const ROLE: &str = "EVERYCORE_TEST_ROLE";

fn main() {
    if std::env::var_os(ROLE).is_some() {
        return echo();
    }
    if everycore_peers::node().is_some() {
        support::run(TESTS);
    }
}

/// The serializations that the runtime shares with the rest of the world.
fn codecs() -> Vec<Codec> {
    let advanced = everycore_peers::node().is_none_or(everycore_peers::Runtime::writes_as_node);
    if advanced { vec![Codec::Json, Codec::Advanced] } else { vec![Codec::Json] }
}

const TESTS: &[(&str, fn())] = &[
    ("a_script_echoes_and_its_events_come_in_order", a_script_echoes_and_its_events_come_in_order),
    ("a_script_that_dies_says_everything_first", a_script_that_dies_says_everything_first),
    ("a_script_serves_on_our_listener", a_script_serves_on_our_listener),
    ("node_forks_us", node_forks_us),
];

fn a_script_echoes_and_its_events_come_in_order() {
    let script = Script::new("echo", "process.on('message', (message) => process.send(message));");
    for codec in codecs() {
        block_on(async {
            let mut child = script.fork().codec(codec).spawn().unwrap();
            for text in ["before it started", "übers Wetter"] {
                child.send(text).await.unwrap();
                let Some(Event::Message(message)) = child.event().await.unwrap() else { panic!("no echo") };
                assert_eq!(message.parse::<String>().unwrap(), text, "{codec}");
            }
            child.disconnect().await.unwrap();
            assert!(matches!(child.event().await.unwrap(), Some(Event::Disconnect)));
            assert!(matches!(child.event().await.unwrap(), Some(Event::Exit(WaitStatus::Code(0)))));
        });
    }
}

fn a_script_that_dies_says_everything_first() {
    let script = Script::new("last", "for (let i = 0; i < 100; i++) process.send(i); process.exit(7);");
    for codec in codecs() {
        block_on(async {
            let mut child = script.fork().codec(codec).spawn().unwrap();
            let mut numbers = Vec::new();
            loop {
                match child.event().await.unwrap().unwrap() {
                    Event::Message(message) => numbers.push(message.parse::<u32>().unwrap()),
                    Event::Disconnect => break,
                    event => panic!("unexpected {event:?}"),
                }
            }
            assert_eq!(numbers, Vec::from_iter(0..100));
            assert!(matches!(child.event().await.unwrap(), Some(Event::Exit(WaitStatus::Code(7)))));
        });
    }
}

fn a_script_serves_on_our_listener() {
    let script = Script::new(
        "serve",
        "process.on('message', (message, server) => {
             server.on('connection', (socket) => socket.end('handled by node'));
             process.send('serving');
         });",
    );
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let child = script.fork().spawn().unwrap();
        child.send_with("server", Handle::duplicate(&listener).unwrap()).await.unwrap();
        drop(listener);
        assert_eq!(child.recv().await.unwrap().unwrap().parse::<String>().unwrap(), "serving");
        assert_eq!(ask(address, "").unwrap(), "handled by node");
        assert!(child.kill(15).unwrap());
        assert!(matches!(child.wait().await.unwrap(), WaitStatus::Signal { signal: 15, .. }));
    });
}

/// Node's own `fork`, with this program instead of `node`. It prints what it sees; we read that.
fn node_forks_us() {
    let script = Script::new(
        "parent",
        "const [, , execPath, serialization] = process.argv;
         const child = require('child_process').fork('script.js', {
             execPath, serialization, env: { ...process.env, EVERYCORE_TEST_ROLE: 'echo' } });
         child.on('message', (message) => { console.log('message', message); child.disconnect(); });
         child.on('disconnect', () => console.log('disconnect'));
         child.on('exit', (code, signal) => console.log('exit', code, signal));
         child.send('hello');",
    );
    for mode in everycore_peers::node().expect("looked for before").serializations() {
        let exe = std::env::current_exe().unwrap();
        let node = script.fork().without_channel().arg(exe).arg(*mode).stdout(Stdio::Pipe);
        let mut node = node.spawn_parts().unwrap();
        let mut seen = String::new();
        node.stdout.take().unwrap().read_to_string(&mut seen).unwrap();
        assert_eq!(seen, "message hello\ndisconnect\nexit 0 null\n", "{mode}");
        assert_eq!(node.pidfd.wait().unwrap(), WaitStatus::Code(0));
    }
}

fn echo() {
    let channel = parent().unwrap().expect("Node has forked us");
    block_on(async {
        while let Some(message) = channel.recv().await.unwrap() {
            channel.send_message(message).await.unwrap();
        }
    });
}

/// A script in a file, as long as the test runs.
struct Script(PathBuf);

impl Script {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("everycore-child-{}-{name}.cjs", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn fork(&self) -> Fork {
        let node = everycore_peers::node().expect("looked for before");
        fork(&self.0).exec_path(&node.program).exec_args(&node.args)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
