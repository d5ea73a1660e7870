//! Our side of the comparison: an HTTP server of workers, made with the `everycore` library.
//!
//! `everycore-bench-server ADDRESS WORKERS POLICY FACE [events] [witness=FILE]`: `POLICY` is `least`, `rr` or
//! `shared`; `FACE` is what the worker serves with, one of `raw`, `hyper`, `axum`, or `node` with `node=PROGRAM` and
//! `script=FILE`, which has Node's own cluster program for workers, or `chatter`, which serves nobody and measures messages.
//! With `bulk=BYTES` primary and workers send each other messages of this size all the while.
//! With `listeners=N` it listens on so many addresses, counting up. `GET /` answers with the worker's
//! process id, `GET /block?ms=50` burns CPU for 50 ms before. With `events` the primary prints what happens to its
//! workers and when. With `witness` each worker writes down each connection it has taken.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "it is started by the bench, which reads what it prints")]

mod bulk;
mod burn;
mod chatter;
#[path = "../measure/cpu.rs"]
mod cpu;
mod face_axum;
mod face_hyper;
mod face_raw;
mod once;
mod witness;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use everycore::{Cluster, Dialect, Event, Listener, Policy, RestartSettings, Serialization, Worker};
use witness::Witness;

fn main() -> everycore::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, workers, policy, face, options @ ..] = args.as_slice() else {
        println!(
            "usage: everycore-bench-server ADDRESS WORKERS POLICY raw|hyper|axum|node [events] [witness=FILE] \
             [node=PROGRAM script=FILE] [listeners=N] [bulk=BYTES]"
        );
        std::process::exit(2);
    };
    let option = |name: &str| options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
    let count = number(workers)?;
    if face == "chatter" {
        return chatter::run(count, Duration::from_millis(number(option("window").unwrap_or("500"))? as u64));
    }
    let mut cluster = Cluster::builder()
        .workers(count)
        .policy(policy.parse::<Policy>().map_err(|error| everycore::Error::Setting(error.to_string()))?)
        .restart(at_once());
    if options.iter().any(|option| option == "events") {
        cluster = cluster.on_event(|_, event| print_event(&event));
    }
    let bulk = option("bulk").map(number).transpose()?;
    if let Some(bytes) = bulk {
        cluster = cluster.on_event(move |primary, event| bulk::to_workers(primary, &event, bytes));
    }
    if face == "node" {
        let (Some(node), Some(script)) = (option("node"), option("script")) else {
            return Err(everycore::Error::Setting("node=PROGRAM and script=FILE are needed".into()));
        };
        let (host, port) = address.split_once(':').unwrap_or((address, ""));
        cluster = cluster.dialect(Dialect::Node(Serialization::Json)).exec(node);
        cluster.args([script, host, port, workers, policy]).run()?;
        return Ok(());
    }
    let face = Face::named(face)?;
    let witness = option("witness");
    let listeners = option("listeners").map_or(Ok(1), number)?;
    for (name, address) in addresses(address, listeners)? {
        cluster = cluster.bind_with(name, address, everycore::ListenOptions::new().backlog(4096))?;
    }
    cluster.run_with(async |worker| {
        if let Some(bytes) = bulk {
            bulk::to_primary(&worker, bytes);
        }
        serve_all(worker, face, listeners, witness.map(Witness::open)).await
    })?;
    Ok(())
}

fn number(text: &str) -> everycore::Result<usize> {
    text.parse().map_err(|_| everycore::Error::Setting(format!("no number: {text}")))
}

/// The name and address of each listener, counting up from the first.
fn addresses(first: &str, count: usize) -> everycore::Result<impl Iterator<Item = (String, SocketAddr)>> {
    let first: SocketAddrV4 =
        first.parse().map_err(|_| everycore::Error::Setting(format!("no IPv4 address and port: {first}")))?;
    Ok((0..count).map(move |index| {
        let ip = Ipv4Addr::from_bits(first.ip().to_bits() + index as u32);
        (listener_name(index), SocketAddr::from((ip, first.port())))
    }))
}

fn listener_name(index: usize) -> String {
    format!("http{index}")
}

/// What the worker serves with.
#[derive(Clone, Copy, Debug)]
enum Face {
    Raw,
    Hyper,
    Axum,
}

impl Face {
    fn named(name: &str) -> everycore::Result<Self> {
        match name {
            "raw" => Ok(Self::Raw),
            "hyper" => Ok(Self::Hyper),
            "axum" => Ok(Self::Axum),
            _ => {
                Err(everycore::Error::Setting(format!("no such face: {name}; there are raw, hyper and axum")))
            }
        }
    }
}

/// All but the first listener are served in tasks of their own.
async fn serve_all(
    worker: Worker,
    face: Face,
    listeners: usize,
    witness: Option<Witness>,
) -> everycore::Result<()> {
    for index in 1..listeners {
        let listener = worker.listener(&listener_name(index)).await?;
        tokio::spawn(serve(worker.clone(), listener, face, witness.clone()));
    }
    let first = worker.listener(&listener_name(0)).await?;
    serve(worker, first, face, witness).await
}

async fn serve(
    worker: Worker,
    listener: Listener,
    face: Face,
    witness: Option<Witness>,
) -> everycore::Result<()> {
    match face {
        Face::Raw => face_raw::serve(worker, listener, witness).await,
        Face::Hyper => face_hyper::serve(worker, listener, witness).await,
        Face::Axum => face_axum::serve(worker, listener).await,
    }
}

/// A worker that is killed is replaced at once, however often: the bench kills faster than anything crashes.
fn at_once() -> RestartSettings {
    RestartSettings {
        first_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(1),
        limit: 1_000_000,
        healthy_after: Duration::ZERO,
        ..RestartSettings::default()
    }
}

/// `NAME WORKER PID NANOSECONDS` for what happens to a worker, the text alone for the rest.
fn print_event(event: &Event) {
    let name = match event {
        Event::Fork { .. } => "fork",
        Event::Listening { .. } => "listening",
        Event::Exit { .. } => "exit",
        Event::ReloadDone { .. } => return println!("reloaded"),
        Event::ReloadFailed { reason, .. } => return println!("reload failed: {reason}"),
        Event::Error { worker, reason } => return println!("error {worker}: {reason}"),
        Event::Warning { text } => return println!("warning {text}"),
        _ => return,
    };
    if let Some(worker) = event.worker() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        println!("{name} {} {} {}", worker.id, worker.pid.unwrap_or(0), now.as_nanos());
    }
}
