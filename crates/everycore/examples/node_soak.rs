//! Hands many connections to real Node workers and kills a worker at random every few thousand: nothing may hang, and no
//! descriptor may stay behind, neither in the primary nor in a worker.
//!
//! `cargo run --release -p everycore --example node_soak -- [connections] [connections per kill]`, 1,000,000 and 5,000
//! unless said otherwise. It ends by itself, with status 1 when anything hung or leaked. `EVERYCORE_NODE` is the path of
//! another Node than the one that is found.

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use everycore::{
    Cluster, Dialect, Event, Policy, Primary, RestartPolicy, RestartSettings, Serialization, Urgency,
};

type Failure = Box<dyn std::error::Error>;

/// After so long without an answer a connection hangs.
const PATIENCE: Duration = Duration::from_secs(20);

const WORKERS: usize = 2;

const CLIENTS: u64 = 16;

/// What each worker runs: an ordinary server.
const SERVER: &str = "
require('net').createServer((socket) => {
  socket.on('error', () => {});
  socket.end(String(process.pid));
}).listen(0, '127.0.0.1');
";

/// What became of the connections.
#[derive(Default)]
struct Counts {
    begun: AtomicU64,
    served: AtomicU64,
    /// A killed worker had them.
    cut: AtomicU64,
    hung: AtomicU64,
}

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>());
    let total = args.next().transpose()?.unwrap_or(1_000_000);
    let per_kill = args.next().transpose()?.unwrap_or(5_000).max(1);

    let script = std::env::temp_dir().join(format!("everycore-soak-{}.js", std::process::id()));
    std::fs::write(&script, SERVER)?;
    let (tell, events) = channel();
    let running = Cluster::builder()
        .dialect(Dialect::Node(Serialization::Json))
        .exec(std::env::var_os("EVERYCORE_NODE").unwrap_or_else(|| "node".into()))
        .args([&script])
        .workers(WORKERS)
        .policy(Policy::RoundRobin)
        .restart(RestartSettings {
            policy: RestartPolicy::Always,
            first_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(10),
            limit: u32::MAX,
            ..RestartSettings::default()
        })
        .signals(false)
        .on_event(move |_, event| {
            let _ = tell.send(event);
        })
        .start()?;
    let at = listening(&events, WORKERS)?;
    // The first thousand bring everything to its working size.
    let warm = Counts::default();
    load(at, 1_000, &warm);
    let before = descriptors(running.primary())?;
    println!("serving on {at}: {total} connections, a kill every {per_kill}; descriptors: {before}");

    let counts = Counts::default();
    let start = Instant::now();
    let kills = std::thread::scope(|scope| {
        let (primary, counts) = (running.primary(), &counts);
        let killing = scope.spawn(move || kill_at_random(primary, &events, counts, total, per_kill));
        load(at, total, counts);
        killing.join()
    });
    let kills = kills.map_err(|_| "the thread that kills has panicked")?;
    let seconds = start.elapsed().as_secs_f64();
    settle(running.primary(), &before);
    let after = descriptors(running.primary())?;

    let [served, cut, hung] =
        [&counts.served, &counts.cut, &counts.hung].map(|count| count.load(Ordering::Relaxed));
    println!(
        "{served} served, {cut} cut by {kills} kills, {hung} hung, in {seconds:.1} s ({:.0}/s); descriptors: {after}",
        (served + cut) as f64 / seconds
    );
    let clean = hung == 0 && after.primary <= before.primary && after.most <= before.most;
    running.primary().stop(Urgency::Fast)?;
    running.wait()?;
    std::fs::remove_file(&script)?;
    if clean { Ok(()) } else { Err("connections hung, or descriptors stayed behind".into()) }
}

/// Waits until so many more workers listen.
fn listening(events: &Receiver<Event>, workers: usize) -> Result<SocketAddr, Failure> {
    let mut seen = 0;
    loop {
        if let Event::Listening { address, .. } = events.recv_timeout(PATIENCE)? {
            seen += 1;
            if seen == workers {
                return address.tcp().ok_or_else(|| "no TCP address".into());
            }
        }
    }
}

/// Connects so often, from several threads at once.
fn load(at: SocketAddr, total: u64, counts: &Counts) {
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while counts.begun.fetch_add(1, Ordering::Relaxed) < total {
                    let count = match converse(at) {
                        Ok(true) => &counts.served,
                        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                            &counts.hung
                        }
                        Ok(false) | Err(_) => &counts.cut,
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
}

/// One connection to its end; whether it was answered.
fn converse(at: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    // So that a million of them do not use up the ports of this machine.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(!answer.is_empty())
}

/// Kills a worker each time that so many connections have come; returns how many died.
fn kill_at_random(
    primary: &Primary,
    events: &Receiver<Event>,
    counts: &Counts,
    total: u64,
    per_kill: u64,
) -> u64 {
    // A number at random for each seed in turn: runs can be told apart by nothing but the kernel's timing.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let (mut kills, mut next) = (0, per_kill);
    while next < total {
        let begun = counts.begun.load(Ordering::Relaxed);
        if begun < next {
            // Events are of no use here, but their queue is not to grow.
            match events.recv_timeout(Duration::from_millis(5)) {
                Ok(_) | Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        next += per_kill;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let Ok(snapshot) = primary.snapshot() else { break };
        let workers: Vec<u32> = snapshot.workers.iter().map(|worker| worker.worker.get()).collect();
        if let Some(victim) = workers.get(random as usize % workers.len().max(1))
            && primary.kill(*victim, 9).is_ok()
        {
            kills += 1;
        }
    }
    kills
}

/// Open descriptors of this process and of the workers.
#[derive(Clone, Copy)]
struct Descriptors {
    primary: usize,
    /// Of the worker that has most.
    most: usize,
}

impl std::fmt::Display for Descriptors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in the primary, at most {} in a worker", self.primary, self.most)
    }
}

fn descriptors(primary: &Primary) -> Result<Descriptors, Failure> {
    let count = |pid: &str| std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
    let mut most = 0;
    for worker in primary.snapshot()?.workers {
        // One that is just being replaced has none.
        if let Some(pid) = worker.pid {
            most = most.max(count(&pid.to_string()).unwrap_or(0));
        }
    }
    Ok(Descriptors { primary: count("self")?, most })
}

/// Waits until what the last connections and the last kill have left is gone, or it is clear that it stays.
fn settle(primary: &Primary, before: &Descriptors) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let full = primary.snapshot().is_ok_and(|snapshot| snapshot.workers.len() == WORKERS);
        if full
            && descriptors(primary).is_ok_and(|now| now.primary <= before.primary && now.most <= before.most)
        {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
