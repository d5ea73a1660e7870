//! Our side of the comparison: an HTTP server of workers, made with the `everycore` library.
//!
//! `everycore-bench-server ADDRESS WORKERS POLICY FACE [events] [witness=FILE]`: `POLICY` is `least`, `rr` or
//! `shared`; `FACE` is what the worker serves with, one of `raw`, `hyper`, `axum`. `GET /` answers with the worker's
//! process id, `GET /block?ms=50` burns CPU for 50 ms before. With `events` the primary prints what happens to its
//! workers and when. With `witness` each worker writes down each connection it has taken.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "it is started by the bench, which reads what it prints")]

mod burn;
mod face_axum;
mod face_hyper;
mod face_raw;
mod once;
mod witness;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use everycore::{Cluster, Event, Policy, RestartSettings, Worker};
use witness::Witness;

fn main() -> everycore::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, workers, policy, face, options @ ..] = args.as_slice() else {
        println!(
            "usage: everycore-bench-server ADDRESS WORKERS POLICY raw|hyper|axum [events] [witness=FILE]"
        );
        std::process::exit(2);
    };
    let mut cluster = Cluster::builder()
        .bind_with_backlog("http", address.as_str(), 4096)?
        .workers(workers.parse().map_err(|_| everycore::Error::Setting(format!("no number: {workers}")))?)
        .policy(policy.parse::<Policy>().map_err(|error| everycore::Error::Setting(error.to_string()))?)
        .restart(at_once());
    if options.iter().any(|option| option == "events") {
        cluster = cluster.on_event(|_, event| print_event(&event));
    }
    let witness = options.iter().find_map(|option| option.strip_prefix("witness="));
    let face = Face::named(face)?;
    cluster.run_with(async |worker| serve(worker, face, witness.map(Witness::open)).await)?;
    Ok(())
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

async fn serve(worker: Worker, face: Face, witness: Option<Witness>) -> everycore::Result<()> {
    let listener = worker.listener("http").await?;
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
