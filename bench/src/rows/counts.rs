//! System calls per short connection: counted, so that they can be asserted anywhere.

use std::io;
use std::time::Duration;

use super::{Bench, legend, stop};
use crate::load::{self, Length, Pace, Plan, Reuse};
use crate::measure::syscalls::{Counter, Counts};
use crate::raw::Kind;
use crate::report::{Report, Side, Verdict, number};
use crate::servers::{Face, Running, Server, Spread};
use crate::tools::Tools;

/// One of our servers, and how often it may enter the kernel per short connection.
#[derive(Clone, Copy, Debug)]
struct Limit {
    server: Server,
    /// Under load, whatever counts without disturbing.
    bar: f64,
    /// Under `strace`, which makes everything slow and alike: no gathering, and the same counts on every machine to a few
    /// per cent. A few per cent above what was measured last; to be lowered whenever it gets better, never raised.
    gate: f64,
}

/// With HTTP, handed off and shared; by hand, handed off.
const LIMITS: [Limit; 4] = [
    Limit { server: Server::Everycore(Spread::Least, Face::Hyper), bar: 7.0, gate: 10.9 },
    Limit { server: Server::Everycore(Spread::RoundRobin, Face::Hyper), bar: 7.0, gate: 10.9 },
    Limit { server: Server::Everycore(Spread::Shared, Face::Hyper), bar: 5.6, gate: 4.4 },
    Limit { server: Server::Everycore(Spread::Least, Face::Raw), bar: 6.0, gate: 10.7 },
];

/// Node workers under our primary, and how often the primary may enter the kernel per connection: each connection comes with
/// two answers, and being woken for either shows. Only the primary is watched; what Node does is Node's. 6.8 to 7.5 were
/// measured, by how busy the machine was; it was 13.6 when each answer woke it.
const NODE: (Server, f64) = (Server::NodeUnder(Spread::RoundRobin), 9.0);

/// Connections that `strace` watches: enough that the first and the last do not show.
const WATCHED: u64 = 3000;

/// Counts with `strace` and compares with the gates: for CI, where counts can be asserted and times cannot.
///
/// # Errors
/// A gate is exceeded, or nothing could be counted.
pub(crate) fn gate(tools: &Tools) -> io::Result<String> {
    let strace = tools.path("strace").ok_or_else(|| io::Error::other("strace is not installed"))?;
    let counter = Counter::Strace(strace.to_owned());
    let (mut lines, mut exceeded) = (Vec::new(), Vec::new());
    for Limit { server, bar, gate } in LIMITS {
        let Some(running) = Running::start(server, tools, 2, &[])? else { continue };
        let (counts, connections) = count_calls(&running, &counter, WATCHED, 1)?;
        running.stop();
        let (name, each, which) = (server.name(), counts.own() / connections as f64, counts.per(connections));
        lines.push(format!("{name}: {each:.2} per connection (gate {gate}, bar under load {bar}): {which}"));
        if each > gate {
            exceeded
                .push(format!("{name} enters the kernel {each:.2} times per connection, more than {gate}"));
        }
    }
    let (server, gate) = NODE;
    if let Some(running) = Running::start(server, tools, 2, &[])? {
        let primary = [running.process.pid()];
        let (counts, connections) = count_calls_of(&primary, &running, &counter, WATCHED, 1)?;
        running.stop();
        let (each, which) = (counts.own() / connections as f64, counts.per(connections));
        lines.push(format!("{}, primary: {each:.2} per connection (gate {gate}): {which}", server.name()));
        if each > gate {
            exceeded.push(format!(
                "{}: the primary enters the kernel {each:.2} times per connection, more than {gate}",
                server.name()
            ));
        }
    }
    let counted = lines.join("\n");
    match exceeded.is_empty() {
        true => Ok(counted),
        false => Err(io::Error::other(format!("{}\n{counted}", exceeded.join("\n")))),
    }
}

pub(super) fn syscalls(bench: &mut Bench) -> io::Result<Report> {
    let mut report = Report::new("syscalls", "System calls per short connection, 128 in flight");
    let Some(counter) = Counter::find(bench.tools.path("perf"), bench.tools.path("strace")) else {
        report.text("Neither perf nor strace is there: nothing was counted.");
        return Ok(report);
    };
    let servers = [
        Server::Everycore(Spread::Shared, Face::Raw),
        Server::Raw(Kind::Shared),
        Server::Raw(Kind::Reuseport),
        Server::Raw(Kind::HandOff),
        Server::Raw(Kind::HandOffGathered),
        Server::Nginx,
        Server::HyperPair,
        Server::NodeRr,
        Server::NodeNone,
    ];
    let all: Vec<Server> = LIMITS.iter().map(|limit| limit.server).chain(servers).collect();
    let servers = bench.start(&all)?;
    let mut rows = Vec::new();
    for running in &servers {
        let connections = bench.count(40_000);
        let (counts, answered) = count_calls(running, &counter, connections, 1)?;
        let each = counts.all() as f64 / answered as f64;
        rows.push(vec![running.server.name().to_owned(), number(each), counts.per(answered)]);
        for limit in LIMITS.iter().filter(|limit| limit.server == running.server) {
            let what = format!("system calls per short connection: {}", running.server.name());
            report.verdicts.push(Verdict::new(&what, Side::AtMost, limit.bar, "", Some(each)));
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

/// Counts what a server's processes do while so many connections to its `hosts` addresses are served; gives the counts and
/// the connections.
///
/// # Errors
/// The counter or the generator fails, or a connection does.
pub(super) fn count_calls(
    running: &Running,
    counter: &Counter,
    connections: u64,
    hosts: u32,
) -> io::Result<(Counts, u64)> {
    count_calls_of(&running.processes(), running, counter, connections, hosts)
}

/// As `count_calls`, of these processes alone.
fn count_calls_of(
    processes: &[u32],
    running: &Running,
    counter: &Counter,
    connections: u64,
    hosts: u32,
) -> io::Result<(Counts, u64)> {
    let plan = Plan {
        target: running.address,
        hosts,
        pace: Pace::Closed(128),
        reuse: Reuse::Short,
        burn: None,
        warm_up: Duration::ZERO,
        length: Length::Requests(connections),
        timeout: Duration::from_secs(30),
        seed: 0,
    };
    let watch = counter.watch(processes, running.directory())?;
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
