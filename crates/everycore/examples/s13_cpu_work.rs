//! S13: CPU work over processes: four Fibonacci numbers over as many workers as there are CPUs, at most four.
//!
//! Whoever is done gets the next. The primary alone prints the banner; when all results are in it says how long that
//! took, has the workers leave, and ends.
//!
//! `cargo run --release -p everycore --example s13_cpu_work [n…]`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use std::time::Instant;

use everycore::{Cluster, Event, Primary, Readiness, Role, Worker, WorkerInfo};

fn main() -> everycore::Result<()> {
    match everycore::role()? {
        Role::Primary(cluster) => be_primary(cluster),
        Role::Worker(worker) => worker.block_on(compute),
    }
}

fn be_primary(cluster: Cluster) -> everycore::Result<()> {
    let mut tasks: Vec<u64> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    if tasks.is_empty() {
        tasks = vec![44, 42, 42, 43];
    }
    let workers = everycore::auto().min(tasks.len());
    println!("{} tasks over {workers} workers", tasks.len());
    let started = Instant::now();
    let mut open = tasks.len();
    tasks.reverse();
    cluster
        .workers(workers)
        .readiness(Readiness::Online)
        .on_event(move |primary, event| match event {
            Event::Online { worker } => give_next(primary, worker, &mut tasks),
            Event::Message { worker, message } => {
                let (n, result): (u64, u64) = message.parse().unwrap_or_default();
                println!("{worker}: fibo({n}) = {result}");
                open -= 1;
                give_next(primary, worker, &mut tasks);
                if open == 0 {
                    println!("total time: {:.1} s", started.elapsed().as_secs_f64());
                    let _ = primary.disconnect_all();
                }
            }
            _ => {}
        })
        .run()?;
    println!("done");
    Ok(())
}

fn give_next(primary: &Primary, worker: WorkerInfo, tasks: &mut Vec<u64>) {
    let Some(task) = tasks.pop() else { return };
    if primary.send(worker.id, &task).is_err() {
        // It has just died: its replacement will ask again.
        tasks.push(task);
    }
}

async fn compute(worker: Worker) -> everycore::Result<()> {
    while let Some(received) = worker.recv().await? {
        let n: u64 = received.into_message().parse().unwrap_or_default();
        worker.send(&(n, fibo(n))).await?;
    }
    Ok(())
}

fn fibo(n: u64) -> u64 {
    if n < 2 { n } else { fibo(n - 1) + fibo(n - 2) }
}
