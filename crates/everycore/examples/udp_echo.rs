//! UDP on every core: all workers read one socket, each datagram is answered by one of them, with its pid in front.
//!
//! `cargo run -p everycore --example udp_echo [address] [workers]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use everycore::{Cluster, Event, Worker};

fn main() -> everycore::Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "udp://127.0.0.1:5353".into());
    let workers = args.next().and_then(|text| text.parse().ok()).unwrap_or_else(everycore::auto);
    Cluster::builder()
        .workers(workers)
        .bind("echo", address)?
        .on_event(|_, event| match event {
            Event::Listening { worker, address } => println!("{worker} listens on {address}"),
            Event::Exit { worker, status, .. } => println!("{worker} {status}"),
            _ => {}
        })
        .run_with(serve)?;
    Ok(())
}

async fn serve(worker: Worker) -> everycore::Result<()> {
    let socket = worker.udp("echo").await?;
    let mut buffer = vec![0; 65_536];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let mut answer = format!("{} ", worker.pid()).into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        // Whoever is gone does not want its answer.
        let _ = socket.send_to(&answer, from).await;
    }
    Ok(())
}
