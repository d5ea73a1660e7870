//! S10: how connections are spread: in turn, to the least busy, or by the kernel.
//!
//! The policy comes from the arguments (`rr`, `least`, `shared`), else from `NODE_CLUSTER_SCHED_POLICY` (`rr`, `none`),
//! else it is the default. Each connection is answered with the worker's number, and stays until the client closes it.
//!
//! `cargo run -p everycore --example s10_policies [address] [policy]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use everycore::{Cluster, Event, Policy, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8000".into());
    let mut cluster = Cluster::builder().workers(2).on_event(|_, event| {
        if let Event::Listening { worker, address } = event {
            println!("{worker} listens on {address}");
        }
    });
    if let Some(name) = args.next() {
        let policy: Policy = name.parse()?;
        cluster = cluster.policy(policy);
    }
    cluster.run_with(|worker| serve(worker, address))?;
    Ok(())
}

async fn serve(worker: Worker, address: String) -> everycore::Result<()> {
    let mut listener = worker.listen(address).await?;
    while let Ok((mut stream, _)) = listener.accept().await {
        let answer = format!("{}\n", worker.id());
        tokio::spawn(async move {
            let _ = stream.write_all(answer.as_bytes()).await;
            // Open until the client closes: `least` counts open connections.
            let _ = stream.read(&mut [0]).await;
        });
    }
    Ok(())
}
