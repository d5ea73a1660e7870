//! A bound on connections: each worker holds at most so many, and who comes then waits in the kernel's backlog.
//!
//! Each connection is answered with the worker's number, and stays until the client closes it: that makes room for the
//! next one.
//!
//! With 0 for the connections there is no bound, as `sticky` and `reuseport` are better watched. One more number bounds the
//! connections of all workers together.
//!
//! `cargo run -p everycore --example limits [address] [workers] [connections] [policy] [together]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use everycore::{Cluster, Event, Policy, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8000".into());
    let workers = args.next().and_then(|text| text.parse().ok()).unwrap_or(2);
    let most = args.next().and_then(|text| text.parse().ok()).unwrap_or(2);
    let policy: Policy = args.next().unwrap_or_else(|| "least".into()).parse()?;
    let together = args.next().and_then(|text| text.parse().ok());
    let mut cluster = Cluster::builder().workers(workers).policy(policy);
    if most > 0 {
        cluster = cluster.max_connections(most);
    }
    if let Some(together) = together {
        cluster = cluster.max_connections_per_listener(together);
    }
    cluster
        .on_event(|primary, event| match event {
            Event::Listening { worker, address } => println!("{worker} listens on {address}"),
            Event::Exit { worker, status, .. } => {
                let spilled = primary.snapshot().map_or(0, |snapshot| snapshot.connections.spilled);
                println!("{worker} {status}; {spilled} spilled");
            }
            _ => {}
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
            let _ = stream.read(&mut [0]).await;
        });
    }
    Ok(())
}
