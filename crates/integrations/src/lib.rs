//! Everycore's listener under other people's servers; the examples are the content, this is what they share.

#![forbid(unsafe_code)]

use everycore::{Cluster, Event};

/// The cluster of every example here: address and number of workers from the arguments, events on standard output.
///
/// # Errors
/// The first argument is no address.
pub fn cluster(name: &str) -> everycore::Result<Cluster> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8000".into());
    let workers = args.next().and_then(|text| text.parse().ok()).unwrap_or_else(everycore::auto);
    Ok(Cluster::builder().workers(workers).bind(name, address)?.on_event(|_, event| announce(&event)))
}

/// Prints an event that people care for.
#[allow(clippy::print_stdout, reason = "examples talk to people")]
pub fn announce(event: &Event) {
    match event {
        Event::Listening { worker, address } => println!("{worker} listens on {address}"),
        Event::Exit { worker, status, reason, .. } => println!("{worker} {status} ({reason})"),
        Event::ReloadDone { generation } => println!("generation {generation} serves"),
        _ => {}
    }
}
