//! What once went wrong in the primary, each with the smallest cluster that shows it.
//!
//! Without a harness: workers are this very program, and the role has to be asked for before any thread runs.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says which one ran"
)]

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use everycore::{Cluster, Error, Event, Readiness, Role, Running, Urgency, Worker};

/// How long anything may take that should take no time at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// A name, and what is to hold.
type Case = (&'static str, fn());

const CASES: [Case; 5] = [
    ("a_worker_that_gives_up_its_last_listener_does_not_keep_the_primary_busy", gives_up_its_listener),
    ("a_request_without_end_is_one", request_without_end),
    ("an_observer_that_panics_ends_the_wait_of_others", observer_panics),
    ("a_grandchild_that_talks_does_not_keep_the_primary_from_its_work", talking_grandchild),
    ("workers_that_talk_without_end_do_not_keep_clients_waiting", talking_workers),
];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    match everycore::role().unwrap() {
        Role::Worker(worker) => worker.block_on(work).unwrap(),
        Role::Primary(_) => {
            let chosen = |name: &str| {
                let mut filters = wanted.iter().filter(|word| !word.starts_with('-')).peekable();
                filters.peek().is_none() || filters.any(|word| name.contains(word.as_str()))
            };
            for (name, holds) in CASES.iter().filter(|(name, _)| chosen(name)) {
                holds();
                println!("test {name} ... ok");
            }
        }
    }
}

// --- workers ---

async fn work(worker: Worker) -> everycore::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("one") {
        let mut listener = worker.listener("a").await?;
        let (stream, _) = listener.accept().await.map_err(|error| Error::Message(error.to_string()))?;
        drop(listener);
        drop(stream);
    }
    if std::env::args().nth(1).as_deref() == Some("talk") {
        let mut listener = worker.listener("a").await?;
        let talks = worker.clone();
        tokio::spawn(async move {
            while talks.send("and another thing").await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    }
    worker.draining().await;
    Ok(())
}

// --- helpers ---

/// Runs a cluster of these workers and gives the events that matter.
fn cluster(kind: &str, workers: usize) -> (Running, Receiver<Event>) {
    let (tell, told) = channel();
    let running = Cluster::builder()
        .workers(workers)
        .signals(false)
        .readiness(Readiness::Online)
        .bind("a", "127.0.0.1:0")
        .unwrap()
        .args([kind])
        .on_event(move |_, event| {
            if !matches!(event, Event::Message { .. }) {
                let _ = tell.send(event);
            }
        })
        .start()
        .unwrap();
    (running, told)
}

fn await_event(told: &Receiver<Event>, wanted: impl Fn(&Event) -> bool) -> Event {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let event = told.recv_timeout(deadline.saturating_duration_since(Instant::now())).unwrap();
        if wanted(&event) {
            return event;
        }
    }
}

fn address(running: &Running) -> SocketAddr {
    running.address("a").unwrap().tcp().unwrap()
}

fn stop(running: Running) {
    running.primary().stop(Urgency::Fast).unwrap();
    running.wait().unwrap();
}

/// Processor time this process has used.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<u64> = stat[stat.rfind(')').unwrap() + 2..]
        .split(' ')
        .skip(11)
        .take(2)
        .map(|n| n.parse().unwrap())
        .collect();
    Duration::from_millis((fields[0] + fields[1]) * 10)
}

// --- cases ---

fn gives_up_its_listener() {
    let (running, told) = cluster("one", 1);
    await_event(&told, |event| matches!(event, Event::Listening { .. }));
    let mut client = TcpStream::connect(address(&running)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    // Past the time after which a worker that takes nothing is looked at.
    std::thread::sleep(Duration::from_millis(1500));
    let before = processor_time();
    std::thread::sleep(Duration::from_secs(1));
    let used = processor_time() - before;
    assert!(used < Duration::from_millis(300), "the primary used {used:?} of a second for nothing");
    stop(running);
}

fn request_without_end() {
    let (running, told) = cluster("idle", 1);
    await_event(&told, |event| matches!(event, Event::Ready { .. }));
    let reply = running.primary().request(1, "anybody?", Duration::MAX).unwrap();
    running.primary().snapshot().unwrap();
    stop(running);
    assert!(matches!(reply.wait(), Err(Error::Disconnected)));
}

fn observer_panics() {
    let (tell, told) = channel();
    let running = Cluster::builder()
        .workers(1)
        .signals(false)
        .readiness(Readiness::Online)
        .args(["idle"])
        .on_event(|_, event| {
            assert!(!matches!(event, Event::Ready { .. }), "not an error: this test's observer panics")
        })
        .start()
        .unwrap();
    let primary = running.primary().clone();
    std::thread::spawn(move || {
        // However the first ones go: in the end there is no primary.
        while primary.snapshot().is_ok() {}
        let _ = tell.send(primary.reload());
    });
    let answer = told.recv_timeout(PATIENCE).expect("a handle must not wait for a primary that is no more");
    assert!(matches!(answer, Err(Error::PrimaryGone)), "{answer:?}");
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| running.wait())).is_err());
}

fn talking_grandchild() {
    let (tell, told) = channel();
    // Messages faster than they can be read, until nobody reads; who started it leaves at once.
    let file = std::env::temp_dir().join(format!("everycore-regressions-{}", std::process::id()));
    std::fs::write(&file, b"\x02\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0{}".repeat(1 << 20)).unwrap();
    let script = format!("(while cat {} >&3; do :; done) 2>/dev/null & exit 0", file.display());
    let running = Cluster::builder()
        .workers(1)
        .signals(false)
        .readiness(Readiness::Online)
        .command(move |_| Ok(everycore::WorkerCommand::new("sh", ["-c", &script])))
        .on_event(move |_, event| {
            if !matches!(event, Event::Message { .. }) {
                let _ = tell.send(event);
            }
        })
        .start()
        .unwrap();
    await_event(&told, |event| matches!(event, Event::Exit { .. }));
    stop(running);
    std::fs::remove_file(file).unwrap();
}

fn talking_workers() {
    let (tell, told) = channel();
    let running = Cluster::builder()
        .workers(2)
        .signals(false)
        .bind("a", "127.0.0.1:0")
        .unwrap()
        .args(["talk"])
        .on_event(move |_, event| match event {
            // Whoever listens is slower than those who talk: there is always more to be read.
            Event::Message { .. } => spin(Duration::from_micros(20)),
            event => drop(tell.send(event)),
        })
        .start()
        .unwrap();
    await_event(&told, |event| matches!(event, Event::Listening { .. }));
    for _ in 0..20 {
        let mut client = TcpStream::connect(address(&running)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 0, "somebody takes it");
    }
    stop(running);
}

fn spin(time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        std::hint::spin_loop();
    }
}
