//! Connections at rest: what one weighs in the primary, in a worker and in the kernel, and what so many do to the next.

use std::fs;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Bench, legend};
use crate::load::{self, Reuse};
use crate::measure::memory;
use crate::report::{Report, number};
use crate::sample::{self, Sample};
use crate::servers::{Face, Running, Server, Spread};

const HELD: [usize; 4] = [1_000, 10_000, 50_000, 100_000];

/// Descriptors beside those of connections.
const SPARE: u64 = 1_000;

pub(super) fn connections(bench: &mut Bench) -> io::Result<Report> {
    let mut report = Report::new("scale-connections", "Connections at rest, 1,000 to 100,000");
    let most = room_for(*HELD.last().unwrap_or(&0))?;
    let mut legends = Vec::new();
    for server in [
        Server::Everycore(Spread::Least, Face::Hyper),
        Server::Everycore(Spread::Shared, Face::Hyper),
        Server::Everycore(Spread::Least, Face::Raw),
        Server::HyperPair,
    ] {
        if !bench.wants(server) {
            continue;
        }
        let Some(running) = Running::start(server, &bench.tools, bench.workers, &[])? else { continue };
        let (mut held, mut rows) = (Vec::new(), vec![line(bench, &running, 0, &Weight::of(&running))?]);
        let empty = Weight::of(&running);
        let scale = bench.scale;
        let counts = HELD.map(|count| (count as f64 * scale) as usize);
        for count in counts.into_iter().filter(|count| *count <= most) {
            load::hold(&mut held, running.address, count)?;
            rows.push(line(bench, &running, count, &empty)?);
        }
        report.text(format!("`{}`: {}.", server.name(), server.what()));
        report.table(&HEADS, rows);
        legends.push(legend(std::slice::from_ref(&running)));
        drop(held);
        running.stop();
    }
    if most < *HELD.last().unwrap_or(&0) {
        report
            .text(format!("No more than {most} connections: the limit of descriptors could not be raised."));
    }
    report.text(
        "Each connection had one request answered and was then kept. Bytes per connection are differences to the server \
         without any, by proportional size; the kernel's are both ends of the connection, from what it says of its slabs \
         and of TCP. The last two columns are short connections beside those at rest, 128 in flight.",
    );
    report.text(legends.join("\n"));
    Ok(report)
}

const HEADS: [&str; 7] = [
    "at rest",
    "primary: bytes each",
    "workers: bytes each",
    "kernel: bytes each",
    "workers' PSS MiB",
    "short: CPU µs",
    "short: p99 ms",
];

fn line(bench: &mut Bench, running: &Running, held: usize, empty: &Weight) -> io::Result<Vec<String>> {
    let weight = Weight::of(running);
    let plan = bench.closed(running.address, 128, Reuse::Short);
    let budget = bench.budget;
    let sample = sample::take_undisturbed(running, &plan, &budget)?;
    let each = |now: u64, before: u64| match held {
        0 => "–".to_owned(),
        held => number((now.saturating_sub(before) * 1024) as f64 / held as f64),
    };
    Ok(vec![
        held.to_string(),
        each(weight.primary, empty.primary),
        each(weight.workers, empty.workers),
        each(weight.kernel, empty.kernel),
        number(weight.workers as f64 / 1024.0),
        number(Sample::cpu_per_request(&sample)),
        number(sample.outcome.fast.clone().percentile(99.0)),
    ])
}

/// KiB.
struct Weight {
    primary: u64,
    workers: u64,
    kernel: u64,
}

impl Weight {
    fn of(running: &Running) -> Self {
        let root = running.process.pid();
        let workers = running.processes().into_iter().filter(|pid| *pid != root);
        Self {
            primary: memory::of(root).pss,
            workers: workers.map(|pid| memory::of(pid).pss).sum(),
            kernel: kernel(),
        }
    }
}

/// The kernel's slabs and TCP's pages, KiB.
fn kernel() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let slab =
        meminfo.lines().find_map(|line| line.strip_prefix("Slab:")?.trim().split(' ').next()?.parse().ok());
    let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let pages = sockets.lines().find_map(|line| {
        line.strip_prefix("TCP:")?.split_once(" mem ")?.1.split(' ').next()?.parse::<u64>().ok()
    });
    slab.unwrap_or(0u64) + pages.unwrap_or(0) * 4
}

/// Raises the limit of descriptors, ours and so our children's; gives how many connections may be held.
fn room_for(connections: usize) -> io::Result<usize> {
    let wanted = connections as u64 + SPARE;
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= wanted) {
        return Ok(connections);
    }
    let both = Rlimit { current: Some(wanted), maximum: Some(now.maximum.unwrap_or(wanted).max(wanted)) };
    // Only root may raise the upper bound.
    if setrlimit(Resource::Nofile, both).is_ok() {
        return Ok(connections);
    }
    setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum })?;
    Ok(now.maximum.unwrap_or(wanted).saturating_sub(SPARE) as usize)
}
