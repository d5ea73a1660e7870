//! Which source addresses `sticky` serves elsewhere after a kill, a scale and a reload, against the fewest that have to.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

use everycore::Policy;
use rustix::process::{Pid, Signal, kill_process};

use super::client::Visits;
use super::server::Server;

const WORKERS: usize = 8;

/// Which slot serves each address.
type Homes = BTreeMap<Ipv4Addr, u32>;

pub(super) fn run(addresses: usize) -> io::Result<()> {
    crate::print_out!(
        "\nOf {addresses} source addresses under `sticky` with {WORKERS} workers, the share that another slot serves \
        after each event.\n"
    );
    crate::print_out!("| event | moved | fewest possible |\n|---|---|---|");
    let server = Server::start(Policy::Sticky, WORKERS)?;
    let start = homes(&server, addresses)?;

    let victim = Visits::one_from_each(1).run(server.address, 1)?[0].pid;
    let victim = i32::try_from(victim).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    kill_process(victim, Signal::KILL)?;
    server.wait("exit")?;
    server.wait("serving")?;
    let killed = homes(&server, addresses)?;
    line("a worker is killed and replaced", &start, &killed, 0.0);

    server.signal(Signal::HUP)?;
    server.wait("reloaded")?;
    let reloaded = homes(&server, addresses)?;
    line("all are reloaded", &killed, &reloaded, 0.0);

    server.signal(Signal::TTIN)?;
    server.wait("serving")?;
    let more = homes(&server, addresses)?;
    line("a ninth worker is added", &reloaded, &more, 1.0 / (WORKERS + 1) as f64);

    server.signal(Signal::TTOU)?;
    server.wait("exit")?;
    let fewer = homes(&server, addresses)?;
    // Whoever was served by the slot that is gone, and nobody else.
    let gone = more.values().filter(|slot| **slot == WORKERS as u32).count();
    line("the ninth is taken away", &more, &fewer, gone as f64 / more.len() as f64);
    line("(against the start)", &start, &fewer, 0.0);
    server.stop();
    Ok(())
}

fn homes(server: &Server, addresses: usize) -> io::Result<Homes> {
    let visits = Visits::one_from_each(addresses).run(server.address, 16)?;
    visits
        .into_iter()
        .map(|visit| {
            Ok((visit.from, visit.slot.ok_or_else(|| io::Error::other("an answer without a slot"))?))
        })
        .collect()
}

fn line(event: &str, before: &Homes, after: &Homes, fewest: f64) {
    let moved = before.iter().filter(|(from, slot)| after.get(from) != Some(slot)).count();
    let moved = moved as f64 / before.len() as f64;
    crate::print_out!("| {event} | {:.1} % | {:.1} % |", moved * 100.0, fewest * 100.0);
}
