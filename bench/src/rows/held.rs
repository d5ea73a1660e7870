//! Connections at rest: what one weighs in the primary, in a worker and in the kernel, and what so many do to the next.

use std::fs;
use std::io;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use super::{Bench, legend};
use crate::load::{self, Reuse};
use crate::measure::memory;
use crate::process::{Launch, Process};
use crate::report::{Report, number};
use crate::sample;
use crate::scratch::Scratch;
use crate::servers::{Face, Running, Server, Spread};

const HELD: [usize; 4] = [1_000, 10_000, 50_000, 100_000];

/// Enough that no worker runs out of descriptors where the limit is a usual one.
const WORKERS: usize = 8;

/// Connections one holder keeps; it is a process of its own for the same reason.
const PER_HOLDER: usize = 15_000;

/// How long a holder may take to fill up.
const FILLED: Duration = Duration::from_secs(60);

pub(super) fn connections(bench: &mut Bench) -> io::Result<Report> {
    let mut report = Report::new("scale-connections", "Connections at rest, 1,000 to 100,000");
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
        let Some(running) = Running::start(server, &bench.tools, WORKERS, &[])? else { continue };
        // What the first connections leave behind is not what connections weigh.
        warm_up(bench, &running)?;
        let mut rows = vec![line(bench, &running, 0, &Weight::of(&running))?];
        let empty = Weight::of(&running);
        let mut holders = Holders::new()?;
        let scale = bench.scale;
        for count in HELD.map(|count| (count as f64 * scale) as usize) {
            holders.hold(running.address, count)?;
            rows.push(line(bench, &running, count, &empty)?);
        }
        report.text(format!("`{}`: {}.", server.name(), server.what()));
        report.table(&HEADS, rows);
        legends.push(legend(std::slice::from_ref(&running)));
        drop(holders);
        running.stop();
    }
    report.text(format!(
        "{WORKERS} workers. Each connection had one request answered and was then kept. Bytes per connection are differences to \
         the server without any, by proportional size; the kernel's are both ends of the connection, from what it says of \
         its slabs and of TCP. The last columns are short connections beside those at rest, 128 in flight.",
    ));
    report.text(legends.join("\n"));
    Ok(report)
}

/// `everycore-bench hold ADDRESS COUNT`: opens so many connections, says so, and keeps them until it is stopped.
///
/// # Errors
/// A bad command line, or the server refuses one.
pub(crate) fn hold(args: &[String]) -> io::Result<()> {
    let [address, count] = args else { return Err(io::ErrorKind::InvalidInput.into()) };
    let address: SocketAddrV4 = address.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
    let count: usize = count.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut held = Vec::with_capacity(count);
    load::hold(&mut held, address, count)?;
    crate::print_out!("held {count}");
    loop {
        std::thread::park();
    }
}

/// Processes that keep connections.
struct Holders {
    scratch: Scratch,
    processes: Vec<Process>,
    held: usize,
}

impl Holders {
    fn new() -> io::Result<Self> {
        Ok(Self { scratch: Scratch::new("holders")?, processes: Vec::new(), held: 0 })
    }

    /// Until there are `count` in all.
    fn hold(&mut self, target: SocketAddrV4, count: usize) -> io::Result<()> {
        while self.held < count {
            let more = (count - self.held).min(PER_HOLDER);
            let args = ["hold".to_owned(), target.to_string(), more.to_string()];
            let launch = Launch::new(std::env::current_exe()?, args);
            let name = format!("holder-{}", self.processes.len());
            let process = Process::start(&launch, self.scratch.path(), &name)?;
            let deadline = Instant::now() + FILLED;
            while !process.log().starts_with("held") {
                if process.has_ended() || Instant::now() > deadline {
                    return Err(io::Error::other(format!(
                        "connections are not held: {}",
                        process.log().trim()
                    )));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            self.held += more;
            self.processes.push(process);
        }
        Ok(())
    }
}

fn warm_up(bench: &mut Bench, running: &Running) -> io::Result<()> {
    let plan = bench.closed(running.address, 128, Reuse::Short);
    load::run(&plan, &false.into(), &mut |_| {}).map(drop)
}

const HEADS: [&str; 8] = [
    "at rest",
    "primary: bytes each",
    "workers: bytes each",
    "kernel: bytes each",
    "workers' PSS MiB",
    "short: primary µs",
    "workers µs",
    "p99 ms",
];

fn line(bench: &mut Bench, running: &Running, held: usize, empty: &Weight) -> io::Result<Vec<String>> {
    let weight = Weight::of(running);
    let plan = bench.closed(running.address, 128, Reuse::Short);
    let budget = bench.budget;
    let sample = sample::take_undisturbed(running, &plan, &budget)?;
    let (primary, workers) = sample.split(running.process.pid());
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
        number(primary),
        number(workers),
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
