//! Large messages beside connections: what a hand-off waits for them shows in the latency of requests.
//!
//! Neighbour: `main` has both ends send with the option `bulk=BYTES`.

use std::thread;
use std::time::Duration;

use everycore::{Event, Message, Primary, Worker};

/// Between two messages of one sender, so that processors are not what is measured.
const PAUSE: Duration = Duration::from_secs(1);

/// Sends to each worker that serves, until it is gone.
pub(crate) fn to_workers(primary: &Primary, event: &Event, bytes: usize) {
    if let Event::Listening { worker, .. } = event {
        let (primary, worker) = (primary.clone(), worker.id);
        thread::spawn(move || {
            while primary.send_message(worker, message(bytes)).is_ok() {
                thread::sleep(PAUSE);
            }
        });
    }
}

/// Sends to the primary and hears what it sends, beside what the worker does.
pub(crate) fn to_primary(worker: &Worker, bytes: usize) {
    let hears = worker.clone();
    thread::spawn(move || while let Ok(Some(_)) = hears.recv_blocking() {});
    let sends = worker.clone();
    thread::spawn(move || {
        while sends.send_message_blocking(message(bytes)).is_ok() {
            thread::sleep(PAUSE);
        }
    });
}

fn message(bytes: usize) -> Message {
    Message::raw(vec![b'x'; bytes])
}
