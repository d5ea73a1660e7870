//! S9: a worker's `listen` is a question to the primary, which binds once per address for all of them.
//!
//! Every worker listens on the same address twice over: once on a port of its choice, which all share, and twice on
//! port 0, where the first listener of every worker shares one random port and the second another.
//!
//! `cargo run -p everycore --example s09_listen [address]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use everycore::{Cluster, Event, Listener, Worker};
use tokio::io::AsyncWriteExt;

fn main() -> everycore::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8000".into());
    Cluster::builder()
        .workers(2)
        .on_event(|_, event| {
            if let Event::Listening { worker, address } = event {
                println!("{worker} listens on {address}");
            }
        })
        .run_with(|worker| serve(worker, address))?;
    Ok(())
}

async fn serve(worker: Worker, address: String) -> everycore::Result<()> {
    let listeners = [
        worker.listen(address).await?,
        worker.listen("127.0.0.1:0").await?,
        worker.listen("127.0.0.1:0").await?,
    ];
    let taken = listeners[1].local_addr().tcp().unwrap_or(([127, 0, 0, 1], 0).into());
    // Bound by this cluster already, so it is shared, not refused: asking again in one worker is what is refused.
    if let Err(error) = worker.listen(taken).await {
        println!("{taken} again: {error}");
    }
    let tasks = listeners.map(|listener| tokio::spawn(answer(listener, worker.pid())));
    for task in tasks {
        let _ = task.await;
    }
    Ok(())
}

async fn answer(mut listener: Listener, pid: u32) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let text = format!("{pid} on {}\n", listener.local_addr());
        let _ = stream.write_all(text.as_bytes()).await;
    }
}
