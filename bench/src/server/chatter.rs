//! A cluster that serves nobody: what messages to every worker cost, and what looking at the cluster does.
//!
//! The primary prints one line per figure, `NAME KEY NUMBER…`; the bench makes tables of them. Neighbour: `main` starts it
//! with `chatter` for a face.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use everycore::{Cluster, Event, Primary, Readiness, Role, Urgency, Worker};
use serde_json::{Value, json};

use crate::cpu;

/// How long anything may take before it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// Broadcasts before the workers are waited for.
const RUN: usize = 16;

/// Sizes of messages, and how long each is measured.
const SIZES: [usize; 2] = [64, 16_384];

/// Snapshots in a row.
const SNAPSHOTS: u32 = 1000;

/// Ten per second for this long.
const WATCHED: Duration = Duration::from_secs(3);

pub(crate) fn run(workers: usize, window: Duration) -> everycore::Result<()> {
    match everycore::role()? {
        Role::Primary(cluster) => be_primary(cluster, workers, window),
        Role::Worker(worker) => worker.block_on(be_worker),
    }
}

/// Hears everything, and answers what asks for it.
async fn be_worker(worker: Worker) -> everycore::Result<()> {
    while let Some(received) = worker.recv().await? {
        let message: Value = received.into_message().parse().unwrap_or_default();
        if message["last"] == true {
            worker.send("heard").await?;
        }
    }
    Ok(())
}

fn be_primary(cluster: Cluster, workers: usize, window: Duration) -> everycore::Result<()> {
    let (tell, told) = channel();
    let running = cluster
        .workers(workers)
        .readiness(Readiness::Online)
        .on_event(move |_, event| {
            let pid = match &event {
                Event::Online { worker, .. } => worker.pid.unwrap_or(0),
                Event::Message { .. } => 0,
                _ => return,
            };
            // Nobody listens any more when the measurement is over.
            let _ = tell.send(pid);
        })
        .start()?;
    let primary = running.primary().clone();
    let pids: Vec<u32> = (0..workers).map(|_| next(&told)).collect::<everycore::Result<_>>()?;
    for size in SIZES {
        broadcast(&primary, &told, &pids, size, window)?;
    }
    snapshots(&primary)?;
    watch(&primary, Duration::from_millis(100))?;
    println!("done");
    primary.stop(Urgency::Fast)?;
    running.wait().map(drop)
}

fn next(told: &Receiver<u32>) -> everycore::Result<u32> {
    told.recv_timeout(PATIENCE).map_err(|_| everycore::Error::TimedOut { after: PATIENCE })
}

/// `broadcast SIZE MESSAGES NANOSECONDS PRIMARY WORKERS`, the last two in nanoseconds of CPU time.
fn broadcast(
    primary: &Primary,
    told: &Receiver<u32>,
    pids: &[u32],
    size: usize,
    window: Duration,
) -> everycore::Result<()> {
    let (message, last) = (json!({ "data": "x".repeat(size) }), json!({ "last": true }));
    let mut count = 0;
    let (own, theirs, began) = (cpu::own(), cpu::used(pids), Instant::now());
    while began.elapsed() < window {
        for _ in 0..RUN {
            let reached = primary.broadcast(&message)?;
            if reached != pids.len() {
                return Err(everycore::Error::Setting(format!("only {reached} workers were reached")));
            }
        }
        primary.broadcast(&last)?;
        for _ in pids {
            next(told)?;
        }
        count += RUN + 1;
    }
    let (elapsed, own, theirs) = (began.elapsed(), cpu::own() - own, cpu::used(pids) - theirs);
    let nanos = |duration: Duration| duration.as_nanos();
    println!("broadcast {size} {count} {} {} {}", nanos(elapsed), nanos(own), nanos(theirs));
    Ok(())
}

/// `snapshot NANOSECONDS PRIMARY`: of one, and of CPU time for one.
fn snapshots(primary: &Primary) -> everycore::Result<()> {
    let (own, began) = (cpu::own(), Instant::now());
    for _ in 0..SNAPSHOTS {
        std::hint::black_box(primary.snapshot()?);
    }
    let each = |duration: Duration| (duration / SNAPSHOTS).as_nanos();
    println!("snapshot {} {}", each(began.elapsed()), each(cpu::own() - own));
    Ok(())
}

/// `watched IDLE WATCHED`: nanoseconds of the primary's CPU time per second, left alone and looked at ten times a second.
fn watch(primary: &Primary, every: Duration) -> everycore::Result<()> {
    let per_second = |used: Duration| used.as_nanos() as f64 / WATCHED.as_secs_f64();
    let own = cpu::own();
    std::thread::sleep(WATCHED);
    let idle = per_second(cpu::own() - own);
    let (own, began) = (cpu::own(), Instant::now());
    while began.elapsed() < WATCHED {
        std::hint::black_box(primary.snapshot()?);
        std::thread::sleep(every);
    }
    println!("watched {idle:.0} {:.0}", per_second(cpu::own() - own));
    Ok(())
}
