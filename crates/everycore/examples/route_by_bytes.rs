//! A function chooses the class by what the client says first: a line that begins with `GOLD` goes to `gold`, any other
//! one to `plain`, and so does a client that has said nothing after a while. The worker reads the same bytes again.
//!
//! Each connection is answered with the class of its worker and the line.
//!
//! `cargo run -p everycore --example route_by_bytes [address] [milliseconds]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use std::time::Duration;

use everycore::{Class, Cluster, Event, Route, Routing, Worker};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

const GOLD: &[u8] = b"GOLD";

fn main() -> everycore::Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8000".into());
    let patience =
        args.next().and_then(|text| text.parse().ok()).map_or(Duration::from_secs(1), Duration::from_millis);
    let route = Route::new()
        .class(Class::new("plain", 1))
        .class(Class::new("gold", 1))
        .choose(|opening| match opening.first_bytes {
            said if said.starts_with(GOLD) => Routing::from("gold"),
            said if GOLD.starts_with(said) => Routing::More,
            _ => Routing::from("plain"),
        })
        .peek(GOLD.len(), patience);
    Cluster::builder()
        .route(route)
        .on_event(|_, event| match event {
            Event::Listening { worker, address } => println!("{worker} listens on {address}"),
            Event::Exit { worker, status, .. } => println!("{worker} {status}"),
            Event::Warning { text } => println!("{text}"),
            _ => {}
        })
        .run_with(|worker| serve(worker, address))?;
    Ok(())
}

async fn serve(worker: Worker, address: String) -> everycore::Result<()> {
    let mut listener = worker.listen(address).await?;
    while let Ok((stream, _)) = listener.accept().await {
        let class = worker.class().unwrap_or_default().to_owned();
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            let answer = match stream.read_line(&mut line).await {
                Ok(_) => format!("{class}: {}\n", line.trim_end()),
                Err(error) => format!("{class}: {error}\n"),
            };
            let _ = stream.get_mut().write_all(answer.as_bytes()).await;
        });
    }
    Ok(())
}
