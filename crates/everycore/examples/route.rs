//! Classes of workers by source network: two `normal` workers, and a `special` one for 127.0.0.2.
//!
//! Each connection is answered with the worker's slot: 0 and 1 are normal, 2 is special.
//!
//! `cargo run -p everycore --example route [address]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use everycore::{Cluster, Error, Event, Policy, Route, Worker};
use tokio::io::AsyncWriteExt;

fn main() -> everycore::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8000".into());
    let route = Route::new()
        .class("normal", 2, Policy::Least)
        .class("special", 1, Policy::RoundRobin)
        .rule("127.0.0.2", "special")
        .map_err(|error| Error::Setting(error.to_string()))?;
    Cluster::builder()
        .workers(route.workers() as usize)
        .scheduling(route)
        .on_event(|_, event| {
            if let Event::Listening { worker, address } = event {
                println!("{worker} listens on {address}");
            }
        })
        .run_with(|worker| serve(worker, address))?;
    Ok(())
}

async fn serve(worker: Worker, address: String) -> everycore::Result<()> {
    let mut listener = worker.listen(address).await?;
    while let Ok((mut stream, _)) = listener.accept().await {
        let answer = format!("{}\n", worker.slot());
        tokio::spawn(async move {
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
    Ok(())
}
