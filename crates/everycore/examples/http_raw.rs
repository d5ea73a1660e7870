//! HTTP/1.1 by hand, without a framework: what a server owes its clients when its worker is to leave.
//!
//! Keep-alive connections are answered with `connection: close` while the worker drains, and idle ones are kept until
//! almost the end: whoever closes an idle connection at once may cross a request on its way. `/slow?ms=N` waits,
//! `/block?ms=N` burns, anything else answers at once; each answer is the worker's pid.
//!
//! `cargo run --release -p everycore --example http_raw [address] [workers] [policy]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use std::task::Poll;
use std::time::{Duration, Instant};

use everycore::{Cluster, Event, Policy, Role, Stream, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A request head beyond this is refused by closing.
const HEAD: usize = 16 << 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match everycore::role()? {
        Role::Primary(cluster) => be_primary(cluster),
        Role::Worker(worker) => Ok(worker.block_on(serve)?),
    }
}

fn be_primary(mut cluster: Cluster) -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8000".into());
    if let Some(workers) = args.next().and_then(|text| text.parse().ok()) {
        cluster = cluster.workers(workers);
    }
    if let Some(name) = args.next() {
        let policy: Policy = name.parse()?;
        cluster = cluster.policy(policy);
    }
    cluster
        .bind("http", address)?
        .on_event(|_, event| match event {
            Event::Listening { worker, address } => println!("{worker} listens on {address}"),
            Event::Exit { worker, status, reason, .. } => println!("{worker} {status} ({reason})"),
            Event::ReloadDone { generation } => println!("generation {generation} serves"),
            Event::ReloadFailed { reason, .. } => println!("reload failed: {reason}"),
            Event::Hung { worker } => println!("{worker} is hung"),
            Event::Recovered { worker } => println!("{worker} is back"),
            _ => {}
        })
        .run()?;
    Ok(())
}

async fn serve(worker: Worker) -> everycore::Result<()> {
    let mut listener = worker.listener("http").await?;
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(converse(worker.clone(), stream));
    }
    Ok(())
}

/// One connection, request by request.
async fn converse(worker: Worker, mut stream: Stream) {
    let mut buffer = Vec::with_capacity(1024);
    loop {
        let Some(end) = read_head(&worker, &mut stream, &mut buffer).await else { return };
        let head: Vec<u8> = buffer.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        work(head.lines().next().unwrap_or_default()).await;
        let last = worker.is_draining() || head.contains("\r\nconnection: close");
        let body = format!("{}\n", worker.pid());
        let connection = if last { "close" } else { "keep-alive" };
        let response = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: {connection}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(response.as_bytes()).await.is_err() || last {
            return;
        }
    }
}

/// Reads until a request's head is whole; `None` when the client has gone, or has been idle until the end of the drain.
async fn read_head(worker: &Worker, stream: &mut Stream, buffer: &mut Vec<u8>) -> Option<usize> {
    let mut drained = std::pin::pin!(worker.drained());
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            return Some(end + 4);
        }
        if buffer.len() > HEAD {
            return None;
        }
        let mut read = std::pin::pin!(stream.read_buf(buffer));
        let length = std::future::poll_fn(|cx| match read.as_mut().poll(cx) {
            Poll::Ready(length) => Poll::Ready(length.ok()),
            Poll::Pending => drained.as_mut().poll(cx).map(|()| None),
        })
        .await?;
        if length == 0 {
            return None;
        }
    }
}

async fn work(request_line: &str) {
    let milliseconds = request_line
        .split(['=', ' '])
        .find_map(|part| part.parse().ok())
        .map_or(Duration::ZERO, Duration::from_millis);
    if request_line.contains("/slow") {
        tokio::time::sleep(milliseconds).await;
    } else if request_line.contains("/block") {
        let until = Instant::now() + milliseconds;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    }
}
