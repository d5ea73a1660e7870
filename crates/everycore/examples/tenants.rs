//! Classes of workers for different guests: `web` for everybody, `ops` for whoever comes to the admin port, `batch` for
//! 127.0.0.3, who is refused when it is full, and `vip` for 127.0.0.4, whose overflow `web` serves.
//!
//! A worker holds two connections at most. Each is answered with the class and the pid of its worker, and stays until the
//! client closes it.
//!
//! `cargo run -p everycore --example tenants [address] [admin address]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use everycore::{Class, Cluster, Event, Listener, Route, WhenFull, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn main() -> everycore::Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8000".into());
    let admin = args.next().unwrap_or_else(|| "127.0.0.1:9000".into());
    let route = Route::new()
        .class(Class::new("web", 2))
        .class(Class::new("ops", 1))
        .class(Class::new("batch", 1).when_full(WhenFull::Refuse))
        .class(Class::new("vip", 1).when_full(WhenFull::SpillTo("web".into())))
        .rule("listener:admin", "ops")?
        .rule("127.0.0.3", "batch")?
        .rule("127.0.0.4", "vip")?;
    Cluster::builder()
        .bind("http", address)?
        .bind("admin", admin)?
        .route(route)
        .max_connections(2)
        .on_event(|_, event| match event {
            Event::Listening { worker, address } => println!("{worker} listens on {address}"),
            Event::Exit { worker, status, .. } => println!("{worker} {status}"),
            Event::Refused { class, refused } => println!("{class} has refused {refused} so far"),
            _ => {}
        })
        .run_with(async |worker| {
            let http = serve(&worker, worker.listener("http").await?);
            // Whoever is not of the class `ops` is handed none of these.
            let admin = serve(&worker, worker.listener("admin").await?);
            tokio::join!(http, admin);
            Ok(())
        })
        .map(drop)
}

async fn serve(worker: &Worker, mut listener: Listener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let answer = format!("{} {}\n", worker.class().unwrap_or_default(), worker.pid());
        tokio::spawn(async move {
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.read(&mut [0]).await;
        });
    }
}
