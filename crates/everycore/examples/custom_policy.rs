//! A scheduling policy of one's own: the first worker that has room, so that the others may stay idle.
//!
//! Packing instead of spreading: useful where an idle worker costs nothing and a warm one is worth something. A worker
//! with room is waited for while it is busy, which is why the policy says that it may wait. Each connection is answered
//! with the worker's number, and stays until the client closes it; a worker's share is the second argument (2).
//!
//! `cargo run -p everycore --example custom_policy [address] [connections]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use everycore::{Candidates, Cluster, Event, SchedulingPolicy, Worker, WorkerId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Fills the first worker before the second gets anything.
#[derive(Debug)]
struct Pack {
    share: u64,
}

impl SchedulingPolicy for Pack {
    fn pick(&mut self, candidates: &Candidates<'_>) -> Option<WorkerId> {
        let everyone = candidates.free.iter().chain(candidates.busy);
        let has_room = everyone.filter(|candidate| candidate.live < self.share);
        let first = has_room.min_by_key(|candidate| candidate.worker);
        // With every share used up it spreads, as it does when too many wait.
        let fewest = || candidates.free.iter().min_by_key(|candidate| candidate.live);
        let picked = if candidates.overflow { fewest() } else { first.or_else(fewest) };
        picked.map(|candidate| candidate.worker)
    }

    fn may_wait(&self) -> bool {
        true
    }
}

fn main() -> everycore::Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8000".into());
    let share = args.next().and_then(|text| text.parse().ok()).unwrap_or(2);
    Cluster::builder()
        .workers(2)
        .scheduling(Pack { share })
        .on_event(|_, event| {
            if let Event::Listening { worker, address } = event {
                println!("{worker} listens on {address}");
            }
        })
        .run_with(|worker| serve(worker, address))?;
    Ok(())
}

async fn serve(worker: Worker, address: String) -> everycore::Result<()> {
    let mut listener = worker.listen(address).await?;
    while let Ok((mut stream, _)) = listener.accept().await {
        let answer = format!("{}\n", worker.id());
        tokio::spawn(async move {
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.read(&mut [0]).await;
        });
    }
    Ok(())
}
