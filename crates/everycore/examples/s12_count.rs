//! S12: counting requests: each worker notifies the primary of each, which prints the total every second.
//!
//! `cargo run -p everycore --example s12_count [address] [workers]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use everycore::{Cluster, Event, Role, Worker};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn main() -> everycore::Result<()> {
    match everycore::role()? {
        Role::Primary(cluster) => be_primary(cluster),
        Role::Worker(worker) => worker.block_on(serve),
    }
}

fn be_primary(cluster: Cluster) -> everycore::Result<()> {
    let requests = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&requests);
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            println!("requests: {}", counted.load(Ordering::Relaxed));
        }
    });
    let workers = std::env::args().nth(2).and_then(|text| text.parse().ok()).unwrap_or_else(everycore::auto);
    cluster
        .workers(workers)
        .on_event(move |_, event| match event {
            Event::Listening { worker, address } => println!("{worker} listens on {address}"),
            Event::Message { message, .. } => {
                let message: Value = message.parse().unwrap_or_default();
                if message["cmd"] == "notifyRequest" {
                    requests.fetch_add(1, Ordering::Relaxed);
                }
            }
            _ => {}
        })
        .run()?;
    Ok(())
}

async fn serve(worker: Worker) -> everycore::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8000".into());
    let mut listener = worker.listen(address).await?;
    while let Ok((mut stream, _)) = listener.accept().await {
        let worker = worker.clone();
        tokio::spawn(async move {
            let mut request = [0; 4096];
            if !matches!(stream.read(&mut request).await, Ok(length) if length > 0) {
                return;
            }
            // A primary that is going away counts no more.
            let _ = worker.send(&json!({"cmd": "notifyRequest"})).await;
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n";
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
    Ok(())
}
