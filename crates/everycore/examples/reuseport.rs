//! A socket of its own for every slot, TCP or UDP: the kernel spreads connections and datagrams by a hash, and the primary is
//! not on the way. Each is answered with the slot of the worker that serves it.
//!
//! With `once` a worker that ends is not replaced: the others adopt its TCP socket, and its UDP socket is closed. So
//! nobody's connection lies where no one accepts.
//!
//! `cargo run -p everycore --example reuseport [address] [workers] [once]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use std::time::Duration;

use everycore::{Address, Cluster, Event, Policy, RestartPolicy, RestartSettings, Worker};
use tokio::io::AsyncWriteExt;

fn main() -> everycore::Result<()> {
    let mut args = std::env::args().skip(1);
    let address: Address = args.next().unwrap_or_else(|| "127.0.0.1:8000".into()).parse()?;
    let workers = args.next().and_then(|text| text.parse().ok()).unwrap_or_else(everycore::auto);
    let policy = if args.next().is_some() { RestartPolicy::Never } else { RestartPolicy::Always };
    let is_udp = matches!(address, Address::Udp(_));
    Cluster::builder()
        .bind("echo", address)?
        .workers(workers)
        .policy(Policy::Reuseport)
        .restart(RestartSettings { policy, ..RestartSettings::default() })
        .graceful_timeout(Duration::from_millis(500))
        .term_timeout(Duration::from_millis(500))
        .on_event(|_, event| match event {
            Event::Listening { worker, address } => println!("{worker} listens on {address}"),
            Event::Exit { worker, status, .. } => println!("{worker} {status}"),
            Event::Warning { text } => println!("warning: {text}"),
            _ => {}
        })
        .run_with(
            async move |worker| if is_udp { datagrams(worker).await } else { connections(worker).await },
        )?;
    Ok(())
}

async fn connections(worker: Worker) -> everycore::Result<()> {
    let mut listener = worker.listener("echo").await?;
    while let Ok((mut stream, _)) = listener.accept().await {
        // Whoever is gone does not want its answer.
        let _ = stream.write_all(format!("{}\n", worker.slot()).as_bytes()).await;
    }
    Ok(())
}

async fn datagrams(worker: Worker) -> everycore::Result<()> {
    let socket = worker.udp("echo").await?;
    let mut buffer = [0; 1500];
    while let Ok((_, from)) = socket.recv_from(&mut buffer).await {
        let _ = socket.send_to(format!("{}\n", worker.slot()).as_bytes(), from).await;
    }
    Ok(())
}
