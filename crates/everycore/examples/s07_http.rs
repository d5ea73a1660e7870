//! S7: one program, two roles: the primary keeps one HTTP worker per CPU behind one port.
//!
//! The port comes from the arguments, which reach the workers too, or from `PORT`; 8000 otherwise. A worker that ends
//! is replaced; with `--log-only` its end is only logged, and the others serve on.
//!
//! `cargo run -p everycore --features axum --example s07_http [port] [--log-only]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use axum::{Router, routing::get};
use everycore::{Cluster, Event, RestartPolicy, RestartSettings, Role, Worker};

fn main() -> everycore::Result<()> {
    match everycore::role()? {
        Role::Primary(cluster) => be_primary(cluster),
        Role::Worker(worker) => worker.block_on(serve),
    }
}

fn be_primary(cluster: Cluster) -> everycore::Result<()> {
    let log_only = std::env::args().any(|arg| arg == "--log-only");
    let policy = if log_only { RestartPolicy::Never } else { RestartPolicy::Always };
    println!("primary {} starts {} workers", std::process::id(), everycore::auto());
    cluster
        .restart(RestartSettings { policy, ..RestartSettings::default() })
        .on_event(|_, event| match event {
            Event::Listening { worker, address } => println!("{worker}: http://{address}/"),
            Event::Exit { worker, status, .. } => println!("{worker} {status}"),
            _ => {}
        })
        .run()?;
    Ok(())
}

async fn serve(worker: Worker) -> everycore::Result<()> {
    let pid = worker.pid();
    let app = Router::new().route("/", get(move || async move { format!("hello from {pid}\n") }));
    let listener = worker.listen(format!("127.0.0.1:{}", port())).await?;
    worker.serve(listener, app).await
}

fn port() -> u16 {
    let argument = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    argument.or_else(|| std::env::var("PORT").ok()).and_then(|text| text.parse().ok()).unwrap_or(8000)
}
