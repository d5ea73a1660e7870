//! Messages beyond `send`: to all, as questions with answers and deadlines, and with sockets.
//!
//! The primary runs on a thread of its own here, so that this one can wait for answers.
//!
//! `cargo run -p everycore --example messages`

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use everycore::{Cluster, Error, Event, Handle, Primary, Readiness, Role, Urgency, Worker};
use serde_json::{Value, json};

fn main() -> everycore::Result<()> {
    match everycore::role()? {
        Role::Primary(cluster) => be_primary(cluster),
        Role::Worker(worker) => worker.block_on(be_worker),
    }
}

fn be_primary(cluster: Cluster) -> everycore::Result<()> {
    let (tell, told) = channel();
    let running = cluster
        .workers(2)
        .readiness(Readiness::Online)
        .on_event(move |primary, event| hear(primary, event, &tell))
        .start()?;
    let primary = running.primary().clone();
    for _ in 0..2 {
        println!("{}", next(&told));
    }

    println!("broadcast reaches {} workers", primary.broadcast(&json!({"say": "hello all"}))?);
    let mut answers = [next(&told), next(&told)];
    answers.sort();
    println!("{answers:?}");

    let sum: u64 =
        primary.request(1, &json!({"add": [1, 2, 3]}), Duration::from_secs(10))?.wait()?.parse().unwrap_or(0);
    println!("worker 1 adds up to {sum}");
    match primary.request(2, &json!({"sleep": true}), Duration::from_millis(50))?.wait() {
        Err(Error::TimedOut { after }) => println!("worker 2 did not answer within {after:?}"),
        other => println!("unexpected: {other:?}"),
    }
    match primary.send(9, "anybody?") {
        Err(error) => println!("{error}"),
        Ok(()) => println!("unexpected: there is a worker 9"),
    }

    println!("{}", hand_over_a_socket(&primary)?);
    println!("worker 1 asked for the time: {}", next(&told));
    primary.stop(Urgency::Graceful)?;
    running.wait()?;
    println!("done");
    Ok(())
}

/// A connection moves to worker 2, which answers on it.
fn hand_over_a_socket(primary: &Primary) -> everycore::Result<String> {
    let failed = |source| Error::System { doing: "a connection with ourselves", source };
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    let mut client = TcpStream::connect(listener.local_addr().map_err(failed)?).map_err(failed)?;
    let (socket, _) = listener.accept().map_err(failed)?;
    primary.send_with(2, &json!({"greet": "the client"}), Handle::TcpStream(socket))?;
    let mut text = String::new();
    client.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn hear(primary: &Primary, event: Event, tell: &std::sync::mpsc::Sender<String>) {
    let line = match event {
        Event::Online { worker } => format!("worker {} is online", worker.id),
        Event::Message { worker, message } => {
            format!("worker {}: {}", worker.id, message.parse::<String>().unwrap_or_default())
        }
        Event::Request { worker, id, message } => {
            let answered = primary.reply(worker.id, id, &json!({"noon": true}));
            format!("{} {}", message.parse::<Value>().unwrap_or_default(), answered.is_ok())
        }
        _ => return,
    };
    let _ = tell.send(line);
}

fn next(told: &Receiver<String>) -> String {
    told.recv().unwrap_or_default()
}

async fn be_worker(worker: Worker) -> everycore::Result<()> {
    while let Some(mut received) = worker.recv().await? {
        let asked: Value = received.parse().unwrap_or_default();
        if let Some(text) = asked["say"].as_str() {
            worker.send(&format!("heard {text}")).await?;
        } else if let Some(numbers) = asked["add"].as_array() {
            received.reply(&numbers.iter().filter_map(Value::as_u64).sum::<u64>()).await?;
            let time: Value = worker
                .request(&json!({"time": null}), Duration::from_secs(10))
                .await?
                .parse()
                .unwrap_or_default();
            debug_assert_eq!(time["noon"], true, "the primary said so");
        } else if asked.get("greet").is_some()
            && let Some(Handle::TcpStream(mut socket)) = received.take_handle()
        {
            let _ = writeln!(socket, "worker {} greets {}", worker.id(), asked["greet"]);
        }
        // A question to sleep over is never answered: whoever asked has a deadline.
    }
    Ok(())
}
