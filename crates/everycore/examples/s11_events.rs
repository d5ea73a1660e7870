//! S11: workers by id, what is told about each, and messages both ways.
//!
//! The primary greets each worker; the worker sends the greeting back, then leaves by itself. One program that cannot
//! be started shows `error`, another dies by a signal.
//!
//! `cargo run -p everycore --example s11_events`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use everycore::{Cluster, Event, Primary, RestartPolicy, RestartSettings, Role, Worker};

fn main() -> everycore::Result<()> {
    match everycore::role()? {
        Role::Primary(cluster) => be_primary(cluster),
        Role::Worker(worker) => worker.block_on(echo),
    }
}

fn be_primary(cluster: Cluster) -> everycore::Result<()> {
    cluster
        .workers(2)
        .readiness(everycore::Readiness::Online)
        .restart(RestartSettings { policy: RestartPolicy::Never, ..RestartSettings::default() })
        .on_event(tell)
        .run()?;
    println!("all workers have gone");
    Ok(())
}

fn tell(primary: &Primary, event: Event) {
    match event {
        Event::Fork { worker } => println!("fork: {worker}"),
        Event::Online { worker } => {
            println!("online: {worker}");
            if let Err(error) = primary.send(worker.id, "hi there") {
                println!("{worker} cannot be greeted: {error}");
            }
        }
        Event::Message { worker, message } => {
            let text: String = message.parse().unwrap_or_default();
            println!("message: {worker} says {text}");
            // The second one is killed, so that both kinds of end show.
            let told = if worker.id == 2 { primary.kill(2, 9) } else { primary.disconnect(worker.id) };
            if let Err(error) = told {
                println!("{worker}: {error}");
            }
        }
        Event::Disconnect { worker } => println!("disconnect: {worker}"),
        Event::Exit { worker, status, exited_after_disconnect, .. } => {
            println!("exit: {worker} {status}, after disconnect: {exited_after_disconnect}");
        }
        Event::Error { worker, reason } => println!("error: {worker} {reason}"),
        _ => {}
    }
}

async fn echo(worker: Worker) -> everycore::Result<()> {
    while let Some(received) = worker.recv().await? {
        worker.send_message(received.into_message()).await?;
    }
    Ok(())
}
