//! One listener for several addresses of any kind, and without a runtime: each connection is answered with the
//! worker's pid.
//!
//! An address may be followed by options: `unix:/run/app.sock?mode=660`, `:8000?nodelay&backlog=1024`,
//! `fd://3`, `unix:@name`.
//!
//! `cargo run -p everycore --example addresses WORKERS ADDRESS...`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use std::io::Write;

use everycore::{Cluster, Event, ListenOptions, Role, Worker};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match everycore::role()? {
        Role::Primary(cluster) => be_primary(cluster),
        Role::Worker(worker) => Ok(serve(&worker)?),
    }
}

fn be_primary(mut cluster: Cluster) -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let workers = args.next().and_then(|text| text.parse().ok()).unwrap_or_else(everycore::auto);
    for arg in args {
        let (address, options) = arg.split_once('?').unwrap_or((&arg, ""));
        let options: ListenOptions = options.parse().map_err(|error| format!("{arg}: {error}"))?;
        cluster = cluster.bind_also("any", address, options)?;
    }
    cluster
        .workers(workers)
        .on_event(|_, event| match event {
            Event::Listening { worker, address } => println!("{worker} listens on {address}"),
            Event::Exit { worker, status, .. } => println!("{worker} {status}"),
            _ => {}
        })
        .run()?;
    Ok(())
}

fn serve(worker: &Worker) -> everycore::Result<()> {
    let listener = worker.listener_blocking("any")?;
    while let Ok((mut stream, _)) = listener.accept_blocking() {
        // A client that has gone does not want its answer.
        let _ = writeln!(stream, "{}", worker.pid());
    }
    drop(listener);
    worker.finish_blocking();
    Ok(())
}
