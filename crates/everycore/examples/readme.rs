//! The library example of the README, word for word.
//!
//! `cargo run -p everycore --features axum --example readme`

#![allow(clippy::print_stderr, reason = "an example talks to people")]

use axum::{Router, routing::get};
use everycore::{Cluster, Event};

fn main() -> everycore::Result<()> {
    Cluster::builder()
        .bind("http", "127.0.0.1:8000")?
        .on_event(|_, event| {
            if let Event::Exit { worker, status, .. } = event {
                eprintln!("{worker} {status}");
            }
        })
        .run_with(async |worker| {
            let app = Router::new().route("/", get(|| async { "hello\n" }));
            let listener = worker.listener("http").await?;
            worker.serve(listener, app).await
        })?;
    Ok(())
}
