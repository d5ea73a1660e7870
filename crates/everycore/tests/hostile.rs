//! A worker that breaks the rules of the channel costs only itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

use everycore::{Cluster, Event, RestartPolicy, RestartSettings, Running, Urgency, WorkerCommand};
use support::{PATIENCE, ask, example};

/// A cluster whose second worker writes these bytes to its channel and then waits for its end.
fn cluster_with(name: &str, bytes: &[u8]) -> (Running, Receiver<String>, PathBuf) {
    let file = std::env::temp_dir().join(format!("everycore-hostile-{}-{name}", std::process::id()));
    std::fs::write(&file, bytes).unwrap();
    let script = format!("cat {} >&3; exec sleep 600", file.display());
    let (tell, told) = channel();
    let running = Cluster::builder()
        .workers(2)
        .signals(false)
        .bind("http", "127.0.0.1:0")
        .unwrap()
        .graceful_timeout(std::time::Duration::from_millis(100))
        .restart(RestartSettings { policy: RestartPolicy::Never, ..RestartSettings::default() })
        .command(move |worker| {
            Ok(match worker.slot {
                0 => WorkerCommand::new(example("http_raw"), Vec::<String>::new()),
                _ => WorkerCommand::new("sh", ["-c", &script]),
            })
        })
        .on_event(move |_, event| {
            let _ = match event {
                Event::Error { worker, reason } => tell.send(format!("error {}: {reason}", worker.id)),
                Event::Listening { worker, .. } => tell.send(format!("listening {}", worker.id)),
                Event::Exit { worker, status, .. } => tell.send(format!("exit {}: {status}", worker.id)),
                _ => return,
            };
        })
        .start()
        .unwrap();
    (running, told, file)
}

/// One internal frame of the channel.
fn internal(text: &str) -> Vec<u8> {
    let mut frame = u32::try_from(text.len()).unwrap().to_le_bytes().to_vec();
    frame.extend([2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    frame.extend(text.as_bytes());
    frame
}

fn costs_only_itself(name: &str, bytes: &[u8], expected: &str) {
    let (running, told, file) = cluster_with(name, bytes);
    let address = running.address("http").unwrap().tcp().unwrap();
    let mut lines = Vec::new();
    while !(lines.iter().any(|line: &String| line.starts_with("error 2: "))
        && lines.iter().any(|line| line == "listening 1")
        && lines.iter().any(|line| line.starts_with("exit 2")))
    {
        lines.push(told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{name}: {lines:#?}")));
    }
    let error = lines.iter().find(|line| line.starts_with("error 2")).unwrap();
    assert!(error.contains(expected), "{name}: {error}");
    assert!(
        !lines.iter().any(|line| line.starts_with("error 1") || line.starts_with("exit 1")),
        "{lines:#?}"
    );
    assert!(ask(address, "GET / HTTP/1.1\r\nconnection: close\r\n\r\n").unwrap().starts_with("HTTP/1.1 200"));
    running.primary().stop(Urgency::Graceful).unwrap();
    running.wait().unwrap();
    std::fs::remove_file(file).unwrap();
}

#[test]
fn junk() {
    costs_only_itself("junk", b"GET / HTTP/1.1\r\nhost: example\r\n\r\n", "");
}

#[test]
fn a_frame_larger_than_allowed() {
    let mut frame = internal("{}");
    frame[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    costs_only_itself("large", &frame, "");
}

#[test]
fn no_json_and_unknown_acts() {
    costs_only_itself("no-json", &internal("hello"), "not a cluster message: no JSON");
    costs_only_itself("act", &internal(r#"{"act":"dance"}"#), "unknown act 'dance'");
}

#[test]
fn another_version_and_a_second_hello() {
    costs_only_itself("version", &internal(r#"{"act":"hello","version":99}"#), "speaks version 99");
    let twice =
        [internal(r#"{"act":"hello","version":1}"#), internal(r#"{"act":"hello","version":1}"#)].concat();
    costs_only_itself("twice", &twice, "hello twice");
}

#[test]
fn claims_that_are_not_true() {
    let claims =
        [internal(r#"{"act":"hello","version":1}"#), internal(r#"{"act":"listening","key":1}"#)].concat();
    costs_only_itself("claim", &claims, "which it was never given");
}

#[test]
fn a_flood_of_ends_of_listeners_it_never_had_changes_nothing() {
    let mut flood = internal(r#"{"act":"hello","version":1}"#);
    (0..80_000).for_each(|key| flood.extend(internal(&format!(r#"{{"act":"closed","key":{key}}}"#))));
    flood.extend(internal(r#"{"act":"dance"}"#));
    costs_only_itself("closed", &flood, "unknown act 'dance'");
}

#[test]
fn a_flood_of_questions_for_the_secrets_grows_nothing_and_is_read_to_its_end() {
    let mut flood = internal(r#"{"act":"hello","version":1}"#);
    (0..80_000).for_each(|_| flood.extend(internal(r#"{"act":"secrets"}"#)));
    // It never reads what it is told: the queue to it is full, and the primary reads on.
    flood.extend(internal(r#"{"act":"dance"}"#));
    costs_only_itself("secrets", &flood, "unknown act 'dance'");
}

#[test]
fn a_flood_of_questions_is_answered_or_cut_off_and_nobody_else_notices() {
    let mut flood = internal(r#"{"act":"hello","version":1}"#);
    for request in 0..200_000 {
        flood.extend(internal(&format!(
            r#"{{"act":"listen","request":{request},"address":"127.0.0.1:{}","index":0}}"#,
            1 + request % 60_000
        )));
    }
    // It never reads its answers, so the queue to it fills up to its bound.
    costs_only_itself("flood", &flood, "cannot be answered");
}
