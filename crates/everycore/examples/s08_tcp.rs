//! S8: any TCP server on every CPU: each connection is answered with the worker's pid after 10 ms.
//!
//! `cargo run -p everycore --example s08_tcp [address] [workers]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use std::time::Duration;

use everycore::{Cluster, Event, Worker};
use tokio::io::AsyncWriteExt;

fn main() -> everycore::Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8000".into());
    let workers = args.next().and_then(|text| text.parse().ok()).unwrap_or_else(everycore::auto);
    Cluster::builder()
        .workers(workers)
        .on_event(|_, event| match event {
            Event::Online { worker } => println!("{worker} is online"),
            Event::Listening { worker, address } => println!("{worker} listens on {address}"),
            Event::Exit { worker, status, .. } => println!("{worker} {status}; a new one follows"),
            _ => {}
        })
        .run_with(|worker| serve(worker, address))?;
    Ok(())
}

async fn serve(worker: Worker, address: String) -> everycore::Result<()> {
    let mut listener = worker.listen(address).await?;
    while let Ok((mut stream, _)) = listener.accept().await {
        let answer = format!("{}\n", worker.pid());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            // A client that has gone does not want its answer.
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
    Ok(())
}
