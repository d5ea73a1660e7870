//! How the cost of one connection grows with the number of workers and of listeners: CPU and system calls, not rates.

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::Bench;
use super::counts::count_calls;
use crate::load::{Length, Pace, Plan, Reuse};
use crate::measure::syscalls::Counter;
use crate::measure::{cpu, memory};
use crate::raw::Kind;
use crate::report::{Report, number};
use crate::sample;
use crate::servers::{self, Face, Running, Server, Spread};

const LEAST: Server = Server::Everycore(Spread::Least, Face::Hyper);
const SHARED: Server = Server::Everycore(Spread::Shared, Face::Hyper);
const REUSEPORT: Server = Server::Everycore(Spread::Reuseport, Face::Hyper);

const WORKERS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
const LISTENERS: [usize; 4] = [1, 10, 100, 1000];

/// Requests per second of the light load.
const LIGHT: f64 = 1000.0;

/// Connections whose system calls are counted.
const COUNTED: u64 = 20_000;

/// What one server costs, in one size.
struct Cost {
    /// Under saturation, in the primary and in all workers: CPU µs per connection.
    heavy: (f64, f64),
    /// At the light load.
    light: (f64, f64),
    /// System calls per connection under saturation.
    calls: Option<f64>,
    /// CPU ms per second when nobody asks anything.
    idle: f64,
    /// The primary, and a worker in the middle: MiB.
    memory: (f64, f64),
}

pub(super) fn workers(bench: &mut Bench) -> io::Result<Report> {
    let mut report = Report::new("scale-workers", "Workers, 1 to 64");
    for server in [LEAST, SHARED, REUSEPORT, Server::Raw(Kind::HandOff), Server::Raw(Kind::Shared)] {
        if !bench.wants(server) {
            continue;
        }
        let mut rows = Vec::new();
        for workers in WORKERS {
            let Some(running) = Running::start(server, &bench.tools, workers, &[])? else { continue };
            rows.push(line(workers, &cost(bench, &running, 1)?));
            running.stop();
        }
        report.text(format!("`{}`: {}.", server.name(), server.what()));
        report.table(&heads("workers"), rows);
    }
    report.text(
        "128 connections in flight, then 1,000 connections per second by the clock, then nobody; short connections. The \
         primary's and the workers' CPU are told apart by process. Calls are counted in a run of their own.",
    );
    Ok(report)
}

pub(super) fn listeners(bench: &mut Bench) -> io::Result<Report> {
    let mut report = Report::new("scale-listeners", "Listeners, 1 to 1,000");
    for server in [LEAST, SHARED] {
        if !bench.wants(server) {
            continue;
        }
        let mut rows = Vec::new();
        for listeners in LISTENERS {
            let option = format!("listeners={listeners}");
            let workers = bench.workers;
            // Addresses of their own, where nobody else listens.
            let address = servers::free_address(Ipv4Addr::new(127, 1, 0, 1))?;
            let running = Running::start_on(address, server, &bench.tools, workers, &[&option])?;
            let Some(running) = running else { continue };
            rows.push(line(listeners, &cost(bench, &running, listeners as u32)?));
            running.stop();
        }
        report.text(format!("`{}`: {}.", server.name(), server.what()));
        report.table(&heads("listeners"), rows);
    }
    report.text(format!(
        "{} workers, each of which serves every listener; the connections go to all listeners in turn.",
        bench.workers
    ));
    Ok(report)
}

fn heads(what: &str) -> [&str; 9] {
    [
        what,
        "primary µs",
        "workers µs",
        "calls",
        "light: primary µs",
        "light: workers µs",
        "idle: CPU ms/s",
        "primary RSS MiB",
        "worker PSS MiB",
    ]
}

fn line(size: usize, cost: &Cost) -> Vec<String> {
    vec![
        size.to_string(),
        number(cost.heavy.0),
        number(cost.heavy.1),
        cost.calls.map_or_else(|| "–".to_owned(), number),
        number(cost.light.0),
        number(cost.light.1),
        number(cost.idle),
        number(cost.memory.0),
        number(cost.memory.1),
    ]
}

fn cost(bench: &mut Bench, running: &Running, hosts: u32) -> io::Result<Cost> {
    let plan = |bench: &mut Bench, pace| Plan {
        hosts,
        pace,
        length: Length::Time(bench.window),
        ..bench.closed(running.address, 1, Reuse::Short)
    };
    let budget = bench.budget;
    let (heavy, light) = (plan(bench, Pace::Closed(128)), plan(bench, Pace::Open(LIGHT)));
    let root = running.process.pid();
    let heavy = sample::take_undisturbed(running, &heavy, &budget)?.split(root);
    let light = sample::take_undisturbed(running, &light, &budget)?.split(root);
    let calls = match Counter::find(bench.tools.path("perf"), bench.tools.path("strace")) {
        Some(counter) => {
            let (counts, connections) = count_calls(running, &counter, bench.count(COUNTED), hosts)?;
            Some(counts.all() as f64 / connections as f64)
        }
        None => None,
    };
    let processes = running.processes();
    let (used, began) = (cpu::used(&processes), Instant::now());
    std::thread::sleep(bench.window.max(Duration::from_millis(200)));
    let idle = (cpu::used(&processes) - used).as_secs_f64() * 1e3 / began.elapsed().as_secs_f64();
    let mib = |kib: u64| kib as f64 / 1024.0;
    let mut workers: Vec<u64> = processes.iter().skip(1).map(|pid| memory::of(*pid).pss).collect();
    workers.sort_unstable();
    let middle = workers.get(workers.len() / 2).copied().unwrap_or(0);
    Ok(Cost { heavy, light, calls, idle, memory: (mib(memory::of(root).rss), mib(middle)) })
}
