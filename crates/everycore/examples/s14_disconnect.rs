//! S14: an orderly end: workers stop accepting, finish what they have, and exit 0, or are killed at the deadline.
//!
//! Each connection is answered after a while (in ms, argument two). Whoever sends the line `stop` has the primary
//! disconnect all workers; those that are not done within the deadline (in ms, argument three) get `TERM`.
//!
//! `cargo run -p everycore --example s14_disconnect [address] [answer-after] [deadline]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use std::time::Duration;

use everycore::{Cluster, Event, Role, Stream, Worker};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

fn main() -> everycore::Result<()> {
    match everycore::role()? {
        Role::Primary(cluster) => be_primary(cluster),
        Role::Worker(worker) => worker.block_on(serve),
    }
}

fn be_primary(cluster: Cluster) -> everycore::Result<()> {
    cluster
        .workers(2)
        .graceful_timeout(milliseconds(3, 8000))
        .on_event(|primary, event| match event {
            Event::Listening { worker, address } => println!("{worker} listens on {address}"),
            Event::Message { worker, .. } => {
                println!("{worker} was told to stop");
                let _ = primary.disconnect_all();
            }
            Event::Exit { worker, status, exited_after_disconnect, .. } => {
                println!("{worker} {status}, after disconnect: {exited_after_disconnect}");
            }
            _ => {}
        })
        .run()?;
    println!("done");
    Ok(())
}

async fn serve(worker: Worker) -> everycore::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8000".into());
    let mut listener = worker.listen(address).await?;
    // Ends when the worker is asked to leave; `block_on` then waits until the last connection is closed.
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(worker.clone(), stream));
    }
    Ok(())
}

async fn answer(worker: Worker, stream: Stream) -> everycore::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let _ = stream.read_line(&mut line).await;
    if line.trim_end() == "stop" {
        worker.send("stop").await?;
    }
    tokio::time::sleep(milliseconds(2, 100)).await;
    let _ = stream.write_all(format!("bye from {}\n", worker.pid()).as_bytes()).await;
    Ok(())
}

fn milliseconds(argument: usize, default: u64) -> Duration {
    Duration::from_millis(
        std::env::args().nth(argument).and_then(|text| text.parse().ok()).unwrap_or(default),
    )
}
