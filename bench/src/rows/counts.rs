//! System calls per short connection: counted, so that they can be asserted anywhere.

use std::io;
use std::time::Duration;

use super::{Bench, legend, stop};
use crate::load::{self, Length, Pace, Plan, Reuse};
use crate::measure::syscalls::{Counter, Counts};
use crate::raw::Kind;
use crate::report::{Report, Side, Verdict, number};
use crate::servers::{Face, Policy, Running, Server};

/// With HTTP, handed off; with HTTP, shared; by hand, handed off.
pub(crate) const BARS: [(Server, f64); 4] = [
    (Server::Everycore(Policy::Least, Face::Hyper), 7.0),
    (Server::Everycore(Policy::RoundRobin, Face::Hyper), 7.0),
    (Server::Everycore(Policy::Shared, Face::Hyper), 5.6),
    (Server::Everycore(Policy::Least, Face::Raw), 6.0),
];

pub(super) fn syscalls(bench: &mut Bench) -> io::Result<Report> {
    let mut report = Report::new("syscalls", "System calls per short connection, 128 in flight");
    let Some(counter) = Counter::find(bench.tools.path("perf"), bench.tools.path("strace")) else {
        report.text("Neither perf nor strace is there: nothing was counted.");
        return Ok(report);
    };
    let servers = [
        Server::Everycore(Policy::Shared, Face::Raw),
        Server::Raw(Kind::Shared),
        Server::Raw(Kind::Reuseport),
        Server::Raw(Kind::HandOff),
        Server::Raw(Kind::HandOffGathered),
        Server::Nginx,
        Server::HyperPair,
        Server::NodeRr,
        Server::NodeNone,
    ];
    let all: Vec<Server> = BARS.iter().map(|(server, _)| *server).chain(servers).collect();
    let servers = bench.start(&all)?;
    let mut rows = Vec::new();
    for running in &servers {
        let connections = bench.count(100_000);
        let (counts, answered) = count(running, &counter, connections)?;
        let each = counts.all() as f64 / answered as f64;
        rows.push(vec![running.server.name().to_owned(), number(each), counts.per(answered)]);
        for (server, bar) in BARS.iter().filter(|(server, _)| *server == running.server) {
            let what = format!("system calls per short connection: {}", server.name());
            report.verdicts.push(Verdict::new(&what, Side::AtMost, *bar, "", Some(each)));
        }
    }
    report.text(format!(
        "Counted by `{}` over every process of the server, all connections of the run.",
        counter.name()
    ));
    report.table(&["server", "per connection", "which"], rows);
    report.text(legend(&servers));
    stop(servers);
    Ok(report)
}

/// Counts what a server's processes do while so many connections are served; gives the counts and the connections.
///
/// # Errors
/// The counter or the generator fails, or a connection does.
pub(crate) fn count(running: &Running, counter: &Counter, connections: u64) -> io::Result<(Counts, u64)> {
    let plan = Plan {
        target: running.address,
        pace: Pace::Closed(128),
        reuse: Reuse::Short,
        burn: None,
        warm_up: Duration::ZERO,
        length: Length::Requests(connections),
        timeout: Duration::from_secs(30),
        seed: 0,
    };
    let watch = counter.watch(&running.processes(), running.directory())?;
    let outcome = load::run(&plan, &false.into(), &mut |_| {})?;
    let counts = watch.stop()?;
    if outcome.failures.total() > 0 {
        return Err(io::Error::other(format!(
            "{}: failures while counting: {}",
            running.server.name(),
            outcome.failures
        )));
    }
    Ok((counts, outcome.answered))
}
