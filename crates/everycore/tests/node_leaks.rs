//! Node workers are killed again and again while connections are handed to them: no client hangs, no descriptor stays.
//! A program of its own, since it counts its descriptors.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it skips"
)]
#![allow(dead_code, reason = "shared by several modules, each uses a part")]

#[path = "node/support.rs"]
mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use everycore::RestartSettings;
use everycore_sys::signals::number::{KILL, STOP};
use support::{Nodes, Seen, Starts, connect, need_node, policies, until};

/// Kills for each policy.
const KILLS: u32 = 8;

#[test]
fn workers_killed_with_connections_on_their_way() {
    let node = need_node!(served);
    for policy in policies(node) {
        let program = "report(net.createServer((s) => { s.on('error', () => {}); s.once('data', () => s.end(String(cluster.worker.id))) }), 0, '127.0.0.1')";
        let nodes = Nodes::start(node.cluster(program).workers(2).policy(policy).restart(RestartSettings {
            first_delay: std::time::Duration::from_millis(1),
            limit: 1000,
            ..RestartSettings::default()
        }));
        let at = nodes.all_listen(2);
        let before = descriptors();
        let load = Load::start(at);
        for round in 0..KILLS {
            // The youngest pair of workers; some are stopped first, so that connections pile up in front of them.
            let workers: Vec<u32> =
                nodes.primary().snapshot().unwrap().workers.iter().map(|w| w.worker.get()).collect();
            let victim = workers[round as usize % workers.len()];
            if round % 2 == 0 {
                nodes.primary().kill(victim, STOP).unwrap();
                load.wait_for_more(20);
            }
            nodes.primary().kill(victim, KILL).unwrap();
            nodes.find(|seen| matches!(seen, Seen::Listening(..)).then_some(()));
            load.wait_for_more(50);
        }
        let Outcome { served, cut } = load.end();
        println!("{policy}: {served} served, {cut} cut short by {KILLS} kills");
        assert!(cut <= served / 10, "only what a killed worker had taken is lost: {cut} of {served}");
        until("every descriptor is given back", || descriptors() == before);
    }
}

fn descriptors() -> usize {
    // Without the one it is counted with.
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

/// Clients that come one after the other, several at a time.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU32>,
    clients: Vec<std::thread::JoinHandle<Outcome>>,
}

#[derive(Clone, Copy, Default)]
struct Outcome {
    served: u32,
    cut: u32,
}

impl Load {
    fn start(at: SocketAddr) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let clients = (0..8)
            .map(|_| {
                let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
                std::thread::spawn(move || {
                    let mut outcome = Outcome::default();
                    while !stop.load(Ordering::Relaxed) {
                        match visit(at) {
                            Visit::Served => outcome.served += 1,
                            Visit::Cut => outcome.cut += 1,
                        }
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    outcome
                })
            })
            .collect();
        Self { stop, done, clients }
    }

    fn wait_for_more(&self, count: u32) {
        let target = self.done.load(Ordering::Relaxed) + count;
        until("clients get on", || self.done.load(Ordering::Relaxed) >= target);
    }

    fn end(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let all = self.clients.into_iter().map(|client| client.join().unwrap());
        all.fold(Outcome::default(), |sum, one| Outcome {
            served: sum.served + one.served,
            cut: sum.cut + one.cut,
        })
    }
}

enum Visit {
    Served,
    Cut,
}

/// One visit; panics if it hangs.
fn visit(at: SocketAddr) -> Visit {
    let mut client = connect(at);
    let mut answer = String::new();
    let result = client.write_all(b"hello").and_then(|()| client.read_to_string(&mut answer));
    match result {
        Ok(_) if !answer.is_empty() => Visit::Served,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("a client hangs"),
        Ok(_) | Err(_) => Visit::Cut,
    }
}
