//! Threads and blocking calls, as with `std::net`: no runtime anywhere.
//!
//! `cargo run -p everycore-integrations --example blocking_http [address] [workers]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use std::io::{BufRead, BufReader, Write};

use everycore::{BlockingStream, Role, Worker};

/// Threads per worker that accept.
const THREADS: usize = 4;

fn main() -> everycore::Result<()> {
    match everycore::role()? {
        Role::Primary(_) => everycore_integrations::cluster("http")?.run().map(drop),
        Role::Worker(worker) => serve(&worker),
    }
}

fn serve(worker: &Worker) -> everycore::Result<()> {
    let listener = worker.listener_blocking("http")?;
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Ok((stream, _)) = listener.accept_blocking() {
                    // A client that breaks off is no failure of ours.
                    let _ = converse(worker, stream);
                }
            });
        }
    });
    drop(listener);
    worker.finish_blocking();
    Ok(())
}

/// One request per connection.
fn converse(worker: &Worker, stream: BlockingStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
    }
    let body = format!("{}\n", worker.pid());
    write!(
        stream.get_mut(),
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
