//! What a `kill -9` of a Node worker costs those who connect right after it: under an Everycore primary, and under
//! Node's own. Eight times, each time eight connections; prints how many of the 64 were left without an answer.
//!
//! ```text
//! cargo run --release -p everycore --example node_kills [NODE]
//! ```

#![allow(clippy::print_stdout, reason = "an example tells what it does")]

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use everycore::{Cluster, Event, NodeSettings, Policy};
use rustix::process::{Pid, Signal, kill_process};

const KILLS: usize = 8;
const CLIENTS: usize = 8;

/// Who has no answer by then has none.
const PATIENCE: Duration = Duration::from_secs(3);

/// Serves; under Node's own primary it is that, too, and says who its workers are and when they listen.
const PROGRAM: &str = "
const cluster = require('cluster');
if (cluster.isPrimary) {
  cluster.on('listening', (worker, { port }) => console.log(`${worker.process.pid} ${port}`));
  cluster.on('exit', () => cluster.fork());
  for (let i = 0; i < 2; i++) cluster.fork();
} else {
  require('http').createServer((request, response) => response.end('served')).listen(Number(process.env.KILLS_PORT), '127.0.0.1');
}
";

/// Where a worker listens, and its process.
type Listening = (u32, SocketAddr);

fn main() -> Result<(), Box<dyn Error>> {
    let node = std::env::args().nth(1).unwrap_or_else(|| "node".into());
    let script = std::env::temp_dir().join(format!("everycore-node-kills-{}.cjs", std::process::id()));
    std::fs::write(&script, PROGRAM)?;
    let outcome = compare(&node, &script);
    std::fs::remove_file(&script)?;
    outcome
}

fn compare(node: &str, script: &std::path::Path) -> Result<(), Box<dyn Error>> {
    for policy in [Policy::RoundRobin, Policy::Least, Policy::Shared] {
        let (sender, listening) = channel();
        let settings = NodeSettings::new(script).exec_path(node);
        let cluster =
            Cluster::builder().setup_primary(settings).env("KILLS_PORT", "0").policy(policy).workers(2);
        let running = cluster
            .on_event(move |_, event| {
                if let Event::Listening { worker, address } = event
                    && let (Some(pid), Some(at)) = (worker.pid, address.tcp())
                {
                    let _ = sender.send((pid, at));
                }
            })
            .start()?;
        tell(&format!("everycore, {policy}"), kill_and_connect(&listening)?);
        running.primary().stop(everycore::Urgency::Graceful)?;
        running.wait()?;
    }
    for policy in ["rr", "none"] {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut primary = Command::new(node)
            .arg(script)
            .env("NODE_CLUSTER_SCHED_POLICY", policy)
            .env("KILLS_PORT", port.to_string())
            .stdout(Stdio::piped())
            .spawn()?;
        let (sender, listening) = channel();
        let lines = BufReader::new(primary.stdout.take().ok_or("no output")?).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let told = line.split_once(' ').and_then(|(pid, port)| {
                    Some((pid.parse().ok()?, SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?))))
                });
                told.map(|told: Listening| sender.send(told));
            }
        });
        let outcome = kill_and_connect(&listening);
        primary.kill()?;
        primary.wait()?;
        tell(&format!("node's primary, {policy}"), outcome?);
    }
    Ok(())
}

fn tell(who: &str, unanswered: usize) {
    println!("{who:<24} {unanswered:>2} of {} without an answer", KILLS * CLIENTS);
}

/// Kills a worker and connects, again and again; how many clients had no answer.
fn kill_and_connect(listening: &Receiver<Listening>) -> Result<usize, Box<dyn Error>> {
    let next = || listening.recv_timeout(Duration::from_secs(30));
    let mut workers = vec![next()?, next()?];
    let mut unanswered = 0;
    for _ in 0..KILLS {
        let (victim, at) = workers.remove(0);
        let pid = Pid::from_raw(i32::try_from(victim)?).ok_or("no process")?;
        kill_process(pid, Signal::KILL)?;
        let clients: Vec<_> = (0..CLIENTS).map(|_| ask(at)).collect();
        unanswered += clients.into_iter().filter(|client| !is_answered(client)).count();
        workers.push(next()?);
    }
    Ok(unanswered)
}

fn ask(at: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    Ok(stream)
}

fn is_answered(client: &std::io::Result<TcpStream>) -> bool {
    let mut text = String::new();
    client
        .as_ref()
        .is_ok_and(|mut stream| stream.read_to_string(&mut text).is_ok() && text.ends_with("served"))
}
